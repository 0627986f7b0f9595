//! The places in a request where a token may be swapped.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use http::HeaderName;
use http::header::{AUTHORIZATION, COOKIE};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{PathTemplate, Template};

/// A place in a request where a token may be swapped. As text: `bearer`, `header:x-api-key`,
/// `header:authorization=GenieKey {}`, `basic:user`, `basic:password`, `basic={}`, `query:api_key`,
/// `path:/bot{}`, `cookie:session`, `form:client_secret`, `json:/auth/key`, `multipart:token`,
/// `signature`, `presigned`, `frame:/auth/key`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Slot {
    /// `Authorization: Bearer TOKEN` (RFC 6750 section 2.1); also `Authorization: token TOKEN`.
    Bearer,
    /// The whole value of this header.
    Header(HeaderName),
    /// A part of this header's value, with this text around it.
    HeaderPart(HeaderName, Template),
    /// The user name inside `Authorization: Basic` (RFC 7617), as Stripe's clients send it.
    BasicUser,
    /// The password inside `Authorization: Basic` (RFC 7617), as git sends it.
    BasicPassword,
    /// A part of the pair inside `Authorization: Basic`, with this text around it; `{}` is the whole
    /// pair.
    BasicPart(Template),
    /// The value of a query parameter.
    Query(FieldName),
    /// A segment of the path, or a part of one.
    Path(PathTemplate),
    /// The value of a cookie (RFC 6265 section 4.2).
    Cookie(FieldName),
    /// The value of a field of an `application/x-www-form-urlencoded` body.
    Form(FieldName),
    /// A string in a JSON body.
    Json(Pointer),
    /// The value of a field of a `multipart/form-data` body (RFC 7578).
    Multipart(FieldName),
    /// The access key id in the `Authorization` of a request that the agent signed (AWS Signature
    /// Version 4).
    Signature,
    /// The access key id in the query of a URL that the agent signed beforehand.
    Presigned,
    /// A string in a message of JSON that an agent sends over a WebSocket.
    Frame(Pointer),
}

/// The text is no slot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a slot: use bearer, header:NAME, header:NAME=TEXT {{}}, basic:user, basic:password, basic={{}}, query:NAME, \
     path:/START{{}}, cookie:NAME, form:NAME, json:/POINTER, multipart:NAME, signature, presigned or frame:/POINTER{}",
    .0.map(|why| format!(" ({why})")).unwrap_or_default()
)]
pub struct SlotError(Option<&'static str>);

impl Slot {
    /// The header that is this slot, or has it in its value. A cookie is one among others in its
    /// header, which is none for that.
    #[must_use]
    pub fn header(&self) -> Option<&HeaderName> {
        match self {
            Self::Header(name) | Self::HeaderPart(name, _) => Some(name),
            Self::Bearer | Self::BasicUser | Self::BasicPassword | Self::BasicPart(_) | Self::Signature => {
                Some(&AUTHORIZATION)
            }
            Self::Query(_) | Self::Path(_) | Self::Cookie(_) | Self::Presigned => None,
            Self::Form(_) | Self::Json(_) | Self::Multipart(_) | Self::Frame(_) => None,
        }
    }

    /// Whether it stands in the pair of `Authorization: Basic`.
    #[must_use]
    pub const fn is_basic(&self) -> bool {
        matches!(self, Self::BasicUser | Self::BasicPassword | Self::BasicPart(_))
    }

    /// Whether it stands in a body, which has to be read for it.
    #[must_use]
    pub const fn is_in_body(&self) -> bool {
        matches!(self, Self::Form(_) | Self::Json(_) | Self::Multipart(_))
    }

    /// Whether a key can be put into it where nothing stands: all around it is known, and it isn't
    /// part of a path, a body or a signature that an agent makes.
    #[must_use]
    pub fn can_be_filled(&self) -> bool {
        match self {
            Self::HeaderPart(_, template) | Self::BasicPart(template) => template.around().is_some(),
            Self::Path(_) | Self::Form(_) | Self::Json(_) | Self::Multipart(_) | Self::Frame(_) => false,
            Self::Signature | Self::Presigned => false,
            _ => true,
        }
    }

    /// Whether a secret can stand there as it is: most places have an encoding for everything.
    ///
    /// # Errors
    /// Why not.
    pub fn suits(&self, secret: &[u8]) -> Result<(), &'static str> {
        let plain = |b: &u8| b.is_ascii_graphic() && !b"\"\\,;".contains(b);
        match self {
            Self::Cookie(_) if !secret.iter().all(plain) => {
                Err("holds a character that no cookie can have (RFC 6265 section 4.1.1); store it as the cookie has it")
            }
            Self::BasicUser if secret.contains(&b':') => {
                Err("holds a colon, which ends a user name (RFC 7617 section 2)")
            }
            Self::Bearer | Self::Header(_) | Self::HeaderPart(..)
                if secret.first().is_some_and(|b| *b == b' ') || secret.last().is_some_and(|b| *b == b' ') =>
            {
                Err("begins or ends with a space, which is no part of a header's value (RFC 9110 section 5.5)")
            }
            Self::Bearer if secret.contains(&b' ') => {
                Err("holds a space, which no bearer token has (RFC 6750 section 2.1)")
            }
            _ => Ok(()),
        }
    }

    /// A word from a closed set, for metrics.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Bearer => "bearer",
            Self::Header(_) => "header",
            Self::HeaderPart(..) => "header_part",
            Self::BasicUser => "basic_user",
            Self::BasicPassword => "basic_password",
            Self::BasicPart(_) => "basic_part",
            Self::Query(_) => "query",
            Self::Path(_) => "path",
            Self::Cookie(_) => "cookie",
            Self::Form(_) => "form",
            Self::Json(_) => "json",
            Self::Multipart(_) => "multipart",
            Self::Signature => "signature",
            Self::Presigned => "presigned",
            Self::Frame(_) => "frame",
        }
    }
}

/// Headers that frame or route a message; a key in one of them would break it. A cookie has a slot of
/// its own.
const NEVER: &[&str] = &[
    "host",
    "connection",
    "content-length",
    "content-type",
    "content-encoding",
    "transfer-encoding",
    "te",
    "trailer",
    "upgrade",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "expect",
];

fn header(text: &str) -> Result<Slot, Option<&'static str>> {
    let (name, template) = match text.split_once('=') {
        Some((name, template)) => (name, Some(Template::parse(template).map_err(Some)?)),
        None => (text, None),
    };
    let name: HeaderName = name.parse().map_err(|_| Some("that isn't the name of a header"))?;
    if NEVER.contains(&name.as_str()) {
        return Err(Some("a key in this header would break the request"));
    }
    if name == COOKIE {
        return Err(Some("write cookie:NAME"));
    }
    Ok(template.map_or_else(|| Slot::Header(name.clone()), |template| Slot::HeaderPart(name.clone(), template)))
}

impl FromStr for Slot {
    type Err = SlotError;

    fn from_str(text: &str) -> Result<Self, SlotError> {
        if text.len() > MAX_LEN {
            return Err(SlotError(Some("it is too long")));
        }
        let parsed = match text.split_once([':', '=']) {
            None if text == "bearer" => Ok(Self::Bearer),
            None if text == "signature" => Ok(Self::Signature),
            None if text == "presigned" => Ok(Self::Presigned),
            Some(("basic", "user")) => Ok(Self::BasicUser),
            Some(("basic", "password")) => Ok(Self::BasicPassword),
            Some(("basic", template)) if text.starts_with("basic=") => {
                Template::parse(template).map(Self::BasicPart).map_err(Some)
            }
            Some(("header", rest)) => header(rest),
            Some(("query", name)) => FieldName::parse(name).map(Self::Query).map_err(Some),
            Some(("path", template)) => PathTemplate::parse(template).map(Self::Path).map_err(Some),
            Some(("cookie", name)) => FieldName::parse(name).map(Self::Cookie).map_err(Some),
            Some(("form", name)) => FieldName::parse(name).map(Self::Form).map_err(Some),
            Some(("json", pointer)) => Pointer::parse(pointer).map(Self::Json).map_err(Some),
            Some(("multipart", name)) => FieldName::parse(name).map(Self::Multipart).map_err(Some),
            Some(("frame", pointer)) => Pointer::parse(pointer).map(Self::Frame).map_err(Some),
            _ => Err(None),
        };
        match parsed {
            // One way of writing each, so that what is stored is what was read.
            Ok(slot) if slot.to_string().eq_ignore_ascii_case(text) => Ok(slot),
            Ok(_) => Err(SlotError(None)),
            Err(why) => Err(SlotError(why)),
        }
    }
}

/// The longest slot as text, in bytes.
const MAX_LEN: usize = 512;

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bearer => f.write_str("bearer"),
            Self::Header(name) => write!(f, "header:{name}"),
            Self::HeaderPart(name, template) => write!(f, "header:{name}={template}"),
            Self::BasicUser => f.write_str("basic:user"),
            Self::BasicPassword => f.write_str("basic:password"),
            Self::BasicPart(template) => write!(f, "basic={template}"),
            Self::Query(name) => write!(f, "query:{name}"),
            Self::Path(template) => write!(f, "path:{template}"),
            Self::Cookie(name) => write!(f, "cookie:{name}"),
            Self::Form(name) => write!(f, "form:{name}"),
            Self::Json(pointer) => write!(f, "json:{pointer}"),
            Self::Multipart(name) => write!(f, "multipart:{name}"),
            Self::Signature => f.write_str("signature"),
            Self::Presigned => f.write_str("presigned"),
            Self::Frame(pointer) => write!(f, "frame:{pointer}"),
        }
    }
}

impl Serialize for Slot {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Slot {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The name of a query parameter, cookie or field: visible ASCII without what separates or quotes
/// fields.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct FieldName(Arc<str>);

impl FieldName {
    fn parse(text: &str) -> Result<Self, &'static str> {
        let fits = |b: u8| b.is_ascii_graphic() && !b"\"\\%&;=+,".contains(&b);
        if !text.is_empty() && text.bytes().all(fits) {
            Ok(Self(text.into()))
        } else {
            Err("a name is visible ASCII without any of \" \\ % & ; = + ,")
        }
    }

    /// The name as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for FieldName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a value stands in a JSON document (RFC 6901). Never the whole document.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Pointer {
    text: Arc<str>,
    steps: Arc<[String]>,
}

impl Pointer {
    fn parse(text: &str) -> Result<Self, &'static str> {
        let mut parts = text.split('/');
        if parts.next() != Some("") || !text.starts_with('/') {
            return Err("a JSON pointer begins with /");
        }
        if text.chars().any(char::is_control) {
            return Err("a JSON pointer has no control characters");
        }
        let steps = parts
            .map(|part| match part.replace("~0", "").replace("~1", "").contains('~') {
                true => Err("in a JSON pointer ~ is written ~0, and / inside a name ~1"),
                false => Ok(part.replace("~1", "/").replace("~0", "~")),
            })
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self { text: text.into(), steps: steps.into() })
    }

    /// The names of members and numbers of elements on the way, from the outside in; at least one.
    #[must_use]
    pub fn steps(&self) -> &[String] {
        &self.steps
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_reads_as_it_is_written() {
        for text in [
            "bearer",
            "header:x-api-key",
            "header:authorization=GenieKey {}",
            "header:authorization=Token token=\"{}\"*",
            "header:x-auth=a=b:{}",
            "basic:user",
            "basic:password",
            "basic={}",
            "basic=*/token:{}",
            "query:api_key",
            "query:auth[key]",
            "path:/bot{}",
            "path:/api/webhooks/*/{}",
            "cookie:session",
            "form:client_secret",
            "json:/auth/key",
            "json:/a~1b/~0/0",
            "json:/",
            "multipart:token",
            "signature",
            "presigned",
            "frame:/auth/key",
        ] {
            let slot: Slot = text.parse().expect(text);
            assert_eq!(slot.to_string(), text);
            assert_eq!(slot.to_string().parse(), Ok(slot));
        }
    }

    #[test]
    fn what_is_no_slot_is_refused_with_the_slots_that_there_are() {
        for text in [
            "",
            "Bearer:",
            "bearer:x",
            "bearer=x",
            "basic",
            "basic:",
            "basic:{}",
            "basic=",
            "header",
            "header=x",
            "header:",
            "header:host",
            "header:content-type",
            "header:cookie",
            "header:x y",
            "header:x=",
            "header:x=y",
            "query",
            "query:",
            "query=x",
            "query:a=b",
            "query:a&b",
            "path:",
            "path:/x",
            "cookie:a;b",
            "form:a b",
            "json:",
            "json:a",
            "json:/a~2",
            "json:/a~",
            "multipart:a\"b",
            "websocket:x",
        ] {
            let why = text.parse::<Slot>().expect_err(text).to_string();
            assert!(why.contains("query:NAME"), "{why}");
        }
        assert!(format!("query:{}", "a".repeat(600)).parse::<Slot>().is_err());
    }

    #[test]
    fn pointer_is_taken_apart_as_rfc_6901_says() {
        let Ok(Slot::Json(pointer)) = "json:/a~1b/m~0n/~01/0/".parse() else { panic!("a pointer") };
        assert_eq!(pointer.steps(), ["a/b", "m~n", "~1", "0", ""]);
    }
}
