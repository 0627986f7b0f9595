//! Hosts, authorities and host patterns in one normal form.
//!
//! A host is a DNS name in lower case without its final dot, or an IP address as the standard
//! library reads it. Everything that resolvers and libraries read differently is refused rather
//! than guessed: decimal, octal and short IPv4 forms, names in square brackets, zones, userinfo,
//! and names outside ASCII (write the A-label, `xn--...`, RFC 5890 section 2.3.2.1).

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The scheme of an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scheme {
    /// TLS, always verified.
    Https,
    /// Clear text; keys never travel in it beyond loopback.
    Http,
}

impl Scheme {
    /// The scheme as a URI has it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Https => "https",
            Self::Http => "http",
        }
    }

    /// The port that is meant where none is written.
    #[must_use]
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Https => 443,
            Self::Http => 80,
        }
    }
}

/// A host in normal form. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    /// A DNS name: lower case, without the final dot, at most 253 bytes.
    Name(Arc<str>),
    /// An IP address. An IPv4-mapped IPv6 address stays IPv6 here; the address check unwraps it.
    Ip(IpAddr),
}

/// The text can't be an authority, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// Nothing stands where the host should.
    #[error("the host is empty")]
    Empty,
    /// The host is longer than DNS allows (RFC 1035 section 2.3.4).
    #[error("the host is longer than 253 bytes, or one label longer than 63")]
    TooLong,
    /// A character that no host has.
    #[error("the host has a character that no host name has; write internationalised names as xn-- labels")]
    Character,
    /// An IPv4 address in a form that resolvers read differently.
    #[error("the host looks like an IPv4 address but isn't four decimal numbers")]
    AmbiguousAddress,
    /// Square brackets hold something that isn't an IPv6 address.
    #[error("square brackets hold something that isn't an IPv6 address")]
    Brackets,
    /// The port isn't a number from 1 to 65535.
    #[error("the port isn't a number from 1 to 65535")]
    Port,
    /// A user name or password stands before the host.
    #[error("a user name before the host isn't allowed here")]
    UserInfo,
}

impl Host {
    /// Reads a host without a port. IPv6 addresses may stand in square brackets.
    ///
    /// # Errors
    /// See [`AuthorityError`].
    pub fn parse(text: &str) -> Result<Self, AuthorityError> {
        if text.contains('@') {
            return Err(AuthorityError::UserInfo);
        }
        if let Some(inner) = text.strip_prefix('[') {
            let inner = inner.strip_suffix(']').ok_or(AuthorityError::Brackets)?;
            return inner.parse::<Ipv6Addr>().map(|ip| Self::Ip(IpAddr::V6(ip))).map_err(|_| AuthorityError::Brackets);
        }
        if text.contains(':') {
            return text.parse::<Ipv6Addr>().map(|ip| Self::Ip(IpAddr::V6(ip))).map_err(|_| AuthorityError::Character);
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        if name.is_empty() {
            return Err(AuthorityError::Empty);
        }
        if name.len() > 253 || name.split('.').any(|label| label.len() > 63) {
            return Err(AuthorityError::TooLong);
        }
        let label_byte = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if !name.bytes().all(|b| label_byte(b) || b == b'.') || name.split('.').any(str::is_empty) {
            return Err(AuthorityError::Character);
        }
        if looks_like_ipv4(name) {
            return name.parse().map(Self::Ip).map_err(|_| AuthorityError::AmbiguousAddress);
        }
        Ok(Self::Name(if name.bytes().any(|b| b.is_ascii_uppercase()) {
            name.to_ascii_lowercase().into()
        } else {
            name.into()
        }))
    }

    /// Whether the host names this machine: `localhost`, a name below it, or a loopback address.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        match self {
            Self::Name(name) => &**name == "localhost" || name.ends_with(".localhost"),
            Self::Ip(ip) => ip.is_loopback(),
        }
    }
}

/// Whether a URL parser would read the name as an IPv4 address: its last label is a number
/// (WHATWG URL, "ends in a number checker").
fn looks_like_ipv4(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    let digits = last.bytes().all(|b| b.is_ascii_digit());
    let hex = last.get(..2).is_some_and(|p| p.eq_ignore_ascii_case("0x"))
        && last.bytes().skip(2).all(|b| b.is_ascii_hexdigit());
    digits || hex
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Ip(IpAddr::V4(ip)) => ip.fmt(f),
            Self::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]"),
        }
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A host and a port, both known: `api.openai.com:443`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Authority {
    /// The host in normal form.
    pub host: Host,
    /// The port; never zero.
    pub port: u16,
}

impl Authority {
    /// Reads `host[:port]`; `default_port` is meant where no port is written.
    ///
    /// # Errors
    /// See [`AuthorityError`].
    pub fn parse(text: &str, default_port: u16) -> Result<Self, AuthorityError> {
        if text.contains('@') {
            return Err(AuthorityError::UserInfo);
        }
        let split = match text.rfind(']') {
            Some(end) => match &text[end + 1..] {
                "" => None,
                rest if rest.starts_with(':') => Some(end + 1),
                _ => return Err(AuthorityError::Brackets),
            },
            None => text.rfind(':'),
        };
        let (host, port) = match split {
            Some(at) => (&text[..at], parse_port(&text[at + 1..])?),
            None => (text, default_port),
        };
        if host.contains(':') && !host.starts_with('[') {
            return Err(AuthorityError::Character);
        }
        Ok(Self { host: Host::parse(host)?, port })
    }

    /// Whether `text` is this authority in normal form, with its port or, where it is the default one,
    /// without: what most requests send, found without reading it.
    #[must_use]
    pub fn is_written(&self, text: &str, default_port: u16) -> bool {
        let Host::Name(name) = &self.host else { return false };
        match text.strip_prefix(&**name) {
            Some("") => self.port == default_port,
            Some(port) => port.strip_prefix(':') == Some(itoa::Buffer::new().format(self.port)),
            None => false,
        }
    }

    /// Whether `text` is what [`Authority::in_uri`] makes, for a name.
    #[must_use]
    pub fn is_in_uri(&self, text: &str, scheme: Scheme) -> bool {
        let implied = self.port == scheme.default_port();
        self.is_written(text, scheme.default_port()) && (!implied || !text.contains(':'))
    }

    /// As a URI of this scheme has it: the port is left out where the scheme implies it.
    #[must_use]
    pub fn in_uri(&self, scheme: Scheme) -> String {
        if self.port == scheme.default_port() { self.host.to_string() } else { self.to_string() }
    }
}

fn parse_port(text: &str) -> Result<u16, AuthorityError> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse::<u16>() {
        Ok(port) if plain && port > 0 => Ok(port),
        _ => Err(AuthorityError::Port),
    }
}

/// Always with the port: `api.openai.com:443`.
impl Authority {
    /// Appends what `Display` writes; it is done for every exchange.
    pub fn push(&self, out: &mut Vec<u8>) {
        self.push_host(out);
        out.push(b':');
        out.extend_from_slice(itoa::Buffer::new().format(self.port).as_bytes());
    }

    /// Appends what [`Authority::in_uri`] makes.
    pub fn push_in_uri(&self, scheme: Scheme, out: &mut Vec<u8>) {
        if self.port == scheme.default_port() { self.push_host(out) } else { self.push(out) }
    }

    fn push_host(&self, out: &mut Vec<u8>) {
        match &self.host {
            Host::Name(name) => out.extend_from_slice(name.as_bytes()),
            host @ Host::Ip(_) => out.extend_from_slice(host.to_string().as_bytes()),
        }
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Reads and writes a type as its text, for serde.
macro_rules! text_form {
    ($type:ty, $parse:expr) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = String::deserialize(from)?;
                let parse: fn(&str) -> Result<$type, String> = $parse;
                parse(&text).map_err(|e| serde::de::Error::custom(format_args!("{text:?}: {e}")))
            }
        }
    };
}

pub(super) use text_form;

text_form!(Authority, |t| Authority::parse(t, 443).map_err(|e| e.to_string()));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_host_has_one_normal_form() {
        let parse = |t: &str| Authority::parse(t, 443).map(|a| a.to_string());
        assert_eq!(parse("API.OpenAI.com."), Ok("api.openai.com:443".into()));
        assert_eq!(parse("127.0.0.1:80"), Ok("127.0.0.1:80".into()));
        assert_eq!(parse("[::1]:8443"), Ok("[::1]:8443".into()));
    }

    #[test]
    fn ambiguous_hosts_are_refused_with_their_reason() {
        use AuthorityError as E;
        for (text, why) in [
            ("", E::Empty),
            ("2130731777:443", E::AmbiguousAddress),
            ("0177.0.0143.1:443", E::AmbiguousAddress),
            ("127.25345", E::AmbiguousAddress),
            ("0x7f.0x1", E::AmbiguousAddress),
            ("[example.test]:443", E::Brackets),
            ("[fe80::1%25lo]:443", E::Brackets),
            ("user@example.test", E::UserInfo),
            ("exa mple.test", E::Character),
            ("b\u{fc}cher.test", E::Character),
            ("a..b", E::Character),
            ("a.test:0", E::Port),
            ("a.test:65536", E::Port),
            ("a.test:", E::Port),
            ("a.test:+44", E::Port),
        ] {
            assert_eq!(Authority::parse(text, 443).err(), Some(why), "{text}");
        }
    }
}
