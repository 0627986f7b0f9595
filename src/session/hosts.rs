//! Keys by the hosts that their destinations name.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::model::{Authority, Host, Scheme};
use crate::vault::key::Key;

/// The headers that keys name as slots.
pub struct SlotHeaders(pub(super) arc_swap::Guard<Arc<HostIndex>>);

impl SlotHeaders {
    /// Whether any key names this header as a slot.
    #[must_use]
    pub fn contains(&self, name: &http::HeaderName) -> bool {
        self.0.slot_headers.contains(name)
    }
}

/// The keys that concern a host, as of one generation of the keys; enabled or not.
pub struct KeysOf {
    /// Which generation it is.
    pub generation: u64,
    /// Those that may go there.
    pub bound: Vec<Arc<Key>>,
    /// Those that name the host, whatever the port and the scheme: what one of them stored there may
    /// come back through another port.
    pub named: Vec<Arc<Key>>,
}

/// Keys by the hosts that their destinations name.
#[derive(Default)]
pub(super) struct HostIndex {
    pub generation: u64,
    exact: HashMap<Host, Vec<Arc<Key>>>,
    wildcard: Vec<Arc<Key>>,
    slot_headers: HashSet<http::HeaderName>,
}

impl HostIndex {
    pub fn of(generation: u64, keys: impl Iterator<Item = Arc<Key>>) -> Self {
        let mut index = Self { generation, ..Self::default() };
        for key in keys {
            index.slot_headers.extend(key.destination.slots.iter().filter_map(|slot| slot.header().cloned()));
            let mut wild = false;
            for pattern in &key.destination.hosts {
                match pattern.exact() {
                    Some(host) => {
                        let list = index.exact.entry(host.clone()).or_default();
                        if !list.iter().any(|k| k.id == key.id) {
                            list.push(Arc::clone(&key));
                        }
                    }
                    None => wild = true,
                }
            }
            if wild {
                index.wildcard.push(key);
            }
        }
        index
    }

    /// The keys that concern the host.
    pub fn keys_of(&self, scheme: Scheme, authority: &Authority) -> KeysOf {
        let named: Vec<_> = self.named(&authority.host).map(Arc::clone).collect();
        let bound = named.iter().filter(|key| key.destination.covers(scheme, authority)).map(Arc::clone).collect();
        KeysOf { generation: self.generation, bound, named }
    }

    /// The keys that name the host.
    pub fn named<'a>(&'a self, host: &'a Host) -> impl Iterator<Item = &'a Arc<Key>> {
        let exact = self.exact.get(host).into_iter().flatten();
        let named = |key: &Key| key.destination.hosts.iter().any(|pattern| pattern.matches_host(host));
        let wild = self.wildcard.iter().filter(move |key| named(key) && !self.exact_has(host, key));
        exact.chain(wild)
    }

    fn exact_has(&self, host: &Host, key: &Key) -> bool {
        self.exact.get(host).is_some_and(|list| list.iter().any(|k| k.id == key.id))
    }
}
