//! Agents: hyper over CONNECT or a gateway, and raw bytes where hyper would be too polite.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// What an agent got back.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: Option<HeaderMap>,
    /// Whether the body came to its end.
    pub whole: bool,
}

impl Answer {
    /// The code of a refusal; empty for what the upstream answered.
    pub fn code(&self) -> &str {
        self.header("sallyport-error")
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().expect("text"))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// How an agent speaks.
#[derive(Clone)]
pub struct Agent {
    pub proxy: SocketAddr,
    pub credentials: Option<String>,
    pub ca_pem: String,
}

pub type Body = Full<Bytes>;

/// A connection on which requests can be sent one after the other.
pub enum Sender<B> {
    Http1(hyper::client::conn::http1::SendRequest<B>),
    Http2(hyper::client::conn::http2::SendRequest<B>),
}

impl<B: http_body::Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + Unpin + 'static>
    Sender<B>
{
    pub async fn send(&mut self, request: Request<B>) -> hyper::Result<http::Response<Incoming>> {
        match self {
            Self::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
            Self::Http2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
        }
    }

    pub async fn ask(&mut self, request: Request<B>) -> Answer {
        whole(self.send(request).await.expect("an answer")).await
    }
}

/// Reads an answer to its end.
pub async fn whole(response: http::Response<Incoming>) -> Answer {
    let (parts, mut body) = response.into_parts();
    let mut answer =
        Answer { status: parts.status, headers: parts.headers, body: Bytes::new(), trailers: None, whole: true };
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => match frame.into_data() {
                Ok(data) => bytes.extend_from_slice(&data),
                Err(frame) => answer.trailers = frame.into_trailers().ok(),
            },
            Err(_) => {
                answer.whole = false;
                break;
            }
        }
    }
    answer.body = bytes.into();
    answer
}

pub fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}")))
}

impl Agent {
    /// A tunnel's bare TCP stream, after a CONNECT that was accepted.
    pub async fn connect(&self, authority: &str) -> Result<TcpStream, String> {
        let mut stream = TcpStream::connect(self.proxy).await.expect("the proxy listens");
        stream.set_nodelay(true).expect("set");
        let credentials =
            self.credentials.as_ref().map(|c| format!("Proxy-Authorization: {c}\r\n")).unwrap_or_default();
        let head = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n{credentials}\r\n");
        stream.write_all(head.as_bytes()).await.expect("written");
        let answer = head_of(&mut stream).await;
        if answer.starts_with("HTTP/1.1 200") { Ok(stream) } else { Err(answer) }
    }

    /// TLS inside a tunnel, under `name` and with these protocols.
    pub async fn tls(&self, authority: &str, name: &str, alpn: &[&[u8]]) -> TlsStream<TcpStream> {
        let stream = self.connect(authority).await.expect("a tunnel");
        self.tls_on(stream, name, alpn).await.expect("TLS with the proxy's leaf")
    }

    pub async fn tls_on<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        name: &str,
        alpn: &[&[u8]],
    ) -> std::io::Result<TlsStream<S>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.ca_pem.as_bytes()).expect("PEM")).expect("a root");
        let config = sallyport::tls::trust::client_config(Arc::new(roots), alpn).expect("a configuration");
        TlsConnector::from(config)
            .connect(ServerName::try_from(name.to_owned()).unwrap_or_else(|_| panic!("{name} is no name")), stream)
            .await
    }

    /// HTTP/1.1 in a tunnel.
    pub async fn http1<B>(&self, host: &str) -> Sender<B>
    where
        B: http_body::Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
    {
        http1_on(self.tls(&format!("{host}:443"), host, &[b"http/1.1"]).await).await
    }

    /// HTTP/2 in a tunnel.
    pub async fn http2<B>(&self, host: &str) -> Sender<B>
    where
        B: http_body::Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>
            + Send
            + Unpin
            + 'static,
    {
        let stream = self.tls(&format!("{host}:443"), host, &[b"h2"]).await;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .expect("a handshake");
        tokio::spawn(connection);
        Sender::Http2(sender)
    }

    /// One request over HTTP/1.1 in a tunnel of its own.
    pub async fn ask(&self, host: &str, request: Request<Body>) -> Answer {
        self.http1(host).await.ask(request).await
    }

    /// The same, where the exchange may be cut: `None` if it was, before there was an answer.
    pub async fn try_ask(&self, host: &str, request: Request<Body>) -> Option<Answer> {
        let response = self.http1(host).await.send(request).await.ok()?;
        Some(whole(response).await)
    }

    /// A tunnel with TLS in it, to say anything.
    pub async fn inside(&self, host: &str, alpn: &[u8]) -> super::Raw {
        super::Raw::new(self.tls(&format!("{host}:443"), host, &[alpn]).await)
    }

    /// The proxy's port in clear, to say anything.
    pub async fn bare(&self) -> super::Raw {
        super::Raw::new(TcpStream::connect(self.proxy).await.expect("the proxy listens"))
    }

    /// Raw bytes over TLS in a tunnel; what comes back until the connection ends or falls silent.
    pub async fn raw(&self, host: &str, bytes: &[u8]) -> String {
        let mut stream = self.tls(&format!("{host}:443"), host, &[b"http/1.1"]).await;
        let _ = stream.write_all(bytes).await;
        let _ = stream.flush().await;
        drain(&mut stream).await
    }
}

pub async fn http1_on<S, B>(stream: S) -> Sender<B>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    B: http_body::Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
{
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("a handshake");
    tokio::spawn(connection);
    Sender::Http1(sender)
}

/// The head of what comes next on a connection.
pub async fn head_of<S: AsyncRead + Unpin>(stream: &mut S) -> String {
    let mut head = Vec::new();
    let mut byte = [0u8; 1];
    while !head.ends_with(b"\r\n\r\n") {
        match tokio::time::timeout(Duration::from_secs(20), stream.read(&mut byte)).await {
            Ok(Ok(1)) => head.push(byte[0]),
            _ => break,
        }
    }
    String::from_utf8_lossy(&head).into_owned()
}

/// Everything until the other side closes, or falls silent.
pub async fn drain<S: AsyncRead + Unpin>(stream: &mut S) -> String {
    let mut all = Vec::new();
    let mut piece = [0u8; 16 * 1024];
    while let Ok(Ok(n @ 1..)) = tokio::time::timeout(Duration::from_millis(400), stream.read(&mut piece)).await {
        all.extend_from_slice(&piece[..n]);
    }
    String::from_utf8_lossy(&all).into_owned()
}
