//! Requests that can't be read, answered in our words.
//!
//! hyper refuses over HTTP/1.1 what it can't parse before anybody here hears of it: with a bare status,
//! written while no exchange is open. That is how its refusal is known, and it is replaced by ours, with
//! a code and what to do about it.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::relay::{BodyError, Reply};

/// What is being written on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing: whatever is written now is no reply to an exchange.
    Idle,
    /// An exchange is open.
    Open,
    /// The end of a reply, which isn't flushed yet.
    Ending,
    /// hyper's refusal was replaced; nothing follows it.
    Refused,
}

/// Says in our words what hyper refuses with this status.
type Refuse = Box<dyn Fn(u16) -> Vec<u8>>;

/// An agent's HTTP/1.1 stream.
pub struct Worded<S> {
    stream: S,
    phase: Rc<Cell<Phase>>,
    refuse: Refuse,
    ours: Bytes,
}

/// Opens the exchanges of one connection.
#[derive(Clone)]
pub struct Exchanges(Rc<Cell<Phase>>);

impl<S> Worded<S> {
    /// A stream on which nothing was written yet.
    pub fn new(stream: S, refuse: impl Fn(u16) -> Vec<u8> + 'static) -> Self {
        let phase = Rc::new(Cell::new(Phase::Idle));
        Self { stream, phase, refuse: Box::new(refuse), ours: Bytes::new() }
    }

    /// The stream itself, for whoever speaks another protocol on it from here on.
    pub fn into_inner(self) -> S {
        self.stream
    }

    /// What opens the exchanges that are served on the stream.
    pub fn exchanges(&self) -> Exchanges {
        Exchanges(Rc::clone(&self.phase))
    }
}

impl Exchanges {
    /// A request was read. What wraps its reply.
    pub fn open(&self) -> impl FnOnce(Reply) -> Answer + use<> {
        self.0.set(Phase::Open);
        let phase = Rc::clone(&self.0);
        move |reply| Answer { reply, phase }
    }

    /// Whether a refusal was put in our words.
    pub fn refused(&self) -> bool {
        self.0.get() == Phase::Refused
    }
}

/// A reply that tells when hyper is done with it.
pub struct Answer {
    reply: Reply,
    phase: Rc<Cell<Phase>>,
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.phase.set(Phase::Ending);
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.reply).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.reply.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.reply.size_hint()
    }
}

/// The status of a reply's first line (RFC 9112 section 4).
fn status(head: &[u8]) -> Option<u16> {
    std::str::from_utf8(head.get(9..12)?).ok()?.parse().ok()
}

impl<S: AsyncWrite + Unpin> Worded<S> {
    /// Whether these bytes are a refusal of hyper's; ours goes out in its place.
    fn replaces(&mut self, bytes: &[u8]) -> bool {
        match self.phase.get() {
            Phase::Open | Phase::Ending => return false,
            Phase::Idle => self.ours = (self.refuse)(status(bytes).unwrap_or(400)).into(),
            Phase::Refused => {}
        }
        self.phase.set(Phase::Refused);
        true
    }

    fn poll_ours(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.ours.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.ours))?;
            self.ours.advance(written);
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Worded<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Worded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.replaces(bytes) {
            return Poll::Ready(Ok(bytes.len()));
        }
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.replaces(bytes.first().map_or(&[], |piece| piece)) {
            return Poll::Ready(Ok(bytes.iter().map(|piece| piece.len()).sum()));
        }
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_ours(cx))?;
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        if self.phase.get() == Phase::Ending {
            self.phase.set(Phase::Idle);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_ours(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
