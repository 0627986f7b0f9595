//! The agent's body on its way up, and what is counted of an exchange's bodies.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Version};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;

use super::relay::BodyError;
use super::running::Run;
use crate::credential::aws::ChunkError;
use crate::upstream::Alarm;

/// Bytes counted both ways, shared by the two bodies of an exchange.
#[derive(Default)]
pub struct Counted {
    /// From the agent, body only.
    pub bytes_in: Cell<u64>,
    /// To the agent, body only.
    pub bytes_out: Cell<u64>,
    /// The agent's body couldn't be read to its end: what follows is not the upstream's fault.
    pub broken: Cell<bool>,
    /// The agent's body isn't what it had signed.
    pub refused: Cell<Option<ChunkError>>,
    /// The exchange may yet be refused: a body that is given up then comes to [`left`](Self::left).
    pub undecided: Cell<bool>,
    /// What wasn't read of the body of a request that is refused.
    pub left: Cell<Option<Incoming>>,
    /// Whether the agent's body is on its way.
    pub uploading: Cell<bool>,
    /// The exchange, of whose reply nothing is left, while the agent's body goes on.
    behind: RefCell<Option<Run>>,
}

impl Counted {
    /// The reply is over. The exchange isn't, while the agent's body is on its way.
    pub fn replied(&self, run: Run) {
        if self.uploading.get() {
            self.behind.replace(Some(run));
        }
    }

    /// The agent's body is over.
    pub fn uploaded(&self) {
        self.uploading.set(false);
        self.behind.take();
    }

    /// Whether the agent's body may not go on behind its reply.
    pub fn is_ended(&self, cx: &Context<'_>) -> bool {
        self.behind.borrow().as_ref().is_some_and(|run| run.poll_ended(cx).is_ready())
    }

    /// Reads what is left of a refused request, so that its connection can serve the next one: whether it
    /// ended within `most` bytes. Who waits for 100 (Continue) isn't asked for its body.
    pub async fn read_rest(&self, most: usize, deadline: Duration, expects: bool) -> bool {
        let Some(left) = self.left.take() else { return false };
        let fits = left.size_hint().upper().is_none_or(|size| size <= most as u64);
        let read = Limited::new(left, most).collect();
        fits && !expects && matches!(tokio::time::timeout(deadline, read).await, Ok(Ok(_)))
    }

    /// Reads what is left of a request over HTTP/2 that is refused, for a moment. A stream is reset once nobody
    /// holds its body (RFC 9113 section 8.1), and agents that are told of that together with the reply take the
    /// whole for a failure of the stream, and never show the reply.
    pub fn linger(&self, moment: Duration) {
        let Some(mut left) = self.left.take() else { return };
        tokio::task::spawn_local(async move {
            let read = async { while left.frame().await.is_some_and(|frame| frame.is_ok()) {} };
            let _ = tokio::time::timeout(moment, read).await;
        });
    }
}

/// The agent's body on its way up: counted, passed through untouched, bounded in idle time.
pub struct Upload {
    /// There until it is dropped.
    inner: Option<Incoming>,
    counted: Rc<Counted>,
    idle: Idle,
    /// Over HTTP/2 only END_STREAM ends a body well: hyper also ends it where the agent is lost
    /// without an error, and half a request must not be sent on as a whole one.
    marked: bool,
}

impl Upload {
    /// The body of a request.
    pub fn new(inner: Incoming, version: Version, counted: Rc<Counted>, idle: Duration) -> Self {
        counted.uploading.set(!inner.is_end_stream());
        Self { inner: Some(inner), counted, idle: Idle::new(idle), marked: version == Version::HTTP_2 }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.counted.uploaded();
        if self.counted.undecided.get() {
            self.counted.left.set(self.inner.take());
        }
    }
}

impl Upload {
    /// The agent reset its request, was lost, stands still or may not go on: over HTTP/2 the upstream is told
    /// CANCEL.
    fn broken_off(&self) -> BodyError {
        self.counted.broken.set(true);
        Box::new(h2::Error::from(h2::Reason::CANCEL))
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.counted.is_ended(cx) {
            return Poll::Ready(Some(Err(self.broken_off())));
        }
        let Some(inner) = &mut self.inner else { return Poll::Ready(None) };
        match Pin::new(inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(mut frame))) => {
                self.idle.reset();
                if let Some(data) = frame.data_ref() {
                    self.counted.bytes_in.set(self.counted.bytes_in.get() + data.len() as u64);
                }
                if let Some(trailers) = frame.trailers_mut() {
                    fit_trailers(trailers);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(_))) => Poll::Ready(Some(Err(self.broken_off()))),
            Poll::Ready(None) if self.marked && !self.is_end_stream() => Poll::Ready(Some(Err(self.broken_off()))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => match self.idle.poll(cx) {
                Poll::Ready(()) => Poll::Ready(Some(Err(self.broken_off()))),
                Poll::Pending => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(SizeHint::default, Body::size_hint)
    }
}

/// Trailers can't carry what frames, routes or authenticates a message (RFC 9110 section 6.5.1).
pub(super) fn fit_trailers(trailers: &mut HeaderMap) {
    for name in [
        "authorization",
        "host",
        "content-length",
        "transfer-encoding",
        "connection",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "cookie",
        "set-cookie",
        "proxy-authorization",
        "content-encoding",
        "content-type",
        "upgrade",
    ] {
        trailers.remove(name);
    }
}

/// A deadline that costs little while pieces keep coming.
pub(super) struct Idle {
    limit: Duration,
    alarm: Alarm,
    /// Whether the alarm counts from the last piece.
    waiting: bool,
}

impl Idle {
    /// It rings when nothing came for so long.
    pub fn new(limit: Duration) -> Self {
        Self { limit, alarm: Alarm::default(), waiting: false }
    }

    /// A piece came.
    pub fn reset(&mut self) {
        self.waiting = false;
    }

    /// Nothing came yet. Ready once that is so for too long.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !std::mem::replace(&mut self.waiting, true) {
            self.alarm.set(self.limit);
        }
        self.alarm.poll(cx)
    }
}
