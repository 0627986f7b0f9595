//! Content codings of replies (RFC 9110 section 8.4): which are decoded, what a request may ask for,
//! and what a reply's head says once its body goes on uncoded.
//!
//! A coded reply of a bound host is decoded as it streams by, searched for keys, and sent on as
//! identity. What can't be decoded can't be searched.

mod coder;
mod decode;

use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, ETAG, IF_MATCH};
use http::{HeaderMap, HeaderName, HeaderValue};

pub use decode::{Decoder, Memory};

/// A content coding that is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// `gzip` and `x-gzip` (RFC 1952), of any number of members.
    Gzip,
    /// `deflate`, with the zlib header (RFC 1950) or without (RFC 1951).
    Deflate,
    /// `br` (RFC 7932), without large windows.
    Brotli,
    /// `zstd` (RFC 8878), with windows up to 8 MiB (RFC 9659) and without dictionaries.
    Zstd,
}

/// Why a body can't be decoded any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// It isn't coded as it says.
    #[error("the reply's coding is broken: {0}")]
    Corrupt(&'static str),
    /// It ends before its coding does.
    #[error("the reply ends in the middle of its coding")]
    Cut,
    /// It asks for a window that is too large.
    #[error("the reply's coding needs a window beyond `proxy.limits.window`")]
    Window,
    /// It grows too much.
    #[error("the reply expands beyond `proxy.limits.expansion`")]
    Expands,
    /// All decoders together hold too much.
    #[error("the replies that are decoded at once reach `proxy.limits.windows`")]
    Memory,
}

/// How a body is coded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Codings {
    /// Not at all.
    Identity,
    /// With these codings, in the order in which they were applied.
    Known(Vec<Coding>),
    /// With one that isn't decoded, or with more than may stand in one another.
    Unknown,
}

impl Coding {
    fn named(name: &[u8]) -> Option<Self> {
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        if is("gzip") || is("x-gzip") {
            Some(Self::Gzip)
        } else if is("deflate") {
            Some(Self::Deflate)
        } else if is("br") {
            Some(Self::Brotli)
        } else if is("zstd") {
            Some(Self::Zstd)
        } else {
            None
        }
    }
}

impl Codings {
    /// What `Content-Encoding` says, where at most so many codings may stand in one another.
    #[must_use]
    pub fn of(headers: &HeaderMap, most: usize) -> Self {
        if !headers.contains_key(CONTENT_ENCODING) {
            return Self::Identity;
        }
        let mut known = Vec::new();
        for name in elements(headers, &CONTENT_ENCODING).filter(|name| !name.eq_ignore_ascii_case(b"identity")) {
            match Coding::named(name) {
                Some(coding) if known.len() < most => known.push(coding),
                _ => return Self::Unknown,
            }
        }
        if known.is_empty() { Self::Identity } else { Self::Known(known) }
    }
}

/// The elements of a list field (RFC 9110 section 5.6.1).
fn elements<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    let values = headers.get_all(name).into_iter();
    values.flat_map(|v| v.as_bytes().split(|b| *b == b',')).map(<[u8]>::trim_ascii).filter(|e| !e.is_empty())
}

/// Whether an element of `Accept-Encoding` asks for what is decoded, or forbids.
fn fits(element: &[u8]) -> bool {
    let (name, weight) = match element.iter().position(|b| *b == b';') {
        Some(at) => (element[..at].trim_ascii_end(), element[at + 1..].trim_ascii()),
        None => (element, &b""[..]),
    };
    let forbids = || {
        matches!(weight, [b'q' | b'Q', b'=', b'0'] | [b'q' | b'Q', b'=', b'0', b'.', ..])
            && weight[3..].iter().all(|b| matches!(b, b'0' | b'.'))
    };
    Coding::named(name).is_some() || name.eq_ignore_ascii_case(b"identity") || (name == b"*" && forbids())
}

/// Whether this value of `Accept-Encoding` asks for nothing but what is decoded.
pub fn all_decoded(value: &[u8]) -> bool {
    value.split(|b| *b == b',').map(<[u8]>::trim_ascii).filter(|e| !e.is_empty()).all(fits)
}

/// Narrows `Accept-Encoding` (RFC 9110 section 12.5.3) to what is decoded. Weights stay as they are, and
/// a wildcard stays only where it forbids. A request that asks for nothing, or for a part, gets identity.
pub fn narrow(headers: &mut HeaderMap, part: bool) {
    let identity = HeaderValue::from_static("identity");
    if part || !headers.contains_key(ACCEPT_ENCODING) {
        headers.insert(ACCEPT_ENCODING, identity);
        return;
    }
    if elements(headers, &ACCEPT_ENCODING).all(fits) {
        return;
    }
    let kept: Vec<_> = elements(headers, &ACCEPT_ENCODING).filter(|element| fits(element)).collect();
    let value = match kept.is_empty() {
        true => identity,
        false => HeaderValue::from_bytes(&kept.join(&b", "[..])).unwrap_or(identity),
    };
    headers.insert(ACCEPT_ENCODING, value);
}

/// What a reply's head says of a body that goes on decoded: nothing that counts or checks the coded
/// bytes, and no tag that vouches for each of them (RFC 9110 section 8.8.1).
pub fn fit_decoded(headers: &mut HeaderMap) {
    super::forward::remove_all(headers, |name| {
        matches!(name.as_str(), "content-encoding" | "content-length" | "accept-ranges") || is_digest(name)
    });
    if let Some(tag) = headers.get(ETAG)
        && tag.as_bytes().starts_with(b"\"")
        && let Ok(weak) = HeaderValue::from_bytes(&[b"W/", tag.as_bytes()].concat())
    {
        headers.insert(ETAG, weak);
    }
}

/// Gives tags in `If-Match` back the strength that [`fit_decoded`] took from them: with a weak one the
/// condition is never true (RFC 9110 section 13.1.1). A tag that was weak at its origin stays without a
/// match there, as it would have been.
pub fn fit_condition(headers: &mut HeaderMap) {
    let strong: Vec<HeaderValue> = headers
        .get_all(IF_MATCH)
        .iter()
        .filter_map(|value| HeaderValue::from_bytes(&strong(value.as_bytes())).ok())
        .collect();
    headers.remove(IF_MATCH);
    for value in strong {
        headers.append(IF_MATCH, value);
    }
}

/// A list of entity tags (RFC 9110 section 8.8.3) whose tags are strong.
fn strong(tags: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(tags.len());
    let (mut rest, mut quoted) = (tags, false);
    while let Some((&byte, behind)) = rest.split_first() {
        if !quoted && rest.starts_with(b"W/\"") {
            rest = &rest[2..];
            continue;
        }
        quoted ^= byte == b'"';
        out.push(byte);
        rest = behind;
    }
    out
}

/// Digests of the coded bytes: RFC 9530, its forerunner RFC 3230, and those of storage services.
pub fn is_digest(name: &HeaderName) -> bool {
    let name = name.as_str();
    matches!(name, "content-digest" | "repr-digest" | "digest" | "content-md5" | "x-goog-hash")
        || name.starts_with("x-amz-checksum-")
}
