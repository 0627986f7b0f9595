//! The first bytes of an agent's connection: CONNECT, SOCKS, or a request in absolute form.
//!
//! CONNECT is read here by hand, so that a tunnel costs one read and one write, and so that a 407
//! keeps the connection open for the retry (reactive clients such as Maven and git need it). Every
//! other refused CONNECT closes the connection: an optimistic client may have sent its TLS hello
//! already, and those bytes must never be read as a request.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

use super::core::Core;
use super::identify::strip_scheme;
use super::reject::{Code, Rejection};
use super::step::{Next, then};
use super::unread::Paced;
use super::wire::{Bare, Prefixed};
use super::{Mode, blind, bounds, exchange, intercept, socks};
use crate::model::{Authority, Origin, Scheme, SessionId};
use crate::session::live::LiveSession;
use crate::upstream::Fill;

/// What is known of an agent's connection before a request is read.
pub struct Tunnel {
    /// How the agent reached us.
    pub mode: Mode,
    /// Where requests go, if the connection fixes it: the authority of CONNECT.
    pub target: Option<(Scheme, Authority)>,
    /// Whose proxy credentials came with CONNECT.
    pub session: Option<Arc<LiveSession>>,
    /// Where the agent is.
    pub from: Origin,
    /// Its address and port, as records and log lines have it.
    pub client: Option<Box<str>>,
    /// Whether what the agent sends can be read on its way: neither TLS nor one machine.
    pub in_clear: bool,
    /// The name in the TLS hello disagreed with CONNECT: every request is refused.
    pub wrong_name: bool,
    /// Whether proxy credentials are required.
    pub required: bool,
    /// How many requests have come on the connection.
    pub begun: Cell<u64>,
}

impl Tunnel {
    /// A connection of which nothing is known yet.
    pub fn new(mode: Mode, from: Origin, required: bool) -> Self {
        Self {
            mode,
            target: None,
            session: None,
            from,
            client: Some(from.address.to_string().into()),
            in_clear: false,
            wrong_name: false,
            required,
            begun: Cell::new(0),
        }
    }
}

/// Whether an agent has to show a session's proxy credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Credentials {
    /// As `proxy.require_auth` says.
    AsSet,
    /// Never: the listener is this machine's, for clients that can't send any. A token is needed for
    /// a key all the same.
    NotAsked,
    /// Always: the listener may be reached from other machines.
    Required,
}

/// Serves a connection on a forward listener.
pub async fn serve<S>(core: Rc<Core>, mut stream: S, from: Origin, credentials: Credentials, in_clear: bool) -> Next
where
    S: AsyncRead + AsyncWrite + Bare + Fill + Unpin + 'static,
{
    let required = match credentials {
        Credentials::Required => true,
        Credentials::AsSet => core.shared.settings.require_auth,
        Credentials::NotAsked => false,
    };
    let limits = core.shared.settings.limits.clone();
    let mut buffer = BytesMut::with_capacity(1024);
    for _ in 0..limits.auth_tries.max(1) {
        let deadline = Instant::now() + core.shared.settings.deadlines.head;
        let head = match timeout_at(deadline, read_head(&mut stream, &mut buffer, limits.head_bytes)).await {
            Ok(Ok(head)) => head,
            Ok(Err(HeadError::Closed)) | Err(_) => return None,
            Ok(Err(HeadError::Bad(detail))) => {
                let rejection = Rejection::new(Code::BadRequest, detail);
                refuse(&core, &mut stream, &rejection, Then::Close).await;
                return None;
            }
            Ok(Err(HeadError::TooLarge)) => {
                let rejection = Rejection::new(Code::TooLarge, "the request's head is longer than allowed");
                refuse(&core, &mut stream, &rejection, Then::Close).await;
                return None;
            }
        };
        let tunnel = Tunnel { in_clear, ..Tunnel::new(Mode::Forward, from, required) };
        let connect = match head {
            Head::Connect(connect) => connect,
            Head::Socks => return then(socks::serve(core, stream, buffer, tunnel, deadline)),
            Head::Other => {
                let stream = Prefixed::new(buffer.freeze(), stream);
                return then(intercept::serve_http1(core, stream, Rc::new(tunnel)));
            }
        };
        let rest = Bytes::copy_from_slice(buffer.get(connect.len..).unwrap_or_default());
        match open(&core, &connect, &tunnel) {
            Ok((authority, session)) => {
                let tunnel = Tunnel { session, ..tunnel };
                drop(buffer);
                return then(onward(core, stream, rest, tunnel, authority, Tongue::Connect));
            }
            Err(rejection) => {
                let retry = rejection.code == Code::ProxyAuthRequired && rest.is_empty();
                refuse(&core, &mut stream, &rejection, if retry { Then::Wait } else { Then::Close }).await;
                if !retry {
                    return None;
                }
                buffer.clear();
            }
        }
    }
    None
}

/// In what an agent asked for its tunnel, and is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tongue {
    /// HTTP's CONNECT (RFC 9110 section 9.3.6).
    Connect,
    /// SOCKS version 5.
    Socks,
}

impl Tongue {
    /// What a tunnel that is granted gets.
    const fn established(self) -> &'static [u8] {
        match self {
            Self::Connect => b"HTTP/1.1 200 Connection established\r\n\r\n",
            Self::Socks => socks::ESTABLISHED,
        }
    }
}

/// Grants the tunnel to `authority`, and serves what comes through it: unread where hosts without keys
/// are tunnelled and this is one, else as TLS or HTTP. `rest` came behind the request for it.
pub async fn onward<S>(
    core: Rc<Core>,
    mut stream: S,
    rest: Bytes,
    mut tunnel: Tunnel,
    authority: Authority,
    tongue: Tongue,
) -> Next
where
    S: AsyncRead + AsyncWrite + Bare + Fill + Unpin + 'static,
{
    if blind::applies(&core, &authority) {
        match Box::pin(core.upstream.bare(&authority)).await {
            Ok(upstream) => {
                if stream.write_all(tongue.established()).await.is_ok() {
                    Box::pin(blind::serve(&core, stream, rest, upstream, &authority, &tunnel)).await;
                }
            }
            Err(why) => match tongue {
                Tongue::Connect => refuse(&core, &mut stream, &exchange::failed(why), Then::Close).await,
                Tongue::Socks => socks::unreachable(&core, &mut stream, why).await,
            },
        }
        return None;
    }
    stream.write_all(tongue.established()).await.ok()?;
    tunnel.target = Some((Scheme::Https, authority));
    then(intercept::tunnelled(core, Prefixed::new(rest, stream), tunnel))
}

/// A CONNECT request's parts, and how many bytes its head took.
struct Connect {
    authority: String,
    credentials: Option<Bytes>,
    hosts: Vec<Bytes>,
    len: usize,
}

enum HeadError {
    Closed,
    Bad(&'static str),
    TooLarge,
}

/// How a connection begins.
enum Head {
    Connect(Connect),
    /// With the version of SOCKS; all of it stays in the buffer.
    Socks,
    /// With anything else; it stays in the buffer.
    Other,
}

/// Reads up to the end of the first head.
async fn read_head<S: AsyncRead + Unpin>(stream: &mut S, buffer: &mut BytesMut, max: usize) -> Result<Head, HeadError> {
    loop {
        if let Some(first) = buffer.first() {
            if *first == socks::VERSION {
                return Ok(Head::Socks);
            }
            if !b"CONNECT ".starts_with(&buffer[..buffer.len().min(8)]) {
                return Ok(Head::Other);
            }
            if let Some(connect) = parse_connect(buffer)? {
                return Ok(Head::Connect(connect));
            }
        }
        if buffer.len() >= max {
            return Err(HeadError::TooLarge);
        }
        match stream.read_buf(buffer).await {
            Ok(0) | Err(_) => return Err(HeadError::Closed),
            Ok(_) => {}
        }
    }
}

fn parse_connect(buffer: &[u8]) -> Result<Option<Connect>, HeadError> {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut fields);
    let len = match request.parse(buffer) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(HeadError::TooLarge),
        Err(_) => return Err(HeadError::Bad("the CONNECT request can't be parsed")),
    };
    let field = |name: &str| {
        request
            .headers
            .iter()
            .filter(|f| f.name.eq_ignore_ascii_case(name))
            .map(|f| Bytes::copy_from_slice(f.value))
            .collect::<Vec<_>>()
    };
    if !field("transfer-encoding").is_empty() || field("content-length").iter().any(|v| &v[..] != b"0") {
        return Err(HeadError::Bad("CONNECT can't have a body"));
    }
    let authority = request.path.unwrap_or_default().to_owned();
    let credentials = field("proxy-authorization");
    if credentials.len() > 1 {
        return Err(HeadError::Bad("more than one Proxy-Authorization header"));
    }
    Ok(Some(Connect { authority, credentials: credentials.into_iter().next(), hosts: field("host"), len }))
}

/// Who asks, and for which authority.
fn open(core: &Core, connect: &Connect, tunnel: &Tunnel) -> Result<(Authority, Option<Arc<LiveSession>>), Rejection> {
    let authority = Authority::parse(&connect.authority, 0)
        .map_err(|why| Rejection::new(Code::BadRequest, format!("CONNECT needs HOST:PORT: {why}")))?;
    if authority.port == 0 {
        return Err(Rejection::new(Code::BadRequest, "CONNECT needs HOST:PORT: no port is given"));
    }
    for host in &connect.hosts {
        let named = std::str::from_utf8(host).ok().and_then(|h| Authority::parse(h, authority.port).ok());
        if named.is_none_or(|named| named.host != authority.host) {
            return Err(Rejection::new(Code::AuthorityMismatch, "CONNECT and its Host header name different hosts"));
        }
    }
    let session = authenticate(core, connect.credentials.as_deref(), tunnel)?;
    Ok((authority, session))
}

/// Checks proxy credentials (RFC 7617): the user is the session's id, the password its secret.
///
/// # Errors
/// They are missing where they are required, or wrong, or the session is over or bound elsewhere.
pub fn authenticate(
    core: &Core,
    credentials: Option<&[u8]>,
    tunnel: &Tunnel,
) -> Result<Option<Arc<LiveSession>>, Rejection> {
    let Some(credentials) = credentials else {
        return match tunnel.required {
            true => Err(Rejection::new(Code::ProxyAuthRequired, "the request has no proxy credentials")),
            false => Ok(None),
        };
    };
    let wrong = || Rejection::new(Code::ProxyAuthRequired, "the proxy credentials are wrong");
    let pair = strip_scheme(credentials, b"basic ").ok_or_else(wrong)?;
    let pair = BASE64.decode(pair.trim_ascii()).map_err(|_| wrong())?;
    let colon = memchr::memchr(b':', &pair).ok_or_else(wrong)?;
    session_of(core, &pair[..colon], &pair[colon + 1..], &tunnel.from).map(Some)
}

/// The session with this identifier, if this is its secret.
///
/// # Errors
/// There is none, it is over, or it may not be used from there.
pub fn session_of(core: &Core, id: &[u8], secret: &[u8], from: &Origin) -> Result<Arc<LiveSession>, Rejection> {
    let wrong = || Rejection::new(Code::ProxyAuthRequired, "the proxy credentials are wrong");
    let id: SessionId = std::str::from_utf8(id).ok().and_then(|t| t.parse().ok()).ok_or_else(wrong)?;
    let session = core.shared.registry.session(id).ok_or_else(wrong)?;
    if !session.secret_matches(secret) {
        return Err(wrong());
    }
    bounds::check(core, &session, from)?;
    match session.ended(core.shared.clock.now()) {
        Some(ended) => Err(ended.into()),
        None => Ok(session),
    }
}

#[derive(PartialEq, Eq)]
enum Then {
    Wait,
    Close,
}

/// Answers on the bare connection, before HTTP is served on it.
async fn refuse<S: AsyncRead + AsyncWrite + Unpin>(core: &Core, stream: &mut S, rejection: &Rejection, then: Then) {
    let exchange = core.exchange_id();
    core.note_refused(exchange, Mode::Forward, rejection);
    let connection = if then == Then::Close { "close" } else { "keep-alive" };
    let _ = stream.write_all(&rejection.in_http1(exchange, connection)).await;
    if then == Then::Close {
        let mut stream = Paced::new(stream, &core.shared.settings.deadlines);
        let _ = stream.shutdown().await;
    }
}
