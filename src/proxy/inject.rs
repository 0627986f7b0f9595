//! Swaps an opened key into its slot, in the encoding of the place.

use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::header::COOKIE;
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Request, Uri};
use zeroize::Zeroizing;

use super::identify::{Found, strip_scheme};
use super::reject::{Code, Rejection};
use super::slots::{cookie, json, multipart, pairs};
use super::whole::{Kind, Whole};
use crate::model::{Secret, Slot};

/// Bytes that are wiped when the last header that shares them is dropped.
struct Wiped(Zeroizing<Vec<u8>>);

impl AsRef<[u8]> for Wiped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Puts the secret where the token stood, in the request's head or in its body. A header's new value is marked sensitive, so that neither
/// `Debug` nor HPACK's dynamic table shows it, and what holds the secret is wiped after the exchange.
///
/// # Errors
/// The secret can't stand in its slot.
pub fn inject<B>(
    request: &mut Request<B>,
    body: Option<&mut Whole>,
    found: &Found,
    secret: &Secret<Vec<u8>>,
) -> Result<(), Rejection> {
    let secret = fit(&found.slot, secret)?;
    match &found.slot {
        slot if slot.is_in_body() => {
            let body = body.ok_or_else(|| Rejection::new(Code::Internal, "the slot's body is gone"))?;
            in_body(body, found, secret)?;
            // They are of the body that the agent sent (RFC 9530 section 2).
            for digest in ["content-digest", "repr-digest", "digest", "content-md5"] {
                request.headers_mut().remove(digest);
            }
            return Ok(());
        }
        Slot::Path(_) => {
            // The characters that a segment may have beside unreserved ones (RFC 3986 section 3.3), but
            // for the semicolon, at which some servers cut it.
            let secret = pairs::encoded(secret, b"!$&'()*+,=:@");
            let path = spliced(request.uri().path().as_bytes(), &found.range, &secret);
            let query = request.uri().query().map(str::to_owned).map(Zeroizing::new);
            return target(request, path, query.as_ref().map(|query| query.as_bytes()));
        }
        Slot::Query(_) => {
            let secret = pairs::encoded(secret, b"");
            let query = spliced(request.uri().query().unwrap_or_default().as_bytes(), &found.range, &secret);
            let path = Zeroizing::new(request.uri().path().as_bytes().to_vec());
            return target(request, path, Some(&query));
        }
        _ => {}
    }
    let gone = || Rejection::new(Code::Internal, "the slot's header is gone");
    let name = found.header().ok_or_else(gone)?;
    let old = request.headers().get(name).ok_or_else(gone)?.as_bytes();
    let value = match found.slot.is_basic() {
        false => spliced(old, &found.range, secret),
        true => {
            let pair = strip_scheme(old, b"basic ").unwrap_or_default();
            let decoded = Zeroizing::new(BASE64.decode(pair.trim_ascii()).unwrap_or_default());
            basic(&spliced(&decoded, &found.range, secret))
        }
    };
    replace(request, name.clone(), value)
}

fn in_body(body: &mut Whole, found: &Found, secret: &[u8]) -> Result<(), Rejection> {
    let stays = || Rejection::new(Code::Internal, "the stored secret can't stand in a body of this kind");
    let value = match &body.kind {
        Kind::Form => pairs::encoded(secret, b""),
        Kind::Json => json::escaped(secret).ok_or_else(stays)?,
        Kind::Multipart(boundary) if multipart::can_be(secret, boundary.as_bytes()) => joined(&[secret]),
        Kind::Multipart(_) => return Err(stays()),
    };
    body.bytes = Bytes::from_owner(Wiped(spliced(&body.bytes, &found.range, &value)));
    Ok(())
}

/// Puts a computed value in the place of whatever the header held.
///
/// # Errors
/// The value can't stand in a header.
pub fn replace<B>(request: &mut Request<B>, name: HeaderName, value: Zeroizing<Vec<u8>>) -> Result<(), Rejection> {
    let mut value = HeaderValue::from_maybe_shared(Bytes::from_owner(Wiped(value)))
        .map_err(|_| Rejection::new(Code::Internal, "the stored secret holds a character that no header can carry"))?;
    value.set_sensitive(true);
    request.headers_mut().insert(name, value);
    Ok(())
}

/// Puts another query in the place of the request's.
///
/// # Errors
/// It can't stand in a request's target.
pub fn query<B>(request: &mut Request<B>, query: &str) -> Result<(), Rejection> {
    let path = Zeroizing::new(request.uri().path().as_bytes().to_vec());
    target(request, path, Some(query.as_bytes()))
}

/// Puts the secret into an empty slot, or in the place of what stands in it, for a rule that injects
/// without a token.
///
/// # Errors
/// The secret can't stand in its slot, or the slot is one that only an agent can make.
pub fn fill<B>(request: &mut Request<B>, slot: &Slot, secret: &Secret<Vec<u8>>) -> Result<(), Rejection> {
    let secret = fit(slot, secret)?;
    let open = || Rejection::new(Code::Internal, "the slot can't be filled");
    let value = match slot {
        Slot::Bearer => joined(&[b"Bearer ", secret]),
        Slot::Header(_) => joined(&[secret]),
        Slot::HeaderPart(_, template) => {
            let (before, after) = template.around().ok_or_else(open)?;
            joined(&[before.as_bytes(), secret, after.as_bytes()])
        }
        Slot::BasicUser => basic(&joined(&[secret, b":"])),
        Slot::BasicPassword => basic(&joined(&[b"x-access-token:", secret])),
        Slot::BasicPart(template) => {
            let (before, after) = template.around().ok_or_else(open)?;
            basic(&joined(&[before.as_bytes(), secret, after.as_bytes()]))
        }
        Slot::Query(name) => {
            let path = Zeroizing::new(request.uri().path().as_bytes().to_vec());
            let old = request.uri().query().unwrap_or_default();
            let kept = pairs::without(old, name);
            let separator: &[u8] = if kept.is_empty() { b"" } else { b"&" };
            let (name, secret) = (name.as_str().as_bytes(), pairs::encoded(secret, b""));
            return target(request, path, Some(&joined(&[kept.as_bytes(), separator, name, b"=", &secret])));
        }
        Slot::Cookie(name) => {
            let kept = cookie::without(request.headers().get_all(COOKIE).iter().map(HeaderValue::as_bytes), name);
            let separator: &[u8] = if kept.is_empty() { b"" } else { b"; " };
            let value = joined(&[&kept, separator, name.as_str().as_bytes(), b"=", secret]);
            return replace(request, COOKIE, value);
        }
        Slot::Path(_) | Slot::Form(_) | Slot::Json(_) | Slot::Multipart(_) | Slot::Frame(_) => return Err(open()),
        Slot::Signature | Slot::Presigned => return Err(open()),
    };
    replace(request, slot.header().ok_or_else(open)?.clone(), value)
}

/// The secret, if it can stand in the slot: nothing that ends a line, and nothing that ends the slot
/// where its place has no encoding for it.
pub(super) fn fit<'a>(slot: &Slot, secret: &'a Secret<Vec<u8>>) -> Result<&'a [u8], Rejection> {
    let secret = secret.expose();
    // To its end, which is many at a time.
    if secret.iter().fold(false, |found, b| found | (*b < 0x20) | (*b == 0x7f)) {
        return Err(Rejection::new(Code::Internal, "the stored secret holds a line break or a control character"));
    }
    match slot {
        Slot::Cookie(_) | Slot::BasicUser => match slot.suits(secret) {
            Ok(()) => Ok(secret),
            Err(why) => Err(Rejection::new(Code::Internal, format!("the stored secret {why}"))),
        },
        _ => Ok(secret),
    }
}

fn joined(parts: &[&[u8]]) -> Zeroizing<Vec<u8>> {
    // All at once: a vector that grows leaves a copy behind.
    let mut all = Zeroizing::new(Vec::with_capacity(parts.iter().map(|part| part.len()).sum()));
    parts.iter().for_each(|part| all.extend_from_slice(part));
    all
}

pub(super) fn spliced(text: &[u8], range: &Range<usize>, secret: &[u8]) -> Zeroizing<Vec<u8>> {
    joined(&[&text[..range.start.min(text.len())], secret, text.get(range.end..).unwrap_or_default()])
}

fn basic(pair: &[u8]) -> Zeroizing<Vec<u8>> {
    let encoded = Zeroizing::new(BASE64.encode(pair));
    joined(&[b"Basic ", encoded.as_bytes()])
}

fn target<B>(request: &mut Request<B>, path: Zeroizing<Vec<u8>>, query: Option<&[u8]>) -> Result<(), Rejection> {
    let mark: &[u8] = if query.is_some() { b"?" } else { b"" };
    let whole = joined(&[&path, mark, query.unwrap_or_default()]);
    let whole = PathAndQuery::from_maybe_shared(Bytes::from_owner(Wiped(whole)))
        .map_err(|_| Rejection::new(Code::Internal, "the stored secret can't stand in a path or query"))?;
    *request.uri_mut() = Uri::from(whole);
    Ok(())
}
