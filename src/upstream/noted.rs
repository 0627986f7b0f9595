//! A request's body that tells whether it is still to be sent.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use http_body::{Body, Frame, SizeHint};

use super::RequestBody;

/// A request's body that notes when it was taken to its end.
pub struct Noted {
    body: RequestBody,
    whole: Rc<Cell<bool>>,
}

impl Noted {
    pub fn new(body: RequestBody, whole: &Rc<Cell<bool>>) -> Self {
        whole.set(body.is_end_stream());
        Self { body, whole: Rc::clone(whole) }
    }

    pub fn into_body(self) -> RequestBody {
        self.body
    }
}

impl Body for Noted {
    type Data = <RequestBody as Body>::Data;
    type Error = <RequestBody as Body>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let polled = self.body.as_mut().poll_frame(cx);
        let over = match &polled {
            Poll::Ready(None | Some(Err(_))) => true,
            Poll::Ready(Some(Ok(_))) => self.body.is_end_stream(),
            Poll::Pending => false,
        };
        if over {
            self.whole.set(true);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
