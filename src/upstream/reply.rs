//! A reply's body on its way down, and the connection's way back to its pool.

use std::pin::Pin;
use std::rc::Weak;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::alarm::Alarm;
use super::continued::Refused;
use super::http2::StreamBody;
use super::plain::PlainBody;
use super::pool::{Http1, Inner, Place};
use super::shared::Share;
use super::upgrade::Switched;
use super::{Error, Stage};

/// What goes back to the pool.
pub(super) struct Back {
    pub sender: Http1,
    pub place: Place,
    pub born: Instant,
    pub home: Weak<Inner>,
}

/// How the end of a body is known.
pub(super) enum End {
    /// HTTP/1.1: by its framing. The connection goes back to the pool then.
    Framed(Option<Back>),
    /// The same, but the request's body was refused and never sent, so the connection isn't used again.
    Refused { _refused: Refused },
    /// With its head: the connection became another protocol.
    Switched(Switched),
    /// HTTP/2: by END_STREAM, and by nothing else: h2 also ends a body where its stream is lost without an
    /// error. The connection is shared until then.
    Marked { share: Share },
}

/// Whence a body comes.
enum Source {
    /// From hyper, over HTTP/1.1.
    Hyper(Incoming),
    /// From a stream of HTTP/2.
    Shared(StreamBody),
    /// From a connection that we speak HTTP/1.1 on ourselves.
    Plain(PlainBody),
}

/// A reply's body. Its connection goes back to the pool at the clean end.
pub struct ReplyBody {
    inner: Source,
    end: End,
    idle: std::time::Duration,
    alarm: Alarm,
    /// Whether the alarm counts from the last piece.
    waiting: bool,
}

impl ReplyBody {
    pub(super) fn new(inner: Incoming, end: End, idle: std::time::Duration, alarm: Alarm) -> Self {
        let mut body = Self { inner: Source::Hyper(inner), end, idle, alarm, waiting: false };
        if body.is_end_stream() {
            body.ended();
        }
        body
    }

    pub(super) fn shared(inner: StreamBody, end: End, idle: std::time::Duration, alarm: Alarm) -> Self {
        let mut body = Self { inner: Source::Shared(inner), end, idle, alarm, waiting: false };
        if body.is_end_stream() {
            body.ended();
        }
        body
    }

    pub(super) fn plain(mut inner: PlainBody, idle: std::time::Duration) -> Self {
        let alarm = inner.take_alarm();
        let mut body = Self { inner: Source::Plain(inner), end: End::Framed(None), idle, alarm, waiting: false };
        body.ended();
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
        if let Source::Plain(plain) = &mut self.inner {
            return plain.ended(&mut self.alarm);
        }
        if matches!(self.end, End::Marked { .. })
            && let End::Marked { share } = std::mem::replace(&mut self.end, End::Framed(None))
        {
            share.keep(std::mem::take(&mut self.alarm));
            if let Source::Shared(stream) = &mut self.inner
                && let Some(rest) = stream.take_rest()
            {
                // Nobody waits for it any more, and its upstream may never take it.
                let limit = self.idle;
                tokio::task::spawn_local(async move {
                    let _share = share;
                    let _ = tokio::time::timeout(limit, rest).await;
                });
            }
        }
        if let End::Framed(back) = &mut self.end
            && let Some(back) = back.take()
            && let Some(home) = back.home.upgrade()
        {
            home.give_back(back, std::mem::take(&mut self.alarm));
        }
    }
}

/// What broke a reply off. Of a reset's code (RFC 9113 section 7) only what is true of the next hop too
/// goes on; what was wrong between us and the upstream is none of the agent's doing.
fn broken(why: &h2::Error) -> Error {
    match Some(why).filter(|why| why.is_reset()).and_then(h2::Error::reason) {
        Some(h2::Reason::CANCEL | h2::Reason::NO_ERROR) => Error::Reset(h2::Reason::CANCEL.into()),
        Some(h2::Reason::ENHANCE_YOUR_CALM) => Error::Reset(h2::Reason::ENHANCE_YOUR_CALM.into()),
        Some(_) => Error::Reset(h2::Reason::INTERNAL_ERROR.into()),
        None => Error::Closed { written: true },
    }
}

impl ReplyBody {
    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match &mut self.inner {
            Source::Plain(plain) => plain.poll_frame(cx),
            Source::Hyper(incoming) => Pin::new(incoming).poll_frame(cx).map_err(|_| Error::Closed { written: true }),
            Source::Shared(stream) => match stream.poll_frame(cx) {
                Poll::Ready(None) if !stream.is_end_stream() => {
                    Poll::Ready(Some(Err(Error::Reset(h2::Reason::CANCEL.into()))))
                }
                polled => polled.map_err(|why| broken(&why)),
            },
        }
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match self.poll_source(cx) {
            Poll::Ready(None) => {
                self.ended();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Ok(frame))) => {
                self.waiting = false;
                if self.is_end_stream() {
                    self.ended();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(why))) => {
                self.end = End::Framed(None);
                Poll::Ready(Some(Err(why)))
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
        match &self.inner {
            Source::Hyper(incoming) => incoming.is_end_stream(),
            Source::Shared(stream) => stream.is_end_stream(),
            Source::Plain(plain) => plain.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Source::Hyper(incoming) => incoming.size_hint(),
            Source::Shared(stream) => stream.size_hint(),
            Source::Plain(plain) => plain.size_hint(),
        }
    }
}
