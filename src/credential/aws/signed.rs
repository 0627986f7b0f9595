//! What an agent signed.

use std::fmt;

use http::HeaderMap;
use http::header::AUTHORIZATION;

use super::canonical::{self, Head};
use super::parameters::{self, Authorization};
use super::signer::Signer;
use super::{Error, Link};
use crate::model::{Secret, Timestamp};

/// How far the agent's clock may be from ours, and so how long a request may be on its way, in
/// milliseconds: AWS allows 15 minutes.
const SKEW: i64 = 15 * 60 * 1000;
/// The longest life of a presigned URL, in seconds: seven days, as at AWS.
const LONGEST: i64 = 7 * 24 * 3600;

/// Where the signature stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the Authorization field.
    Header,
    /// In the query: a presigned URL.
    Query,
}

/// How it is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// Signature Version 4.
    Hmac,
    /// Signature Version 4A, which holds in several regions.
    Ecdsa,
}

impl Algorithm {
    /// Its name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hmac => "AWS4-HMAC-SHA256",
            Self::Ecdsa => "AWS4-ECDSA-P256-SHA256",
        }
    }

    fn read(text: &str) -> Option<Self> {
        [Self::Hmac, Self::Ecdsa].into_iter().find(|one| one.as_str() == text)
    }
}

/// For which day, region and service a signature holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// The day, `YYYYMMDD`.
    pub date: String,
    /// The region; Signature Version 4A names regions elsewhere.
    pub region: Option<String>,
    /// The service's signing name.
    pub service: String,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/", self.date)?;
        if let Some(region) = &self.region {
            write!(f, "{region}/")?;
        }
        write!(f, "{}/aws4_request", self.service)
    }
}

/// What is signed of the body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// This text, and the body passes as it is: its hash as the agent declared it, or a word that says
    /// that it isn't signed.
    Declared(String),
    /// Its hash, which the agent computed and didn't tell.
    Undeclared,
    /// The body is signed chunk by chunk, and the trailers behind it if there are some.
    Chunks {
        /// The word that stands for the hash.
        word: String,
        /// Whether signed trailers end the body.
        trailers: bool,
        /// How many bytes are in the chunks together (`x-amz-decoded-content-length`).
        len: u64,
    },
}

/// A request that an agent signed with its stand-ins.
pub struct Signed {
    algorithm: Algorithm,
    place: Place,
    id: String,
    scope: Scope,
    region_set: Option<String>,
    time: String,
    names: Vec<String>,
    signature: String,
    session_token: Option<String>,
    payload: Payload,
    /// The canonical request as the agent made it, but for the payload that ends it.
    canonical: String,
}

impl Signed {
    /// Reads the signature of a request as it came, and checks what can be checked without a key: its
    /// shape, its time, and that it covers the host and every `x-amz-` field.
    ///
    /// # Errors
    /// There is none, or it isn't one that can be signed again.
    pub fn read(head: &Head<'_>, now: Timestamp) -> Result<Self, Error> {
        let query = head.query.unwrap_or_default();
        parameters::check_names(query)?;
        let algorithm = parameters::of_query(query, parameters::ALGORITHM)?;
        let signed = match (head.headers.get(AUTHORIZATION), algorithm.is_empty()) {
            (Some(_), false) => return Err(Error::Shape("stands twice, in the query and in Authorization")),
            (Some(value), true) => Self::in_header(head, value.to_str().map_err(|_| Error::Shape("isn't text"))?)?,
            (None, false) => Self::in_query(head, query, &algorithm)?,
            (None, true) => return Err(Error::Shape("is missing")),
        };
        signed.check_names(head.headers)?;
        signed.check_time(head, now)?;
        Ok(signed)
    }

    fn in_header(head: &Head<'_>, value: &str) -> Result<Self, Error> {
        let (algorithm, rest) = value.split_once(' ').ok_or(Error::Shape("can't be read"))?;
        let algorithm = Algorithm::read(algorithm).ok_or(Error::Shape("is of an algorithm that isn't known"))?;
        let read = Authorization::read(rest)?;
        let (id, scope) = scope(algorithm, read.credential)?;
        let names: Vec<String> = read.names.split(';').map(str::to_owned).collect();
        let canonical_query = canonical::query(head.query.unwrap_or_default(), None);
        let declared = field(head.headers, "x-amz-content-sha256")?;
        Ok(Self {
            algorithm,
            place: Place::Header,
            canonical: canonical::request(head, &canonical_query, &names, encoded_once(&scope)),
            id,
            region_set: field(head.headers, "x-amz-region-set")?.map(str::to_owned),
            time: field(head.headers, "x-amz-date")?.ok_or(Error::Shape("comes without an X-Amz-Date"))?.to_owned(),
            names,
            signature: read.signature.to_owned(),
            session_token: field(head.headers, "x-amz-security-token")?.map(str::to_owned),
            payload: payload(algorithm, declared, head.headers)?,
            scope,
        })
    }

    fn in_query(head: &Head<'_>, query: &str, algorithm: &str) -> Result<Self, Error> {
        let of = |name| parameters::of_query(query, name);
        let algorithm = Algorithm::read(algorithm).ok_or(Error::Shape("is of an algorithm that isn't known"))?;
        let (id, scope) = scope(algorithm, &of(parameters::CREDENTIAL)?)?;
        let names: Vec<String> = of(parameters::SIGNED_HEADERS)?.split(';').map(str::to_owned).collect();
        let canonical_query = canonical::query(query, Some(parameters::SIGNATURE));
        let some = |text: String| (!text.is_empty()).then_some(text);
        let in_query = some(of(parameters::CONTENT_SHA256)?);
        let payload = match field(head.headers, "x-amz-content-sha256")?.or(in_query.as_deref()) {
            None if encoded_once(&scope) => Payload::Declared("UNSIGNED-PAYLOAD".to_owned()),
            declared => payload(algorithm, declared, head.headers)?,
        };
        if matches!(payload, Payload::Chunks { .. }) {
            return Err(Error::Shape("is that of a presigned URL, whose body can't be signed in chunks"));
        }
        Ok(Self {
            algorithm,
            place: Place::Query,
            canonical: canonical::request(head, &canonical_query, &names, encoded_once(&scope)),
            id,
            region_set: some(of(parameters::REGION_SET)?),
            time: of(parameters::DATE)?,
            names,
            signature: of(parameters::SIGNATURE)?,
            session_token: some(of(parameters::SECURITY_TOKEN)?),
            payload,
            scope,
        })
    }

    /// The host and every `x-amz-` field are signed, and what is signed is there: nothing was put in or
    /// taken out on the way.
    fn check_names(&self, headers: &HeaderMap) -> Result<(), Error> {
        let sorted = self.names.windows(2).all(|pair| matches!(pair, [a, b] if a < b));
        if !sorted || self.names.iter().any(|name| name.is_empty() || name.bytes().any(|b| b.is_ascii_uppercase())) {
            return Err(Error::Shape("names its headers out of order"));
        }
        let is_signed = |name: &str| self.names.iter().any(|one| one == name);
        if !is_signed("host") {
            return Err(Error::Shape("doesn't cover the host"));
        }
        if headers.keys().any(|name| name.as_str().starts_with("x-amz-") && !is_signed(name.as_str())) {
            return Err(Error::Shape("doesn't cover an x-amz- header of the request"));
        }
        if self.names.iter().any(|name| name != "host" && !headers.contains_key(name.as_str())) {
            return Err(Error::Shape("covers a header that the request doesn't have"));
        }
        Ok(())
    }

    fn check_time(&self, head: &Head<'_>, now: Timestamp) -> Result<(), Error> {
        let read = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", &self.time).ok();
        let at = read.and_then(|time| time.to_zoned(jiff::tz::TimeZone::UTC).ok());
        let at = at.ok_or(Error::Shape("has a date that can't be read"))?.timestamp().as_millisecond();
        if self.time.get(..8) != Some(self.scope.date.as_str()) {
            return Err(Error::Shape("has a scope of another day than its date"));
        }
        if at > now.millis().saturating_add(SKEW) {
            return Err(Error::Time("its date lies in the future; check the clock"));
        }
        match self.place {
            Place::Header if at < now.millis() - SKEW => Err(Error::Time("its date is more than 15 minutes ago")),
            Place::Header => Ok(()),
            Place::Query => {
                let expires = parameters::of_query(head.query.unwrap_or_default(), parameters::EXPIRES)?;
                let lasts: i64 =
                    expires.parse().map_err(|_| Error::Shape("has an X-Amz-Expires that can't be read"))?;
                if !(0..=LONGEST).contains(&lasts) {
                    return Err(Error::Shape("lasts longer than seven days"));
                }
                match now.millis() > at + lasts * 1000 {
                    true => Err(Error::Time("the presigned URL has expired")),
                    false => Ok(()),
                }
            }
        }
    }

    /// Verifies the signature with the agent's own secret. What comes back verifies the chunks of the
    /// body.
    ///
    /// # Errors
    /// It isn't that of the request as it came.
    pub fn check(&self, stand_in: &Secret<String>, payload: &str) -> Result<Link, Error> {
        let scope = self.scope.to_string();
        let signer = Signer::new(self.algorithm, &self.id, stand_in, &self.scope)?;
        let text = format!("{}{payload}", self.canonical);
        match signer.is_of(&self.time, &scope, &text, &self.signature) {
            true => Ok(Link { signer, time: self.time.clone(), scope, previous: self.signature.clone() }),
            false => Err(Error::Mismatch),
        }
    }

    /// The access key id that the agent wrote, which holds its token.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The session token that came with it, if one did.
    #[must_use]
    pub fn session_token(&self) -> Option<&str> {
        self.session_token.as_deref()
    }

    /// What is signed of the body.
    #[must_use]
    pub const fn payload(&self) -> &Payload {
        &self.payload
    }

    /// Where it stands.
    #[must_use]
    pub const fn place(&self) -> Place {
        self.place
    }

    pub(super) const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    pub(super) const fn scope(&self) -> &Scope {
        &self.scope
    }

    /// The service that it is for, as the agent wrote it.
    #[must_use]
    pub fn service(&self) -> &str {
        &self.scope.service
    }

    pub(super) fn time(&self) -> &str {
        &self.time
    }

    /// The regions for which it is to hold; Signature Version 4A may name several, and `*`.
    pub(super) fn regions(&self) -> impl Iterator<Item = &str> {
        let set = self.region_set.as_deref().unwrap_or_default();
        let several = set.split(',').map(str::trim).filter(|_| self.algorithm == Algorithm::Ecdsa);
        self.scope.region.as_deref().into_iter().chain(several)
    }

    /// Whether paths are encoded once, as S3 has it.
    pub(super) fn is_encoded_once(&self) -> bool {
        encoded_once(&self.scope)
    }

    /// The names that are signed of a head that was changed on the way: those that the agent signed and
    /// that are still there, and the session token's if it travels in a field.
    pub(super) fn names_in(&self, headers: &HeaderMap, with_token: bool) -> Vec<String> {
        const TOKEN: &str = "x-amz-security-token";
        let kept = |name: &&String| *name == "host" || headers.contains_key(name.as_str());
        let mut names: Vec<String> = self.names.iter().filter(kept).filter(|name| *name != TOKEN).cloned().collect();
        if with_token && self.place == Place::Header {
            names.push(TOKEN.to_owned());
            names.sort();
        }
        names
    }
}

/// The services of S3, whose paths are encoded once and whose presigned URLs leave the body open.
fn encoded_once(scope: &Scope) -> bool {
    matches!(scope.service.as_str(), "s3" | "s3-outposts" | "s3-object-lambda" | "s3express")
}

fn scope(algorithm: Algorithm, credential: &str) -> Result<(String, Scope), Error> {
    let mut parts = credential.split('/');
    let mut next = || parts.next().filter(|part| !part.is_empty()).map(str::to_owned);
    let read = (|| {
        let (id, date) = (next()?, next()?);
        let region = match algorithm {
            Algorithm::Hmac => Some(next()?),
            Algorithm::Ecdsa => None,
        };
        let (service, end) = (next()?, next()?);
        (end == "aws4_request" && next().is_none()).then_some((id, Scope { date, region, service }))
    })();
    read.ok_or(Error::Shape("has a scope that can't be read"))
}

/// A field that may be there once.
fn field<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Error> {
    let mut all = headers.get_all(name).iter();
    match (all.next(), all.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(|text| Some(text.trim())).map_err(|_| Error::Shape("isn't text")),
        (Some(_), Some(_)) => Err(Error::Shape("comes with one of its headers twice")),
    }
}

fn payload(algorithm: Algorithm, declared: Option<&str>, headers: &HeaderMap) -> Result<Payload, Error> {
    let Some(word) = declared else { return Ok(Payload::Undeclared) };
    let hash = word.len() == 64 && word.bytes().all(|b| b.is_ascii_hexdigit());
    if hash || word == "UNSIGNED-PAYLOAD" || word == "STREAMING-UNSIGNED-PAYLOAD-TRAILER" {
        return Ok(Payload::Declared(word.to_owned()));
    }
    let kind = word.strip_prefix("STREAMING-").and_then(|rest| rest.strip_prefix(algorithm.as_str()));
    let trailers = match kind {
        Some("-PAYLOAD") => false,
        Some("-PAYLOAD-TRAILER") => true,
        _ => return Err(Error::Shape("covers the body in a way that isn't known (x-amz-content-sha256)")),
    };
    let len = field(headers, "x-amz-decoded-content-length")?.and_then(|len| len.parse().ok());
    let len = len.ok_or(Error::Shape("covers the body in chunks without an X-Amz-Decoded-Content-Length"))?;
    Ok(Payload::Chunks { word: word.to_owned(), trailers, len })
}

impl Payload {
    /// What ends the canonical request, unless it has yet to be computed from the body.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Declared(text) | Self::Chunks { word: text, .. } => Some(text),
            Self::Undeclared => None,
        }
    }
}
