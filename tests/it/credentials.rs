//! Credentials that are computed, not pasted.

mod basic;
mod kinds;

use std::time::Duration;

use sallyport::app::NewKey;
use sallyport::model::{Cleartext, Destination, Environment, HostPattern, KeyKind, ProxyToken, Secret, TokenShape};

use crate::support::World;
use crate::support::world::OTHER;

/// A key of a computed kind for the world's other host, and a session of its own that may use it.
pub struct Computed {
    pub value: ProxyToken,
}

impl Computed {
    pub fn add(world: &World, kind: KeyKind, document: &str) -> Self {
        Self::with_slots(world, kind, document, kind.usual_slots())
    }

    pub fn with_slots(world: &World, kind: KeyKind, document: &str, slots: Vec<sallyport::model::Slot>) -> Self {
        let new = NewKey {
            name: format!("computed_{}", world.node.shared().registry.generation()).parse().expect("a name"),
            provider: "custom".parse().expect("a name"),
            kind,
            environment: Environment::Development,
            destination: Destination {
                hosts: vec![HostPattern::parse(OTHER).expect("a host")],
                slots,
                cleartext: Cleartext::Never,
            },
            shape: TokenShape::default(),
        };
        let secret = Secret::new(document.as_bytes().to_vec());
        let key = world.node.add_key_of(new, &secret).expect("a key");
        let hour = Duration::from_secs(3600);
        let keys = std::slice::from_ref(&key);
        let started = world.node.start_session(None, Environment::Development, keys, hour).expect("a session");
        let (_, value) = world.node.mint(&started, &key).expect("a token");
        Self { value }
    }

    pub fn token(&self) -> &str {
        self.value.expose()
    }
}
