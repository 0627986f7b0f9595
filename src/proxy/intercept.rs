//! Ends the agent's TLS with a leaf for the authority of its CONNECT, and serves HTTP inside.

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, server};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;

use super::Mode;
use super::core::Core;
use super::exchange;
use super::kept::KeptTimer;
use super::plain;
use super::reject::{Code, Rejection};
use super::relay::Reply;
use super::step::{Next, then};
use super::tunnel::Tunnel;
use super::unread::{Paced, Streams};
use super::upgrade::Became;
use super::wire::Prefixed;
use super::worded::Worded;
use crate::model::{Fingerprint, Host, Scheme};
use crate::upstream::{Fill, Gathered, Readable};

/// The first byte of a TLS record that carries a handshake (RFC 8446 section 5.1).
const HANDSHAKE: u8 = 0x16;

/// Serves what comes through a tunnel, by its first byte: TLS, which is ended here, or HTTP in clear,
/// which goes on in clear as an `http://` request does, but not to the port of `https://`. Whatever is
/// neither is closed: nothing is ever forwarded out of a tunnel unread.
pub async fn tunnelled<S>(core: Rc<Core>, mut stream: S, mut tunnel: Tunnel) -> Next
where
    S: AsyncRead + AsyncWrite + Fill + Unpin + 'static,
{
    let mut first = [0u8; 1];
    let read = timeout(core.shared.settings.deadlines.tls, stream.read_exact(&mut first));
    if !matches!(read.await, Ok(Ok(_))) {
        return None;
    }
    let stream = Prefixed::new(bytes::Bytes::copy_from_slice(&first), stream);
    match (first, &mut tunnel.target) {
        ([HANDSHAKE], _) => then(tls(core, stream, tunnel)),
        // The methods that there are begin so (RFC 9110 section 9.1).
        ([b'A'..=b'Z'], Some((scheme, authority))) if authority.port != Scheme::Https.default_port() => {
            *scheme = Scheme::Http;
            then(plain::serve(core, stream, Rc::new(tunnel)))
        }
        _ => {
            let rejection = Rejection::new(
                Code::BadRequest,
                "what came through the tunnel is no TLS, and no HTTP in clear for another port than 443",
            );
            core.note_refused(core.exchange_id(), tunnel.mode, &rejection);
            None
        }
    }
}

/// Ends TLS inside a tunnel, or on the gateway's TLS listener, and serves what is in it.
pub async fn tls<S>(core: Rc<Core>, stream: S, mut tunnel: Tunnel) -> Next
where
    S: AsyncRead + AsyncWrite + Readable + Unpin + 'static,
{
    let deadline = core.shared.settings.deadlines.tls;
    let handshake = Box::pin(async {
        let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await.ok()?;
        let named = start.client_hello().server_name().map(Host::parse);
        let (_, authority) = tunnel.target.as_ref()?;
        let host = match (tunnel.mode, &named) {
            // The gateway answers under whatever name the agent knows it by.
            (Mode::Gateway, Some(Ok(named))) => named.clone(),
            _ => authority.host.clone(),
        };
        tunnel.wrong_name = named.is_some_and(|named| named.as_ref() != Ok(&host));
        let config = match tunnel.mode {
            Mode::Gateway => core.shared.leaves.asking(&host, &[b"h2", b"http/1.1"]),
            Mode::Forward => core.shared.leaves.get(&host),
        };
        start.into_stream(config.ok()?).await.ok()
    });
    let Ok(Some(stream)) = timeout(deadline, handshake).await else { return None };
    if tunnel.mode == Mode::Gateway {
        tunnel.target = None;
        tunnel.from.certificate = shown(&stream);
    }
    let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let tunnel = Rc::new(tunnel);
    if h2 { then(serve_http2(core, stream, tunnel)) } else { then(plain::serve(core, stream, tunnel)) }
}

/// Ends TLS on a listener of our own that speaks a protocol of its own inside, under whatever name
/// the agent knows it by.
pub async fn own_tls<S>(core: &Core, stream: S, local: std::net::IpAddr) -> Option<tokio_rustls::server::TlsStream<S>>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await.ok()?;
    let named = start.client_hello().server_name().map(Host::parse);
    let host = named.and_then(Result::ok).unwrap_or(Host::Ip(local));
    start.into_stream(core.shared.leaves.asking(&host, &[b"http/1.1"]).ok()?).await.ok()
}

/// The certificate that the agent showed, if it did.
pub fn shown<S>(stream: &tokio_rustls::server::TlsStream<S>) -> Option<Fingerprint> {
    stream.get_ref().1.peer_certificates()?.first().map(|certificate| Fingerprint::of(certificate))
}

/// Serves HTTP/1.1 on the stream until either side is done.
pub async fn serve_http1<S>(core: Rc<Core>, stream: S, tunnel: Rc<Tunnel>) -> Next
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let settings = &core.shared.settings;
    let mut builder = server::conn::http1::Builder::new();
    builder
        .timer(KeptTimer::default())
        .header_read_timeout(settings.deadlines.head)
        .max_buf_size(settings.limits.head_bytes.max(8192))
        .max_headers(settings.limits.headers)
        .half_close(false)
        .preserve_header_case(false);
    let mode = tunnel.mode;
    let stream = Paced::new(stream, &settings.deadlines);
    let replies = stream.replies();
    let of_stream = Rc::clone(&core);
    let stream = Worded::new(stream, move |status| unreadable(&of_stream, mode, status));
    let exchanges = stream.exchanges();
    let opened = exchanges.clone();
    let switched: Rc<RefCell<Option<Became>>> = Rc::default();
    let switching = Rc::clone(&switched);
    let service = service(&core, tunnel, move || {
        let (paced, worded, switching) = (replies.clone(), opened.open(), Rc::clone(&switching));
        move |mut reply: Reply| {
            if let Some(socket) = reply.switched() {
                switching.replace(Some(socket));
            }
            worded(paced(reply))
        }
    });
    let mut connection = builder.serve_connection(TokioIo::new(stream), service);
    let ended = tokio::select! {
        biased;
        ended = &mut connection => ended,
        () = core.draining.wait() => {
            std::pin::Pin::new(&mut connection).graceful_shutdown();
            (&mut connection).await
        }
    };
    let socket = switched.take();
    if let (Some(socket), Ok(())) = (socket, &ended) {
        let parts = connection.into_parts();
        Box::pin(socket.relay(parts.io.into_inner().into_inner(), parts.read_buf)).await;
        return None;
    }
    // Nothing was answered, so nobody else counts it.
    if let Err(why) = ended
        && why.is_parse()
        && !exchanges.refused()
    {
        let code = if why.is_parse_too_large() { Code::TooLarge } else { Code::BadRequest };
        core.note_refused(core.exchange_id(), mode, &Rejection::new(code, UNREADABLE));
    }
    None
}

const UNREADABLE: &str = "the request can't be parsed";

/// Our words for what hyper refuses with this status: counted, recorded, and as they are sent.
fn unreadable(core: &Core, mode: Mode, status: u16) -> Vec<u8> {
    let too_large = matches!(status, 413 | 414 | 431);
    let rejection = Rejection::new(if too_large { Code::TooLarge } else { Code::BadRequest }, UNREADABLE);
    let exchange = core.exchange_id();
    core.note_refused(exchange, mode, &rejection);
    rejection.in_http1(exchange, "close")
}

/// Serves HTTP/2 on the stream until either side is done.
async fn serve_http2<S>(core: Rc<Core>, stream: S, tunnel: Rc<Tunnel>) -> Next
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let settings = &core.shared.settings;
    let streams = Streams::new(settings.deadlines.unread);
    let mut builder = server::conn::http2::Builder::new(streams.clone());
    builder
        .timer(TokioTimer::new())
        .enable_connect_protocol()
        .max_concurrent_streams(settings.limits.streams)
        // Up to here a head that is too large is refused by us and in our words, beyond it by a bare 431.
        .max_header_list_size(u32::try_from(settings.limits.head_bytes.saturating_mul(2)).unwrap_or(u32::MAX))
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .keep_alive_interval(settings.deadlines.head)
        .keep_alive_timeout(settings.deadlines.tls);
    let probe = Rc::clone(&tunnel);
    let stream = TokioIo::new(Gathered::new(Paced::new(stream, &settings.deadlines)));
    let service = service(&core, tunnel, move || streams.begin());
    let mut connection = std::pin::pin!(builder.serve_connection(stream, service));
    tokio::select! {
        biased;
        _ = connection.as_mut() => {}
        () = core.draining.wait() => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
        () = idle(&probe, settings.deadlines.head) => {
            connection.as_mut().graceful_shutdown();
            let _ = timeout(settings.deadlines.tls, connection).await;
        }
    }
    None
}

/// Ends when no exchange began or ran for a whole `limit`. A peer that answers every PING would hold
/// its connection for ever else, and one that never sends the preface isn't even asked.
async fn idle(tunnel: &Rc<Tunnel>, limit: Duration) {
    // Every running exchange holds the tunnel; what holds it without one is held already.
    let none = Rc::strong_count(tunnel);
    let mut before = (0, none);
    loop {
        tokio::time::sleep(limit).await;
        let seen = (tunnel.begun.get(), Rc::strong_count(tunnel));
        if seen == before && seen.1 <= none {
            return;
        }
        before = seen;
    }
}

/// Serves each request; `begin` is told of it and says what its reply is wrapped in.
fn service<G, W, B>(
    core: &Rc<Core>,
    tunnel: Rc<Tunnel>,
    begin: G,
) -> impl hyper::service::Service<
    Request<Incoming>,
    Response = Response<B>,
    Error = Infallible,
    Future = impl Future<Output = Result<Response<B>, Infallible>> + use<G, W, B>,
> + use<G, W, B>
where
    G: Fn() -> W,
    W: FnOnce(Reply) -> B,
    B: http_body::Body,
{
    let core = Rc::clone(core);
    service_fn(move |request| {
        tunnel.begun.set(tunnel.begun.get() + 1);
        let (core, tunnel, wrap) = (Rc::clone(&core), Rc::clone(&tunnel), begin());
        async move { Ok(Box::pin(exchange::serve(core, tunnel, request)).await.map(wrap)) }
    })
}
