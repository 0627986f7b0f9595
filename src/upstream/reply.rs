//! A reply's body on its way down, and the connection's way back to its pool.

use std::pin::Pin;
use std::rc::Weak;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http1;

use super::alarm::Alarm;
use super::pool::{Inner, Place};
use super::upgrade::Switched;
use super::{Error, RequestBody, Stage};

/// What goes back to the pool.
pub(super) struct Back {
    pub sender: http1::SendRequest<RequestBody>,
    pub place: Place,
    pub born: Instant,
    pub home: Weak<Inner>,
}

/// How the end of a body is known.
pub(super) enum End {
    /// HTTP/1.1: by its framing. The connection goes back to the pool then.
    Framed(Option<Back>),
    /// With its head: the connection became another protocol.
    Switched(Switched),
    /// HTTP/2: by END_STREAM, and by nothing else: hyper also ends a body where its stream is lost
    /// without an error.
    Marked,
}

/// A reply's body. Its connection goes back to the pool at the clean end.
pub struct ReplyBody {
    inner: Incoming,
    end: End,
    idle: std::time::Duration,
    alarm: Alarm,
    /// Whether the alarm counts from the last piece.
    waiting: bool,
}

impl ReplyBody {
    pub(super) fn new(inner: Incoming, end: End, idle: std::time::Duration, alarm: Alarm) -> Self {
        let mut body = Self { inner, end, idle, alarm, waiting: false };
        if body.inner.is_end_stream() {
            body.ended();
        }
        body
    }

    /// What the reply's connection became, if it switched protocols.
    pub fn switched(&mut self) -> Option<Switched> {
        match std::mem::replace(&mut self.end, End::Framed(None)) {
            End::Switched(switched) => Some(switched),
            other => {
                self.end = other;
                None
            }
        }
    }

    fn ended(&mut self) {
        if let End::Framed(back) = &mut self.end
            && let Some(back) = back.take()
            && let Some(home) = back.home.upgrade()
        {
            home.give_back(back, std::mem::take(&mut self.alarm));
        }
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match Pin::new(&mut self.inner).poll_frame(cx) {
            Poll::Ready(None) if matches!(self.end, End::Marked) && !self.inner.is_end_stream() => {
                Poll::Ready(Some(Err(Error::Closed { written: true })))
            }
            Poll::Ready(None) => {
                self.ended();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Ok(frame))) => {
                self.waiting = false;
                if self.inner.is_end_stream() {
                    self.ended();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(_))) => {
                self.end = End::Framed(None);
                Poll::Ready(Some(Err(Error::Closed { written: true })))
            }
            Poll::Pending => {
                if !std::mem::replace(&mut self.waiting, true) {
                    let idle = self.idle;
                    self.alarm.set(idle);
                }
                self.alarm.poll(cx).map(|()| Some(Err(Error::Timeout(Stage::Body))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
