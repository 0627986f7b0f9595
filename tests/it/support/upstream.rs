//! A real upstream: TLS under a root of its own, HTTP/1.1 and HTTP/2 by ALPN, or raw bytes.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::channel::Channel;
use http_body_util::{BodyExt as _, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// What the upstream received.
#[derive(Debug, Clone)]
pub struct Received {
    pub version: http::Version,
    pub method: String,
    pub path: String,
    pub authority: String,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: Option<HeaderMap>,
    /// The certificate that the client showed on its connection.
    pub certificate: Option<CertificateDer<'static>>,
}

impl Received {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().expect("text"))
    }
}

/// What the upstream answers.
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Body,
}

pub enum Body {
    /// These pieces, each a frame of its own, then these trailers.
    Pieces(Vec<Bytes>, Option<HeaderMap>),
    /// What the test sends, as it sends it.
    Live(mpsc::Receiver<Bytes>),
}

impl Reply {
    pub fn text(body: impl Into<Bytes>) -> Self {
        Self { status: StatusCode::OK, headers: HeaderMap::new(), body: Body::Pieces(vec![body.into()], None) }
    }

    pub fn pieces<B: Into<Bytes>>(pieces: impl IntoIterator<Item = B>) -> Self {
        let pieces = pieces.into_iter().map(Into::into).collect();
        Self { status: StatusCode::OK, headers: HeaderMap::new(), body: Body::Pieces(pieces, None) }
    }

    pub fn live() -> (mpsc::Sender<Bytes>, Self) {
        let (send, receive) = mpsc::channel(8);
        (send, Self { status: StatusCode::OK, headers: HeaderMap::new(), body: Body::Live(receive) })
    }

    pub fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.append(name, value.parse().expect("a header value"));
        self
    }

    pub fn status(mut self, status: u16) -> Self {
        self.status = StatusCode::from_u16(status).expect("a status");
        self
    }

    pub fn trailer(mut self, name: &'static str, value: &str) -> Self {
        if let Body::Pieces(_, trailers) = &mut self.body {
            trailers.get_or_insert_default().append(name, value.parse().expect("a header value"));
        }
        self
    }
}

pub type Answer = Arc<dyn Fn(&Received) -> Reply + Send + Sync>;
type Later<T> = Pin<Box<dyn Future<Output = T> + Send>>;
/// A body that the test makes itself.
pub type Streamed = UnsyncBoxBody<Bytes, std::io::Error>;
/// Answers requests while they still arrive.
pub type Streaming = Arc<dyn Fn(Request<Incoming>) -> Later<Response<Streamed>> + Send + Sync>;
/// A connection in the test's hands: TLS with HTTP/1.1, and which one it is, counted from 1.
pub type Script = Arc<dyn Fn(TlsStream<TcpStream>, usize) -> Later<()> + Send + Sync>;

/// How the upstream's certificate is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Certificate {
    #[default]
    Good,
    Expired,
    NotYetValid,
    OtherName,
    SelfSigned,
    UnknownAuthority,
}

/// Which clients the upstream takes.
#[derive(Clone, Default)]
pub enum Clients {
    #[default]
    All,
    /// It asks for certificates below this root, and takes clients without one.
    Known(CertificateDer<'static>),
    /// It takes nobody without one.
    Only(CertificateDer<'static>),
}

/// How the upstream is set up.
#[derive(Clone)]
pub struct Setup {
    /// Its name, or several with commas.
    pub host: String,
    pub alpn: Vec<&'static str>,
    pub certificate: Certificate,
    pub versions: Vec<&'static rustls::SupportedProtocolVersion>,
    pub clients: Clients,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            host: super::HOST.to_owned(),
            alpn: vec!["h2", "http/1.1"],
            certificate: Certificate::Good,
            versions: vec![&rustls::version::TLS13, &rustls::version::TLS12],
            clients: Clients::All,
        }
    }
}

/// A running upstream.
pub struct Upstream {
    pub addr: SocketAddr,
    pub ca_pem: String,
    received: Arc<Mutex<Vec<Received>>>,
    connections: Arc<Mutex<usize>>,
    open: Arc<AtomicUsize>,
}

impl Upstream {
    pub async fn start(setup: &Setup, answer: Answer) -> Self {
        let (config, ca_pem) = tls(setup);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        let received: Arc<Mutex<Vec<Received>>> = Arc::default();
        let connections = Arc::new(Mutex::new(0));
        let (seen, count) = (Arc::clone(&received), Arc::clone(&connections));
        let open: Arc<AtomicUsize> = Arc::default();
        let opened = Arc::clone(&open);
        tokio::spawn(async move {
            let acceptor = TlsAcceptor::from(config);
            while let Ok((stream, _)) = listener.accept().await {
                *count.lock().expect("not poisoned") += 1;
                stream.set_nodelay(true).expect("set");
                let (acceptor, seen, answer) = (acceptor.clone(), Arc::clone(&seen), Arc::clone(&answer));
                let open = Arc::clone(&opened);
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                    let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first().cloned());
                    let service = service_fn(move |request| {
                        serve(request, shown.clone(), Arc::clone(&seen), Arc::clone(&answer))
                    });
                    let io = TokioIo::new(stream);
                    open.fetch_add(1, Ordering::SeqCst);
                    if h2 {
                        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                        let _ = server.serve_connection(io, service).await;
                    } else {
                        let mut server = hyper::server::conn::http1::Builder::new();
                        let _ = server.half_close(true).serve_connection(io, service).await;
                    }
                    open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self { addr, ca_pem, received, connections, open }
    }

    /// An upstream that answers each request head with the same raw bytes, and closes if told so.
    pub async fn raw(answer: &'static [u8], close: bool) -> Self {
        let script = move |mut stream: TlsStream<TcpStream>| async move {
            let mut head = Vec::new();
            let mut piece = [0u8; 4096];
            while let Ok(n @ 1..) = stream.read(&mut piece).await {
                head.extend_from_slice(&piece[..n]);
                if head.windows(4).any(|w| w == b"\r\n\r\n") {
                    head.clear();
                    if stream.write_all(answer).await.is_err() || close {
                        break;
                    }
                }
            }
            let _ = stream.shutdown().await;
        };
        let setup = Setup { alpn: vec!["http/1.1"], ..Setup::default() };
        Self::script(&setup, Arc::new(move |stream, _| Box::pin(script(stream)))).await
    }

    /// An upstream whose connections are in the test's hands.
    pub async fn script(setup: &Setup, script: Script) -> Self {
        let (config, ca_pem) = tls(setup);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        let connections = Arc::new(Mutex::new(0));
        let count = Arc::clone(&connections);
        tokio::spawn(async move {
            let acceptor = TlsAcceptor::from(config);
            while let Ok((stream, _)) = listener.accept().await {
                let number = {
                    let mut count = count.lock().expect("not poisoned");
                    *count += 1;
                    *count
                };
                stream.set_nodelay(true).expect("set");
                let (acceptor, script) = (acceptor.clone(), Arc::clone(&script));
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    script(stream, number).await;
                });
            }
        });
        Self { addr, ca_pem, received: Arc::default(), connections, open: Arc::default() }
    }

    /// An upstream that answers requests while they still arrive. It keeps nothing of them.
    pub async fn streaming(setup: &Setup, answer: Streaming) -> Self {
        let serve = move |stream: TlsStream<TcpStream>, answer: Streaming| async move {
            let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            let service = service_fn(move |request| {
                let answer = answer(request);
                async move { Ok::<_, Infallible>(answer.await) }
            });
            let io = TokioIo::new(stream);
            if h2 {
                let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection(io, service).await;
            } else {
                let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
            }
        };
        Self::script(setup, Arc::new(move |stream, _| Box::pin(serve(stream, Arc::clone(&answer))))).await
    }

    /// One that runs elsewhere, so that nothing is known of what it receives.
    pub fn elsewhere(addr: SocketAddr, ca_pem: String) -> Self {
        Self { addr, ca_pem, received: Arc::default(), connections: Arc::default(), open: Arc::default() }
    }

    /// Everything received so far.
    pub fn received(&self) -> Vec<Received> {
        self.received.lock().expect("not poisoned").clone()
    }

    /// The one request that was received.
    pub fn only(&self) -> Received {
        let all = self.received();
        assert_eq!(all.len(), 1, "{all:#?}");
        all.into_iter().next().expect("one")
    }

    /// How many connections are open that came through their handshake.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    /// How many connections were accepted.
    pub fn connections(&self) -> usize {
        *self.connections.lock().expect("not poisoned")
    }
}

async fn serve(
    request: Request<Incoming>,
    certificate: Option<CertificateDer<'static>>,
    seen: Arc<Mutex<Vec<Received>>>,
    answer: Answer,
) -> Result<Response<Channel<Bytes, Infallible>>, hyper::Error> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await?;
    let trailers = body.trailers().cloned();
    let host = parts.headers.get("host").map_or("", |h| h.to_str().unwrap_or_default());
    let received = Received {
        version: parts.version,
        method: parts.method.to_string(),
        path: parts.uri.path_and_query().map_or("/", |p| p.as_str()).to_owned(),
        authority: parts.uri.authority().map_or_else(|| host.to_owned(), ToString::to_string),
        headers: parts.headers,
        body: body.to_bytes(),
        trailers,
        certificate,
    };
    seen.lock().expect("not poisoned").push(received.clone());
    let reply = answer(&received);
    let (mut send, body) = Channel::<Bytes, Infallible>::new(8);
    tokio::spawn(async move {
        match reply.body {
            Body::Pieces(pieces, trailers) => {
                for piece in pieces {
                    if send.send_data(piece).await.is_err() {
                        return;
                    }
                }
                if let Some(trailers) = trailers {
                    let _ = send.send_trailers(trailers).await;
                }
            }
            Body::Live(mut receive) => {
                while let Some(piece) = receive.recv().await {
                    if send.send_data(piece).await.is_err() {
                        return;
                    }
                }
            }
        }
    });
    let mut response = Response::new(body);
    *response.status_mut() = reply.status;
    *response.headers_mut() = reply.headers;
    Ok(response)
}

/// A server's configuration, and the root that it has to be trusted by.
pub fn tls(setup: &Setup) -> (Arc<ServerConfig>, String) {
    let (leaf, key, ca_pem) = certificate(setup);
    let chain = vec![CertificateDer::from(leaf.der().to_vec())];
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder_with_provider(sallyport::tls::provider())
        .with_protocol_versions(&setup.versions)
        .expect("versions");
    let verifier = |root: &CertificateDer<'static>| {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(root.clone()).expect("a root");
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), sallyport::tls::provider())
    };
    let config = match &setup.clients {
        Clients::All => config.with_no_client_auth(),
        Clients::Known(root) => {
            config.with_client_cert_verifier(verifier(root).allow_unauthenticated().build().expect("a verifier"))
        }
        Clients::Only(root) => config.with_client_cert_verifier(verifier(root).build().expect("a verifier")),
    };
    let mut config = config.with_single_cert(chain, key).expect("a certificate that fits its key");
    config.alpn_protocols = setup.alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
    (Arc::new(config), ca_pem)
}

/// A server's certificate, its key, and the root that it has to be trusted by.
pub fn certificate(setup: &Setup) -> (rcgen::Certificate, KeyPair, String) {
    let now = time::OffsetDateTime::now_utc();
    let day = time::Duration::days(1);
    let mut params = CertificateParams::new(vec![]).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.not_before = now - day * 400;
    params.not_after = now + day * 400;
    let authority = || CertifiedIssuer::self_signed(params.clone(), KeyPair::generate().expect("a key")).expect("a CA");
    let trusted = authority();
    let name = match setup.certificate {
        Certificate::OtherName => "other.upstream.test".to_owned(),
        _ => setup.host.clone(),
    };
    let names: Vec<String> = name.split(',').map(str::to_owned).collect();
    let mut leaf = CertificateParams::new(names).expect("parameters");
    (leaf.not_before, leaf.not_after) = match setup.certificate {
        Certificate::Expired => (now - day * 30, now - day),
        Certificate::NotYetValid => (now + day, now + day * 30),
        _ => (now - day, now + day * 30),
    };
    let key = KeyPair::generate().expect("a key");
    let signed = match setup.certificate {
        Certificate::SelfSigned => leaf.self_signed(&key),
        Certificate::UnknownAuthority => leaf.signed_by(&key, &authority()),
        _ => leaf.signed_by(&key, &trusted),
    };
    (signed.expect("a certificate"), key, trusted.pem())
}
