//! Finds proxy tokens in a request: token -> session, grant, key; and tells what else stands where
//! a credential belongs.
//!
//! A token counts only in a credential slot: `Authorization`, or a header that some key names as
//! its slot. Anywhere else it is inert text (a chat transcript may quote one): it is forwarded as
//! it is, and counted as far as the request's head goes; bodies aren't searched. Several tokens in one request are all permitted, or the request is refused.

use std::ops::Range;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName};

use super::reject::{Code, Rejection};
use super::target::Target;
use crate::model::{Scheme, Slot, Timestamp, TokenHash};
use crate::session::live::{LiveSession, LiveToken};
use crate::session::registry::Registry;
use crate::vault::key::Key;

/// A token in a slot of its key, for a host of its key, in a live session.
pub struct Found {
    /// The token and what it leads to.
    pub token: Arc<LiveToken>,
    /// Its key at this moment.
    pub key: Arc<Key>,
    /// Where it stands.
    pub slot: Slot,
    /// Which bytes of the header's value (of the decoded pair, inside Basic) are swapped: the token
    /// with its shape.
    pub range: Range<usize>,
}

/// What the request holds by way of credentials.
#[derive(Default)]
pub struct Identified {
    /// Tokens to swap.
    pub found: Vec<Found>,
    /// Whether a credential slot of this host holds something that is no token of ours.
    pub foreign: bool,
    /// Tokens outside every slot, forwarded as inert text: at most one for each header, the path and
    /// the query.
    pub inert: u32,
}

impl Identified {
    fn inert(&mut self, registry: &Registry, hash: &TokenHash) {
        self.inert += 1;
        if let Some(token) = registry.token(hash) {
            token.note_inert();
        }
    }
}

/// Looks through the headers, and for inert tokens through the path and the query too.
///
/// # Errors
/// A token stands in a credential slot but is unknown, over, another session's, or not for this
/// host or slot.
pub fn identify(
    headers: &HeaderMap,
    registry: &Registry,
    bound: &[Arc<Key>],
    target: &Target,
    session: Option<&Arc<LiveSession>>,
    now: Timestamp,
) -> Result<Identified, Rejection> {
    let mut all = Identified::default();
    let mut authorizations = 0;
    let slot_headers = registry.slot_headers();
    for (name, value) in headers {
        let Some((slot, token)) = locate(name, value.as_bytes()) else {
            all.foreign |= bound.iter().any(|key| key.destination.slots.iter().any(|slot| slot.header() == name));
            continue;
        };
        if name != AUTHORIZATION && !slot_headers.contains(name) {
            all.inert(registry, &token.hash);
            continue;
        }
        authorizations += u32::from(name == AUTHORIZATION);
        all.found.push(resolve(registry, bound, slot, token, target, session, now)?);
    }
    for text in [Some(target.path()), target.path_and_query.query()].into_iter().flatten() {
        if let Some((_, hash)) = TokenHash::find(text.as_bytes()) {
            all.inert(registry, &hash);
        }
    }
    if authorizations > 0 && headers.get_all(AUTHORIZATION).iter().count() > 1 {
        return Err(Rejection::new(Code::BadRequest, "more than one Authorization header"));
    }
    for (at, one) in all.found.iter().enumerate() {
        if all.found[..at].iter().any(|other| other.token.session.id != one.token.session.id) {
            return Err(Rejection::new(Code::TokenMisplaced, "the request holds tokens of different sessions"));
        }
        if headers.get_all(one.slot.header()).iter().count() > 1 {
            return Err(Rejection::new(Code::BadRequest, format!("more than one {} header", one.slot.header())));
        }
    }
    Ok(all)
}

/// The first token that is known here, whether or not it may be used: who asked for what is refused.
pub fn first_known(headers: &HeaderMap, registry: &Registry) -> Option<Arc<LiveToken>> {
    headers.iter().find_map(|(name, value)| registry.token(&locate(name, value.as_bytes())?.1.hash))
}

/// A token's place in a header's value and its hash.
struct Located {
    hash: TokenHash,
    /// Of the token itself, from `spt_` on.
    core: Range<usize>,
    /// The text in which `core` counts: the value, or the decoded Basic pair.
    text: Vec<u8>,
}

/// The first token of the value and the slot in which it stands.
fn locate(name: &HeaderName, value: &[u8]) -> Option<(Slot, Located)> {
    if name == AUTHORIZATION
        && let Some(pair) = strip_scheme(value, b"basic ")
    {
        let text = BASE64.decode(pair.trim_ascii()).ok()?;
        let (core, hash) = TokenHash::find(&text)?;
        let colon = memchr::memchr(b':', &text).unwrap_or(text.len());
        let slot = if core.end <= colon { Slot::BasicUser } else { Slot::BasicPassword };
        return Some((slot, Located { hash, core, text }));
    }
    let (core, hash) = TokenHash::find(value)?;
    let slot = match name == AUTHORIZATION {
        true if strip_scheme(value, b"bearer ").is_some() || strip_scheme(value, b"token ").is_some() => Slot::Bearer,
        _ => Slot::Header(name.clone()),
    };
    Some((slot, Located { hash, core, text: value.to_vec() }))
}

/// What follows an authentication scheme, whose name is compared without case (RFC 9110 11.1).
pub fn strip_scheme<'a>(value: &'a [u8], scheme: &[u8]) -> Option<&'a [u8]> {
    let (head, rest) = value.split_at_checked(scheme.len())?;
    head.eq_ignore_ascii_case(scheme).then_some(rest)
}

fn resolve(
    registry: &Registry,
    bound: &[Arc<Key>],
    slot: Slot,
    at: Located,
    target: &Target,
    session: Option<&Arc<LiveSession>>,
    now: Timestamp,
) -> Result<Found, Rejection> {
    let token = registry
        .token(&at.hash)
        .ok_or_else(|| Rejection::new(Code::TokenUnknown, "a credential slot holds a token that is not known here"))?;
    if session.is_some_and(|session| session.id != token.session.id) {
        return Err(Rejection::new(
            Code::TokenMisplaced,
            "the token belongs to another session than the proxy credentials",
        ));
    }
    if let Some(ended) = token.ended(now) {
        return Err(ended.into());
    }
    // The key as it was when the host's keys were looked up: the reply is searched for that version.
    let Some(key) = bound.iter().find(|key| key.id == token.key_id).map(Arc::clone) else {
        return Err(unbound(&token, target));
    };
    if !key.destination.slots.contains(&slot) {
        return Err(Rejection::new(Code::TokenMisplaced, format!("{slot} is not a slot of key {}", key.name)));
    }
    let (prefix, suffix) = (key.shape.prefix.as_bytes(), key.shape.suffix.as_bytes());
    let whole = at.core.start.checked_sub(prefix.len()).map(|start| start..at.core.end + suffix.len());
    let fits =
        |range: &Range<usize>| at.text.get(range.clone()).is_some_and(|t| t.starts_with(prefix) && t.ends_with(suffix));
    let range = whole.filter(fits).unwrap_or(at.core);
    if !alone(&slot, &at.text, &range) {
        return Err(Rejection::new(Code::TokenMisplaced, "the token is part of a longer text in its slot"));
    }
    Ok(Found { token, key, slot, range })
}

fn unbound(token: &LiveToken, target: &Target) -> Rejection {
    let Some(key) = token.key() else { return Rejection::new(Code::KeyDisabled, "the token's key was deleted") };
    let authority = &target.authority;
    let why = match target.scheme {
        Scheme::Https => format!("{authority} is not a destination of key {}", key.name),
        Scheme::Http => format!("key {} doesn't travel in clear text to {authority}", key.name),
    };
    Rejection::new(Code::HostNotAllowed, why)
}

/// Whether nothing but the token stands in the slot.
fn alone(slot: &Slot, text: &[u8], range: &Range<usize>) -> bool {
    let (before, after) = (&text[..range.start], text[range.end..].trim_ascii());
    match slot {
        Slot::Bearer => {
            before.iter().filter(|b| **b == b' ').count() >= 1 && before.ends_with(b" ") && {
                let scheme = before.trim_ascii();
                (scheme.eq_ignore_ascii_case(b"bearer") || scheme.eq_ignore_ascii_case(b"token")) && after.is_empty()
            }
        }
        Slot::Header(_) => before.trim_ascii().is_empty() && after.is_empty(),
        Slot::BasicUser => before.is_empty() && (after.is_empty() || after.starts_with(b":")),
        Slot::BasicPassword => {
            before.iter().filter(|b| **b == b':').count() == 1 && before.ends_with(b":") && after.is_empty()
        }
    }
}
