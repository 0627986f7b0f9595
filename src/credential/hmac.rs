//! Requests that are signed with a shared secret in a form that the key's document declares, as
//! exchanges for money and many webhooks have it: a text is put together from parts of the request, and
//! its HMAC (RFC 2104) goes into a header or a query parameter.
//!
//! The agent sends its token in the key's slot, and what it has of a signature is replaced: the name of
//! the key, the time, the nonce and the signature are put in here, in the request as it is sent.

use aws_lc_rs::{digest, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::{HeaderName, Method};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::form::{self, FormError};
use crate::model::{FieldName, KeyKind, Secret, Timestamp};

const FORM: &str = r#"{"key": "the name that the service gave", "secret": "...", "secret_encoding": "text|hex|base64", "algorithm": "sha256|sha512", "encoding": "hex|base64", "template": "{timestamp}{method}{target}{body}", "signature": "header:NAME or query:NAME", "timestamp": "header:NAME or query:NAME", "timestamp_unit": "seconds|milliseconds", "nonce": "header:NAME or query:NAME"} (all but key, secret, template and signature may be left out)"#;

/// The longest template, in bytes.
const LONGEST: usize = 1024;

#[derive(Deserialize, Clone, Copy, Default)]
#[serde(rename_all = "lowercase")]
enum Algorithm {
    #[default]
    Sha256,
    Sha512,
}

#[derive(Deserialize, Clone, Copy, Default)]
#[serde(rename_all = "lowercase")]
enum Encoding {
    #[default]
    Hex,
    Base64,
}

#[derive(Deserialize, Clone, Copy, Default)]
#[serde(rename_all = "lowercase")]
enum SecretEncoding {
    #[default]
    Text,
    Hex,
    Base64,
}

#[derive(Deserialize, Clone, Copy, Default)]
#[serde(rename_all = "lowercase")]
enum Unit {
    #[default]
    Seconds,
    Milliseconds,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    key: String,
    #[serde(deserialize_with = "form::secret_text")]
    secret: Secret<String>,
    #[serde(default)]
    secret_encoding: SecretEncoding,
    #[serde(default)]
    algorithm: Algorithm,
    #[serde(default)]
    encoding: Encoding,
    template: String,
    signature: String,
    timestamp: Option<String>,
    #[serde(default)]
    timestamp_unit: Unit,
    nonce: Option<String>,
}

/// Where something that is computed goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A header.
    Header(HeaderName),
    /// A query parameter, at the end of the query.
    Query(FieldName),
}

enum Part {
    Text(String),
    Method,
    Path,
    Query,
    Target,
    Timestamp,
    Nonce,
    Key,
    Body,
    BodySha256,
    BodySha512,
}

/// A shared secret, and how requests are signed with it.
pub struct Form {
    key: Secret<Vec<u8>>,
    secret: Secret<String>,
    bytes: Secret<Vec<u8>>,
    algorithm: Algorithm,
    encoding: Encoding,
    template: Vec<Part>,
    signature: Place,
    timestamp: Option<Place>,
    unit: Unit,
    nonce: Option<Place>,
}

/// What of a request is signed.
pub struct Parts<'a> {
    /// The method.
    pub method: &'a Method,
    /// The path as it is sent.
    pub path: &'a str,
    /// The query as it is sent, without the signature.
    pub query: Option<&'a str>,
    /// The body.
    pub body: &'a [u8],
    /// The time, as it was put in.
    pub timestamp: &'a str,
    /// The nonce, as it was put in.
    pub nonce: &'a str,
}

impl Form {
    pub(super) fn read(text: &[u8]) -> Result<Self, FormError> {
        let written: Written = form::parse(KeyKind::Hmac, FORM, text)?;
        form::check_text("key", &written.key)?;
        if written.key.is_empty() {
            return Err(FormError::Field { part: "key", why: "is empty" });
        }
        form::check_secret("secret", written.secret.expose())?;
        let bad = |why| FormError::Field { part: "secret", why };
        let bytes = match written.secret_encoding {
            SecretEncoding::Text => written.secret.expose().clone().into_bytes(),
            SecretEncoding::Hex => hex::decode(written.secret.expose()).map_err(|_| bad("isn't hexadecimal"))?,
            SecretEncoding::Base64 => BASE64.decode(written.secret.expose()).map_err(|_| bad("isn't base64"))?,
        };
        let template = template(&written.template).map_err(|why| FormError::Field { part: "template", why })?;
        let has = |wanted: fn(&Part) -> bool| template.iter().any(wanted);
        let timed = has(|part| matches!(part, Part::Timestamp));
        let place = |part, text: &str| place(text).map_err(|why| FormError::Field { part, why });
        let timestamp = written.timestamp.as_deref().map(|text| place("timestamp", text)).transpose()?;
        let nonce = written.nonce.as_deref().map(|text| place("nonce", text)).transpose()?;
        if timed && timestamp.is_none() {
            return Err(FormError::Field { part: "timestamp", why: "is missing, and the template signs the time" });
        }
        if has(|part| matches!(part, Part::Nonce)) && nonce.is_none() {
            return Err(FormError::Field { part: "nonce", why: "is missing, and the template signs a nonce" });
        }
        Ok(Self {
            key: Secret::new(written.key.into_bytes()),
            secret: written.secret,
            bytes: Secret::new(bytes),
            algorithm: written.algorithm,
            encoding: written.encoding,
            template,
            signature: place("signature", &written.signature)?,
            timestamp,
            unit: written.timestamp_unit,
            nonce,
        })
    }

    /// The name that the service knows the secret by; it stands where the token stood.
    #[must_use]
    pub const fn key(&self) -> &Secret<Vec<u8>> {
        &self.key
    }

    pub(super) fn show_secrets(&self, show: &mut dyn FnMut(&[u8])) {
        show(self.secret.expose().as_bytes());
        // Where it was given in another form, its bytes mustn't come back either.
        if self.bytes.expose() != self.secret.expose().as_bytes()
            && self.bytes.expose().len() >= crate::vault::MIN_SECRET
        {
            show(self.bytes.expose());
        }
    }

    /// Where the signature goes.
    #[must_use]
    pub const fn signature(&self) -> &Place {
        &self.signature
    }

    /// Where the time goes, if it does, and what it is.
    #[must_use]
    pub fn timestamp(&self, now: Timestamp) -> (Option<&Place>, String) {
        let text = match self.unit {
            Unit::Seconds => now.millis() / 1000,
            Unit::Milliseconds => now.millis(),
        };
        (self.timestamp.as_ref(), text.to_string())
    }

    /// Where a nonce goes, if one does.
    #[must_use]
    pub const fn nonce(&self) -> Option<&Place> {
        self.nonce.as_ref()
    }

    /// The signature of a request.
    #[must_use]
    pub fn sign(&self, parts: &Parts<'_>) -> String {
        let algorithm = match self.algorithm {
            Algorithm::Sha256 => hmac::HMAC_SHA256,
            Algorithm::Sha512 => hmac::HMAC_SHA512,
        };
        let mut signing = hmac::Context::with_key(&hmac::Key::new(algorithm, self.bytes.expose()));
        for part in &self.template {
            match part {
                Part::Text(text) => signing.update(text.as_bytes()),
                Part::Method => signing.update(parts.method.as_str().as_bytes()),
                Part::Path => signing.update(parts.path.as_bytes()),
                Part::Query => signing.update(parts.query.unwrap_or_default().as_bytes()),
                Part::Target => {
                    signing.update(parts.path.as_bytes());
                    if let Some(query) = parts.query {
                        signing.update(b"?");
                        signing.update(query.as_bytes());
                    }
                }
                Part::Timestamp => signing.update(parts.timestamp.as_bytes()),
                Part::Nonce => signing.update(parts.nonce.as_bytes()),
                Part::Key => signing.update(self.key.expose()),
                Part::Body => signing.update(parts.body),
                Part::BodySha256 => signing.update(hash(&digest::SHA256, parts.body).as_bytes()),
                Part::BodySha512 => signing.update(hash(&digest::SHA512, parts.body).as_bytes()),
            }
        }
        let tag = signing.sign();
        match self.encoding {
            Encoding::Hex => hex::encode(tag),
            Encoding::Base64 => BASE64.encode(tag),
        }
    }
}

fn hash(algorithm: &'static digest::Algorithm, body: &[u8]) -> Zeroizing<String> {
    Zeroizing::new(hex::encode(digest::digest(algorithm, body)))
}

fn template(text: &str) -> Result<Vec<Part>, &'static str> {
    if text.is_empty() || text.len() > LONGEST {
        return Err("is empty or too long");
    }
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once('{') {
        if !before.is_empty() {
            parts.push(Part::Text(before.to_owned()));
        }
        let (name, behind) = behind.split_once('}').ok_or("has a { without its }")?;
        parts.push(match name {
            "method" => Part::Method,
            "path" => Part::Path,
            "query" => Part::Query,
            "target" => Part::Target,
            "timestamp" => Part::Timestamp,
            "nonce" => Part::Nonce,
            "key" => Part::Key,
            "body" => Part::Body,
            "body_sha256" => Part::BodySha256,
            "body_sha512" => Part::BodySha512,
            _ => {
                return Err("names something else than method, path, query, target, timestamp, nonce, key, body, \
                            body_sha256 and body_sha512");
            }
        });
        rest = behind;
    }
    if !rest.is_empty() {
        parts.push(Part::Text(rest.to_owned()));
    }
    if rest.contains('}') {
        return Err("has a } without its {");
    }
    match parts.iter().all(|part| matches!(part, Part::Text(_))) {
        true => Err("has nothing of the request in it"),
        false => Ok(parts),
    }
}

fn place(text: &str) -> Result<Place, &'static str> {
    const WHERE: &str = "isn't header:NAME or query:NAME";
    match text.parse().map_err(|_| WHERE)? {
        crate::model::Slot::Header(name) if name != http::header::AUTHORIZATION => Ok(Place::Header(name)),
        crate::model::Slot::Query(name) => Ok(Place::Query(name)),
        _ => Err(WHERE),
    }
}
