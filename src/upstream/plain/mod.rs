//! HTTP/1.1 to an upstream, spoken by ourselves: a request that is in bytes goes out with one write, and
//! the reply's head is read where it lies. It is the way of most exchanges, and a library between would
//! cost more than all that is decided about them.
//!
//! What is read is held to RFC 9112 section 6.3 as strictly as elsewhere: where two parsers could
//! disagree on where a reply ends, the reply is refused and its connection not used again.

mod body;
mod head;
mod near;
mod shared;

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::{Buf as _, BytesMut};
use http::Response;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::coop::unconstrained;
use tokio::task::yield_now;
use tokio_rustls::client::TlsStream;
use zeroize::Zeroizing;

use super::alarm::Alarm;
use super::fill::{Fill, Readable, poll_write_parts};
use super::lenient::Lenient;
use super::pool::{Inner, Open};
use super::reply::ReplyBody;
use super::stream::Stream;
use super::{Error, Settings, Stage};

pub(super) use body::PlainBody;
pub use head::{Field, Head, content_length};
use near::Near;
pub use shared::Shared;

/// A connection's bytes.
pub(super) enum Wire {
    Clear(Lenient<Stream>),
    Tls(Box<TlsStream<Lenient<Stream>>>),
    /// With whoever still sends on it.
    Shared(Shared),
}

macro_rules! inner {
    ($wire:expr, $stream:ident => $call:expr) => {
        match $wire {
            Wire::Clear($stream) => $call,
            Wire::Tls($stream) => $call,
            Wire::Shared($stream) => $call,
        }
    };
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        inner!(self.get_mut(), stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl Readable for Wire {
    fn is_drained(&self) -> bool {
        inner!(self, stream => stream.is_drained())
    }

    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        inner!(self, stream => stream.poll_readable(cx))
    }
}

impl Fill for Wire {
    fn poll_fill(&mut self, cx: &mut Context<'_>, input: &mut BytesMut) -> Poll<io::Result<usize>> {
        inner!(self, stream => stream.poll_fill(cx, input))
    }
}

/// What is kept of one place.
pub(super) type Kept = Rc<OfPlace>;

#[derive(Default)]
pub(super) struct OfPlace {
    /// The connections that wait for their next request, last in, first out.
    pub idle: RefCell<Vec<Idle>>,
    near: Cell<Near>,
}

impl OfPlace {
    /// A reply came, in time to be polled for or not. Where the processor was lent to others all that time, so
    /// that nothing was polled for, that one came late says nothing.
    fn learn(&self, polled: bool, in_time: bool) {
        let mut near = self.near.get();
        if polled || in_time {
            near.replied(in_time);
            self.near.set(near);
        }
    }
}

/// A connection that waits for its next request.
pub(super) struct Idle {
    line: Box<Line>,
    born: Instant,
    since: Instant,
    alarm: Alarm,
}

impl Idle {
    /// Whether it may still be used.
    pub fn is_good(&mut self, now: Instant, settings: &Settings) -> bool {
        now.saturating_duration_since(self.since) < settings.pool.idle && self.is_young(now, settings)
    }

    fn is_young(&mut self, now: Instant, settings: &Settings) -> bool {
        now.saturating_duration_since(self.born) < settings.pool.lifetime && self.line.is_quiet()
    }
}

/// What one connection reads and writes.
struct Line {
    wire: Wire,
    input: BytesMut,
    /// Of the head that was read last.
    fields: Vec<Field>,
    /// How far the input was looked through for the end of a head.
    seen: usize,
    open: Open,
}

impl Line {
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.wire.poll_fill(cx, &mut self.input)
    }

    /// Whether the upstream has neither closed it nor said anything unasked.
    fn is_quiet(&mut self) -> bool {
        let cx = &mut Context::from_waker(Waker::noop());
        // A task whose turn is used up would hear of nothing else.
        self.input.is_empty() && pin!(unconstrained(poll_fn(|cx| self.poll_fill(cx)))).poll(cx).is_pending()
    }
}

/// A connection that is one request's.
pub struct Plain {
    /// In a box, because it goes from hand to hand with each request.
    line: Box<Line>,
    born: Instant,
    alarm: Alarm,
    kept: Kept,
    home: Rc<Inner>,
}

/// What the connection hasn't taken yet of a request.
pub struct Rest(Zeroizing<Vec<u8>>);

/// Why there is no reply.
pub enum Unanswered<W> {
    /// The upstream gave none.
    Failed(Error),
    /// What was watched came first.
    Stopped(W),
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        inner!(self.get_mut(), stream => Pin::new(stream).poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        inner!(self.get_mut(), stream => Pin::new(stream).poll_write_vectored(cx, bytes))
    }

    fn is_write_vectored(&self) -> bool {
        inner!(self, stream => stream.is_write_vectored())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        inner!(self.get_mut(), stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        inner!(self.get_mut(), stream => Pin::new(stream).poll_shutdown(cx))
    }
}

impl Plain {
    pub(super) fn new(wire: Wire, born: Instant, kept: Kept, home: &Rc<Inner>, open: Open) -> Self {
        let line = Box::new(Line { wire, input: BytesMut::new(), fields: Vec::new(), seen: 0, open });
        Self { line, born, alarm: Alarm::default(), kept, home: Rc::clone(home) }
    }

    /// One that is idle, if any still may be used.
    pub(super) fn pooled(kept: &Kept, now: Instant, home: &Rc<Inner>) -> Option<Self> {
        loop {
            let mut idle = kept.idle.borrow_mut().pop()?;
            if idle.is_young(now, &home.settings) {
                let Idle { line, born, alarm, .. } = idle;
                return Some(Self { line, born, alarm, kept: Rc::clone(kept), home: Rc::clone(home) });
            }
        }
    }

    /// What it is made of, for whoever speaks HTTP/1.1 on it from here on.
    pub(super) fn into_parts(self) -> (Wire, Open, Instant) {
        (self.line.wire, self.line.open, self.born)
    }

    /// Sends a request in parts that go out as one. What isn't taken at once is kept for
    /// [`Plain::ask`], so that the parts needn't be; that is rare, because a connection that waited has room.
    ///
    /// # Errors
    /// It can't be written.
    pub async fn begin(&mut self, parts: [&[u8]; 4]) -> Result<Rest, Error> {
        let mut slices = parts.map(io::IoSlice::new);
        let mut left = &mut slices[..];
        poll_fn(|cx| {
            if let Poll::Ready(Err(_)) = poll_write_parts(&mut self.line.wire, cx, &mut left) {
                return Poll::Ready(Err(Error::Closed { written: true }));
            }
            // All at once: a vector that grows leaves a copy behind.
            let mut rest = Vec::with_capacity(left.iter().map(|part| part.len()).sum());
            left.iter().for_each(|part| rest.extend_from_slice(part));
            Poll::Ready(Ok(Rest(Zeroizing::new(rest))))
        })
        .await
    }

    /// Sends what is left of a request, and waits for the reply's head from `now` on. While it waits `watch`
    /// is polled, once that is sent with the connection, for what there is yet to send; once it is ready the
    /// connection is of no more use. If the exchange is `alone`, see [`Settings::busy_poll`].
    ///
    /// # Errors
    /// See [`Unanswered`].
    pub async fn ask<W>(
        &mut self,
        rest: Rest,
        method: &http::Method,
        now: Instant,
        alone: bool,
        mut watch: impl FnMut(&mut Context<'_>, Option<Pin<&mut dyn AsyncWrite>>) -> Poll<W>,
    ) -> Result<Head, Unanswered<W>> {
        self.alarm.set_since(now, self.home.settings.deadlines.headers);
        let (mut left, mut interim, mut flushed) = (&rest.0[..], 0, false);
        let failed = |why| Poll::Ready(Err(Unanswered::Failed(why)));
        let poll_until = now.checked_add(self.home.settings.busy_poll);
        let in_time = || poll_until.is_none_or(|until| Instant::now() < until);
        let (worth_polling, mut polled) = (alone && self.kept.near.get().is_worth_polling(), false);
        poll_fn(|cx| {
            while !left.is_empty() {
                match Pin::new(&mut self.line.wire).poll_write(cx, left) {
                    Poll::Ready(Ok(0) | Err(_)) => return failed(Error::Closed { written: true }),
                    Poll::Ready(Ok(written)) => left = left.get(written..).unwrap_or_default(),
                    Poll::Pending => break,
                }
            }
            if left.is_empty() && !flushed {
                match Pin::new(&mut self.line.wire).poll_flush(cx) {
                    Poll::Ready(Ok(())) => flushed = true,
                    Poll::Ready(Err(_)) => return failed(Error::Closed { written: true }),
                    Poll::Pending => {}
                }
            }
            loop {
                match self.line.poll_head(cx, method) {
                    Poll::Pending => break,
                    Poll::Ready(Err(why)) => return failed(why),
                    Poll::Ready(Ok(head)) if head.status.is_informational() => {
                        interim += 1;
                        self.home.note_interim();
                        if interim > self.home.settings.interim {
                            return failed(Error::Interim);
                        }
                        self.line.drop_head(&head);
                    }
                    Poll::Ready(Ok(mut head)) => {
                        // What is left of the request would be taken for the next one's beginning, or this for that.
                        head.lasts &= flushed;
                        if alone {
                            self.kept.learn(polled, in_time());
                        }
                        return Poll::Ready(Ok(head));
                    }
                }
            }
            let to = flushed.then(|| Pin::new(&mut self.line.wire) as Pin<&mut dyn AsyncWrite>);
            if let Poll::Ready(what) = watch(cx, to) {
                return Poll::Ready(Err(Unanswered::Stopped(what)));
            }
            if self.alarm.poll(cx).is_ready() {
                return failed(Error::Timeout(Stage::Headers));
            }
            if worth_polling && in_time() {
                polled = true;
                again(cx);
            }
            Poll::Pending
        })
        .await
    }

    /// The fields of the reply's head, by their places in [`whole`](Self::whole).
    #[must_use]
    pub fn fields(&self) -> &[Field] {
        &self.line.fields
    }

    /// The reply as it came, head and body, if it is all there and uncoded by its framing.
    #[must_use]
    pub fn whole(&self, head: &Head) -> Option<&[u8]> {
        let len = head.whole()?;
        (self.line.input.len() == len).then_some(&self.line.input)
    }

    /// The reply was copied whole: the connection may be used again.
    pub fn done(mut self, head: &Head) {
        let left = head.whole().is_none_or(|len| self.line.input.len() != len);
        self.line.input.clear();
        if !left {
            self.give_back(head.lasts);
        }
    }

    /// Takes the body of a reply that is there whole; the connection may be used again.
    #[must_use]
    pub fn into_body(mut self, head: &Head) -> BytesMut {
        let mut body = std::mem::take(&mut self.line.input);
        let left = head.whole().is_none_or(|len| body.len() != len);
        body.advance(head.len.min(body.len()));
        if !left {
            self.give_back(head.lasts);
        }
        body
    }

    fn give_back(mut self, lasts: bool) {
        if !lasts || !self.line.input.is_empty() {
            return;
        }
        self.line.rest();
        let mut idle = self.kept.idle.borrow_mut();
        if idle.len() < self.home.settings.pool.max_idle {
            idle.push(Idle { line: self.line, born: self.born, since: self.home.now(), alarm: self.alarm });
        }
    }

    /// The reply as it streams on.
    ///
    /// # Errors
    /// A field can't be read.
    pub fn response(self, head: &Head) -> Result<Response<ReplyBody>, Error> {
        let mut response = Response::new(());
        *response.status_mut() = head.status;
        self.line.put_fields(response.headers_mut())?;
        let idle = self.home.settings.deadlines.idle_body;
        let body = PlainBody::new(self, head);
        Ok(response.map(|()| ReplyBody::plain(body, idle)))
    }
}

/// Has the task polled again, once the core has looked what else is ready.
fn again(cx: &mut Context<'_>) {
    let _ = pin!(yield_now()).poll(cx);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::io::AsyncWriteExt as _;
    use tokio::net::{TcpListener, TcpStream};
    use tokio::task::consume_budget;
    use tokio::time::sleep;

    use super::*;
    use crate::model::{Authority, OrgId, Scheme};
    use crate::upstream::{Place, PlainCheckout, Tls, Upstream};

    /// One upstream, and whoever accepts its only connection.
    struct Pair {
        upstream: Upstream,
        authority: Authority,
        accepted: TcpStream,
    }

    impl Pair {
        async fn polled_for(busy_poll: Duration) -> (Self, Plain) {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let at = listener.local_addr().expect("an address");
            let authority = Authority::parse(&at.to_string(), 80).expect("an authority");
            let settings = Settings { busy_poll, resolve: [(authority.clone(), at)].into(), ..Settings::default() };
            let tls = Tls::new(Arc::new(rustls::RootCertStore::empty())).expect("TLS");
            let upstream = Upstream::new(settings, tls);
            let place = Place::of(OrgId::DEFAULT, Scheme::Http, &authority);
            let PlainCheckout::New(dialling) = upstream.plain(&place, Instant::now()) else { panic!("a new place") };
            let connection = dialling.await.expect("a connection");
            let (accepted, _) = listener.accept().await.expect("accepted");
            (Self { upstream, authority, accepted }, connection)
        }

        /// Asks for a reply, which comes so long after the request. Returns how often it was looked for.
        async fn looks(&mut self, mut connection: Plain, alone: bool, after: Duration) -> (usize, Plain) {
            let request = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n".as_slice();
            let rest = connection.begin([request, b"", b"", b""]).await.expect("sent");
            let looks = Cell::new(0);
            let watch = |_: &mut Context<'_>, _: Option<Pin<&mut dyn AsyncWrite>>| {
                looks.set(looks.get() + 1);
                Poll::<()>::Pending
            };
            let asked = connection.ask(rest, &http::Method::GET, Instant::now(), alone, watch);
            let answered = async {
                sleep(after).await;
                self.accepted.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.expect("written");
            };
            let (head, ()) = tokio::join!(asked, answered);
            let Ok(head) = head else { panic!("no reply") };
            connection.done(&head);
            let place = Place::of(OrgId::DEFAULT, Scheme::Http, &self.authority);
            let PlainCheckout::Pooled(connection) = self.upstream.plain(&place, Instant::now()) else {
                panic!("it is kept")
            };
            (looks.get(), connection)
        }
    }

    #[tokio::test]
    async fn reply_is_polled_for_where_the_last_ones_were_quick_and_the_exchange_is_alone() {
        let (quick, slow) = (Duration::from_millis(20), Duration::from_millis(450));
        let (mut pair, connection) = Pair::polled_for(Duration::from_millis(300)).await;
        let (first, connection) = pair.looks(connection, true, quick).await;
        let (among_others, connection) = pair.looks(connection, false, quick).await;
        let (late, connection) = pair.looks(connection, true, slow).await;
        let (after_a_late_one, connection) = pair.looks(connection, true, quick).await;
        let (after_a_quick_one, connection) = pair.looks(connection, true, quick).await;
        let (after_two, _) = pair.looks(connection, true, quick).await;
        let all = [first, among_others, late, after_a_late_one, after_a_quick_one, after_two];
        assert_eq!(all.map(|looks| looks > 20), [true, false, true, false, false, true]);
    }

    #[tokio::test]
    async fn nothing_is_polled_for_where_the_setting_says_so() {
        let (mut pair, connection) = Pair::polled_for(Duration::ZERO).await;
        let (looks, _) = pair.looks(connection, true, Duration::from_millis(20)).await;
        assert!(looks <= 20, "{looks} looks");
    }

    #[tokio::test]
    async fn connection_that_was_closed_is_known_to_a_task_whose_turn_is_used_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let stream = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connected");
        let accepted = listener.accept().await.expect("accepted");
        let wire = Wire::Clear(Lenient::new(Stream::Tcp(stream)));
        let open = Open::new(&Rc::default());
        let mut line = Line { wire, input: BytesMut::new(), fields: Vec::new(), seen: 0, open };
        assert!(line.is_quiet());
        drop(accepted);
        poll_fn(|cx| line.wire.poll_readable(cx)).await;
        let quiet = poll_fn(|cx| {
            while pin!(consume_budget()).poll(cx).is_ready() {}
            Poll::Ready(line.is_quiet())
        });
        assert!(!quiet.await);
    }
}
