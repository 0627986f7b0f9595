//! Where a key may go: hosts, and the places in a request where it may be put.

use std::fmt;
use std::str::FromStr;

use http::HeaderName;
use http::header::AUTHORIZATION;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

use super::{Authority, HostPattern, Scheme};

/// A place in a request where a token may be swapped. As text: `bearer`, `header:x-api-key`,
/// `basic:user`, `basic:password`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Slot {
    /// `Authorization: Bearer TOKEN` (RFC 6750 section 2.1); also `Authorization: token TOKEN`.
    Bearer,
    /// The whole value of this header.
    Header(HeaderName),
    /// The user name inside `Authorization: Basic` (RFC 7617), as Stripe's clients send it.
    BasicUser,
    /// The password inside `Authorization: Basic` (RFC 7617), as git sends it.
    BasicPassword,
}

/// The text is no slot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a slot: use bearer, header:NAME, basic:user or basic:password")]
pub struct SlotError;

impl Slot {
    /// The header in which the slot stands.
    #[must_use]
    pub fn header(&self) -> &HeaderName {
        match self {
            Self::Header(name) => name,
            Self::Bearer | Self::BasicUser | Self::BasicPassword => &AUTHORIZATION,
        }
    }

    /// A word from a closed set, for metrics.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Bearer => "bearer",
            Self::Header(_) => "header",
            Self::BasicUser => "basic_user",
            Self::BasicPassword => "basic_password",
        }
    }
}

impl FromStr for Slot {
    type Err = SlotError;

    fn from_str(text: &str) -> Result<Self, SlotError> {
        /// Headers that frame or route a message; a key in one of them would break it.
        const NEVER: &[&str] = &[
            "host",
            "connection",
            "content-length",
            "transfer-encoding",
            "te",
            "trailer",
            "upgrade",
            "keep-alive",
            "proxy-authorization",
            "proxy-connection",
            "expect",
        ];
        match text {
            "bearer" => Ok(Self::Bearer),
            "basic:user" => Ok(Self::BasicUser),
            "basic:password" => Ok(Self::BasicPassword),
            _ => {
                let name = text.strip_prefix("header:").ok_or(SlotError)?;
                let name: HeaderName = name.parse().map_err(|_| SlotError)?;
                if NEVER.contains(&name.as_str()) { Err(SlotError) } else { Ok(Self::Header(name)) }
            }
        }
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bearer => f.write_str("bearer"),
            Self::Header(name) => write!(f, "header:{name}"),
            Self::BasicUser => f.write_str("basic:user"),
            Self::BasicPassword => f.write_str("basic:password"),
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

/// Whether a key may travel without TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cleartext {
    /// Never; the default.
    #[default]
    Never,
    /// To this machine's loopback addresses only.
    Loopback,
}

/// Where one key may go. It bounds whatever a policy allows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Destination {
    /// The hosts; at least one.
    pub hosts: Vec<HostPattern>,
    /// The slots; at least one.
    pub slots: Vec<Slot>,
    /// Whether clear text is allowed.
    #[serde(default)]
    pub cleartext: Cleartext,
}

impl Destination {
    /// Whether the key may go to this authority at all.
    #[must_use]
    pub fn covers(&self, scheme: Scheme, authority: &Authority) -> bool {
        let scheme_fits = match (scheme, self.cleartext) {
            (Scheme::Https, _) => true,
            (Scheme::Http, Cleartext::Never) => false,
            (Scheme::Http, Cleartext::Loopback) => authority.host.is_loopback(),
        };
        scheme_fits && self.hosts.iter().any(|p| p.matches(authority, scheme.default_port()))
    }

    /// What is bound into seals and MACs, so that a key can't be pointed elsewhere: SHA-256 over
    /// hosts, slots and the clear-text rule, each with its length.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        let mut part = |text: String| {
            hash.update((text.len() as u64).to_be_bytes());
            hash.update(text);
        };
        part(self.hosts.len().to_string());
        self.hosts.iter().for_each(|host| part(host.to_string()));
        self.slots.iter().for_each(|slot| part(slot.to_string()));
        part(format!("{:?}", self.cleartext));
        hash.finalize().into()
    }
}
