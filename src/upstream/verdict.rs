//! Why the TLS handshake with an upstream failed, in plain words and with what to do.
//!
//! The words are ours alone. A certificate's own text (the names in it) isn't repeated: whoever got
//! a key once could show it there and so hand it to the agent.

use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError, Error};

use crate::model::Timestamp;

/// Whether the upstream was shown a certificate of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ours {
    Shown,
    Absent,
}

/// What rustls says of the handshake.
pub(super) fn words(why: &Error, ours: Ours) -> String {
    match why {
        Error::InvalidCertificate(why) => format!("the upstream's certificate {}", of_certificate(why)),
        Error::NoCertificatesPresented => "the upstream showed no certificate".to_owned(),
        Error::AlertReceived(alert) => of_alert(*alert, ours),
        Error::PeerIncompatible(_) => NOTHING_IN_COMMON.to_owned(),
        Error::InvalidMessage(_) => "what the upstream sent isn't TLS; is this the port of a plain service?".to_owned(),
        Error::PeerMisbehaved(_) => "the upstream broke the rules of TLS".to_owned(),
        _ => "the TLS handshake with the upstream failed".to_owned(),
    }
}

const NOTHING_IN_COMMON: &str =
    "the upstream takes none of the TLS versions and ciphers that are offered: TLS 1.3, and 1.2 with ECDHE";

fn of_certificate(why: &CertificateError) -> String {
    use CertificateError as E;
    let text = match why {
        E::ExpiredContext { not_after, .. } => return format!("expired on {}; {RENEW}", day(*not_after)),
        E::Expired => return format!("has expired; {RENEW}"),
        E::NotValidYetContext { not_before, .. } => {
            return format!("is valid only from {} on; is this machine's clock right?", day(*not_before));
        }
        E::NotValidYet => "is not valid yet; is this machine's clock right?",
        E::UnknownIssuer => {
            "is signed by an authority that isn't trusted here; if that is your own, name its file in \
             `upstream.extra_ca`, or with `--extra-ca` for `sallyport run`"
        }
        E::BadSignature => {
            "carries a signature that is not its authority's; if that is your own and was made anew, name its \
             present file in `upstream.extra_ca`"
        }
        E::NotValidForName | E::NotValidForNameContext { .. } => {
            "is for other names than this host's; is the host's name, or its address in `upstream.resolve`, right?"
        }
        E::Revoked => "was revoked by its authority; whoever runs the upstream has to get another",
        E::UnknownRevocationStatus | E::ExpiredRevocationList | E::ExpiredRevocationListContext { .. } => {
            "may have been revoked: its authority's list is missing or too old"
        }
        E::UnsupportedSignatureAlgorithmContext { .. } | E::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "is signed in a way that is too weak or not known here, such as with SHA-1; whoever runs the upstream \
             has to get another"
        }
        E::InvalidPurpose | E::InvalidPurposeContext { .. } => {
            "isn't made for a server; whoever runs the upstream has to get another"
        }
        // What rustls has no word for; this one is what many who sign for themselves run into.
        E::Other(other) if other.to_string() == "CaUsedAsEndEntity" => {
            "is an authority's own, which can't stand for a host; the upstream needs one that is signed by it"
        }
        _ => "can't be read, or breaks the rules for certificates",
    };
    text.to_owned()
}

const RENEW: &str = "whoever runs the upstream has to renew it, unless this machine's clock is wrong";

/// `2026-01-31`.
fn day(at: UnixTime) -> String {
    let millis = i64::try_from(at.as_secs()).unwrap_or(i64::MAX).saturating_mul(1000);
    Timestamp(millis).to_string().split('T').next().unwrap_or_default().to_owned()
}

/// What an upstream means by an alert (RFC 8446 section 6.2).
pub(super) fn of_alert(alert: AlertDescription, ours: Ours) -> String {
    use AlertDescription as A;
    let of_ours = match alert {
        A::CertificateRequired => Some("it wants one that it doesn't get"),
        A::BadCertificate | A::CertificateUnknown => Some("it can't be used there"),
        A::UnsupportedCertificate => Some("it is of a kind that isn't taken there"),
        A::CertificateRevoked => Some("it was revoked"),
        A::CertificateExpired => Some("it has expired, or isn't valid yet"),
        A::UnknownCA => Some("no authority that is trusted there has signed it"),
        A::AccessDenied => Some("it is valid, and its owner may not do this"),
        A::DecryptError => Some("its signature doesn't verify"),
        _ => None,
    };
    match (alert, ours, of_ours) {
        (_, Ours::Shown, Some(why)) => format!("the upstream doesn't take the client certificate: {why}"),
        (_, Ours::Absent, Some(_)) => {
            "the upstream wants a certificate of its client, and no key of kind mtls was asked for".to_owned()
        }
        (A::HandshakeFailure | A::ProtocolVersion | A::InsufficientSecurity, ..) => NOTHING_IN_COMMON.to_owned(),
        (A::UnrecognisedName, ..) => "the upstream serves no host of this name".to_owned(),
        (other, ..) => format!("the upstream broke off the TLS handshake (alert {})", u8::from(other)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::OtherError;
    use rustls::pki_types::ServerName;

    use super::*;

    #[test]
    fn every_kind_of_bad_certificate_is_told_in_words_and_with_what_to_do() {
        use CertificateError as E;
        let at = |secs| UnixTime::since_unix_epoch(std::time::Duration::from_secs(secs));
        let (time, start) = (at(1_800_000_000), at(1_769_860_800));
        let expected = ServerName::try_from("api.test").expect("a name");
        let presented = vec!["DnsName(\"sk-a-key-that-came-back\")".to_owned()];
        for (why, has) in [
            (E::ExpiredContext { time, not_after: start }, ["expired on 2026-01-31", "renew"]),
            (E::NotValidYetContext { time, not_before: start }, ["from 2026-01-31 on", "clock"]),
            (E::UnknownIssuer, ["isn't trusted here", "upstream.extra_ca"]),
            (E::BadSignature, ["not its authority's", "upstream.extra_ca"]),
            (E::NotValidForNameContext { expected, presented }, ["other names", "upstream.resolve"]),
            (E::Revoked, ["was revoked", "another"]),
            (
                E::UnsupportedSignatureAlgorithmContext {
                    signature_algorithm_id: vec![],
                    supported_algorithms: vec![],
                },
                ["too weak", "another"],
            ),
            (E::InvalidPurpose, ["isn't made for a server", "another"]),
            (
                E::Other(OtherError(Arc::new(std::io::Error::other("CaUsedAsEndEntity")))),
                ["an authority's own", "signed by it"],
            ),
            (E::BadEncoding, ["can't be read", "rules"]),
        ] {
            let name = format!("{why:?}");
            let said = words(&Error::InvalidCertificate(why), Ours::Absent);
            assert!(has.iter().all(|part| said.contains(part)), "{name}: {said}");
            assert!(!said.contains("sk-a-key") && !said.contains("Context") && !said.contains('{'), "{said}");
        }
    }
}
