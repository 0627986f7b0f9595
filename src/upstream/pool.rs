//! Pools of one core: HTTP/1.1 connections last in, first out; HTTP/2 connections shared.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::pin::{Pin, pin};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use foldhash::quality::RandomState;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;

use super::RequestBody;
use super::alarm::Alarm;
use super::connect::{self, Purpose, Tls, Word};
use super::egress::{Proxy, Speaks};
use super::interim::{Followed, GivenUp, Interim, Watched};
use super::lenient::Lenient;
use super::plain::{self, Plain, Wire};
use super::reply::Back;
use super::shared::{Http2, Shared};
use super::shown::Heard;
use super::stream::Stream;
use super::upgrade::{Alone, Io};
use super::{Error, Protocol, Refusal, Settings, Shown, Whose};
use crate::model::{Authority, OrgId, Scheme};

/// The upstream side of one core.
pub struct Upstream(Rc<Inner>);

pub(super) struct Inner {
    pub settings: Settings,
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
    pub(super) scheme: Scheme,
    pub(super) authority: Authority,
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
    plain: plain::Kept,
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
    pub sender: http1::SendRequest<RequestBody>,
    pub interim: Rc<Interim>,
}

pub(super) enum Sender {
    Http1(Http1),
    Http2(Http2),
    /// HTTP/1.1, for a request that asks to switch protocols.
    Alone(Alone),
}

/// A connection that is this request's alone, or its share of one.
pub struct Connection {
    pub(super) sender: Sender,
    pub(super) place: Place,
    pub(super) born: Instant,
    pub(super) home: Weak<Inner>,
    pub(super) alarm: Alarm,
    /// Of one that shows a certificate and is fresh.
    pub(super) refusal: Option<Refusal>,
}

/// How a connection is come by that we speak HTTP/1.1 on ourselves.
pub enum PlainCheckout<'a> {
    /// From the pool, at once.
    Pooled(Plain),
    /// By dialling. It fails with [`Error::NoCommonProtocol`] if the peer speaks HTTP/2 only.
    New(Pin<Box<dyn Future<Output = Result<Plain, Error>> + 'a>>),
    /// Not at all: what is sent there isn't HTTP/1.1 in its usual form.
    Unfit,
}

/// How a connection is come by.
pub enum Checkout<'a> {
    /// From the pool, at once.
    Pooled(Connection),
    /// By dialling.
    New(Pin<Box<dyn Future<Output = Result<Connection, Error>> + 'a>>),
}

impl Upstream {
    /// How long a quick reply is polled for.
    #[must_use]
    pub fn busy_poll(&self) -> Duration {
        self.0.settings.busy_poll
    }

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

    /// A pooled connection to the place that we speak HTTP/1.1 on ourselves; else what makes a new one.
    pub fn plain(&self, place: &Place, now: Instant) -> PlainCheckout<'_> {
        let inner = &self.0;
        if let Some(of) = inner.pools.borrow().get(place) {
            if of.only_h2 {
                return PlainCheckout::Unfit;
            }
            if let Some(pooled) = Plain::pooled(&of.plain, now, inner) {
                return PlainCheckout::Pooled(pooled);
            }
        }
        match inner.asked_in_clear(place) {
            Some(_) => PlainCheckout::Unfit,
            None => PlainCheckout::New(Box::pin(self.dial_plain(place.clone()))),
        }
    }

    async fn dial_plain(&self, place: Place) -> Result<Plain, Error> {
        let inner = &self.0;
        let (settings, born) = (&inner.settings, Instant::now());
        let stream = connect::reach(settings, &inner.tls, &place.authority, place.by, Purpose::Stream).await?;
        let wire = match place.scheme {
            Scheme::Http => Wire::Clear(Lenient::new(stream)),
            Scheme::Https => {
                let done = connect::tls(settings, &inner.tls, &place.authority, stream, Protocol::Http1, None).await;
                if matches!(done, Err(Error::NoCommonProtocol)) {
                    inner.pools.borrow_mut().entry(place.clone()).or_default().only_h2 = true;
                }
                Wire::Tls(Box::new(done?))
            }
        };
        let kept = Rc::clone(&inner.pools.borrow_mut().entry(place).or_default().plain);
        Ok(Plain::new(wire, born, kept, inner, Open::new(&inner.open)))
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
            let sender = http1_handshake(Lenient::new(stream), inner, Open::new(&inner.open)).await?;
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
            let at = place.authority.in_uri(place.scheme).parse().map_err(|_| Error::Http)?;
            let fresh = match shown {
                None => Shared::open(inner.followed(stream), at, streams, born, open).await?,
                Some(_) => Shared::open(inner.followed(heard(stream, &mut refusal)), at, streams, born, open).await?,
            };
            let (sender, _) = fresh.share();
            let mut pools = inner.pools.borrow_mut();
            let of = &mut pools.entry(place.clone()).or_default().shared;
            // Of several that were dialled at once, one is enough for whatever comes next.
            if !of.iter().any(|s| s.is_good(born, settings.pool.lifetime) && s.has_room(streams)) {
                of.push(fresh);
            }
            Sender::Http2(sender)
        } else {
            match shown {
                None => http1_handshake(stream, inner, Open::new(&inner.open)).await?,
                Some(_) => http1_handshake(heard(stream, &mut refusal), inner, Open::new(&inner.open)).await?,
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
            of.plain.idle.borrow_mut().retain_mut(|idle| idle.is_good(now, &self.0.settings));
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
        pools.retain(|_, of| {
            let plain = Rc::strong_count(&of.plain) > 1 || !of.plain.idle.borrow().is_empty();
            plain || !of.idle.is_empty() || !of.shared.is_empty() || of.only_h2
        });
    }

    /// How many interim replies (1xx) came. None was passed on.
    #[must_use]
    pub fn interim(&self) -> u64 {
        self.0.interim.get()
    }

    /// How many connections are held idle, and how many are in use. One that is shared among requests
    /// counts as in use.
    #[must_use]
    pub fn connections(&self) -> (usize, usize) {
        let idle = self.0.pools.borrow().values().map(|of| of.idle.len() + of.plain.idle.borrow().len()).sum();
        (idle, self.0.open.get().saturating_sub(idle))
    }
}

impl Inner {
    /// An interim reply came.
    pub fn note_interim(&self) {
        self.interim.set(self.interim.get() + 1);
    }

    /// The time as of the core's last tick.
    pub fn now(&self) -> Instant {
        self.ticked.get()
    }

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
    pub fn asked_in_clear(&self, place: &Place) -> Option<&Proxy> {
        if place.scheme != Scheme::Http {
            return None;
        }
        connect::way(&self.settings, &place.authority, place.by).filter(|proxy| proxy.speaks != Speaks::Socks)
    }

    /// An HTTP/2 connection's stream, on which interim replies are counted.
    fn followed<S>(&self, stream: S) -> (Followed<S>, GivenUp) {
        Followed::new(stream, self.settings.interim, &self.interim)
    }

    fn only_h2(&self, place: &Place) -> bool {
        self.pools.borrow().get(place).is_some_and(|of| of.only_h2)
    }

    fn take(self: &Rc<Self>, place: &Place, want: Protocol, now: Instant) -> Option<(Sender, Instant, Alarm)> {
        let mut pools = self.pools.borrow_mut();
        let of = pools.get_mut(place)?;
        let life = |born: &Instant| now.saturating_duration_since(*born) < self.settings.pool.lifetime;
        let pool = &self.settings.pool;
        if (want != Protocol::Http1 || of.only_h2)
            && let Some(shared) = of.shared.iter().find(|s| s.is_good(now, pool.lifetime) && s.has_room(pool.streams))
        {
            let (share, alarm) = shared.share();
            return Some((Sender::Http2(share), shared.born(), alarm));
        }
        while let Some(Idle { sender, born, alarm, .. }) = of.idle.pop() {
            if life(&born) && sender.sender.is_ready() {
                return Some((Sender::Http1(sender), born, alarm));
            }
        }
        let (wire, open, born) = Plain::pooled(&of.plain, now, self)?.into_parts();
        let handshake = pin!(http1_handshake(wire, self, open));
        // It waits for nothing.
        match handshake.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(sender)) => Some((sender, born, Alarm::default())),
            _ => None,
        }
    }

    pub(super) fn give_back(&self, back: Back, alarm: Alarm) {
        let Back { sender, place, born, .. } = back;
        if sender.sender.is_closed() {
            return;
        }
        let mut pools = self.pools.borrow_mut();
        let of = pools.entry(place).or_default();
        if of.idle.len() < self.settings.pool.max_idle {
            of.idle.push(Idle { sender, born, since: self.now(), alarm });
        }
    }
}

/// An open connection, counted for as long as it lives.
pub(super) struct Open(Rc<Cell<usize>>);

impl Open {
    pub(super) fn new(all: &Rc<Cell<usize>>) -> Self {
        all.set(all.get() + 1);
        Self(Rc::clone(all))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

async fn http1_handshake<S>(stream: S, inner: &Inner, open: Open) -> Result<Sender, Error>
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
