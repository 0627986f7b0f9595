//! A stand-in API with a TLS root of its own, which keeps what it received.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::model::{Clock, Host};
use crate::tls::ca::{Ca, LeafCache};

/// What the API received.
#[derive(Debug, Clone)]
pub struct Received {
    /// The method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// A running stand-in.
pub struct StandIn {
    /// Where it listens.
    pub addr: SocketAddr,
    /// Its own root, in PEM.
    pub ca_pem: String,
    received: Arc<Mutex<Vec<Received>>>,
}

impl StandIn {
    /// Starts an API for `host` on a free loopback port. It echoes what it was sent, key included:
    /// the worst that an upstream can do.
    ///
    /// # Errors
    /// It can't listen or mint its certificate.
    pub async fn start(host: &str, clock: Arc<dyn Clock>) -> anyhow::Result<Self> {
        let ca = Ca::create(&*clock)?.ca;
        let ca_pem = ca.pem().to_owned();
        let config = LeafCache::new(ca, clock, 1)?.get(&Host::parse(host)?)?;
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let addr = listener.local_addr()?;
        let received: Arc<Mutex<Vec<Received>>> = Arc::default();
        let seen = Arc::clone(&received);
        tokio::spawn(async move {
            let acceptor = TlsAcceptor::from(config);
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                let (acceptor, seen) = (acceptor.clone(), Arc::clone(&seen));
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                    let service = service_fn(move |request| answer(request, Arc::clone(&seen)));
                    if h2 {
                        let executor = hyper_util::rt::TokioExecutor::new();
                        let _ = hyper::server::conn::http2::Builder::new(executor)
                            .serve_connection(TokioIo::new(stream), service)
                            .await;
                    } else {
                        let _ = hyper::server::conn::http1::Builder::new()
                            .serve_connection(TokioIo::new(stream), service)
                            .await;
                    }
                });
            }
        });
        Ok(Self { addr, ca_pem, received })
    }

    /// Everything received so far.
    #[must_use]
    pub fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn answer(
    request: Request<Incoming>,
    seen: Arc<Mutex<Vec<Received>>>,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let path = parts.uri.path_and_query().map_or("/", |p| p.as_str()).to_owned();
    let received = Received { method: parts.method.to_string(), path, headers: parts.headers, body };
    let credential = ["authorization", "x-api-key"].into_iter().find_map(|name| received.headers.get(name));
    let credential = credential.and_then(|v| v.to_str().ok()).unwrap_or("none").to_owned();
    let reply = serde_json::json!({
        "message": "hello from the stand-in API",
        "path": received.path,
        "you_sent": credential,
        "bytes": received.body.len(),
    });
    seen.lock().unwrap_or_else(PoisonError::into_inner).push(received);
    let mut response = Response::new(Full::new(Bytes::from(reply.to_string())));
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
    if let Ok(echo) = credential.parse() {
        response.headers_mut().insert("x-echo", echo);
    }
    Ok(response)
}
