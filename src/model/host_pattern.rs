//! Which hosts a key or a rule means.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::authority::{Authority, AuthorityError, Host, text_form};

/// Which hosts, and on which port: `api.stripe.com`, `*.example.com`, `**.example.com:8443`.
///
/// `*.` stands for exactly one label, `**.` for one or more. Where no port is written, 443 is
/// meant (80 for a destination that allows clear text). A wildcard directly above a public suffix
/// is refused.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPattern {
    labels: Labels,
    host: Host,
    port: Option<u16>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Labels {
    Exact,
    One,
    Many,
}

/// The text can't be a host pattern, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostPatternError {
    /// The part without a wildcard is wrong.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// A `*` stands where it may not.
    #[error("a wildcard is a whole label at the front: *.example.com (one label) or **.example.com (one or more)")]
    Wildcard,
    /// The wildcard covers names of unrelated owners.
    #[error("the wildcard stands directly above a public suffix, so it covers hosts of unrelated owners")]
    PublicSuffix,
}

impl HostPattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// See [`HostPatternError`].
    pub fn parse(text: &str) -> Result<Self, HostPatternError> {
        let (labels, rest) = match (text.strip_prefix("**."), text.strip_prefix("*.")) {
            (Some(rest), _) => (Labels::Many, rest),
            (_, Some(rest)) => (Labels::One, rest),
            _ => (Labels::Exact, text),
        };
        if rest.contains('*') {
            return Err(HostPatternError::Wildcard);
        }
        let with_default = Authority::parse(rest, 1)?;
        let has_port = Authority::parse(rest, 2)?.port == with_default.port;
        if labels != Labels::Exact {
            match &with_default.host {
                Host::Ip(_) => return Err(HostPatternError::Wildcard),
                Host::Name(name) if is_public_suffix(name) => return Err(HostPatternError::PublicSuffix),
                Host::Name(_) => {}
            }
        }
        Ok(Self { labels, host: with_default.host, port: has_port.then_some(with_default.port) })
    }

    /// Whether the authority is one of those meant; `default_port` counts where the pattern has
    /// none.
    #[must_use]
    pub fn matches(&self, authority: &Authority, default_port: u16) -> bool {
        self.port.unwrap_or(default_port) == authority.port && self.matches_host(&authority.host)
    }

    /// Whether the host is one of those meant, on whatever port.
    #[must_use]
    pub fn matches_host(&self, host: &Host) -> bool {
        match (self.labels, &self.host, host) {
            (Labels::Exact, ours, theirs) => ours == theirs,
            (labels, Host::Name(ours), Host::Name(theirs)) => {
                match theirs.strip_suffix(&**ours).and_then(|front| front.strip_suffix('.')) {
                    None | Some("") => false,
                    Some(front) => labels == Labels::Many || !front.contains('.'),
                }
            }
            _ => false,
        }
    }

    /// The one host that is meant, if there is no wildcard.
    #[must_use]
    pub fn exact(&self) -> Option<&Host> {
        (self.labels == Labels::Exact).then_some(&self.host)
    }

    /// The port, if one is written.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.port
    }
}

/// Whether a wildcard above this name covers unrelated owners: a single label, or one of the
/// common second-level public suffixes (publicsuffix.org lists them all; these are the usual ones).
fn is_public_suffix(name: &str) -> bool {
    const SECOND_LEVEL: &[&str] = &[
        "co.uk",
        "org.uk",
        "ac.uk",
        "gov.uk",
        "com.au",
        "net.au",
        "org.au",
        "co.jp",
        "ne.jp",
        "or.jp",
        "com.br",
        "com.cn",
        "net.cn",
        "org.cn",
        "co.in",
        "co.kr",
        "co.nz",
        "co.za",
        "com.mx",
        "com.tr",
        "com.sg",
        "com.hk",
        "com.tw",
        "co.il",
        "com.ar",
        "com.ua",
        "github.io",
        "gitlab.io",
        "herokuapp.com",
        "vercel.app",
        "netlify.app",
        "pages.dev",
        "workers.dev",
        "web.app",
        "firebaseapp.com",
        "azurewebsites.net",
        "cloudfront.net",
        "s3.amazonaws.com",
        "appspot.com",
        "fly.dev",
        "onrender.com",
        "ngrok.io",
        "ngrok.app",
        "run.app",
    ];
    !name.contains('.') || SECOND_LEVEL.contains(&name)
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.labels {
            Labels::Exact => "",
            Labels::One => "*.",
            Labels::Many => "**.",
        })?;
        self.host.fmt(f)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl fmt::Debug for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

text_form!(HostPattern, |t| HostPattern::parse(t).map_err(|e| e.to_string()));

impl FromStr for HostPattern {
    type Err = HostPatternError;

    fn from_str(text: &str) -> Result<Self, HostPatternError> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_match_whole_labels_only() {
        let hits = |p: &str, h: &str| HostPattern::parse(p).expect(p).matches(&Authority::parse(h, 443).expect(h), 443);
        assert!(hits("*.example.com", "a.example.com"));
        assert!(!hits("*.example.com", "a.b.example.com"));
        assert!(hits("**.example.com", "a.b.example.com"));
        assert!(!hits("*.example.com", "example.com"));
        assert!(!hits("*.example.com", "evilexample.com"));
        assert!(!hits("**.example.com", "a.example.com.evil.com"));
        assert!(!hits("api.example.com", "api.example.com:8443"));
        assert!(hits("api.example.com:8443", "api.example.com:8443"));
    }

    #[test]
    fn wildcards_above_public_suffixes_are_refused() {
        for text in ["*.com", "**.co.uk", "*.github.io"] {
            assert_eq!(HostPattern::parse(text).err(), Some(HostPatternError::PublicSuffix), "{text}");
        }
        assert_eq!(HostPattern::parse("a*.example.com").err(), Some(HostPatternError::Wildcard));
    }
}
