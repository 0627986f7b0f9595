//! Signed assertions (RFC 7515, RFC 7519) with RS256 and ES256 (RFC 7518 sections 3.3 and 3.4).

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::Value;
use zeroize::{Zeroize as _, Zeroizing};

/// How an assertion is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256; keys of 2048 bits or more.
    #[serde(rename = "RS256")]
    Rs256,
    /// ECDSA with P-256 and SHA-256.
    #[serde(rename = "ES256")]
    Es256,
}

impl Algorithm {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
        }
    }
}

/// A private key that signs assertions. Its memory belongs to the cryptography library, which wipes it.
pub enum SigningKey {
    /// For RS256.
    Rsa(Box<RsaKeyPair>),
    /// For ES256.
    Ec(Box<EcdsaKeyPair>),
}

/// The text is no private key that can sign, or signing failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JwtError {
    /// It isn't a PEM of PKCS #8, PKCS #1 or SEC 1.
    #[error("is no private key in PEM: it begins with -----BEGIN PRIVATE KEY-----, or RSA or EC PRIVATE KEY")]
    Pem,
    /// It is one, but neither RSA of 2048 bits or more nor P-256.
    #[error("is neither an RSA key of at least 2048 bits nor a P-256 key")]
    Kind,
    /// The library or the random source failed.
    #[error("can't sign")]
    Sign,
}

impl SigningKey {
    /// Reads a private key in PEM (RFC 7468; PKCS #8, PKCS #1 as GitHub issues it, or SEC 1).
    ///
    /// # Errors
    /// It is no such key.
    pub fn from_pem(pem: &str) -> Result<Self, JwtError> {
        let mut der = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| JwtError::Pem)?;
        let alg = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let ec = |key| Self::Ec(Box::new(key));
        let rsa = |key| Self::Rsa(Box::new(key));
        let key = match &der {
            PrivateKeyDer::Pkcs8(pkcs8) => {
                let bytes = pkcs8.secret_pkcs8_der();
                RsaKeyPair::from_pkcs8(bytes).map(rsa).or_else(|_| EcdsaKeyPair::from_pkcs8(alg, bytes).map(ec))
            }
            PrivateKeyDer::Pkcs1(pkcs1) => RsaKeyPair::from_der(pkcs1.secret_pkcs1_der()).map(rsa),
            PrivateKeyDer::Sec1(sec1) => EcdsaKeyPair::from_private_key_der(alg, sec1.secret_sec1_der()).map(ec),
            _ => return Err(JwtError::Pem),
        };
        der.zeroize();
        key.map_err(|_| JwtError::Kind)
    }

    /// The algorithm that goes with the key.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        match self {
            Self::Rsa(_) => Algorithm::Rs256,
            Self::Ec(_) => Algorithm::Es256,
        }
    }

    /// A signed assertion in compact form (RFC 7515 section 3.1). Whoever holds it can use it until it
    /// expires, so it is wiped.
    ///
    /// # Errors
    /// Signing failed.
    pub fn sign(&self, key_id: Option<&str>, claims: &Value) -> Result<Zeroizing<String>, JwtError> {
        let mut header = serde_json::json!({ "alg": self.algorithm().as_str(), "typ": "JWT" });
        if let Some(id) = key_id {
            header["kid"] = id.into();
        }
        let mut text = Zeroizing::new(String::with_capacity(2048));
        BASE64URL.encode_string(header.to_string(), &mut text);
        text.push('.');
        BASE64URL.encode_string(claims.to_string(), &mut text);
        let random = SystemRandom::new();
        let signature = match self {
            Self::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, text.as_bytes(), &mut signature).map_err(|_| JwtError::Sign)?;
                signature
            }
            Self::Ec(key) => key.sign(&random, text.as_bytes()).map_err(|_| JwtError::Sign)?.as_ref().to_vec(),
        };
        text.push('.');
        BASE64URL.encode_string(signature, &mut text);
        Ok(text)
    }
}

/// A decoded part of an assertion.
pub type Part = Zeroizing<Vec<u8>>;

/// The header and the claims of an assertion, decoded and not verified; `None` if it isn't one.
#[must_use]
pub fn parts(assertion: &str) -> Option<(Part, Part)> {
    let mut parts = assertion.split('.');
    let (header, claims, signature) = (parts.next()?, parts.next()?, parts.next()?);
    let decoded = |part| BASE64URL.decode(part).ok().map(Zeroizing::new);
    (parts.next().is_none() && !signature.is_empty()).then_some((decoded(header)?, decoded(claims)?))
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
    use aws_lc_rs::rsa::KeySize;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, KeyPair as _, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};

    use super::*;

    fn pem(label: &str, der: &[u8]) -> String {
        let text = base64::engine::general_purpose::STANDARD.encode(der);
        let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
        format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
    }

    fn checked(assertion: &str, verify: impl Fn(&[u8], &[u8]) -> bool) -> (Value, Value) {
        let (signed, signature) = assertion.rsplit_once('.').expect("three parts");
        let signature = BASE64URL.decode(signature).expect("base64url");
        assert!(verify(signed.as_bytes(), &signature));
        let (header, claims) = parts(assertion).expect("parts");
        let read = |bytes: &[u8]| serde_json::from_slice(bytes).expect("json");
        (read(&header), read(&claims))
    }

    #[test]
    fn assertions_verify_under_the_public_key() {
        let rsa = RsaKeyPair::generate(KeySize::Rsa2048).expect("a key");
        let der: Pkcs8V1Der<'_> = rsa.as_der().expect("encoded");
        let key = SigningKey::from_pem(&pem("PRIVATE KEY", der.as_ref())).expect("a key");
        let claims = serde_json::json!({ "iss": "me", "exp": 1 });
        let assertion = key.sign(Some("k1"), &claims).expect("signed");
        let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, rsa.public_key().as_ref());
        let (header, read) = checked(&assertion, |m, s| public.verify(m, s).is_ok());
        assert_eq!((header["alg"].as_str(), header["kid"].as_str(), read), (Some("RS256"), Some("k1"), claims.clone()));

        let ec = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
        let der = ec.to_pkcs8v1().expect("encoded");
        let key = SigningKey::from_pem(&pem("PRIVATE KEY", der.as_ref())).expect("a key");
        let assertion = key.sign(None, &claims).expect("signed");
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, ec.public_key().as_ref());
        let (header, read) = checked(&assertion, |m, s| public.verify(m, s).is_ok());
        assert_eq!((header["alg"].as_str(), header.get("kid"), read), (Some("ES256"), None, claims));
    }

    #[test]
    fn what_is_no_private_key_is_told_without_showing_it() {
        for bad in ["", "hunter2", "-----BEGIN PRIVATE KEY-----\naHVudGVyMg==\n-----END PRIVATE KEY-----\n"] {
            let why = SigningKey::from_pem(bad).map(|_| ()).expect_err(bad);
            assert!(!format!("{why} {why:?}").contains("hunter2"));
        }
    }
}
