//! A proxy made of the hudsucker library as its examples are: it mints certificates, swaps the placeholder
//! for the key and does nothing else.
//!
//!     peer-hudsucker LISTEN CA.pem CA.key UPSTREAM-CA.pem KEY

use std::error::Error;
use std::sync::Arc;

use hudsucker::certificate_authority::RcgenAuthority;
use hudsucker::hyper::Request;
use hudsucker::hyper::header::{AUTHORIZATION, HeaderValue};
use hudsucker::rcgen::{Issuer, KeyPair};
use hudsucker::rustls::crypto::aws_lc_rs::default_provider;
use hudsucker::rustls::pki_types::{CertificateDer, pem::PemObject as _};
use hudsucker::rustls::{ClientConfig, RootCertStore};
use hudsucker::{Body, HttpContext, HttpHandler, Proxy, RequestOrResponse};

/// How many hosts' certificates are held.
const CERTIFICATES: u64 = 1_000;

#[derive(Clone)]
struct Swap {
    placeholder: HeaderValue,
    real: HeaderValue,
}

impl HttpHandler for Swap {
    async fn handle_request(&mut self, _: &HttpContext, mut request: Request<Body>) -> RequestOrResponse {
        match request.headers_mut().get_mut(AUTHORIZATION) {
            Some(value) if *value == self.placeholder => *value = self.real.clone(),
            _ => {}
        }
        request.into()
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [listen, ca, ca_key, upstream_ca, key] = args.as_slice() else {
        return Err("usage: peer-hudsucker LISTEN CA.pem CA.key UPSTREAM-CA.pem KEY".into());
    };
    let ca_key = KeyPair::from_pem(&std::fs::read_to_string(ca_key)?)?;
    let issuer = Issuer::from_ca_cert_pem(&std::fs::read_to_string(ca)?, ca_key)?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(upstream_ca)? {
        roots.add(certificate?)?;
    }
    let tls = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(tls).https_only().enable_http1().build();
    let swap = Swap {
        placeholder: HeaderValue::from_static("Bearer PLACEHOLDER"),
        real: HeaderValue::from_str(&format!("Bearer {key}"))?,
    };
    Proxy::builder()
        .with_addr(listen.parse()?)
        .with_ca(RcgenAuthority::new(issuer, CERTIFICATES, default_provider()))
        .with_http_connector(connector)
        .with_http_handler(swap)
        .build()?
        .start()
        .await?;
    Ok(())
}
