//! An agent's side of plain exchanges.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};

use super::again::Last;
use crate::proxy::running::Drained;
use crate::proxy::settings::Deadlines;
use crate::proxy::step::Next;
use crate::proxy::unread::Paced;
use crate::upstream::plain::Field;
use crate::upstream::{Alarm, Fill, poll_write_parts};

/// How much is read ahead of an exchange, in bytes.
const AHEAD: usize = 64 * 1024;
/// How much an idle connection keeps for what it will read, in bytes.
const ROOM: usize = 2048;

/// What a wait for a request ended with.
pub(super) enum Came {
    /// Some of it is there.
    Bytes,
    /// Time is up, or the core takes nothing new.
    Nothing,
    /// The agent is gone.
    End,
}

/// An agent's connection.
pub(super) struct Agent<S> {
    pub stream: Paced<S>,
    pub input: BytesMut,
    /// Of the head that is looked at.
    pub fields: Vec<Field>,
    pub last: Last,
    alarm: Alarm,
}

impl<S: AsyncRead + AsyncWrite + Fill + Unpin> Agent<S> {
    pub fn new(stream: S, deadlines: &Deadlines) -> Self {
        let stream = Paced::new(stream, deadlines);
        Self { stream, input: BytesMut::new(), fields: Vec::new(), last: Last::default(), alarm: Alarm::default() }
    }

    /// What was read and isn't used up, and the stream.
    pub fn into_parts(self) -> (BytesMut, S) {
        (self.input, self.stream.into_inner())
    }

    /// Reads on. Ready with 0 at the end.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.stream.poll_fill(cx, &mut self.input)
    }

    /// Waits for the beginning of a request, from `now` on.
    pub async fn wait(&mut self, now: Instant, limit: Duration, mut draining: Pin<&mut Drained>) -> Came {
        self.alarm.set_since(now, limit);
        poll_fn(|cx| match self.poll_fill(cx) {
            Poll::Ready(Ok(0) | Err(_)) => Poll::Ready(Came::End),
            Poll::Ready(Ok(_)) => Poll::Ready(Came::Bytes),
            Poll::Pending if draining.as_mut().poll(cx).is_ready() => Poll::Ready(Came::Nothing),
            Poll::Pending => self.alarm.poll(cx).map(|()| Came::Nothing),
        })
        .await
    }

    /// Whether more of a request comes within this time, which is `set` at the first wait for it.
    pub async fn more(&mut self, limit: Duration, set: &mut bool) -> bool {
        poll_fn(|cx| match self.poll_fill(cx) {
            Poll::Ready(read) => Poll::Ready(read.is_ok_and(|read| read > 0)),
            Poll::Pending => {
                if !std::mem::replace(set, true) {
                    self.alarm.set(limit);
                }
                self.alarm.poll(cx).map(|()| false)
            }
        })
        .await
    }

    /// Ready once the agent is gone. What it sends meanwhile is kept for later, up to a bound.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.input.len() < AHEAD {
            match ready!(self.poll_fill(cx)) {
                Ok(0) | Err(_) => return Poll::Ready(()),
                Ok(_) => {}
            }
        }
        Poll::Pending
    }

    /// Writes all of this.
    pub async fn say(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    /// Writes a head and what stands behind it, as one.
    pub async fn say_both(&mut self, head: &[u8], body: &[u8]) -> io::Result<()> {
        if body.is_empty() {
            return self.say(head).await;
        }
        let mut parts = [io::IoSlice::new(head), io::IoSlice::new(body)];
        let mut left = &mut parts[..];
        poll_fn(|cx| poll_write_parts(&mut self.stream, cx, &mut left)).await?;
        self.stream.flush().await
    }

    /// Gives back what isn't needed while nothing comes.
    pub fn rest(&mut self) {
        if self.input.is_empty() && self.input.capacity() > ROOM {
            self.input = BytesMut::new();
        }
    }

    /// Ends the connection so that our last words arrive.
    pub async fn close(&mut self) -> Next {
        let _ = self.stream.shutdown().await;
        None
    }
}
