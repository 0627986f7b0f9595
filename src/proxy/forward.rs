//! Makes a request fit to send on, and gets a connection to its upstream.

use std::cell::Cell;

use http::header::{
    CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST, IF_MATCH, IF_RANGE, PROXY_AUTHORIZATION,
    RANGE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Version};

use super::authorize::Authorized;
use super::coding;
use super::identify::Identified;
use super::reject::{Code, Rejection};
use super::target::Target;
use crate::upstream::{self, Word};
use crate::vault::key::Key;

/// How the reply to a request comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Back {
    /// As the upstream likes: no key names the host.
    Anyhow,
    /// Whole, and in codings that are decoded, because it is searched for keys.
    Whole,
    /// As the part that was asked for, which policy lets pass, and uncoded.
    Part,
}

/// Takes out what belongs to one hop (RFC 9110 section 7.6.1) and sets what the next one needs; `host` is the
/// target's.
///
/// # Errors
/// `Connection` asks to drop a field that must arrive.
pub fn fit(headers: &mut HeaderMap, target: &Target, host: Option<&HeaderValue>, back: Back) -> Result<(), Rejection> {
    let trailers = headers.get_all(TE).iter().any(|v| v.as_bytes().eq_ignore_ascii_case(b"trailers"));
    strip_hop_by_hop(headers)?;
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    let normal = |host: &HeaderValue| host.to_str().is_ok_and(|host| target.authority.is_in_uri(host, target.scheme));
    if !headers.get(HOST).is_some_and(normal) {
        let unwritable = || Rejection::new(Code::Internal, "the authority can't stand in a Host header");
        headers.insert(HOST, host.ok_or_else(unwritable)?.clone());
    }
    let conditional = Cell::new(false);
    let unfit = |name: &HeaderName| {
        conditional.set(conditional.get() | (name == IF_MATCH));
        name == PROXY_AUTHORIZATION || name == EXPECT || (back == Back::Whole && (name == RANGE || name == IF_RANGE))
    };
    remove_all(headers, unfit);
    if back != Back::Anyhow {
        coding::narrow(headers, back == Back::Part);
        if conditional.get() {
            coding::fit_condition(headers);
        }
    }
    Ok(())
}

/// Removes the fields that are unfit. Most messages have none of them, and looking at the names there
/// are costs less than asking for each name there could be.
pub fn remove_all(headers: &mut HeaderMap, unfit: impl Fn(&HeaderName) -> bool) {
    while let Some(name) = headers.keys().find(|name| unfit(name)).cloned() {
        headers.remove(name);
    }
}

/// Removes hop-by-hop fields, both those that are always and those that `Connection` names.
///
/// # Errors
/// `Connection` names a field that is not the sender's to remove.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) -> Result<(), Rejection> {
    if headers.contains_key(CONNECTION) {
        let mut named = Vec::new();
        for value in headers.get_all(CONNECTION) {
            for token in value.as_bytes().split(|b| *b == b',').map(<[u8]>::trim_ascii).filter(|t| !t.is_empty()) {
                let name = HeaderName::from_bytes(token)
                    .map_err(|_| Rejection::new(Code::BadRequest, "the Connection header can't be read"))?;
                named.push(name);
            }
        }
        for name in named {
            let end_to_end = name == http::header::AUTHORIZATION
                || name == HOST
                || name == CONTENT_LENGTH
                || name == CONTENT_TYPE
                || name == CONTENT_ENCODING
                || name == http::header::COOKIE;
            if end_to_end {
                return Err(Rejection::new(Code::BadRequest, "the Connection header names a field that must arrive"));
            }
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    let always = |name: &HeaderName| {
        name == TE
            || name == TRANSFER_ENCODING
            || name == UPGRADE
            || matches!(name.as_str(), "keep-alive" | "proxy-connection" | "http2-settings")
    };
    remove_all(headers, always);
    Ok(())
}

/// By whose word the address is dialled: that of the route, or of whoever stored a key that is used.
pub fn word(target: &Target, identified: &Identified, authorized: &Authorized) -> Word {
    if !target.authority.host.is_loopback() {
        return target.by;
    }
    let registers = |key: &Key| key.destination.registers(target.scheme, &target.authority);
    let used = match authorized {
        Authorized::Plain => false,
        Authorized::Swap(_) => identified.found.iter().any(|found| registers(&found.key)),
        Authorized::Fill(fill) => registers(&fill.0),
    };
    if used { Word::Operator } else { target.by }
}

/// Which protocol to ask the upstream for: what the agent speaks, so that nothing is translated
/// without need.
pub fn wanted(version: Version) -> upstream::Protocol {
    if version == Version::HTTP_2 { upstream::Protocol::Any } else { upstream::Protocol::Http1 }
}

/// Whether the trailers that a request announces may pass.
pub fn announces_trailers(headers: &HeaderMap) -> bool {
    headers.contains_key(TRAILER)
}
