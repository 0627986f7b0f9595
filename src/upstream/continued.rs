//! A body that is sent once the upstream asks for it (100-continue, RFC 9110 section 10.1.1).
//!
//! The agent's expectation is passed on, and its body isn't touched before the upstream's 100 is there, which
//! is what makes hyper say 100 to the agent: a refused upload never leaves it. An upstream that ignores the
//! expectation gets the body after a while. hyper tells of 1xx over HTTP/1.1 only, so to an HTTP/2 upstream the
//! expectation isn't passed on.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::header::EXPECT;
use http::{HeaderValue, Request, StatusCode};
use http_body::{Body, Frame, SizeHint};
use tokio::time::Sleep;

use super::RequestBody;

/// Among a request's extensions: its sender waits to be asked for the body.
#[derive(Debug, Clone, Copy)]
pub struct Expects;

/// What the upstream says of a body that waits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Said {
    #[default]
    Nothing,
    /// It wants the body, or has had its time.
    Yes,
    /// It replied without it. The agent's side is let go at once, the connection when the reply is over.
    No,
    /// And that reply is over.
    Over,
}

/// What was said, and the body that waits for it.
#[derive(Default)]
pub(super) struct Answer(Mutex<(Said, Option<Waker>)>);

impl Answer {
    fn state(&self) -> MutexGuard<'_, (Said, Option<Waker>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, from: Said, to: Said) -> bool {
        let mut state = self.state();
        let fits = state.0 == from;
        if fits {
            state.0 = to;
            if let Some(waker) = state.1.take() {
                waker.wake();
            }
        }
        fits
    }
}

/// Keeps a connection whose request's body was refused; it is given up when this is dropped.
pub(super) struct Refused(Arc<Answer>);

impl Drop for Refused {
    fn drop(&mut self) {
        self.0.tell(Said::No, Said::Over);
    }
}

/// The reply is there: the body isn't wanted any more, if it wasn't asked for.
pub(super) fn replied(answer: Option<Arc<Answer>>) -> Option<Refused> {
    answer.filter(|answer| answer.tell(Said::Nothing, Said::No)).map(Refused)
}

/// Passes the expectation on, if there is one; the body waits this long.
pub(super) fn expect(request: Request<RequestBody>, limit: Duration) -> (Request<RequestBody>, Option<Arc<Answer>>) {
    let (mut parts, inner) = request.into_parts();
    if parts.extensions.remove::<Expects>().is_none() {
        return (Request::from_parts(parts, inner), None);
    }
    parts.headers.insert(EXPECT, HeaderValue::from_static("100-continue"));
    let answer = Arc::<Answer>::default();
    let size = inner.size_hint();
    let body = Awaited { inner: Some(inner), size, answer: Arc::clone(&answer), limit, patience: None };
    let mut request = Request::from_parts(parts, Box::pin(body) as RequestBody);
    let told = Arc::clone(&answer);
    hyper::ext::on_informational(&mut request, move |interim| {
        if interim.status() == StatusCode::CONTINUE {
            told.tell(Said::Nothing, Said::Yes);
        }
    });
    (request, Some(answer))
}

struct Awaited {
    /// Dropped where the upstream doesn't want it.
    inner: Option<RequestBody>,
    size: SizeHint,
    answer: Arc<Answer>,
    limit: Duration,
    patience: Option<Pin<Box<Sleep>>>,
}

impl Awaited {
    fn poll_said(&mut self, cx: &mut Context<'_>) -> Said {
        let said = {
            let mut state = self.answer.state();
            if matches!(state.0, Said::Nothing | Said::No) {
                state.1 = Some(cx.waker().clone());
            }
            state.0
        };
        let limit = self.limit;
        let patience = || Box::pin(tokio::time::sleep(limit));
        match said {
            Said::Nothing if self.patience.get_or_insert_with(patience).as_mut().poll(cx).is_ready() => {
                self.answer.tell(Said::Nothing, Said::Yes);
                Said::Yes
            }
            said => said,
        }
    }
}

impl Body for Awaited {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match (self.poll_said(cx), &mut self.inner) {
            (Said::Yes, Some(inner)) => inner.as_mut().poll_frame(cx),
            (Said::Nothing, _) => Poll::Pending,
            (Said::No, _) => {
                self.inner = None;
                Poll::Pending
            }
            (Said::Over | Said::Yes, _) => Poll::Ready(Some(Err("the body was not asked for".into()))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_some_and(|inner| inner.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| self.size, |inner| inner.size_hint())
    }
}
