//! The address of a service, as people write it in settings and variables.

use super::{Authority, HostPattern, Scheme, TokenHash};

/// A base URL: scheme, host, port, and the path before everything that is asked there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseUrl {
    /// With TLS or without.
    pub scheme: Scheme,
    /// The host and port.
    pub authority: Authority,
    /// Empty, or begins with `/` and doesn't end with one.
    pub path: String,
}

/// The text is no base URL. It isn't repeated, since it may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BaseUrlError {
    /// It isn't written as one.
    #[error("no base URL such as https://api.example.com/v1")]
    Form,
    /// It would be on every record and log line of the service.
    #[error("the base URL holds a proxy token; agents show tokens in their requests, so leave it out here")]
    Token,
}

impl BaseUrl {
    /// Reads `https://HOST[:PORT][/PATH]`, or the same with `http://`.
    ///
    /// # Errors
    /// Another scheme, a host that isn't one, a user, a query, a fragment, or a proxy token in the path.
    pub fn parse(text: &str) -> Result<Self, BaseUrlError> {
        let (scheme, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (Scheme::Https, rest),
            (_, Some(rest)) => (Scheme::Http, rest),
            _ => return Err(BaseUrlError::Form),
        };
        let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let authority = Authority::parse(host, scheme.default_port()).map_err(|_| BaseUrlError::Form)?;
        let plain = path.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'?' | b'#'));
        let whole = plain && (path.is_empty() || path.parse::<http::uri::PathAndQuery>().is_ok());
        if !whole {
            return Err(BaseUrlError::Form);
        }
        if TokenHash::find(path.as_bytes()).is_some() {
            return Err(BaseUrlError::Token);
        }
        Ok(Self { scheme, authority, path: path.trim_end_matches('/').to_owned() })
    }

    /// The same, where people often leave out the scheme: `gitlab.example.com` means TLS, and an
    /// address of this machine (`127.0.0.1:11434`) means none.
    ///
    /// # Errors
    /// See [`BaseUrl::parse`].
    pub fn parse_bare(text: &str) -> Result<Self, BaseUrlError> {
        if text.contains("://") {
            return Self::parse(text);
        }
        let secure = Self::parse(&format!("https://{text}"))?;
        if secure.authority.host.is_loopback() { Self::parse(&format!("http://{text}")) } else { Ok(secure) }
    }

    /// The pattern that means this host and port alone.
    ///
    /// # Errors
    /// Never for an authority that was parsed.
    pub fn host(&self) -> Result<HostPattern, BaseUrlError> {
        let written = if self.authority.port == self.scheme.default_port() {
            self.authority.host.to_string()
        } else {
            self.authority.to_string()
        };
        HostPattern::parse(&written).map_err(|_| BaseUrlError::Form)
    }
}

impl std::fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://", self.scheme.as_str())?;
        if self.authority.port == self.scheme.default_port() {
            self.authority.host.fmt(f)?;
        } else {
            self.authority.fmt(f)?;
        }
        f.write_str(&self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ProxyToken, TokenForm, TokenShape};

    #[test]
    fn addresses_are_read_as_people_write_them() {
        for (text, scheme, host, path) in [
            ("https://api.example.com/v1/", Scheme::Https, "api.example.com", "/v1"),
            ("https://api.example.com:8443", Scheme::Https, "api.example.com:8443", ""),
            ("gitlab.example.com", Scheme::Https, "gitlab.example.com", ""),
            ("127.0.0.1:11434", Scheme::Http, "127.0.0.1:11434", ""),
            ("localhost", Scheme::Http, "localhost", ""),
            ("http://[::1]:80/x", Scheme::Http, "[::1]", "/x"),
        ] {
            let read = BaseUrl::parse_bare(text).expect(text);
            assert_eq!((read.scheme, read.path.as_str()), (scheme, path), "{text}");
            assert_eq!(read.host().expect(text).to_string(), host, "{text}");
        }
        for text in ["", "ftp://a.test", "https://u:p@a.test", "https://a.test/?q", "https://a.test/#f", "https://a b/"]
        {
            assert_eq!(BaseUrl::parse_bare(text), Err(BaseUrlError::Form), "{text}");
        }
    }

    #[test]
    fn base_url_with_a_proxy_token_is_refused_without_repeating_it() {
        let token = ProxyToken::generate(TokenForm::Long, &TokenShape::default()).expect("a token");
        let text = format!("https://api.example.com/bot{}/v1", token.expose());
        let why = BaseUrl::parse(&text).expect_err("refused");
        assert_eq!(why, BaseUrlError::Token);
        assert!(!why.to_string().contains("spt_"), "{why}");
    }
}
