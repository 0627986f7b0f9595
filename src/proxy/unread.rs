//! Replies that their agents don't read: nobody holds a connection, and the upstream's behind it, for
//! longer than `proxy.deadlines.unread` without taking a byte.
//!
//! Over HTTP/1.1 such an agent stops the connection's writes ([`Paced`]). Over HTTP/2 it can read the
//! connection and still give one stream no window; then nothing is written and nobody polls the
//! reply's body, so the task that sends the stream has a deadline of its own ([`Streams`]). For the
//! same reason both look whether the exchange has to stop: its reply isn't polled to tell.
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

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use super::relay::{BodyError, Reply};
use super::running::Stop;
use super::settings::Deadlines;
use crate::upstream::{Fill, Readable};

/// An agent's stream. Its writes fail when nothing could be written for a while, and its end waits
/// for the agent's.
pub struct Paced<S> {
    stream: S,
    progress: Rc<Progress>,
    limit: Duration,
    linger: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
    lingering: Option<Pin<Box<Sleep>>>,
}

impl<S> Paced<S> {
    /// A stream within these deadlines.
    pub fn new(stream: S, deadlines: &Deadlines) -> Self {
        let Deadlines { unread, linger, .. } = *deadlines;
        Self { stream, progress: Rc::default(), limit: unread, linger, waiting: None, lingering: None }
    }

    /// The stream itself.
    pub fn into_inner(self) -> S {
        self.stream
    }

    /// What wraps each reply of the connection, which has one at a time.
    pub fn replies(&self) -> impl Fn(Reply) -> Reply + Clone + use<S> {
        let progress = Rc::clone(&self.progress);
        move |reply| {
            progress.stop.replace(reply.stop());
            reply
        }
    }

    fn paced<T>(&mut self, cx: &mut Context<'_>, done: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if done.is_ready() {
            self.waiting = None;
            return done;
        }
        if self.progress.is_stopped() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
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

impl<S: Readable> Readable for Paced<S> {
    fn is_drained(&self) -> bool {
        self.stream.is_drained()
    }

    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.stream.poll_readable(cx)
    }
}

impl<S: Fill> Fill for Paced<S> {
    fn poll_fill(&mut self, cx: &mut Context<'_>, input: &mut BytesMut) -> Poll<io::Result<usize>> {
        self.stream.poll_fill(cx, input)
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

/// How far a reply is.
#[derive(Default)]
struct Progress {
    /// When a piece was handed over that the next one still waits behind.
    handed: Cell<Option<Instant>>,
    stop: RefCell<Option<Stop>>,
}

impl Progress {
    fn is_stopped(&self) -> bool {
        self.stop.borrow().as_ref().is_some_and(Stop::is_said)
    }
}

/// Runs the streams of an HTTP/2 connection on this core, each no longer than its agent reads.
#[derive(Clone)]
pub struct Streams {
    limit: Duration,
    /// The stream whose request was taken and whose task is started next.
    next: Rc<RefCell<Option<Rc<Progress>>>>,
}

impl Streams {
    /// None run.
    pub fn new(limit: Duration) -> Self {
        Self { limit, next: Rc::default() }
    }

    /// A request was taken; hyper starts the stream's task right after it. What wraps its reply.
    pub fn begin(&self) -> impl FnOnce(Reply) -> Watched + use<> {
        let progress: Rc<Progress> = Rc::default();
        self.next.replace(Some(Rc::clone(&progress)));
        move |reply| {
            progress.stop.replace(reply.stop());
            Watched { reply, progress }
        }
    }
}

impl<F: Future + 'static> hyper::rt::Executor<F> for Streams {
    fn execute(&self, future: F) {
        let limit = self.limit;
        match self.next.take() {
            None => drop(tokio::task::spawn_local(future)),
            Some(progress) => drop(tokio::task::spawn_local(while_read(future, progress, limit))),
        }
    }
}

/// The future to its end, or dropped where a piece of its reply goes nowhere: for too long, or while the
/// exchange has to stop. A stream that is dropped is reset.
async fn while_read<F: Future>(future: F, progress: Rc<Progress>, limit: Duration) {
    let mut future = pin!(future);
    let mut alarm: Option<Pin<Box<Sleep>>> = None;
    poll_fn(|cx| {
        if future.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let Some(since) = progress.handed.get() else { return Poll::Pending };
        if progress.is_stopped() {
            return Poll::Ready(());
        }
        let alarm = alarm.get_or_insert_with(|| Box::pin(sleep(limit)));
        alarm.as_mut().reset(since + limit);
        alarm.as_mut().poll(cx)
    })
    .await;
}

/// A reply's body that notes when a piece was handed over.
pub struct Watched {
    reply: Reply,
    progress: Rc<Progress>,
}

impl Body for Watched {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = Pin::new(&mut self.reply).poll_frame(cx);
        self.progress.handed.set(polled.is_ready().then(Instant::now));
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.reply.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.reply.size_hint()
    }
}
