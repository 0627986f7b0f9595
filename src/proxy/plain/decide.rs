//! All that is decided about a plain request, before anything is said or recorded of it.

use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use http::header::AUTHORIZATION;
use http::uri::PathAndQuery;
use http::{HeaderName, Method};

use super::ask::{self, Ask, Kind};
use crate::model::{ExchangeId, KeyKind, OrgId, TokenHash};
use crate::policy::Permit;
use crate::proxy::authorize::{self, Authorized, Question};
use crate::proxy::core::Core;
use crate::proxy::exchange::fresh;
use crate::proxy::forward;
use crate::proxy::identify::{Finder, Found, Identified, strip_scheme};
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
    pub method: Method,
    pub target: Target,
    pub identified: Identified,
    pub authorized: Authorized,
    /// Of the policies that decided.
    pub digest: [u8; 32],
    /// Whose proxy credentials came with the connection.
    pub session: Option<Arc<LiveSession>>,
    pub search: Search,
    pub run: Run,
    pub place: Place,
    /// The head, without the token.
    pub head: Vec<u8>,
    /// Where in it the key goes.
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
    let (at, name, token, hash) = the_token(text, fields)?;
    let (_, value) = fields.get(at)?.of(text);
    if strip_scheme(value, b"basic ").is_some()
        || name != AUTHORIZATION && !shared.registry.slot_headers().contains(&name)
    {
        return None;
    }
    let path = PathAndQuery::try_from(text.get(ask.path.clone())?).ok()?;
    let (_, host) = fields.get(ask.host)?.of(text);
    let host = std::str::from_utf8(host).ok().filter(|host| host.is_ascii())?;
    let target = target::plain(core, tunnel, host, path)?;
    let session = tunnel.session.clone();
    if session.as_ref().is_some_and(|session| session.ended(began.time()).is_some()) {
        return None;
    }
    let bound = core.bound(target.scheme, &target.authority);
    if !bound.is_plain() || holds_another(bound.slot_headers(), at, text, fields) {
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
    let found = finder.only(&name, value, token, hash).ok()?;
    core.timed.looked_up();
    if found.key.kind != KeyKind::Secret || found.slot.is_basic() {
        return None;
    }
    let token = Arc::clone(&found.token);
    if token.session.bounds().is_some_and(|bounds| bounds.admit(&tunnel.from).is_err()) {
        return None;
    }
    let identified = Identified { found: vec![found], ..Identified::default() };
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
    let mut search =
        Search::new(core, &target, Rc::clone(&bound), Some(Arc::clone(&token.session)), false, began.time()).ok()?;
    search.patterns().ok()?;
    let org: OrgId = token.session.org;
    let run = core.running.enter(vec![token], None);
    let by = forward::word(&target, &identified, &authorized);
    let place = Place::of(org, target.scheme, &target.authority).by(by);
    let (head, hole) = composed(ask, &target, text, fields, (at, identified.found.first()?));
    let method = ask.method.clone();
    Some(Box::new(Ready {
        exchange,
        began,
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

/// The field that holds the only token of the head, its name, and where in its value the token stands.
fn the_token(text: &[u8], fields: &[Field]) -> Option<(usize, HeaderName, Range<usize>, TokenHash)> {
    let (token, hash) = TokenHash::find(text)?;
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

/// The head as it is sent (RFC 9112 section 3), and where in it the key goes.
fn composed(ask: &Ask, target: &Target, text: &[u8], fields: &[Field], token: (usize, &Found)) -> (Vec<u8>, usize) {
    let mut head = Vec::with_capacity(text.len() + 128);
    head.extend_from_slice(ask.method.as_str().as_bytes());
    head.push(b' ');
    head.extend_from_slice(target.path_and_query.as_str().as_bytes());
    head.extend_from_slice(b" HTTP/1.1\r\n");
    let mut hole = 0;
    for (at, field) in fields.iter().enumerate() {
        let (name, value) = field.of(text);
        let from = head.len();
        match ask::kind(name) {
            Kind::Connection => continue,
            Kind::Host => {
                head.extend_from_slice(b"host: ");
                target.authority.push_in_uri(target.scheme, &mut head);
            }
            _ => {
                head.extend_from_slice(name);
                head.get_mut(from..).unwrap_or_default().make_ascii_lowercase();
                head.extend_from_slice(b": ");
                if at == token.0 {
                    let range = &token.1.range;
                    head.extend_from_slice(value.get(..range.start).unwrap_or_default());
                    hole = head.len();
                    head.extend_from_slice(value.get(range.end..).unwrap_or_default());
                } else {
                    head.extend_from_slice(value);
                }
            }
        }
        head.extend_from_slice(b"\r\n");
    }
    // The reply is searched for keys (RFC 9110 section 12.5.3).
    if !ask.codings {
        head.extend_from_slice(b"accept-encoding: identity\r\n");
    }
    head.extend_from_slice(b"\r\n");
    (head, hole)
}
