//! Which way leads out: straight to the upstream, or through the proxy of the operator's network.
//!
//! One way is fixed for each authority while a node runs, so a pool never holds connections of two.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::HeaderValue;
use ipnet::IpNet;

use crate::model::{Authority, Host, HostPattern, Secret};

/// The proxy through which upstreams are reached, and what is reached without it.
#[derive(Debug, Clone, Default)]
pub struct Egress {
    /// The proxy; without one everything is reached directly.
    pub proxy: Option<Proxy>,
    /// Reached directly all the same.
    pub direct: Vec<Direct>,
}

impl Egress {
    /// The proxy through which the authority is reached, if it is.
    pub fn of(&self, authority: &Authority) -> Option<&Proxy> {
        self.proxy.as_ref().filter(|_| !self.direct.iter().any(|direct| direct.covers(authority)))
    }
}

/// What is reached without the proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Direct {
    /// Hosts of this name, on its port or, if it has none, on every port.
    Hosts(HostPattern),
    /// Hosts that are given by an address in this network.
    Network(IpNet),
}

impl Direct {
    /// Reads a host pattern, or a network.
    ///
    /// # Errors
    /// It is neither.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(network) => Ok(Self::Network(network)),
            Err(_) => HostPattern::parse(text).map(Self::Hosts).map_err(|why| format!("{text}: {why}")),
        }
    }

    fn covers(&self, authority: &Authority) -> bool {
        match (self, &authority.host) {
            (Self::Hosts(pattern), _) => pattern.matches(authority, authority.port),
            (Self::Network(network), Host::Ip(ip)) => network.contains(&ip.to_canonical()),
            (Self::Network(_), Host::Name(_)) => false,
        }
    }
}

/// What a proxy speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    /// HTTP in clear: CONNECT (RFC 9110 section 9.3.6), and absolute form for `http://`.
    Http,
    /// The same in TLS, which is verified against the proxy's name.
    Https,
    /// SOCKS version 5 (RFC 1928); it resolves names.
    Socks,
}

/// A proxy. Cheap to clone; `Debug` doesn't show its credentials.
#[derive(Debug, Clone)]
pub struct Proxy {
    /// What it speaks.
    pub speaks: Speaks,
    /// Where it is. The operator named it, so its address is not checked.
    pub authority: Authority,
    /// Who we are to it.
    pub credentials: Option<Credentials>,
}

impl Proxy {
    /// Reads `http://`, `https://` or `socks5://`, `[USER:PASSWORD@]HOST[:PORT]`. The port is 80, 443 or
    /// 1080 if none is written.
    ///
    /// # Errors
    /// It isn't such a URL. The words repeat nothing of it: it may hold a password.
    pub fn parse(url: &str) -> Result<Self, String> {
        const HOW: &str = "it is a URL such as http://proxy.example:3128; http, https and socks5 are known";
        let (scheme, rest) = url.split_once("://").ok_or(HOW)?;
        let (speaks, port) = match scheme.to_ascii_lowercase().as_str() {
            "http" => (Speaks::Http, 80),
            "https" => (Speaks::Https, 443),
            "socks5" | "socks5h" => (Speaks::Socks, 1080),
            _ => return Err(HOW.to_owned()),
        };
        let (pair, host) = match rest.rsplit_once('@') {
            Some((pair, host)) => (Some(pair), host),
            None => (None, rest),
        };
        let authority = Authority::parse(host.strip_suffix('/').unwrap_or(host), port)
            .map_err(|_| format!("its host or port can't be read; {HOW}"))?;
        let credentials = match pair {
            None | Some("") => None,
            Some(pair) => {
                let (user, password) = pair.split_once(':').unwrap_or((pair, ""));
                let decoded = |text| percent_decoded(text).ok_or("its user or password has a % that begins no byte");
                Some(Credentials::new(&decoded(user)?, &decoded(password)?)?)
            }
        };
        Ok(Self { speaks, authority, credentials })
    }
}

/// Who we are to a proxy. Cheap to clone.
#[derive(Clone)]
pub struct Credentials(Arc<Pair>);

struct Pair {
    user: Secret<Vec<u8>>,
    password: Secret<Vec<u8>>,
    basic: HeaderValue,
}

impl Credentials {
    /// A user and a password.
    ///
    /// # Errors
    /// A proxy can't be told them: RFC 7617 has no user with a colon, RFC 1929 none of more than 255 bytes.
    pub fn new(user: &[u8], password: &[u8]) -> Result<Self, String> {
        if user.is_empty() || user.contains(&b':') || user.len() > 255 || password.len() > 255 {
            return Err("its user and password are at most 255 bytes, and the user has no colon".to_owned());
        }
        let pair = Secret::new([user, b":", password].concat());
        let text = Secret::new(format!("Basic {}", BASE64.encode(pair.expose())));
        let mut basic = HeaderValue::from_str(text.expose()).map_err(|_| "its user can't stand in a header")?;
        basic.set_sensitive(true);
        let (user, password) = (Secret::new(user.to_vec()), Secret::new(password.to_vec()));
        Ok(Self(Arc::new(Pair { user, password, basic })))
    }

    /// Reads `USER:PASSWORD`, as a file has it on its only line.
    ///
    /// # Errors
    /// It is something else.
    pub fn parse(text: &str) -> Result<Self, String> {
        let line = text.trim_end_matches(['\r', '\n']);
        let (user, password) = line.split_once(':').ok_or("it is USER:PASSWORD on one line")?;
        match line.contains(['\r', '\n']) {
            true => Err("it is USER:PASSWORD on one line".to_owned()),
            false => Self::new(user.as_bytes(), password.as_bytes()),
        }
    }

    /// The value of `Proxy-Authorization` (RFC 7617), marked as sensitive.
    pub fn basic(&self) -> &HeaderValue {
        &self.0.basic
    }

    /// The user and the password.
    pub fn pair(&self) -> (&[u8], &[u8]) {
        (self.0.user.expose(), self.0.password.expose())
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

/// RFC 3986 section 2.1.
fn percent_decoded(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        if *first == b'%' {
            let (digits, behind) = rest.split_at_checked(2)?;
            out.extend(hex::decode(digits).ok()?);
            rest = behind;
        } else {
            out.push(*first);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_is_read_with_its_credentials_and_debug_shows_none_of_them() {
        for (url, speaks, at, pair) in [
            ("http://proxy.example:3128", Speaks::Http, "proxy.example:3128", None),
            ("HTTPS://Proxy.Example/", Speaks::Https, "proxy.example:443", None),
            ("socks5h://[::1]", Speaks::Socks, "[::1]:1080", None),
            ("socks5://me:hunter2@10.0.0.1:1", Speaks::Socks, "10.0.0.1:1", Some(("me", "hunter2"))),
            ("http://d%5Cme:p%40ss%3Aw@h.test:8", Speaks::Http, "h.test:8", Some(("d\\me", "p@ss:w"))),
            ("http://a@b:c@h.test", Speaks::Http, "h.test:80", Some(("a@b", "c"))),
        ] {
            let proxy = Proxy::parse(url).unwrap_or_else(|why| panic!("{url}: {why}"));
            assert_eq!((proxy.speaks, proxy.authority.to_string().as_str()), (speaks, at), "{url}");
            let found = proxy.credentials.as_ref().map(Credentials::pair);
            assert_eq!(found, pair.map(|(u, p)| (u.as_bytes(), p.as_bytes())), "{url}");
            let shown = format!("{proxy:?}");
            assert!(!shown.contains("hunter2") && !shown.contains("p@ss"), "{shown}");
        }
    }

    #[test]
    fn what_is_no_such_url_is_refused_without_being_repeated() {
        for url in [
            "proxy:3128",
            "ftp://x:hunter2@h",
            "http://x:hunter2@",
            "http://x:hunter2@h:0",
            "http://x:hunter2%4@h",
            "http://:hunter2@h",
            "http://x:hunter2@h/path",
            "http://x%3Ay:hunter2@h",
        ] {
            let why = Proxy::parse(url).expect_err(url);
            assert!(!why.contains("hunter2"), "{why}");
        }
        assert!(Credentials::parse("me:hunter2\n").is_ok());
        assert!(Credentials::parse("me:hunter2\nyou:too").is_err() && Credentials::parse("hunter2").is_err());
    }

    #[test]
    fn exceptions_are_hosts_and_networks() {
        let egress = Egress {
            proxy: Proxy::parse("http://proxy.example").ok(),
            direct: ["**.corp.example", "one.example:8443", "10.0.0.0/8"]
                .iter()
                .map(|text| Direct::parse(text).expect("right"))
                .collect(),
        };
        for (authority, through) in [
            ("api.example:443", true),
            ("corp.example:443", true),
            ("a.b.corp.example:1", false),
            ("one.example:443", true),
            ("one.example:8443", false),
            ("10.1.2.3:443", false),
            ("[::ffff:10.1.2.3]:443", false),
            ("11.1.2.3:443", true),
        ] {
            let authority = Authority::parse(authority, 0).expect("an authority");
            assert_eq!(egress.of(&authority).is_some(), through, "{authority}");
        }
        assert!(Direct::parse("*.com").is_err());
    }
}
