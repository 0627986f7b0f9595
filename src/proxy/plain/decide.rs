//! All that is decided about a plain request, before anything is said or recorded of it.

use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use http::header::AUTHORIZATION;
use http::{HeaderName, Method};

use super::ask::{self, Ask, Kind};
use crate::model::{ExchangeId, KeyKind, OrgId, TokenHash};
use crate::policy::Permit;
use crate::proxy::authorize::{self, Authorized, Question};
use crate::proxy::core::Core;
use crate::proxy::exchange::{enter, fresh};
use crate::proxy::forward::{self, Back};
use crate::proxy::identify::{Finder, Found, Identified, in_authorization, strip_scheme};
use crate::proxy::running::Run;
use crate::proxy::search::Search;
use crate::proxy::target::{self, Target};
use crate::proxy::tunnel::Tunnel;
use crate::session::live::LiveSession;
use crate::session::registry::Moment;
use crate::upstream::Place;
use crate::upstream::plain::Field;

/// A request that is permitted, as it will be sent but for the key.
pub(super) struct Ready {
    pub exchange: ExchangeId,
    pub began: Moment,
    /// Whether it is alone on its core.
    pub alone: bool,
    pub method: Method,
    pub target: Target,
    pub identified: Identified,
    pub authorized: Authorized,
    /// Of the policies that decided.
    pub digest: [u8; 32],
    /// Whose proxy credentials came with the connection.
    pub session: Option<Arc<LiveSession>>,
    pub search: Search,
    /// If there is anything whose end ends it.
    pub run: Option<Run>,
    pub place: Place,
    /// The head, without the token.
    pub head: Vec<u8>,
    /// Where in it the key goes, if one does.
    pub hole: usize,
}

/// Decides. `None` if there is more to it, or it would be refused: nothing has happened then.
pub(super) fn decide(
    core: &Rc<Core>,
    tunnel: &Tunnel,
    ask: &Ask,
    input: &[u8],
    fields: &[Field],
) -> Option<Box<Ready>> {
    let shared = &core.shared;
    let began = Moment::now(&*shared.clock);
    let text = input.get(..ask.head)?;
    core.timed.begin_at(began.instant());
    let path = text.get(ask.path.clone())?;
    let (_, host) = fields.get(ask.host)?.of(text);
    let host = std::str::from_utf8(host).ok().filter(|host| host.is_ascii())?;
    let target = target::plain(core, tunnel, host, path)?;
    let session = tunnel.session.clone();
    if session.as_ref().is_some_and(|session| session.ended(began.time()).is_some()) {
        return None;
    }
    let bound = core.bound(target.scheme, &target.authority);
    if !bound.is_plain() || bound.is_named() && !ask.searchable {
        return None;
    }
    let finder = Finder {
        registry: &shared.registry,
        bound: bound.keys(),
        places: bound.places(),
        target: &target,
        session: session.as_ref(),
        now: began.time(),
    };
    let (identified, at) = match TokenHash::find(text) {
        Some(token) => {
            let (field, found) = only(&finder, token, bound.slot_headers(), text, fields)?;
            if found.token.session.bounds().is_some_and(|bounds| bounds.admit(&tunnel.from).is_err()) {
                return None;
            }
            (Identified { found: vec![found], ..Identified::default() }, Some(field))
        }
        // With keys, what stands in their slots is looked at, and where there is nothing.
        None if !bound.keys().is_empty() || holds_encoded(text, fields) => return None,
        None => (Identified::default(), None),
    };
    core.timed.looked_up();
    let exchange = core.exchange_id_at(began.time());
    let question = Question {
        exchange,
        mode: tunnel.mode,
        session: session.as_ref(),
        method: &ask.method,
        from_browser: false,
        target: &target,
        upgrade: None,
        bound: bound.keys(),
        unbound: shared.settings.unbound,
        registry: &shared.registry,
    };
    let policies = shared.policies.current();
    let authorized = authorize::authorize(&policies, &question, &identified).ok()?;
    let digest = *policies.digest();
    fresh(core, &authorized, began).ok()?;
    let found = identified.found.first();
    let asker = found.map(|found| &found.token.session).or(session.as_ref()).cloned();
    let mut search = Search::new(core, &target, Rc::clone(&bound), asker, false, began.time()).ok()?;
    search.patterns().ok()?;
    let org = found.map_or(OrgId::DEFAULT, |found| found.token.session.org);
    let run = enter(core, &identified, &authorized, session.as_ref());
    let by = forward::word(&target, &identified, &authorized);
    let place = Place::of(org, target.scheme, &target.authority).by(by);
    let searched = search.back() != Back::Anyhow;
    let (head, hole) = composed(ask, &target, text, fields, at.zip(found), searched);
    let method = ask.method.clone();
    Some(Box::new(Ready {
        exchange,
        began,
        alone: core.alone.begins(began.instant()),
        method,
        target,
        identified,
        authorized,
        digest,
        session,
        search,
        run,
        place,
        head,
        hole,
    }))
}

impl Ready {
    /// Takes out the one permit.
    pub fn take_permit(&mut self) -> Option<Permit> {
        match std::mem::replace(&mut self.authorized, Authorized::Plain) {
            Authorized::Swap(mut permits) => permits.pop(),
            _ => None,
        }
    }
}

/// The only token of the head, `first` in it, and the field that holds it; `None` if there is more to it, or
/// it may not be used.
fn only(
    finder: &Finder<'_>,
    first: (Range<usize>, TokenHash),
    slots: &[HeaderName],
    text: &[u8],
    fields: &[Field],
) -> Option<(usize, Found)> {
    let (at, name, token, hash) = the_token(first, text, fields)?;
    let (_, value) = fields.get(at)?.of(text);
    if strip_scheme(value, b"basic ").is_some()
        || name != AUTHORIZATION && !finder.registry.slot_headers().contains(&name)
        || holds_another(slots, at, text, fields)
    {
        return None;
    }
    let found = finder.only(&name, value, token, hash).ok()?;
    (found.key.kind == KeyKind::Secret && !found.slot.is_basic()).then_some((at, found))
}

/// The field that holds the only token of the head, its name, and where in its value the token stands.
fn the_token(
    (token, hash): (Range<usize>, TokenHash),
    text: &[u8],
    fields: &[Field],
) -> Option<(usize, HeaderName, Range<usize>, TokenHash)> {
    if TokenHash::find(text.get(token.end..)?).is_some() {
        return None;
    }
    let at = fields.iter().position(|field| field.value().contains(&token.start))?;
    let value = fields.get(at)?.value();
    let token = token.start.checked_sub(value.start)?..token.end.checked_sub(value.start)?;
    let (name, _) = fields.get(at)?.of(text);
    let known = name.eq_ignore_ascii_case(AUTHORIZATION.as_str().as_bytes());
    Some((at, if known { AUTHORIZATION } else { HeaderName::from_bytes(name).ok()? }, token, hash))
}

/// Whether a field beside the token's is one that a key of the host has for a slot, or `Authorization`, in
/// which a token may stand encoded.
fn holds_another(slots: &[HeaderName], token: usize, text: &[u8], fields: &[Field]) -> bool {
    let slots = slots.iter().chain([&AUTHORIZATION]);
    let is_slot = |name: &[u8]| slots.clone().any(|slot| slot.as_str().as_bytes().eq_ignore_ascii_case(name));
    fields.iter().enumerate().any(|(at, field)| at != token && is_slot(field.of(text).0))
}

/// Whether an `Authorization` holds a token that can't be seen in the text.
fn holds_encoded(text: &[u8], fields: &[Field]) -> bool {
    let mut fields = fields.iter().map(|field| field.of(text));
    let is_authorization = |name: &[u8]| name.eq_ignore_ascii_case(AUTHORIZATION.as_str().as_bytes());
    fields.any(|(name, value)| is_authorization(name) && in_authorization(value))
}

/// The head as it is sent (RFC 9112 section 3), and where in it the key goes that takes the place of a
/// `token`. `searched` tells whether the reply is searched for keys.
fn composed(
    ask: &Ask,
    target: &Target,
    text: &[u8],
    fields: &[Field],
    token: Option<(usize, &Found)>,
    searched: bool,
) -> (Vec<u8>, usize) {
    let mut head = Vec::with_capacity(text.len() + 128);
    head.extend_from_slice(ask.method.as_str().as_bytes());
    head.push(b' ');
    head.extend_from_slice(target.path_and_query.as_str().as_bytes());
    head.extend_from_slice(b" HTTP/1.1\r\n");
    let mut hole = 0;
    for (at, field) in fields.iter().enumerate() {
        let (name, value) = field.of(text);
        match ask::kind(name) {
            Kind::Connection => continue,
            Kind::Host => {
                head.extend_from_slice(b"host: ");
                target.authority.push_in_uri(target.scheme, &mut head);
                head.extend_from_slice(b"\r\n");
            }
            _ => match token.filter(|token| token.0 == at) {
                None => field.put(text, &mut head),
                Some((_, found)) => {
                    let from = head.len();
                    head.extend_from_slice(name);
                    head.get_mut(from..).unwrap_or_default().make_ascii_lowercase();
                    head.extend_from_slice(b": ");
                    head.extend_from_slice(value.get(..found.range.start).unwrap_or_default());
                    hole = head.len();
                    head.extend_from_slice(value.get(found.range.end..).unwrap_or_default());
                    head.extend_from_slice(b"\r\n");
                }
            },
        }
    }
    // RFC 9110 section 12.5.3.
    if searched && !ask.codings {
        head.extend_from_slice(b"accept-encoding: identity\r\n");
    }
    head.extend_from_slice(b"\r\n");
    (head, hole)
}
