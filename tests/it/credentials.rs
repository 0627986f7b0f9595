//! Credentials that are computed, not pasted.

mod aws;
mod aws_clients;
mod aws_handed_out;
mod basic;
mod hmac;
mod issued;
mod kinds;
mod minted;
mod mtls;
mod mtls_attacks;
mod rotated;

use std::time::Duration;

use sallyport::app::{NewKey, Started};
use sallyport::model::{
    Cleartext, Destination, Environment, HostPattern, KeyKind, ProxyToken, Secret, Slot, TokenShape,
};

use sallyport::vault::key::Key;

use crate::support::World;
use crate::support::world::OTHER;

/// A key of a computed kind for the world's other host, and a session of its own that may use it.
pub struct Computed {
    pub key: Key,
    pub started: Started,
    pub value: ProxyToken,
    /// What the agent signs with, for a kind that is signed with.
    pub secret: String,
}

impl Computed {
    pub fn add(world: &World, kind: KeyKind, document: &str) -> Self {
        Self::at(world, kind, document, &[OTHER])
    }

    /// With these slots, for the usual host.
    pub fn with_slots(world: &World, kind: KeyKind, document: &str, slots: &[&str]) -> Self {
        let slots = slots.iter().map(|slot| slot.parse().expect("a slot")).collect();
        Self::new(world, kind, document, &[OTHER], slots).unwrap_or_else(|why| panic!("{why}"))
    }

    /// Why it isn't taken.
    pub fn refused(world: &World, kind: KeyKind, document: &str) -> String {
        match Self::new(world, kind, document, &[OTHER], kind.usual_slots()) {
            Ok(_) => panic!("it was taken: {document}"),
            Err(why) => why,
        }
    }

    /// For other hosts than the usual one.
    pub fn at(world: &World, kind: KeyKind, document: &str, hosts: &[&str]) -> Self {
        Self::new(world, kind, document, hosts, kind.usual_slots()).unwrap_or_else(|why| panic!("{why}"))
    }

    fn new(world: &World, kind: KeyKind, document: &str, hosts: &[&str], slots: Vec<Slot>) -> Result<Self, String> {
        let new = NewKey {
            name: format!("computed_{}", world.node.shared().registry.generation()).parse().expect("a name"),
            provider: "custom".parse().expect("a name"),
            kind,
            environment: Environment::Development,
            destination: Destination {
                hosts: hosts.iter().map(|host| HostPattern::parse(host).expect("a host")).collect(),
                slots,
                cleartext: Cleartext::Never,
            },
            shape: TokenShape::default(),
        };
        let secret = Secret::new(document.as_bytes().to_vec());
        let key = world.node.add_key_of(new, &secret).map_err(|why| format!("{why:#}"))?;
        let hour = Duration::from_secs(3600);
        let keys = std::slice::from_ref(&key);
        let started = world.node.start_session(None, Environment::Development, keys, hour).expect("a session");
        let (_, value) = world.node.mint(&started, &key).expect("a token");
        let secret = world.node.shared().vault.stand_in(&value.hash()).expose().clone();
        Ok(Self { key, started, value, secret })
    }

    pub fn token(&self) -> &str {
        self.value.expose()
    }
}
