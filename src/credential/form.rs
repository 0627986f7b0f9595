//! Reading the documents of computed kinds. What the parser says of a document may quote it, so of an
//! error only the place is told.

use serde::de::DeserializeOwned;
use serde::{Deserialize as _, Deserializer};
use zeroize::Zeroizing;

use crate::model::{KeyKind, Secret};
use crate::vault::MIN_SECRET;

/// Why a document isn't taken. The words hold nothing of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormError {
    /// It isn't JSON of the kind's form.
    #[error(
        "the value of a key of kind {kind} is a JSON document, and {what} (line {line}, column {column}). Its form: {form}"
    )]
    Document {
        /// The key's kind.
        kind: KeyKind,
        /// What is wrong with it.
        what: String,
        /// Where reading ended, from 1.
        line: usize,
        /// The same.
        column: usize,
        /// What is expected.
        form: &'static str,
    },
    /// A secret part is so short that replies couldn't be searched for it.
    #[error("{part} is shorter than {MIN_SECRET} bytes, so replies couldn't be searched for it")]
    Short {
        /// The field.
        part: &'static str,
    },
    /// A field holds what it can't.
    #[error("{part} {why}")]
    Field {
        /// The field.
        part: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
}

/// Reads a document.
pub(super) fn parse<T: DeserializeOwned>(kind: KeyKind, form: &'static str, text: &[u8]) -> Result<T, FormError> {
    serde_json::from_slice(text).map_err(|why| FormError::Document {
        kind,
        what: trouble(&why, form),
        line: why.line(),
        column: why.column(),
        form,
    })
}

/// What is wrong with a document, with no word of it: only a field that our form has is named.
fn trouble(why: &serde_json::Error, form: &str) -> String {
    if !why.is_data() {
        return "this isn't one".to_owned();
    }
    let text = why.to_string();
    let missing = text.strip_prefix("missing field `").and_then(|rest| rest.split('`').next());
    match missing {
        Some(name) if form.contains(name) => format!("this one has no {name}"),
        _ if text.starts_with("unknown field") => "this one has a field that isn't in its form".to_owned(),
        _ => "this one has a field of another type, or one too few".to_owned(),
    }
}

/// JSON without the space between its tokens, so without line breaks.
pub(super) fn dense(text: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut out = Zeroizing::new(Vec::with_capacity(text.len()));
    let (mut quoted, mut escaped) = (false, false);
    for &byte in text {
        if !quoted && matches!(byte, b' ' | b'\t' | b'\r' | b'\n') {
            continue;
        }
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = quoted,
            b'"' => quoted = !quoted,
            _ => {}
        }
        out.push(byte);
    }
    out
}

/// A text that is wiped when it is dropped, and shows nothing of itself.
#[derive(Debug)]
pub struct Text(Secret<String>);

impl Text {
    /// Takes the text in custody.
    #[must_use]
    pub fn new(mut text: zeroize::Zeroizing<String>) -> Self {
        Self(Secret::new(std::mem::take(&mut *text)))
    }

    /// The text itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose()
    }
}

impl<'de> serde::Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        secret_text(from).map(Self)
    }
}

/// A text that is wiped when it is dropped.
pub(super) fn secret_text<'de, D: Deserializer<'de>>(from: D) -> Result<Secret<String>, D::Error> {
    String::deserialize(from).map(Secret::new)
}

/// The same, if there is one.
pub(super) fn maybe_secret_text<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Secret<String>>, D::Error> {
    Option::<String>::deserialize(from).map(|text| text.map(Secret::new))
}

/// Whether a part can be searched for, and stand in a header.
pub(super) fn check_secret(part: &'static str, text: &str) -> Result<(), FormError> {
    if text.len() < MIN_SECRET {
        return Err(FormError::Short { part });
    }
    check_text(part, text)
}

/// Whether a part can stand in a header.
pub(super) fn check_text(part: &'static str, text: &str) -> Result<(), FormError> {
    match text.chars().any(char::is_control) {
        true => Err(FormError::Field { part, why: "holds a line break or another control character" }),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn space_goes_between_tokens_and_stays_in_texts() {
        let text = b"{\n  \"a\" : \"x \\\" y\\\\\" ,\r\n\t\"b\": 1 }";
        assert_eq!(&*dense(text), br#"{"a":"x \" y\\","b":1}"#);
    }
}
