//! Swaps an opened key into its slot.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue};
use zeroize::Zeroizing;

use super::identify::{Found, strip_scheme};
use super::reject::{Code, Rejection};
use crate::model::{Secret, Slot};

/// Bytes that are wiped when the last header that shares them is dropped.
struct Wiped(Zeroizing<Vec<u8>>);

impl AsRef<[u8]> for Wiped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Puts the secret where the token stood. The new value is marked sensitive, so that neither
/// `Debug` nor HPACK's dynamic table shows it, and its bytes are wiped after the exchange.
///
/// # Errors
/// The secret can't stand in a header (it holds a control character).
pub fn inject(headers: &mut HeaderMap, found: &Found, secret: &Secret<Vec<u8>>) -> Result<(), Rejection> {
    let name = found.slot.header().clone();
    let old = headers.get(&name).ok_or_else(|| Rejection::new(Code::Internal, "the slot's header is gone"))?;
    let value = match &found.slot {
        Slot::Bearer | Slot::Header(_) => spliced(old.as_bytes(), &found.range, secret.expose()),
        Slot::BasicUser | Slot::BasicPassword => {
            let pair = strip_scheme(old.as_bytes(), b"basic ").unwrap_or_default();
            let decoded = Zeroizing::new(BASE64.decode(pair.trim_ascii()).unwrap_or_default());
            let pair = spliced(&decoded, &found.range, secret.expose());
            let mut value = Zeroizing::new(b"Basic ".to_vec());
            let encoded = Zeroizing::new(BASE64.encode(&*pair));
            value.extend_from_slice(encoded.as_bytes());
            value
        }
    };
    *headers.entry(name).or_insert(HeaderValue::from_static("")) = header_value(value)?;
    Ok(())
}

/// Puts a computed value in the place of whatever the header held.
///
/// # Errors
/// The value can't stand in a header.
pub fn replace(headers: &mut HeaderMap, name: HeaderName, value: Zeroizing<Vec<u8>>) -> Result<(), Rejection> {
    headers.insert(name, header_value(value)?);
    Ok(())
}

/// Puts the secret into an empty slot, for a rule that injects without a token.
///
/// # Errors
/// The secret can't stand in a header.
pub fn fill(headers: &mut HeaderMap, slot: &Slot, secret: &Secret<Vec<u8>>) -> Result<(), Rejection> {
    let mut value = Zeroizing::new(Vec::with_capacity(secret.expose().len() + 16));
    match slot {
        Slot::Bearer => value.extend_from_slice(b"Bearer "),
        Slot::BasicUser | Slot::BasicPassword => value.extend_from_slice(b"Basic "),
        Slot::Header(_) => {}
    }
    match slot {
        Slot::Bearer | Slot::Header(_) => value.extend_from_slice(secret.expose()),
        Slot::BasicUser | Slot::BasicPassword => {
            let mut pair = Zeroizing::new(Vec::with_capacity(secret.expose().len() + 16));
            if *slot == Slot::BasicPassword {
                pair.extend_from_slice(b"x-access-token:");
            }
            pair.extend_from_slice(secret.expose());
            if *slot == Slot::BasicUser {
                pair.push(b':');
            }
            let encoded = Zeroizing::new(BASE64.encode(&*pair));
            value.extend_from_slice(encoded.as_bytes());
        }
    }
    let name = match slot {
        Slot::Header(name) => name.clone(),
        _ => AUTHORIZATION,
    };
    headers.insert(name, header_value(value)?);
    Ok(())
}

fn spliced(text: &[u8], range: &std::ops::Range<usize>, secret: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut value = Zeroizing::new(Vec::with_capacity(text.len() + secret.len()));
    value.extend_from_slice(&text[..range.start.min(text.len())]);
    value.extend_from_slice(secret);
    value.extend_from_slice(text.get(range.end..).unwrap_or_default());
    value
}

fn header_value(value: Zeroizing<Vec<u8>>) -> Result<HeaderValue, Rejection> {
    let mut value = HeaderValue::from_maybe_shared(Bytes::from_owner(Wiped(value)))
        .map_err(|_| Rejection::new(Code::Internal, "the stored secret holds a character that no header can carry"))?;
    value.set_sensitive(true);
    Ok(value)
}
