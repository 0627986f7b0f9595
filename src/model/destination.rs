//! Where a key may go: hosts, and the places in a request where it may be put.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Authority, HostPattern, Scheme, Slot};

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

    /// Whether it names exactly this authority, which is this machine, with the scheme that is meant there:
    /// without TLS if clear text is allowed, with it otherwise. Whoever stored the key means that address.
    #[must_use]
    pub fn registers(&self, scheme: Scheme, authority: &Authority) -> bool {
        let meant = match self.cleartext {
            Cleartext::Never => Scheme::Https,
            Cleartext::Loopback => Scheme::Http,
        };
        let exactly =
            |pattern: &HostPattern| pattern.exact().is_some() && pattern.matches(authority, meant.default_port());
        authority.host.is_loopback() && scheme == meant && self.hosts.iter().any(exactly)
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
