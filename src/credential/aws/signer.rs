//! The two ways to sign: HMAC-SHA256 under a key derived for a day, a region and a service, and ECDSA on
//! P-256 with a key derived from the pair for every region.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey,
};
use zeroize::Zeroizing;

use super::Error;
use super::signed::{Algorithm, Scope};
use crate::model::Secret;

/// SHA-256 in hexadecimal digits.
#[must_use]
pub fn hash_of(bytes: &[u8]) -> String {
    hex::encode(digest(&SHA256, bytes))
}

pub(super) enum Signer {
    Hmac(Box<hmac::Key>),
    Ecdsa(Box<EcdsaKeyPair>),
}

impl Signer {
    pub fn new(algorithm: Algorithm, id: &str, secret: &Secret<String>, scope: &Scope) -> Result<Self, Error> {
        match algorithm {
            Algorithm::Hmac => Ok(Self::Hmac(Box::new(signing_key(secret, scope)))),
            Algorithm::Ecdsa => key_pair(id, secret).map(|pair| Self::Ecdsa(Box::new(pair))),
        }
    }

    /// The name of its algorithm on the wire.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Hmac(_) => Algorithm::Hmac.as_str(),
            Self::Ecdsa(_) => Algorithm::Ecdsa.as_str(),
        }
    }

    /// What is signed of a canonical request.
    fn text(&self, time: &str, scope: &str, canonical: &str) -> String {
        format!("{}\n{time}\n{scope}\n{}", self.name(), hash_of(canonical.as_bytes()))
    }

    /// The signature of a canonical request.
    pub fn sign(&self, time: &str, scope: &str, canonical: &str) -> Result<String, Error> {
        self.sign_text(&self.text(time, scope, canonical))
    }

    /// Whether it is the signature of a canonical request.
    pub fn is_of(&self, time: &str, scope: &str, canonical: &str, signature: &str) -> bool {
        self.is_of_text(&self.text(time, scope, canonical), signature)
    }

    /// The signature of a text, in hexadecimal digits.
    pub fn sign_text(&self, text: &str) -> Result<String, Error> {
        match self {
            Self::Hmac(key) => Ok(hex::encode(hmac::sign(key, text.as_bytes()))),
            Self::Ecdsa(pair) => {
                let signature = pair.sign(&SystemRandom::new(), text.as_bytes()).map_err(|_| Error::Internal)?;
                Ok(hex::encode(signature.as_ref()))
            }
        }
    }

    /// Whether it is the signature of a text; compared in constant time.
    pub fn is_of_text(&self, text: &str, signature: &str) -> bool {
        let Ok(signature) = hex::decode(signature) else { return false };
        match self {
            Self::Hmac(key) => hmac::verify(key, text.as_bytes(), &signature).is_ok(),
            Self::Ecdsa(pair) => {
                let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, pair.public_key().as_ref());
                public.verify(text.as_bytes(), &signature).is_ok()
            }
        }
    }
}

fn signing_key(secret: &Secret<String>, scope: &Scope) -> hmac::Key {
    let key = |bytes: &[u8]| hmac::Key::new(hmac::HMAC_SHA256, bytes);
    let first = Zeroizing::new(format!("AWS4{}", secret.expose()));
    let mut last = key(first.as_bytes());
    for part in [scope.date.as_str(), scope.region.as_deref().unwrap_or_default(), &scope.service, "aws4_request"] {
        last = key(hmac::sign(&last, part.as_bytes()).as_ref());
    }
    last
}

/// The key of Signature Version 4A: NIST SP 800-108 in counter mode, as aws-c-auth documents it
/// (`source/key_derivation.c`). A candidate above n - 2 is passed over.
fn key_pair(id: &str, secret: &Secret<String>) -> Result<EcdsaKeyPair, Error> {
    /// The order of P-256 less two.
    const N_MINUS_2: [u8; 32] = [
        0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6, 0xfa, 0xad,
        0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x4f,
    ];
    let input = Zeroizing::new(format!("AWS4A{}", secret.expose()));
    let key = hmac::Key::new(hmac::HMAC_SHA256, input.as_bytes());
    for counter in 1..=254u8 {
        let mut text = Vec::with_capacity(64 + id.len());
        text.extend_from_slice(&1u32.to_be_bytes());
        text.extend_from_slice(Algorithm::Ecdsa.as_str().as_bytes());
        text.push(0);
        text.extend_from_slice(id.as_bytes());
        text.push(counter);
        text.extend_from_slice(&256u32.to_be_bytes());
        let mut scalar = Zeroizing::new([0u8; 32]);
        scalar.copy_from_slice(hmac::sign(&key, &text).as_ref());
        if *scalar > N_MINUS_2 {
            continue;
        }
        for digit in scalar.iter_mut().rev() {
            let (sum, carried) = digit.overflowing_add(1);
            *digit = sum;
            if !carried {
                break;
            }
        }
        return pair_of(&scalar);
    }
    Err(Error::Internal)
}

/// The pair of a private scalar, through its DER (RFC 5915 section 3).
fn pair_of(scalar: &[u8; 32]) -> Result<EcdsaKeyPair, Error> {
    let mut der = Zeroizing::new(Vec::with_capacity(51));
    der.extend_from_slice(&[0x30, 0x31, 0x02, 0x01, 0x01, 0x04, 0x20]);
    der.extend_from_slice(scalar);
    der.extend_from_slice(&[0xa0, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07]);
    EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_ASN1_SIGNING, &der).map_err(|_| Error::Internal)
}
