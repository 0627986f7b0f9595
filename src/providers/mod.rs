//! Templates of services: where a service's key may go, and how its clients expect it to look.

use serde::Deserialize;

use crate::model::{Cleartext, Destination, HostPattern, Name, Slot, TokenShape};

/// A service that sallyport knows.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provider {
    /// Its short name; also its gateway route and the label of metrics.
    pub name: Name,
    /// Its name for people.
    pub title: String,
    hosts: Vec<HostPattern>,
    slots: Vec<Slot>,
    /// The environment variables in which people keep its key, the usual one first.
    pub env: Vec<String>,
    #[serde(default)]
    prefix: String,
    /// Where its gateway route leads.
    pub base: String,
}

impl Provider {
    /// Where its key may go.
    #[must_use]
    pub fn destination(&self) -> Destination {
        Destination { hosts: self.hosts.clone(), slots: self.slots.clone(), cleartext: Cleartext::Never }
    }

    /// What its proxy tokens look like: some clients choose their header by a key's first letters.
    #[must_use]
    pub fn shape(&self) -> TokenShape {
        TokenShape { prefix: self.prefix.clone(), suffix: String::new() }
    }
}

/// Every bundled service.
///
/// # Errors
/// The bundled file is malformed, which a test rules out.
pub fn all() -> Result<Vec<Provider>, serde_yaml::Error> {
    serde_yaml::from_str(include_str!("templates.yaml"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_template_parses_and_no_variable_or_name_is_claimed_twice() {
        let all = all().expect("templates");
        let mut seen = HashSet::new();
        for provider in &all {
            assert!(seen.insert(provider.name.to_string()), "{}", provider.name);
            assert!(!provider.hosts.is_empty() && !provider.slots.is_empty() && !provider.env.is_empty());
            for variable in &provider.env {
                assert!(seen.insert(variable.clone()), "{variable}");
            }
        }
    }
}
