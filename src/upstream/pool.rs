//! Pools of one core: HTTP/1.1 connections last in, first out; HTTP/2 connections shared.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::pin::{Pin, pin};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Instant;

use foldhash::quality::RandomState;
use http::header::{CONTENT_LENGTH, COOKIE, HOST, PROXY_AUTHORIZATION, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;

use super::RequestBody;
use super::alarm::Alarm;
use super::connect::{self, Purpose, Tls, Word};
use super::continued;
use super::egress::{Credentials, Proxy, Speaks};
use super::interim::{Interim, Watched};
use super::lenient::Lenient;
use super::reply::{Back, End, ReplyBody};
use super::shared::{Http2, Shared};
use super::shown::Heard;
use super::stream::Stream;
use super::upgrade::{Alone, Io};
use super::{Error, Protocol, Refusal, Settings, Shown, Stage, Whose, through};
use crate::model::{Authority, OrgId, Scheme};

/// The upstream side of one core.
pub struct Upstream(Rc<Inner>);

pub(super) struct Inner {
    settings: Settings,
    tls: Tls,
    pools: RefCell<HashMap<Place, Pool, RandomState>>,
    open: Rc<Cell<usize>>,
    /// How many interim replies came.
    interim: Rc<Cell<u64>>,
    /// The time as of the core's last tick: near enough for how long a connection is idle.
    ticked: Cell<Instant>,
}

/// What connections may be shared by: nothing else may differ between two requests on one.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Place {
    org: OrgId,
    scheme: Scheme,
    authority: Authority,
    /// By whose word its address is dialled: without it nobody gets the connection either.
    by: Word,
    /// The client certificate that its connections showed: what is asked on them is asked by its key.
    shows: Option<Whose>,
}

impl Place {
    /// An authority whose address has to pass the check.
    #[must_use]
    pub fn of(org: OrgId, scheme: Scheme, authority: &Authority) -> Self {
        Self { org, scheme, authority: authority.clone(), by: Word::Check, shows: None }
    }

    /// The same, by this word.
    #[must_use]
    pub fn by(self, by: Word) -> Self {
        Self { by, ..self }
    }

    fn showing(self, whose: Whose) -> Self {
        Self { shows: Some(whose), ..self }
    }
}

#[derive(Default)]
struct Pool {
    idle: Vec<Idle>,
    shared: Vec<Shared>,
    only_h2: bool,
}

/// A connection that waits for its next request.
struct Idle {
    sender: Http1,
    born: Instant,
    since: Instant,
    alarm: Alarm,
}

/// An HTTP/1.1 connection.
pub(super) struct Http1 {
    sender: http1::SendRequest<RequestBody>,
    interim: Rc<Interim>,
}

enum Sender {
    Http1(Http1),
    Http2(Http2),
    /// HTTP/1.1, for a request that asks to switch protocols.
    Alone(Alone),
}

/// A connection that is this request's alone, or its share of one.
pub struct Connection {
    sender: Sender,
    place: Place,
    born: Instant,
    home: Weak<Inner>,
    alarm: Alarm,
    /// Of one that shows a certificate and is fresh.
    refusal: Option<Refusal>,
}

/// How a connection is come by.
pub enum Checkout<'a> {
    /// From the pool, at once.
    Pooled(Connection),
    /// By dialling.
    New(Pin<Box<dyn Future<Output = Result<Connection, Error>> + 'a>>),
}

impl Upstream {
    /// An empty pool with these settings.
    #[must_use]
    pub fn new(settings: Settings, tls: Tls) -> Self {
        Self(Rc::new(Inner {
            settings,
            tls,
            pools: RefCell::default(),
            open: Rc::default(),
            interim: Rc::default(),
            ticked: Cell::new(Instant::now()),
        }))
    }

    /// What was set.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.0.settings
    }

    /// A bare connection to the authority, whose address passed the check; it is never pooled.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn bare(&self, authority: &Authority) -> Result<Stream, Error> {
        connect::reach(&self.0.settings, &self.0.tls, authority, Word::Check, Purpose::Stream).await
    }

    /// A pooled connection to the place; else what makes a new one.
    pub fn checkout(&self, place: Place, want: Protocol, now: Instant) -> Checkout<'_> {
        match self.0.pooled(place, want, now) {
            Ok(connection) => Checkout::Pooled(connection),
            // Boxed, since dialling is rare and its state is large: it would be part of every exchange.
            Err(place) => Checkout::New(Box::pin(self.dial(place, want, None))),
        }
    }

    /// What makes a connection for one request that asks to switch protocols: it is never pooled.
    pub fn alone(&self, place: Place) -> Checkout<'_> {
        Checkout::New(Box::pin(self.dial_alone(place, None)))
    }

    /// A pooled connection that showed this certificate.
    pub fn shown(&self, place: Place, whose: Whose, want: Protocol, now: Instant) -> Option<Connection> {
        self.0.pooled(place.showing(whose), want, now).ok()
    }

    /// What makes a connection that shows a certificate: one that is pooled among those of the same key and
    /// version, or, if no protocol is wanted, one for a request that asks to switch it.
    pub fn showing(&self, place: Place, (whose, shown): (Whose, Arc<Shown>), want: Option<Protocol>) -> Checkout<'_> {
        let place = place.showing(whose);
        match want {
            Some(want) => Checkout::New(Box::pin(self.dial(place, want, Some(shown)))),
            None => Checkout::New(Box::pin(self.dial_alone(place, Some(shown)))),
        }
    }

    /// Closes the idle connections that showed a certificate of a key or version that isn't in force.
    pub fn close_shown(&self, in_force: impl Fn(Whose) -> bool) {
        self.0.pools.borrow_mut().retain(|place, _| place.shows.is_none_or(&in_force));
    }

    async fn dial_alone(&self, place: Place, shown: Option<Arc<Shown>>) -> Result<Connection, Error> {
        let inner = &self.0;
        let (settings, born) = (&inner.settings, Instant::now());
        let stream = connect::reach(settings, &inner.tls, &place.authority, place.by, Purpose::Stream).await?;
        let mut refusal = None;
        let stream: Pin<Box<dyn Io>> = match place.scheme {
            Scheme::Http => Box::pin(Lenient::new(stream)),
            Scheme::Https => {
                let (authority, shown) = (&place.authority, shown.as_ref());
                let stream = connect::tls(settings, &inner.tls, authority, stream, Protocol::Http1, shown).await?;
                match shown {
                    None => Box::pin(stream),
                    Some(_) => Box::pin(heard(stream, &mut refusal)),
                }
            }
        };
        let interim = Interim::new(settings.interim, &inner.interim);
        let sender = Sender::Alone(Alone { stream, interim, open: Open::new(&inner.open) });
        Ok(Connection { sender, place, born, home: Rc::downgrade(&self.0), alarm: Alarm::default(), refusal })
    }

    async fn dial(&self, place: Place, want: Protocol, shown: Option<Arc<Shown>>) -> Result<Connection, Error> {
        let inner = &self.0;
        let (settings, born) = (&inner.settings, Instant::now());
        let home = Rc::downgrade(&self.0);
        let clear = place.scheme == Scheme::Http;
        let purpose = if clear { Purpose::ClearRequests } else { Purpose::Stream };
        let stream = connect::reach(settings, &inner.tls, &place.authority, place.by, purpose).await?;
        if clear {
            let sender = http1_handshake(Lenient::new(stream), inner).await?;
            return Ok(Connection { sender, place, born, home, alarm: Alarm::default(), refusal: None });
        }
        let want = if inner.only_h2(&place) { Protocol::Http2 } else { want };
        let shown = shown.as_ref();
        let stream = match connect::tls(settings, &inner.tls, &place.authority, stream, want, shown).await {
            Err(Error::NoCommonProtocol) if want == Protocol::Http1 => {
                inner.pools.borrow_mut().entry(place.clone()).or_default().only_h2 = true;
                let stream = connect::reach(settings, &inner.tls, &place.authority, place.by, purpose).await?;
                connect::tls(settings, &inner.tls, &place.authority, stream, Protocol::Http2, shown).await?
            }
            other => other?,
        };
        let (h2, mut refusal) = (stream.get_ref().1.alpn_protocol() == Some(b"h2"), None);
        let sender = if h2 {
            let (streams, open) = (settings.pool.streams, Open::new(&inner.open));
            let fresh = match shown {
                None => Shared::open(stream, streams, born, open).await?,
                Some(_) => Shared::open(heard(stream, &mut refusal), streams, born, open).await?,
            };
            let sender = fresh.share();
            let mut pools = inner.pools.borrow_mut();
            let of = &mut pools.entry(place.clone()).or_default().shared;
            // Of several that were dialled at once, one is enough for whatever comes next.
            if !of.iter().any(|s| s.is_good(born, settings.pool.lifetime) && s.has_room(streams)) {
                of.push(fresh);
            }
            Sender::Http2(sender)
        } else {
            match shown {
                None => http1_handshake(stream, inner).await?,
                Some(_) => http1_handshake(heard(stream, &mut refusal), inner).await?,
            }
        };
        Ok(Connection { sender, place, born, home, alarm: Alarm::default(), refusal })
    }

    /// Closes what has been idle or alive for too long; called at the core's tick.
    pub fn reap(&self) {
        let (now, pool) = (Instant::now(), &self.0.settings.pool);
        self.0.ticked.set(now);
        let mut pools = self.0.pools.borrow_mut();
        for of in pools.values_mut() {
            of.idle.retain_mut(|idle| {
                now.saturating_duration_since(idle.since) < pool.idle
                    && now.saturating_duration_since(idle.born) < pool.lifetime
                    && !idle.sender.sender.is_closed()
            });
            let mut spare = false;
            of.shared.retain(|shared| {
                shared.is_good(now, pool.lifetime) && !(shared.is_idle() && std::mem::replace(&mut spare, true))
            });
        }
        pools.retain(|_, of| !of.idle.is_empty() || !of.shared.is_empty() || of.only_h2);
    }

    /// How many interim replies (1xx) came over HTTP/1.1. None was passed on.
    #[must_use]
    pub fn interim(&self) -> u64 {
        self.0.interim.get()
    }

    /// How many connections are held idle, and how many are in use. One that is shared among requests
    /// counts as in use.
    #[must_use]
    pub fn connections(&self) -> (usize, usize) {
        let idle = self.0.pools.borrow().values().map(|of| of.idle.len()).sum();
        (idle, self.0.open.get().saturating_sub(idle))
    }
}

impl Inner {
    /// A connection to the place, or the place, to which one has to be made.
    fn pooled(self: &Rc<Self>, place: Place, want: Protocol, now: Instant) -> Result<Connection, Place> {
        match self.take(&place, want, now) {
            Some((sender, born, alarm)) => {
                Ok(Connection { sender, place, born, home: Rc::downgrade(self), alarm, refusal: None })
            }
            None => Err(place),
        }
    }

    /// The proxy that is asked for requests to this place in absolute form, if one is.
    fn asked_in_clear(&self, place: &Place) -> Option<&Proxy> {
        if place.scheme != Scheme::Http {
            return None;
        }
        connect::way(&self.settings, &place.authority, place.by).filter(|proxy| proxy.speaks != Speaks::Socks)
    }

    fn only_h2(&self, place: &Place) -> bool {
        self.pools.borrow().get(place).is_some_and(|of| of.only_h2)
    }

    fn take(&self, place: &Place, want: Protocol, now: Instant) -> Option<(Sender, Instant, Alarm)> {
        let mut pools = self.pools.borrow_mut();
        let of = pools.get_mut(place)?;
        let life = |born: &Instant| now.saturating_duration_since(*born) < self.settings.pool.lifetime;
        let pool = &self.settings.pool;
        if (want != Protocol::Http1 || of.only_h2)
            && let Some(shared) = of.shared.iter().find(|s| s.is_good(now, pool.lifetime) && s.has_room(pool.streams))
        {
            return Some((Sender::Http2(shared.share()), shared.born(), Alarm::default()));
        }
        while let Some(Idle { sender, born, alarm, .. }) = of.idle.pop() {
            if life(&born) && sender.sender.is_ready() {
                return Some((Sender::Http1(sender), born, alarm));
            }
        }
        None
    }

    pub(super) fn give_back(&self, back: Back, alarm: Alarm) {
        let Back { sender, place, born, .. } = back;
        if sender.sender.is_closed() {
            return;
        }
        let mut pools = self.pools.borrow_mut();
        let of = pools.entry(place).or_default();
        if of.idle.len() < self.settings.pool.max_idle {
            of.idle.push(Idle { sender, born, since: self.ticked.get(), alarm });
        }
    }
}

/// An open connection, counted for as long as it lives.
pub(super) struct Open(Rc<Cell<usize>>);

impl Open {
    fn new(all: &Rc<Cell<usize>>) -> Self {
        all.set(all.get() + 1);
        Self(Rc::clone(all))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

async fn http1_handshake<S>(stream: S, inner: &Inner) -> Result<Sender, Error>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + 'static,
{
    let interim = Interim::new(inner.settings.interim, &inner.interim);
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(256 * 1024)
        .max_headers(256)
        .handshake(TokioIo::new(Watched::new(stream, Rc::clone(&interim))))
        .await
        .map_err(|_| Error::Closed { written: false })?;
    let open = Open::new(&inner.open);
    tokio::task::spawn_local(async move {
        let _open = open;
        let _ = connection.await;
    });
    Ok(Sender::Http1(Http1 { sender, interim }))
}

/// The stream, whose last alert is kept.
fn heard<S>(stream: S, refusal: &mut Option<Refusal>) -> Heard<S> {
    let (stream, heard) = Heard::new(stream);
    *refusal = Some(heard);
    stream
}

impl Connection {
    /// What the upstream will have said if it doesn't take the certificate that this connection is the first
    /// to show it.
    #[must_use]
    pub fn refusal(&self) -> Option<Refusal> {
        self.refusal.clone()
    }

    /// Sends the request, whose URI has path and query only, and waits for the reply's head.
    ///
    /// # Errors
    /// See [`Error`]. The request comes back if none of it was written.
    pub async fn send(
        self,
        mut request: Request<RequestBody>,
    ) -> Result<Response<ReplyBody>, (Error, Option<Request<RequestBody>>)> {
        let Some(inner) = self.home.upgrade() else { return Err((Error::Closed { written: false }, Some(request))) };
        let limit = inner.settings.deadlines.headers;
        let (idle, continues) = (inner.settings.deadlines.idle_body, inner.settings.deadlines.continued);
        let asked = inner.asked_in_clear(&self.place).map(|proxy| proxy.credentials.clone());
        let (place, born, home, mut alarm) = (self.place, self.born, self.home, self.alarm);
        drop(inner);
        match self.sender {
            Sender::Http1(mut sender) => {
                if sender.sender.ready().await.is_err() {
                    return Err((Error::Closed { written: false }, Some(request)));
                }
                join_cookies(request.headers_mut());
                frame(&mut request);
                let mut waits = None;
                if !request.extensions().is_empty() {
                    (request, waits) = continued::expect(request, continues);
                }
                let through_proxy = asked.is_some();
                if let Some(credentials) = asked {
                    ask_proxy(&mut request, &place, credentials.as_ref());
                }
                sender.interim.expect();
                let reply = alarm.limit(limit, pin!(sender.sender.try_send_request(request))).await;
                let response = settled(reply).map_err(|(why, back)| match sender.interim.too_many() {
                    true => (Error::Interim, None),
                    false => (why, if through_proxy { back.map(unasked) } else { back }),
                })?;
                if through_proxy && response.status() == StatusCode::PROXY_AUTHENTICATION_REQUIRED {
                    return Err((through::refused(407), None));
                }
                if ambiguous(&response) {
                    return Err((Error::Http, None));
                }
                let end = match continued::replied(waits) {
                    Some(refused) => End::Refused { _refused: refused },
                    None => End::Framed(Some(Back { sender, place, born, home })),
                };
                Ok(response.map(|body| ReplyBody::new(body, end, idle, alarm)))
            }
            Sender::Alone(alone) => {
                join_cookies(request.headers_mut());
                let (response, switched) = alone.send(request, &mut alarm, limit).await.map_err(|why| (why, None))?;
                if switched.is_none() && ambiguous(&response) {
                    return Err((Error::Http, None));
                }
                let end = switched.map_or(End::Framed(None), End::Switched);
                Ok(response.map(|body| ReplyBody::new(body, end, idle, alarm)))
            }
            Sender::Http2(Http2 { mut sender, share }) => {
                let origin = request.uri().clone();
                *request.uri_mut() = with_authority(&place, &origin);
                *request.version_mut() = Version::HTTP_2;
                let host = request.headers_mut().remove(HOST);
                let at_origin = |request| at_origin(request, origin, host);
                if sender.ready().await.is_err() {
                    return Err((Error::Closed { written: false }, Some(at_origin(request))));
                }
                match settled(alarm.limit(limit, pin!(sender.try_send_request(request))).await) {
                    Ok(response) => {
                        Ok(response.map(|body| ReplyBody::new(body, End::Marked { _share: share }, idle, alarm)))
                    }
                    Err((why, back)) => Err((why, back.map(at_origin))),
                }
            }
        }
    }
}

/// Whether two parsers could read the reply's framing differently (RFC 9112 section 6.3), or it
/// switches to a protocol that nobody asked for. Its connection is not used again. A transfer coding
/// beneath the chunks is refused too: nothing behind here would know of it.
fn ambiguous<B>(response: &Response<B>) -> bool {
    let headers = response.headers();
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let framings = (codings.next(), codings.next(), lengths.next(), lengths.next());
    let plain = match framings {
        (None, None, None, None) => true,
        (Some(coding), None, None, None) => coding.as_bytes().eq_ignore_ascii_case(b"chunked"),
        (None, None, Some(length), None) => length.as_bytes().iter().all(u8::is_ascii_digit),
        _ => false,
    };
    !plain || response.status() == StatusCode::SWITCHING_PROTOCOLS
}

/// A body of unknown length is sent in chunks, whatever the method: hyper drops that of a GET else.
fn frame(request: &mut Request<RequestBody>) {
    if request.body().size_hint().exact().is_none() && !request.headers().contains_key(CONTENT_LENGTH) {
        request.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

/// HTTP/2 may cut the cookie field into crumbs; HTTP/1.1 has one field (RFC 9113 section 8.2.3).
pub fn join_cookies(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(COOKIE).iter();
    if let (Some(first), Some(second)) = (crumbs.next(), crumbs.next()) {
        let mut all = [first.as_bytes(), second.as_bytes()].join(&b"; "[..]);
        for crumb in crumbs {
            all.extend_from_slice(b"; ");
            all.extend_from_slice(crumb.as_bytes());
        }
        if let Ok(mut all) = HeaderValue::from_bytes(&all) {
            all.set_sensitive(true);
            headers.insert(COOKIE, all);
        }
    }
}

/// What a proxy needs to pass the request on (RFC 9112 section 3.2.2).
fn ask_proxy<B>(request: &mut Request<B>, place: &Place, credentials: Option<&Credentials>) {
    *request.uri_mut() = with_authority(place, request.uri());
    if let Some(credentials) = credentials {
        request.headers_mut().insert(PROXY_AUTHORIZATION, credentials.basic().clone());
    }
}

/// The request as it was before.
fn unasked<B>(mut request: Request<B>) -> Request<B> {
    request.headers_mut().remove(PROXY_AUTHORIZATION);
    let mut parts = http::uri::Parts::default();
    parts.path_and_query = request.uri().path_and_query().cloned();
    if let Ok(origin) = Uri::from_parts(parts) {
        *request.uri_mut() = origin;
    }
    request
}

/// The request as it was, for another connection.
fn at_origin<B>(mut request: Request<B>, origin: Uri, host: Option<HeaderValue>) -> Request<B> {
    *request.uri_mut() = origin;
    if let Some(host) = host {
        request.headers_mut().insert(HOST, host);
    }
    *request.version_mut() = Version::HTTP_11;
    request
}

fn with_authority(place: &Place, origin: &Uri) -> Uri {
    let mut parts = http::uri::Parts::default();
    parts.scheme = place.scheme.as_str().parse().ok();
    parts.authority = place.authority.in_uri(place.scheme).parse().ok();
    parts.path_and_query = origin.path_and_query().cloned();
    Uri::from_parts(parts).unwrap_or_else(|_| origin.clone())
}

type Sent = Result<Response<Incoming>, hyper::client::conn::TrySendError<Request<RequestBody>>>;

#[expect(clippy::result_large_err, reason = "the request comes back whole, and only where a connection was lost")]
fn settled(reply: Option<Sent>) -> Result<Response<Incoming>, (Error, Option<Request<RequestBody>>)> {
    match reply {
        None => Err((Error::Timeout(Stage::Headers), None)),
        Some(Ok(response)) => Ok(response),
        Some(Err(mut failed)) => match failed.take_message() {
            Some(request) => Err((Error::Closed { written: false }, Some(request))),
            None => {
                let why = failed.into_error();
                Err((if why.is_parse() { Error::Http } else { Error::Closed { written: true } }, None))
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_that_http2_did_not_take_goes_on_over_http1_as_it_was() {
        let mut request = Request::new(());
        let origin = Uri::from_static("/v1/models?limit=1");
        *request.uri_mut() = Uri::from_static("https://api.example.com/v1/models?limit=1");
        *request.version_mut() = Version::HTTP_2;
        let request = at_origin(request, origin, Some(HeaderValue::from_static("api.example.com")));
        assert_eq!((request.uri().to_string().as_str(), request.version()), ("/v1/models?limit=1", Version::HTTP_11));
        assert_eq!(request.headers()[HOST], "api.example.com");
    }
}
