//! The parameters of a signature: of the Authorization field, and of the query of a presigned URL.

use super::Error;
use super::canonical::push_byte;

pub(super) const ALGORITHM: &str = "X-Amz-Algorithm";
pub(super) const CREDENTIAL: &str = "X-Amz-Credential";
pub(super) const DATE: &str = "X-Amz-Date";
pub(super) const EXPIRES: &str = "X-Amz-Expires";
pub(super) const SIGNED_HEADERS: &str = "X-Amz-SignedHeaders";
pub(super) const SIGNATURE: &str = "X-Amz-Signature";
pub(super) const SECURITY_TOKEN: &str = "X-Amz-Security-Token";
pub(super) const REGION_SET: &str = "X-Amz-Region-Set";
pub(super) const CONTENT_SHA256: &str = "X-Amz-Content-Sha256";

/// The three parameters behind the name of the algorithm.
#[derive(Default)]
pub(super) struct Authorization<'a> {
    pub credential: &'a str,
    pub names: &'a str,
    pub signature: &'a str,
}

impl<'a> Authorization<'a> {
    pub fn read(text: &'a str) -> Result<Self, Error> {
        let mut read = Self::default();
        for part in text.split(',').map(str::trim) {
            let (name, value) = part.split_once('=').ok_or(Error::Shape("can't be read"))?;
            let place = match name {
                "Credential" => &mut read.credential,
                "SignedHeaders" => &mut read.names,
                "Signature" => &mut read.signature,
                _ => return Err(Error::Shape("has a parameter that isn't known")),
            };
            if !place.is_empty() {
                return Err(Error::Shape("has a parameter twice"));
            }
            *place = value;
        }
        Ok(read)
    }
}

/// A parameter of a query, decoded; empty if it isn't there.
pub(super) fn of_query(query: &str, wanted: &str) -> Result<String, Error> {
    let mut found = None;
    for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
        if name == wanted {
            if found.is_some() {
                return Err(Error::Shape("has a parameter twice"));
            }
            found = Some(decoded(value).ok_or(Error::Shape("can't be read"))?);
        }
    }
    Ok(found.unwrap_or_default())
}

/// Checks that what a verifier may take for a parameter of the signature is one for us as well: it is
/// written plainly, in its own letters, and once.
pub(super) fn check_names(query: &str) -> Result<(), Error> {
    const OURS: [&str; 9] =
        [ALGORITHM, CREDENTIAL, DATE, EXPIRES, SIGNED_HEADERS, SIGNATURE, SECURITY_TOKEN, REGION_SET, CONTENT_SHA256];
    let mut seen = [false; OURS.len()];
    for pair in query.split('&') {
        let written = pair.split('=').next().unwrap_or_default();
        let Some(name) = decoded(written) else { continue };
        for (ours, seen) in OURS.iter().zip(&mut seen).filter(|(ours, _)| ours.eq_ignore_ascii_case(&name)) {
            if *ours != written || std::mem::replace(seen, true) {
                return Err(Error::Shape("has a parameter twice, or one that isn't written plainly"));
            }
        }
    }
    Ok(())
}

/// Percent-decoded; `None` if that isn't text.
pub(super) fn decoded(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let (digits, behind) = rest.split_at_checked(2)?;
        out.push(*hex::decode(digits).ok()?.first()?);
        rest = behind;
    }
    String::from_utf8(out).ok()
}

/// The query of a presigned URL with another access key id, list of names and session token, and without
/// the signature. Everything else is byte for byte as it was.
pub(super) fn replaced(query: &str, id: &str, scope: &str, names: &[String], token: Option<&str>) -> String {
    let mut out = String::with_capacity(query.len() + 64);
    let mut push = |name: &str, value: &str| {
        if !out.is_empty() {
            out.push('&');
        }
        out.push_str(name);
        out.push('=');
        value.bytes().for_each(|byte| push_byte(&mut out, byte));
    };
    push(CREDENTIAL, &format!("{id}/{scope}"));
    push(SIGNED_HEADERS, &names.join(";"));
    if let Some(token) = token {
        push(SECURITY_TOKEN, token);
    }
    let ours = [CREDENTIAL, SIGNED_HEADERS, SECURITY_TOKEN, SIGNATURE];
    for pair in query.split('&') {
        if !ours.contains(&pair.split('=').next().unwrap_or_default()) {
            out.push('&');
            out.push_str(pair);
        }
    }
    out
}
