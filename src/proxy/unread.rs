//! Replies that their agents don't read: nobody holds a connection, and the upstream's behind it, for
//! longer than `proxy.deadlines.unread` without taking a byte.
//!
//! Over HTTP/1.1 such an agent stops the connection's writes ([`Paced`]). Over HTTP/2 it can read the
//! connection and still give one stream no window; then nothing is written and nobody polls the
//! reply's body, so the task that sends the stream has a deadline of its own ([`Streams`]).
//!
//! And replies that an agent could not read: if a connection is closed while its agent still sends, the
//! system resets it, and our last words may be lost. So what comes is read for a moment longer
//! (RFC 9112 section 9.6).

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use super::settings::Deadlines;

/// An agent's stream. Its writes fail when nothing could be written for a while, and its end waits
/// for the agent's.
pub struct Paced<S> {
    stream: S,
    limit: Duration,
    linger: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
    lingering: Option<Pin<Box<Sleep>>>,
}

impl<S> Paced<S> {
    /// A stream within these deadlines.
    pub fn new(stream: S, deadlines: &Deadlines) -> Self {
        let Deadlines { unread, linger, .. } = *deadlines;
        Self { stream, limit: unread, linger, waiting: None, lingering: None }
    }

    fn paced<T>(&mut self, cx: &mut Context<'_>, done: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if done.is_ready() {
            self.waiting = None;
            return done;
        }
        let limit = self.limit;
        ready!(self.waiting.get_or_insert_with(|| Box::pin(sleep(limit))).as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.paced(cx, done)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.paced(cx, done)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = Pin::new(&mut self.stream).poll_flush(cx);
        self.paced(cx, done)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lingering.is_none() {
            let done = Pin::new(&mut self.stream).poll_shutdown(cx);
            ready!(self.paced(cx, done))?;
        }
        let linger = self.linger;
        let over = self.lingering.get_or_insert_with(|| Box::pin(sleep(linger))).as_mut().poll(cx);
        if over.is_ready() {
            return Poll::Ready(Ok(()));
        }
        loop {
            let mut piece = [0; 4096];
            let mut piece = ReadBuf::new(&mut piece);
            match ready!(Pin::new(&mut self.stream).poll_read(cx, &mut piece)) {
                Ok(()) if !piece.filled().is_empty() => {}
                _ => return Poll::Ready(Ok(())),
            }
        }
    }
}

/// When a piece of a stream's reply was handed over that the next one still waits behind.
type Handed = Rc<Cell<Option<Instant>>>;

/// Runs the streams of an HTTP/2 connection on this core, each no longer than its agent reads.
#[derive(Clone)]
pub struct Streams {
    limit: Duration,
    /// The stream whose request was taken and whose task is started next.
    next: Rc<RefCell<Option<Handed>>>,
}

impl Streams {
    /// None run.
    pub fn new(limit: Duration) -> Self {
        Self { limit, next: Rc::default() }
    }

    /// A request was taken; hyper starts the stream's task right after it. What wraps its reply.
    pub fn begin(&self) -> impl FnOnce(super::relay::Reply) -> Watched<super::relay::Reply> + use<> {
        let handed = Handed::default();
        self.next.replace(Some(Rc::clone(&handed)));
        move |body| Watched { body, handed }
    }
}

impl<F: Future + 'static> hyper::rt::Executor<F> for Streams {
    fn execute(&self, future: F) {
        let limit = self.limit;
        match self.next.take() {
            None => drop(tokio::task::spawn_local(future)),
            Some(handed) => drop(tokio::task::spawn_local(while_read(future, handed, limit))),
        }
    }
}

/// The future to its end, or dropped where a piece of its reply went nowhere for too long; a stream that
/// is dropped is reset.
async fn while_read<F: Future>(future: F, handed: Handed, limit: Duration) {
    let mut future = pin!(future);
    let mut alarm: Option<Pin<Box<Sleep>>> = None;
    poll_fn(|cx| {
        if future.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let Some(since) = handed.get() else { return Poll::Pending };
        let alarm = alarm.get_or_insert_with(|| Box::pin(sleep(limit)));
        alarm.as_mut().reset(since + limit);
        alarm.as_mut().poll(cx)
    })
    .await;
}

/// A reply's body that notes when a piece was handed over.
pub struct Watched<B> {
    body: B,
    handed: Handed,
}

impl<B: Body + Unpin> Body for Watched<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        self.handed.set(polled.is_ready().then(Instant::now));
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
