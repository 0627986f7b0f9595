//! All that is decided about a plain request, before anything is said or recorded of it.

use std::ops::Range;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use http::header::AUTHORIZATION;
use http::{HeaderName, Method};
use prometheus::IntCounter;

use super::again::{Again, Last, Text};
use super::ask::{self, Ask, Kind};
use crate::model::{ExchangeId, KeyKind, OrgId, TokenHash};
use crate::policy::{Permit, Ruling};
use crate::proxy::Mode;
use crate::proxy::account::Who;
use crate::proxy::authorize::{self, Authorized, Question, facts_of};
use crate::proxy::core::{Bound, Core};
use crate::proxy::exchange::enter;
use crate::proxy::forward;
use crate::proxy::identify::{Finder, Found, Identified, in_authorization, strip_scheme};
use crate::proxy::running::Run;
use crate::proxy::search::Search;
use crate::proxy::target::{self, Target};
use crate::proxy::tunnel::Tunnel;
use crate::session::registry::Moment;
use crate::upstream::Place;
use crate::upstream::plain::Field;

/// What is decided about a head, for any request that has it.
pub(super) struct Decided {
    pub method: Method,
    pub target: Target,
    /// The token, where a key is used.
    pub found: Option<Found>,
    /// Counts the uses of that key in that slot.
    pub injections: Option<IntCounter>,
    /// Of the policies that decided.
    pub digest: [u8; 32],
    /// The keys that concern the host, for as long as the core keeps them.
    pub bound: Weak<Bound>,
    pub place: Place,
    pub head: Composed,
    pub who: Rc<Who>,
}

/// A head as it is sent, without the token.
pub(super) struct Composed {
    pub text: Vec<u8>,
    /// Where the key goes, if one does.
    pub hole: usize,
    /// Where the value of its `Content-Length` stands, if it has one.
    length: Option<Range<usize>>,
}

/// A request that is permitted, as it will be sent but for the key.
pub(super) struct Ready {
    pub exchange: ExchangeId,
    pub began: Moment,
    /// Whether it is alone on its core.
    pub alone: bool,
    pub decided: Rc<Decided>,
    /// For the key, if one is used.
    pub permit: Option<Permit>,
    pub search: Search,
    /// If there is anything whose end ends it.
    pub run: Option<Run>,
    /// The head, where its length isn't that with which it was decided on.
    pub other_head: Option<Composed>,
}

/// Decides, and keeps for the next request what holds for it, too, if it has the same head. `None` if there is more to
/// it, or it would be refused: nothing has happened then.
pub(super) fn decide(
    core: &Rc<Core>,
    tunnel: &Tunnel,
    ask: &Ask,
    input: &[u8],
    fields: &[Field],
    last: &mut Last,
) -> Option<Box<Ready>> {
    let shared = &core.shared;
    let began = Moment::now(&*shared.clock);
    let text = input.get(..ask.extent.head)?;
    core.timed.begin_at(began.instant());
    let path = text.get(ask.path.clone())?;
    let (_, host) = fields.get(ask.host)?.of(text);
    let host = std::str::from_utf8(host).ok().filter(|host| host.is_ascii())?;
    // Before the target is read by them.
    let routes = (tunnel.mode == Mode::Gateway).then(|| shared.routes.load_full());
    let target = target::plain(core, tunnel, host, path)?;
    let session = tunnel.session.as_ref();
    if session.is_some_and(|session| session.ended(began.time()).is_some()) {
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
        session,
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
        session,
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
    let found = identified.found.first();
    let org = found.map_or(OrgId::DEFAULT, |found| found.token.session.org);
    let by = forward::word(&target, &identified, &authorized);
    let place = Place::of(org, target.scheme, &target.authority).by(by);
    let head = composed(ask, &target, text, fields, at.zip(found), bound.is_named());
    let permit = match authorized {
        Authorized::Swap(mut permits) => permits.pop(),
        _ => None,
    };
    let (method, digest, found) = (ask.method.clone(), *policies.digest(), identified.found.into_iter().next());
    let injections =
        found.as_ref().map(|found: &Found| shared.metrics.injections(found.key.provider.as_str(), found.slot.label()));
    let who = Rc::default();
    let of = Rc::downgrade(&bound);
    let decided = Rc::new(Decided { method, target, found, injections, digest, bound: of, place, head, who });
    let ready = ready(core, tunnel, Rc::clone(&decided), bound, exchange, began, permit)?;
    if !ask.extent.lasts {
        return Some(ready);
    }
    last.keep(text.len(), || {
        let ruling = decided.found.as_ref().and_then(|found| {
            let session = &found.token.session;
            let facts = facts_of(exchange, &decided.method, &decided.target, session, &found.key, &found.slot);
            Ruling::of(&policies, &facts)
        });
        let length = ask.length.and_then(|at| Some(fields.get(at)?.value()));
        let text = Text { whole: text.to_vec().into(), length };
        let routes = routes.as_ref().map(Arc::downgrade);
        Again { text, routes, ruling, decided }
    });
    Some(ready)
}

/// What is decided of each request, however much of it is known: that revocations would be known, too, and that the
/// reply can be searched.
pub(super) fn ready(
    core: &Rc<Core>,
    tunnel: &Tunnel,
    decided: Rc<Decided>,
    bound: Rc<Bound>,
    exchange: ExchangeId,
    began: Moment,
    permit: Option<Permit>,
) -> Option<Box<Ready>> {
    if permit.is_some() && core.shared.registry.is_stale(began) {
        return None;
    }
    let (found, session) = (decided.found.as_ref(), tunnel.session.as_ref());
    let asker = found.map(|found| &found.token.session).or(session).cloned();
    let mut search = Search::new(core, &decided.target, bound, asker, false, began.time()).ok()?;
    search.patterns().ok()?;
    let run = enter(core, found.map(|found| Arc::clone(&found.token)), session, None);
    let alone = core.alone.begins(began.instant());
    Some(Box::new(Ready { exchange, began, alone, decided, permit, search, run, other_head: None }))
}

impl Ready {
    /// The head as it is sent.
    pub fn head(&self) -> &Composed {
        self.other_head.as_ref().unwrap_or(&self.decided.head)
    }
}

impl Composed {
    /// The same with another `Content-Length`; `None` where that is the one it has.
    pub fn with_length(&self, length: &[u8]) -> Option<Self> {
        let at = self.length.clone()?;
        let (before, behind) = (self.text.get(..at.start)?, self.text.get(at.end..)?);
        if self.text.get(at.clone())? == length {
            return None;
        }
        let hole = if self.hole < at.end { self.hole } else { self.hole - at.len() + length.len() };
        Some(Self { text: [before, length, behind].concat(), hole, length: Some(at.start..at.start + length.len()) })
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

/// The head as it is sent (RFC 9112 section 3), where a key takes the place of a `token`. `searched` tells whether
/// the reply is searched for keys.
fn composed(
    ask: &Ask,
    target: &Target,
    text: &[u8],
    fields: &[Field],
    token: Option<(usize, &Found)>,
    searched: bool,
) -> Composed {
    let mut head = Vec::with_capacity(text.len() + 128);
    head.extend_from_slice(ask.method.as_str().as_bytes());
    head.push(b' ');
    head.extend_from_slice(target.path_and_query.as_str().as_bytes());
    head.extend_from_slice(b" HTTP/1.1\r\n");
    let (mut hole, mut length) = (0, None);
    for (at, field) in fields.iter().enumerate() {
        let (name, value) = field.of(text);
        match ask::kind(name) {
            Kind::Connection => continue,
            Kind::Host => {
                head.extend_from_slice(b"host: ");
                target.authority.push_in_uri(target.scheme, &mut head);
                head.extend_from_slice(b"\r\n");
            }
            Kind::Length => {
                field.put(text, &mut head);
                let end = head.len() - 2;
                length = Some(end - value.len()..end);
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
    Composed { text: head, hole, length }
}
