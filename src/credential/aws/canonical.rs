//! The canonical request: one text for all the ways in which a request may be written ("Create a
//! signed AWS API request", step 1).

use std::fmt::Write as _;

use http::{HeaderMap, Method};

/// The head of a request.
#[derive(Clone, Copy)]
pub struct Head<'a> {
    /// The method.
    pub method: &'a Method,
    /// The path as it is written, without the query.
    pub path: &'a str,
    /// The query as it is written.
    pub query: Option<&'a str>,
    /// The fields.
    pub headers: &'a HeaderMap,
    /// What counts as the Host field, also where HTTP/2 has it elsewhere.
    pub host: &'a str,
}

/// The canonical request up to the hash of the payload, which ends it.
pub(super) fn request(head: &Head<'_>, query: &str, names: &[String], encoded_once: bool) -> String {
    let mut text = String::with_capacity(512);
    text.push_str(head.method.as_str());
    text.push('\n');
    text.push_str(&path(head.path, encoded_once));
    text.push('\n');
    text.push_str(query);
    text.push('\n');
    for name in names {
        text.push_str(name);
        text.push(':');
        if name == "host" {
            text.push_str(head.host.trim());
        } else {
            for (at, value) in head.headers.get_all(name.as_str()).iter().enumerate() {
                if at > 0 {
                    text.push(',');
                }
                push_trimmed(&mut text, &String::from_utf8_lossy(value.as_bytes()));
            }
        }
        text.push('\n');
    }
    text.push('\n');
    text.push_str(&names.join(";"));
    text.push('\n');
    text
}

/// The value without space around it, and with one for several inside.
fn push_trimmed(text: &mut String, value: &str) {
    for (at, word) in value.split_ascii_whitespace().enumerate() {
        if at > 0 {
            text.push(' ');
        }
        text.push_str(word);
    }
}

/// S3 encodes each character of a path once. For every other service the path as it is sent is brought
/// into its normal form (RFC 3986 section 6) and encoded once more.
fn path(path: &str, encoded_once: bool) -> String {
    let mut out = String::with_capacity(path.len() + 16);
    if encoded_once {
        encode(&mut out, path, true);
        return if out.is_empty() { "/".to_owned() } else { out };
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    for part in &parts {
        out.push('/');
        part.bytes().for_each(|byte| push_byte(&mut out, byte));
    }
    if out.is_empty() || path.ends_with('/') {
        out.push('/');
    }
    out
}

/// The query, each name and value encoded alike, in order. One parameter may be left out.
pub(super) fn query(query: &str, without: Option<&str>) -> String {
    let mut pairs: Vec<(String, String)> = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .filter(|(name, _)| Some(*name) != without)
        .map(|(name, value)| (encoded(name), encoded(value)))
        .collect();
    pairs.sort();
    let mut out = String::with_capacity(query.len() + 16);
    for (at, (name, value)) in pairs.iter().enumerate() {
        let _ = write!(out, "{}{name}={value}", if at > 0 { "&" } else { "" });
    }
    out
}

fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    encode(&mut out, text, false);
    out
}

/// Text that may be percent-encoded, encoded as AWS does it: everything but unreserved characters, with
/// capital digits.
fn encode(out: &mut String, text: &str, keep_slash: bool) {
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let triplet = (byte == b'%').then(|| bytes.get(at + 1..at + 3)).flatten().and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok().filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()))?;
            u8::from_str_radix(digits, 16).ok()
        });
        match triplet {
            Some(byte) => {
                push_byte(out, byte);
                at += 3;
            }
            None => {
                if byte == b'/' && keep_slash {
                    out.push('/')
                } else {
                    push_byte(out, byte)
                }
                at += 1;
            }
        }
    }
}

/// One byte, encoded unless it is unreserved.
pub(super) fn push_byte(out: &mut String, byte: u8) {
    match byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
        true => out.push(char::from(byte)),
        false => {
            let _ = write!(out, "%{byte:02X}");
        }
    }
}
