//! The URL of a token endpoint in one normal form.

use std::fmt;
use std::str::FromStr;

use http::uri::PathAndQuery;

use super::{Authority, Scheme};

/// Where access tokens are asked for (RFC 6749 section 3.2): an `https` URL without user name and
/// fragment; `http` to this machine's loopback addresses only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenEndpoint {
    /// With TLS, or without to this machine.
    pub scheme: Scheme,
    /// The host and port.
    pub authority: Authority,
    /// Path and query, as they are sent.
    pub path: PathAndQuery,
}

/// The text is no URL of a token endpoint. It carries none of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is no URL such as https://login.example.com/oauth2/token; clear text is for loopback addresses only")]
pub struct EndpointError;

/// The longest URL, in bytes.
const MAX: usize = 2048;

impl FromStr for TokenEndpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let (scheme, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (Scheme::Https, rest),
            (_, Some(rest)) => (Scheme::Http, rest),
            _ => return Err(EndpointError),
        };
        if text.len() > MAX || text.contains('#') || !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(EndpointError);
        }
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (host, path) = rest.split_at(end);
        let authority = Authority::parse(host, scheme.default_port()).map_err(|_| EndpointError)?;
        if scheme == Scheme::Http && !authority.host.is_loopback() {
            return Err(EndpointError);
        }
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(Self { scheme, authority, path: path.parse().map_err(|_| EndpointError)? })
    }
}

impl fmt::Display for TokenEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme.as_str(), self.authority.in_uri(self.scheme), self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoint_has_one_normal_form_and_no_disguise() {
        for (text, normal) in [
            ("https://oauth2.googleapis.com/token", "https://oauth2.googleapis.com/token"),
            ("https://Login.Example.com:443/a?b=c", "https://login.example.com/a?b=c"),
            ("https://login.example.com", "https://login.example.com/"),
            ("http://127.0.0.1:8080/token", "http://127.0.0.1:8080/token"),
        ] {
            assert_eq!(text.parse::<TokenEndpoint>().expect(text).to_string(), normal);
        }
        for bad in [
            "",
            "ftp://a.example/",
            "https://user@a.example/token",
            "https://a.example/token#x",
            "http://a.example/token",
            "https://a.example/to ken",
            "https://a.example/\r\nx: y",
            "https:///token",
        ] {
            assert_eq!(bad.parse::<TokenEndpoint>(), Err(EndpointError), "{bad:?}");
        }
    }
}
