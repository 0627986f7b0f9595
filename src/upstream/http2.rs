//! One exchange on an HTTP/2 connection, by h2 itself.
//!
//! hyper has a task and two channels for each request; here the exchange's own task asks and hears. What
//! hyper does on this layer is done here in its way: the length of a body is told where it is known, a body is
//! sent as the windows allow, and one that isn't sent at once goes on in a task of its own, beside the reply.

use std::future::poll_fn;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Reason, RecvStream, SendStream};
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use http_body::{Frame, SizeHint};
use tokio_util::task::AbortOnDropHandle;

use super::RequestBody;

/// Whether the connection takes requests.
pub(super) fn is_open(sender: &mut SendRequest<Bytes>) -> bool {
    // It waits for nothing: no stream of this sender is waiting to be opened.
    matches!(sender.poll_ready(&mut Context::from_waker(Waker::noop())), Poll::Ready(Ok(())))
}

/// Sends the request and waits for the reply's head. Where this is dropped before, or the reply's body before its
/// end, the upstream is told CANCEL.
///
/// # Errors
/// What h2 says. None of the request was sent only if the connection wasn't [open](is_open) before.
pub(super) async fn ask(
    sender: &mut SendRequest<Bytes>,
    mut request: Request<RequestBody>,
) -> Result<Response<StreamBody>, h2::Error> {
    let length = http_body::Body::size_hint(request.body()).exact();
    if let Some(length) = length
        && (length > 0 || !matches!(*request.method(), Method::GET | Method::HEAD | Method::DELETE))
        && !request.headers().contains_key(CONTENT_LENGTH)
    {
        request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    let ended = http_body::Body::is_end_stream(request.body());
    let (parts, body) = request.into_parts();
    let (reply, stream) = sender.send_request(Request::from_parts(parts, ()), ended)?;
    if ended {
        return reply.await.map(|response| replied(response, None));
    }
    // The upstream may take no more streams for now.
    poll_fn(|cx| sender.poll_ready(cx)).await?;
    let mut upload = Upload { stream, body, waiting: None };
    let sent = poll_fn(|cx| Poll::Ready(upload.poll(cx).is_ready())).await;
    if sent {
        return reply.await.map(|response| replied(response, None));
    }
    let rest = tokio::task::spawn_local(poll_fn(move |cx| upload.poll(cx)));
    let rest = AbortOnDropHandle::new(rest);
    reply.await.map(|response| replied(response, Some(rest)))
}

fn replied(response: Response<RecvStream>, rest: Option<Rest>) -> Response<StreamBody> {
    let (head, stream) = response.into_parts();
    let body = StreamBody { stream, left: length(&head.headers), came: false, rest };
    Response::from_parts(head, body)
}

/// What goes on with a body beside the reply. Where this is dropped, it is given up.
pub(super) type Rest = AbortOnDropHandle<()>;

/// A body on its way.
struct Upload {
    stream: SendStream<Bytes>,
    body: RequestBody,
    /// A piece that there is no window for, and whether it is the last.
    waiting: Option<(Bytes, bool)>,
}

impl Upload {
    /// Ready once nothing more is sent, for whatever reason: the reply tells.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if !matches!(self.stream.poll_reset(cx), Poll::Pending) {
                return Poll::Ready(());
            }
            if self.waiting.is_some() {
                while self.stream.capacity() == 0 {
                    if !matches!(ready!(self.stream.poll_capacity(cx)), Some(Ok(_))) {
                        return Poll::Ready(());
                    }
                }
            }
            if let Some((data, last)) = self.waiting.take() {
                if self.stream.send_data(data, last).is_err() || last {
                    return Poll::Ready(());
                }
                continue;
            }
            match ready!(self.body.as_mut().poll_frame(cx)) {
                None => {
                    let _ = self.stream.send_data(Bytes::new(), true);
                    return Poll::Ready(());
                }
                Some(Err(why)) => {
                    self.stream.send_reset(meant(&*why));
                    return Poll::Ready(());
                }
                Some(Ok(frame)) => {
                    if self.take(frame).is_ready() {
                        return Poll::Ready(());
                    }
                }
            }
        }
    }

    /// Sends what needs no window, and keeps the rest. Ready if it was the last.
    fn take(&mut self, frame: Frame<Bytes>) -> Poll<()> {
        match frame.into_data() {
            Ok(data) => {
                let last = http_body::Body::is_end_stream(&self.body);
                if data.is_empty() {
                    let failed = self.stream.send_data(data, last).is_err();
                    return if failed || last { Poll::Ready(()) } else { Poll::Pending };
                }
                // As little as there is: more is asked for once the piece is handed over. A claim that waits holds
                // up the other streams.
                self.stream.reserve_capacity(1);
                self.waiting = Some((data, last));
                Poll::Pending
            }
            Err(frame) => match frame.into_trailers() {
                Ok(trailers) => {
                    self.stream.reserve_capacity(0);
                    if self.stream.send_trailers(trailers).is_err() {
                        // Without them the request would have no end.
                        self.stream.send_reset(Reason::INTERNAL_ERROR);
                    }
                    Poll::Ready(())
                }
                Err(_) => Poll::Pending,
            },
        }
    }
}

/// What a body's failure means to the upstream (RFC 9113 section 7).
fn meant(why: &(dyn std::error::Error + 'static)) -> Reason {
    let mut next = Some(why);
    while let Some(why) = next {
        if let Some(reason) = why.downcast_ref::<h2::Error>().and_then(h2::Error::reason) {
            return reason;
        }
        next = why.source();
    }
    Reason::INTERNAL_ERROR
}

/// A reply's body.
pub(super) struct StreamBody {
    stream: RecvStream,
    /// What its head says is to come, in bytes.
    left: Option<u64>,
    /// Whether all of the data came.
    came: bool,
    /// Of the request.
    rest: Option<Rest>,
}

impl StreamBody {
    /// What is still sent of the request, if anything is. A whole reply may come before it was (RFC 9113 section
    /// 8.1).
    pub fn take_rest(&mut self) -> Option<Rest> {
        self.rest.take().filter(|rest| !rest.is_finished())
    }

    /// Whether the upstream has ended it.
    pub fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    /// How much is to come, as far as that is known.
    pub fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }

    /// The next piece. A stream that was reset with NO_ERROR has no more, either: only END_STREAM makes it an end.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if !self.came {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    let _ = self.stream.flow_control().release_capacity(data.len());
                    self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(why)) => return Poll::Ready(Some(Err(why))),
                None => self.came = true,
            }
        }
        let trailers = ready!(self.stream.poll_trailers(cx));
        Poll::Ready(trailers.map(|trailers| trailers.map(Frame::trailers)).transpose())
    }
}

/// The length that all of the fields agree on (RFC 9110 section 8.6).
fn length(headers: &HeaderMap) -> Option<u64> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter().map(|value| {
        let digits = value.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
        digits.and_then(|text| text.parse().ok())
    });
    let first = lengths.next()?;
    lengths.all(|other| other == first).then_some(first)?
}
