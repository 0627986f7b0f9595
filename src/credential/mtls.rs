//! A client certificate and its private key, for services that want to see one in the TLS handshake
//! (RFC 8446 section 4.4.2, RFC 5246 section 7.4.6).
//!
//! What is given is PEM (RFC 7468), as files have it: the client's certificate, the authorities' behind it
//! if the service needs them, and the private key in PKCS #8, PKCS #1 or SEC 1. What is sealed is a JSON
//! document of the same in base64. Nothing of it ever stands in a request.

use std::fmt::Write as _;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SigningKey};
use serde::{Deserialize, Serialize};
use x509_parser::prelude::{FromDer, SubjectPublicKeyInfo, X509Certificate};
use zeroize::{Zeroize as _, Zeroizing};

use super::form::{self, FormError, Text};
use crate::model::{KeyKind, Secret, Timestamp};

/// A certificate chain with its private key, ready to sign handshakes.
pub struct Identity(Arc<CertifiedKey>);

impl Identity {
    /// What a handshake shows.
    #[must_use]
    pub fn certified(self) -> Arc<CertifiedKey> {
        self.0
    }

    pub(super) fn read(document: &[u8]) -> Result<Self, FormError> {
        let sealed = Sealed::read(document)?;
        let key = signing_key(&sealed.private_key()?)?;
        Ok(Self(Arc::new(CertifiedKey::new(sealed.chain()?, key))))
    }
}

/// As it is sealed.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed {
    /// DER in base64, the client's own first.
    certificates: Vec<String>,
    /// The same, in the form that was given.
    private_key: Text,
}

#[derive(Serialize)]
struct ToSeal<'a> {
    certificates: Vec<String>,
    private_key: &'a str,
}

impl Sealed {
    fn read(document: &[u8]) -> Result<Self, FormError> {
        form::parse(KeyKind::Mtls, HOW, document)
    }

    fn chain(&self) -> Result<Vec<CertificateDer<'static>>, FormError> {
        let der = |text: &String| BASE64.decode(text).map(CertificateDer::from).map_err(|_| CERTIFICATE_UNREAD);
        self.certificates.iter().map(der).collect()
    }

    fn private_key(&self) -> Result<Zeroizing<Vec<u8>>, FormError> {
        BASE64.decode(self.private_key.expose()).map(Zeroizing::new).map_err(|_| KEY_UNREAD)
    }
}

/// Checks what was given, and makes the document of it that is sealed.
pub(super) fn document(given: &[u8]) -> Result<Secret<Vec<u8>>, FormError> {
    let text = std::str::from_utf8(given).map_err(|_| field(VALUE, HOW))?;
    if ENCRYPTED.iter().any(|mark| text.contains(mark)) {
        return Err(field(KEY, "is encrypted; `openssl pkey -in FILE` takes the passphrase off"));
    }
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(given).collect::<Result<_, _>>().map_err(|_| CERTIFICATE_UNREAD)?;
    if chain.is_empty() {
        return Err(field(VALUE, HOW));
    }
    if chain.len() > LONGEST_CHAIN {
        return Err(field(VALUE, "holds more than 10 certificates; leave out what isn't the client's chain"));
    }
    let keys: Vec<_> = PrivateKeyDer::pem_slice_iter(given).map(|key| key.map(Wiped)).collect();
    let key = match keys.as_slice() {
        [] => return Err(field(VALUE, "holds a certificate and no private key; give both, one behind the other")),
        [Ok(key)] => key,
        [Err(_)] => return Err(KEY_UNREAD),
        _ => return Err(field(VALUE, "holds more than one private key")),
    };
    let signing = signing_key(key.0.secret_der())?;
    let public = signing.public_key().ok_or(KEY_UNREAD)?;
    let fits = |der: &CertificateDer<'_>| -> Result<bool, FormError> {
        let own = parsed(der)?.tbs_certificate.subject_pki.subject_public_key.data.into_owned();
        let (_, of_key) = SubjectPublicKeyInfo::from_der(&public).map_err(|_| KEY_UNREAD)?;
        Ok(*own == *of_key.subject_public_key.data)
    };
    let fitting: Vec<bool> = chain.iter().map(fits).collect::<Result<_, _>>()?;
    match fitting.iter().position(|fits| *fits) {
        Some(0) => {}
        Some(_) => {
            return Err(field(VALUE, "holds another certificate before that of the private key; it comes first"));
        }
        None => return Err(field(KEY, "doesn't belong to the certificate")),
    }
    let private_key = Zeroizing::new(BASE64.encode(key.0.secret_der()));
    let to_seal =
        ToSeal { certificates: chain.iter().map(|der| BASE64.encode(der)).collect(), private_key: &private_key };
    // All at once: a vector that grows leaves a copy behind.
    let room = private_key.len() + to_seal.certificates.iter().map(|text| text.len() + 3).sum::<usize>() + 64;
    let mut sealed = Zeroizing::new(Vec::with_capacity(room));
    serde_json::to_writer(&mut *sealed, &to_seal).map_err(|_| KEY_UNREAD)?;
    Ok(Secret::new(std::mem::take(&mut *sealed)))
}

/// What a reply must not hold: the private key in DER, and its PEM as files have it, with either line end.
/// Of what stands for both in base64, hexadecimal digits and so on, the search knows by itself.
pub(super) fn show_secrets(document: &[u8], show: &mut dyn FnMut(&[u8])) -> Result<(), FormError> {
    let sealed = Sealed::read(document)?;
    show(&sealed.private_key()?);
    for end in ["\n", "\r\n"] {
        let text = sealed.private_key.expose();
        let mut lines = Zeroizing::new(String::with_capacity(text.len() + (text.len() / LINE + 1) * end.len()));
        for (at, line) in text.as_bytes().chunks(LINE).enumerate() {
            if at > 0 {
                lines.push_str(end);
            }
            lines.push_str(std::str::from_utf8(line).unwrap_or_default());
        }
        show(lines.as_bytes());
    }
    Ok(())
}

/// What is wrong with the certificate and may be right all the same: the service decides.
pub(super) fn warnings(document: &[u8], now: Timestamp) -> Result<Vec<String>, FormError> {
    let chain = Sealed::read(document)?.chain()?;
    let Some(own) = chain.first() else { return Err(CERTIFICATE_UNREAD) };
    let certificate = parsed(own)?;
    let mut said = Vec::new();
    let (from, until) = (certificate.validity().not_before.timestamp(), certificate.validity().not_after.timestamp());
    let now = now.millis() / 1000;
    if until < now {
        said.push(format!("the certificate expired on {}, so the service will hardly take it", day(until)));
    } else if until - now < SOON {
        said.push(format!("the certificate expires on {}", day(until)));
    }
    if from > now {
        said.push(format!("the certificate is valid only from {} on", day(from)));
    }
    let usage = certificate.extended_key_usage().ok().flatten();
    if usage.is_some_and(|usage| !usage.value.client_auth && !usage.value.any) {
        said.push("the certificate isn't made for clients: its extended key usage doesn't name clientAuth".to_owned());
    }
    Ok(said)
}

fn parsed<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, FormError> {
    X509Certificate::from_der(der).map(|(_, certificate)| certificate).map_err(|_| CERTIFICATE_UNREAD)
}

fn signing_key(der: &[u8]) -> Result<Arc<dyn SigningKey>, FormError> {
    let key = PrivateKeyDer::try_from(der).map_err(|_| KEY_UNREAD)?;
    any_supported_type(&key).map_err(|_| KEY_UNREAD)
}

/// `2026-01-31`.
fn day(seconds: i64) -> String {
    let mut text = String::new();
    let _ = write!(text, "{}", Timestamp(seconds.saturating_mul(1000)));
    text.split('T').next().unwrap_or_default().to_owned()
}

/// A private key that is wiped when it is dropped.
struct Wiped(PrivateKeyDer<'static>);

impl Drop for Wiped {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

const fn field(part: &'static str, why: &'static str) -> FormError {
    FormError::Field { part, why }
}

const VALUE: &str = "the value of a key of kind mtls";
const KEY: &str = "the private key";
const HOW: &str = "is PEM: the client's certificate, those of its authorities if the service needs them, and the private key; \
     give --value-file for each file, or pipe `cat client.pem client.key`";
const CERTIFICATE_UNREAD: FormError = field("a certificate", "can't be read: between its BEGIN and END is no X.509");
const KEY_UNREAD: FormError = field(
    KEY,
    "can't be read, or is of a kind that isn't known: RSA of 2048 to 8192 bits, ECDSA with P-256, P-384 or P-521, and \
     Ed25519 are, in PKCS #8, PKCS #1 or SEC 1",
);
const ENCRYPTED: [&str; 2] = ["BEGIN ENCRYPTED PRIVATE KEY", "Proc-Type: 4,ENCRYPTED"];
/// The most certificates.
const LONGEST_CHAIN: usize = 10;
/// How many characters a line of PEM has (RFC 7468 section 2).
const LINE: usize = 64;
/// How long before its end a certificate is said to end, in seconds: 30 days.
const SOON: i64 = 30 * 24 * 3600;
