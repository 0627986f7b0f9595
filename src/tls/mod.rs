//! TLS on both sides: our CA and the leaves it mints, and whom we trust upstream.

pub mod ca;
mod client;
pub mod trust;

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};

/// aws-lc-rs with X25519MLKEM768 preferred and AES-128-GCM first: it seals a record in four fifths
/// of the time of AES-256-GCM, and its handshake needs no SHA-384.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.sort_by_key(|suite| match suite.suite() {
        rustls::CipherSuite::TLS13_AES_128_GCM_SHA256 => 0,
        rustls::CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 => 1,
        rustls::CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => 2,
        _ => 3,
    });
    Arc::new(provider)
}

/// A server's configuration from a certificate chain and a private key of the operator's, for
/// HTTP/1.1.
///
/// # Errors
/// A file can't be read, or the two don't belong together.
pub fn own_certificate(chain: &std::path::Path, key: &std::path::Path) -> Result<Arc<rustls::ServerConfig>, Error> {
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let bad = |path: &std::path::Path, why: String| Error::Certificate { path: path.display().to_string(), why };
    let certificates: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(chain).and_then(Iterator::collect::<Result<_, _>>);
    let certificates = certificates.map_err(|why| bad(chain, why.to_string()))?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|why| bad(key, why.to_string()))?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_no_client_auth()
        .with_single_cert(certificates, private)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// What can be wrong with certificates and keys of ours.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file can't be read.
    #[error("{path} can't be read: {why}. Check that it exists and that sallyport may read it")]
    Read {
        /// The file.
        path: String,
        /// The system's words.
        why: std::io::Error,
    },
    /// A PEM file holds no certificate that can be used.
    #[error("{path} holds no usable certificate: {why}. It should hold one or more PEM certificates of authorities")]
    Certificate {
        /// The file.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// A certificate can't be made.
    #[error("a certificate can't be made: {0}")]
    Mint(#[from] rcgen::Error),
    /// rustls refused a key or a certificate.
    #[error("TLS can't use it: {0}")]
    Tls(#[from] rustls::Error),
    /// The system's random source failed.
    #[error("the system's random source failed")]
    Random,
}
