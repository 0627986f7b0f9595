//! A small HTTP/1.1 client over real sockets and verified TLS, through a proxy or a gateway.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Sends one request to `https://HOST/...` through a forward proxy.
///
/// # Errors
/// The proxy can't be reached or refuses CONNECT, TLS doesn't verify, or the reply can't be read.
pub async fn through_proxy(
    proxy: SocketAddr,
    credentials: Option<&str>,
    ca_pem: &str,
    host: &str,
    request: Request<Full<Bytes>>,
) -> anyhow::Result<Response<Bytes>> {
    let mut stream = TcpStream::connect(proxy).await.context("reaching the proxy")?;
    let authorization = credentials.map(|c| format!("Proxy-Authorization: {c}\r\n")).unwrap_or_default();
    stream
        .write_all(format!("CONNECT {host}:443 HTTP/1.1\r\nHost: {host}:443\r\n{authorization}\r\n").as_bytes())
        .await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0u8; 1];
        if stream.read(&mut byte).await? == 0 || head.len() > 16 * 1024 {
            bail!("the proxy closed the connection");
        }
        head.push(byte[0]);
    }
    if !head.starts_with(b"HTTP/1.1 200") {
        bail!("the proxy refused: {}", String::from_utf8_lossy(&head).lines().next().unwrap_or_default());
    }
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca_pem.as_bytes()).context("reading the CA")?)?;
    let config = crate::tls::trust::client_config(Arc::new(roots), &[b"http/1.1"])?;
    let name = ServerName::try_from(host.to_owned())?;
    let stream = TlsConnector::from(config).connect(name, stream).await.context("TLS with the proxy's leaf")?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let response = sender.send_request(request).await?;
    let (parts, body) = response.into_parts();
    Ok(Response::from_parts(parts, body.collect().await?.to_bytes()))
}
