//! Where an agent's connection comes from, and from where a session may be used.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use ipnet::IpNet;
use sha2::{Digest as _, Sha256};

/// SHA-256 of a certificate as it is sent (DER).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// The fingerprint of a certificate in DER.
    #[must_use]
    pub fn of(der: &[u8]) -> Self {
        Self(Sha256::digest(der).into())
    }
}

/// The text is no SHA-256 in hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is the SHA-256 of a certificate: 64 hexadecimal digits, with or without colons")]
pub struct FingerprintError;

impl FromStr for Fingerprint {
    type Err = FingerprintError;

    /// As `openssl x509 -noout -fingerprint -sha256` prints it behind the equals sign, or without colons.
    fn from_str(text: &str) -> Result<Self, FingerprintError> {
        let digits: String = text.chars().filter(|c| *c != ':').collect();
        let mut bytes = [0; 32];
        hex::decode_to_slice(digits, &mut bytes).map_err(|_| FingerprintError)?;
        Ok(Self(bytes))
    }
}

/// Lower case, without colons.
impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Where an agent's connection comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// The agent's address and port, as the connection has them or as a trusted balancer says.
    pub address: SocketAddr,
    /// The certificate that the agent showed on a listener of ours, and whose key it has.
    pub certificate: Option<Fingerprint>,
}

/// From where a session may be used. Without any bound it may be used from everywhere.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bounds {
    /// The agent's address is in one of these networks; none stands for all.
    pub sources: Vec<IpNet>,
    /// The agent shows this certificate.
    pub certificate: Option<Fingerprint>,
}

impl Bounds {
    /// Whether nothing is bound.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sources.is_empty() && self.certificate.is_none()
    }

    /// Whether the session may be used from there.
    ///
    /// # Errors
    /// It may not, and why.
    pub fn admit(&self, from: &Origin) -> Result<(), &'static str> {
        let ip = from.address.ip().to_canonical();
        if !self.sources.is_empty() && !self.sources.iter().any(|network| network.contains(&ip)) {
            return Err("the session is bound to other networks than that of the agent");
        }
        match self.certificate {
            Some(bound) if from.certificate != Some(bound) => {
                Err("the session is bound to a client certificate, which the agent didn't show")
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn session_is_admitted_from_its_networks_and_with_its_certificate_only() {
        let (mine, other) = (Fingerprint::of(b"mine"), Fingerprint::of(b"other"));
        let net = |text: &str| text.parse::<IpNet>().expect("a network");
        for (sources, bound, address, shown, admitted) in [
            (vec![], None, "1.2.3.4:5", None, true),
            (vec![net("10.0.0.0/8")], None, "10.1.2.3:5", None, true),
            (vec![net("10.0.0.0/8")], None, "[::ffff:10.1.2.3]:5", None, true),
            (vec![net("10.0.0.0/8")], None, "11.1.2.3:5", Some(mine), false),
            (vec![net("10.0.0.0/8"), net("fd00::/8")], None, "[fd00::1]:5", None, true),
            (vec![], Some(mine), "1.2.3.4:5", None, false),
            (vec![], Some(mine), "1.2.3.4:5", Some(other), false),
            (vec![], Some(mine), "1.2.3.4:5", Some(mine), true),
            (vec![net("10.0.0.0/8")], Some(mine), "1.2.3.4:5", Some(mine), false),
        ] {
            let from = Origin { address: address.parse().expect("an address"), certificate: shown };
            let bounds = Bounds { sources, certificate: bound };
            assert_eq!(bounds.admit(&from).is_ok(), admitted, "{bounds:?} {from:?}");
        }
    }

    #[test]
    fn fingerprint_is_read_as_openssl_prints_it() {
        let one = Fingerprint::of(b"one");
        let digits = one.to_string().to_ascii_uppercase();
        let pairs: Vec<_> = digits.as_bytes().chunks(2).map(|pair| String::from_utf8_lossy(pair)).collect();
        assert_eq!(pairs.join(":").parse(), Ok(one));
        assert_eq!(digits.parse(), Ok(one));
        for wrong in ["", "00", &digits[1..], &format!("{digits}00"), &digits.replace('A', "g").replace('0', "x")] {
            assert_eq!(wrong.parse::<Fingerprint>(), Err(FingerprintError), "{wrong}");
        }
    }
}
