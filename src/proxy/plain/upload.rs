//! Request bodies that are too long to be awaited: they go up while they come.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Buf as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::agent::Agent;
use crate::proxy::settings::Settings;
use crate::proxy::upload::{Counted, Idle};
use crate::upstream::Fill;
use crate::upstream::plain::Shared;

/// How much is gathered for one write, in bytes: four TLS records.
const MOST: usize = 64 * 1024;

/// Who broke a body off.
pub(super) enum Broken {
    /// It left, stands still, or may not go on.
    ByAgent,
    /// Nothing can be written to it.
    ByUpstream,
}

/// What is left of a request's body.
pub(super) struct Upload {
    /// How much isn't passed on yet, in bytes.
    left: u64,
    flushed: bool,
    counted: Rc<Counted>,
    idle: Idle,
    /// Whether the reply is over, so that nothing else bounds how long the upstream takes.
    alone: bool,
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.counted.uploaded();
    }
}

impl Upload {
    /// So many bytes are left.
    pub fn new(left: usize, counted: Rc<Counted>, idle: Duration) -> Self {
        let left = left as u64;
        counted.uploading.set(true);
        Self { left, flushed: false, counted, idle: Idle::new(idle), alone: false }
    }

    /// Whether all of it is passed on.
    pub fn is_over(&self) -> bool {
        self.flushed
    }

    fn there(&self, input: &[u8]) -> usize {
        usize::try_from(self.left).map_or(input.len(), |left| left.min(input.len()))
    }

    /// Passes on what comes. Ready once all of it is passed on.
    pub fn poll<S, W>(
        &mut self,
        agent: &mut Agent<S>,
        mut to: Pin<&mut W>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Broken>>
    where
        S: AsyncRead + AsyncWrite + Fill + Unpin,
        W: AsyncWrite + ?Sized,
    {
        if self.counted.is_ended(cx) {
            return Poll::Ready(Err(Broken::ByAgent));
        }
        loop {
            let mut there = self.there(&agent.input);
            while there < MOST && (there as u64) < self.left {
                match agent.poll_fill(cx) {
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(Broken::ByAgent)),
                    Poll::Ready(Ok(_)) => {
                        self.idle.reset();
                        there = self.there(&agent.input);
                    }
                    Poll::Pending => break,
                }
            }
            if there == 0 {
                // What an upstream's failed write hides, its reply tells.
                let flushed = to.as_mut().poll_flush(cx).is_ready();
                if self.left > 0 {
                    return self.poll_idle(cx);
                }
                self.flushed = flushed;
                if flushed {
                    self.counted.uploaded();
                    return Poll::Ready(Ok(()));
                }
                return if self.alone { self.poll_idle(cx) } else { Poll::Pending };
            }
            match to.as_mut().poll_write(cx, agent.input.get(..there).unwrap_or_default()) {
                Poll::Ready(Ok(wrote)) if wrote > 0 => {
                    agent.input.advance(wrote);
                    self.left = self.left.saturating_sub(wrote as u64);
                    self.idle.reset();
                    let came = &self.counted.bytes_in;
                    came.set(came.get() + wrote as u64);
                }
                Poll::Ready(_) => return Poll::Ready(Err(Broken::ByUpstream)),
                Poll::Pending if self.alone => return self.poll_idle(cx),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        self.idle.poll(cx).map(|()| Err(Broken::ByAgent))
    }

    /// Passes on the rest behind the whole reply: whether all of it went. It ends where the upstream closes, or
    /// says anything more.
    pub async fn finish<S>(mut self, agent: &mut Agent<S>, mut to: Shared) -> bool
    where
        S: AsyncRead + AsyncWrite + Fill + Unpin,
    {
        self.alone = true;
        poll_fn(|cx| {
            if let Poll::Ready(done) = self.poll(agent, Pin::new(&mut to), cx) {
                return Poll::Ready(done.is_ok());
            }
            let mut room = [0; 16];
            ready!(Pin::new(&mut to).poll_read(cx, &mut ReadBuf::new(&mut room))).ok();
            Poll::Ready(false)
        })
        .await
    }

    /// Reads what is left of a request that is refused, so that its connection can serve the next one: whether it
    /// ended within the limits for a body that is awaited.
    pub async fn read_rest<S>(mut self, agent: &mut Agent<S>, settings: &Settings) -> bool
    where
        S: AsyncRead + AsyncWrite + Fill + Unpin,
    {
        if self.left > settings.limits.whole_body as u64 {
            return false;
        }
        let mut waited = false;
        loop {
            let there = self.there(&agent.input);
            agent.input.advance(there);
            self.left = self.left.saturating_sub(there as u64);
            if self.left == 0 {
                return true;
            }
            if !agent.more(settings.deadlines.whole_body, &mut waited).await {
                return false;
            }
        }
    }
}
