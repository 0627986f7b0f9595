//! Services whose keys can be connected by a person's yes in a browser.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

use crate::model::{HostPattern, Name, TokenEndpoint};

/// Where a service asks a person, and where it gives tokens.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Connection {
    /// Its name on the command line.
    pub name: Name,
    /// The template whose slots and token shape its key has, if there is one.
    pub provider: Option<Name>,
    /// Where its access tokens may go; the token endpoint is among them.
    pub hosts: Vec<HostPattern>,
    /// Where a person is asked (RFC 6749 section 3.1).
    #[serde(deserialize_with = "endpoint")]
    pub authorize: TokenEndpoint,
    /// Where tokens are given (RFC 6749 section 3.2).
    #[serde(deserialize_with = "endpoint")]
    pub token: TokenEndpoint,
    /// Where a device's codes are given (RFC 8628 section 3.1).
    #[serde(default, deserialize_with = "maybe_endpoint")]
    pub device: Option<TokenEndpoint>,
    /// What `iss` has to be where it is given (RFC 9207).
    pub issuer: Option<String>,
    /// What is asked for if nobody says.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// What stands between scopes; a space if nothing is said.
    pub spaced_by: Option<String>,
    /// Further parameters of the authorization request.
    #[serde(default)]
    pub extra: BTreeMap<String, String>,
}

fn endpoint<'de, D: Deserializer<'de>>(from: D) -> Result<TokenEndpoint, D::Error> {
    String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
}

fn maybe_endpoint<'de, D: Deserializer<'de>>(from: D) -> Result<Option<TokenEndpoint>, D::Error> {
    endpoint(from).map(Some)
}

/// Every service that is known.
///
/// # Errors
/// The bundled file is malformed, which a test rules out.
pub fn connections() -> Result<Vec<Connection>, serde_yaml::Error> {
    serde_yaml::from_str(include_str!("connect.yaml"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_connection_parses_and_its_tokens_may_go_back_to_where_they_came_from() {
        let all = connections().expect("connections");
        assert!(all.len() >= 5);
        for one in all {
            let token = &one.token;
            let covered = one.hosts.iter().any(|host| host.matches(&token.authority, 443));
            assert!(covered, "{}: {token}", one.name);
        }
    }
}
