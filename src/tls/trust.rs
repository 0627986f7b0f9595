//! Whom we trust upstream. Verification has no switch; roots can be added.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use super::Error;

/// The system's roots (or the bundled ones, where the system has none) and the operator's own.
///
/// # Errors
/// A file of `extra_ca` can't be read or holds no certificate.
pub fn roots(extra_ca: &[PathBuf]) -> Result<RootCertStore, Error> {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if store.is_empty() {
        store.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    for path in extra_ca {
        for cert in read_certificates(path)? {
            let bad =
                |why: rustls::Error| Error::Certificate { path: path.display().to_string(), why: why.to_string() };
            store.add(cert).map_err(bad)?;
        }
    }
    Ok(store)
}

/// The certificates of a PEM file; at least one.
///
/// # Errors
/// The file can't be read or holds none.
pub fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let text = std::fs::read(path).map_err(|why| Error::Read { path: path.display().to_string(), why })?;
    let bad = |why: String| Error::Certificate { path: path.display().to_string(), why };
    let certs: Vec<_> =
        CertificateDer::pem_slice_iter(&text).collect::<Result<_, _>>().map_err(|e| bad(e.to_string()))?;
    if certs.is_empty() { Err(bad("no BEGIN CERTIFICATE in it".to_owned())) } else { Ok(certs) }
}

/// A verifying client configuration that offers these protocols by ALPN.
///
/// # Errors
/// rustls refused the set.
pub fn client_config(roots: Arc<RootCertStore>, alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, Error> {
    let mut config = ClientConfig::builder_with_provider(super::provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    config.enable_early_data = false;
    Ok(Arc::new(config))
}

/// One PEM bundle for clients whose variable replaces their roots: the system's, those of a
/// corporate bundle that was set already, and ours.
///
/// # Errors
/// The corporate bundle can't be read.
pub fn bundle_pem(corporate: Option<&Path>, ours: &str) -> Result<String, Error> {
    let mut certs = rustls_native_certs::load_native_certs().certs;
    if let Some(path) = corporate {
        certs.extend(read_certificates(path)?);
    }
    certs.sort_by(|a, b| a.as_ref().cmp(b.as_ref()));
    certs.dedup();
    let mut text = String::new();
    for cert in &certs {
        push_pem(&mut text, cert);
    }
    text.push_str(ours);
    Ok(text)
}

fn push_pem(text: &mut String, der: &[u8]) {
    use base64::Engine as _;
    text.push_str("-----BEGIN CERTIFICATE-----\n");
    let encoded = base64::engine::general_purpose::STANDARD.encode(der);
    for line in encoded.as_bytes().chunks(64) {
        let _ = writeln!(text, "{}", String::from_utf8_lossy(line));
    }
    text.push_str("-----END CERTIFICATE-----\n");
}
