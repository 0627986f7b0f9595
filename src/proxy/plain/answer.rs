//! Replies of plain exchanges on their way to the agent.

use std::future::poll_fn;
use std::io::IoSlice;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use http::header::{CONTENT_LENGTH, DATE};
use http::{Response, StatusCode};
use http_body::Body as _;
use tokio::io::{AsyncRead, AsyncWrite};

use super::Went;
use super::agent::Agent;
use super::upload::Upload;
use crate::proxy::relay::{self, Reply};
use crate::proxy::scrub::PatternSet;
use crate::upstream::Fill;
use crate::upstream::plain::{Head, Plain, Shared};

/// A body that is longer is handed on where it lies, in bytes; a shorter one is copied behind its head.
const APART: usize = 1024;

/// A reply as it is sent.
pub(super) struct Whole {
    /// Its head, and a body that isn't apart.
    pub front: Vec<u8>,
    /// The body's length, in bytes.
    pub body: usize,
    /// Whether the body isn't in the front.
    pub apart: bool,
}

fn begin(status: StatusCode, room: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(room);
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    // The upstream's own words may hold a key.
    out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
    out
}

/// RFC 9110 section 6.6.1: who passes on a reply without a date sets one.
fn put_date(out: &mut Vec<u8>, date: &str) {
    out.extend_from_slice(b"date: ");
    out.extend_from_slice(date.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// The reply, if it is all there, goes on as it is but for its hop's fields, and nothing in it begins like
/// a key.
pub(super) fn whole(
    connection: &Plain,
    head: &Head,
    patterns: Option<&PatternSet>,
    date: &str,
    lasts: bool,
) -> Option<Whole> {
    let text = connection.whole(head)?;
    if patterns.is_some() && head.status == StatusCode::PARTIAL_CONTENT {
        return None;
    }
    let body = text.get(head.body_at()..)?;
    let apart = body.len() > APART;
    let mut out = begin(head.status, head.body_at() + 128 + if apart { 0 } else { body.len() });
    let mut dated = false;
    for field in connection.fields() {
        let (name, value) = field.of(text);
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        match name.len() {
            10 if is("connection") => {
                if !value.eq_ignore_ascii_case(b"keep-alive") && !value.eq_ignore_ascii_case(b"close") {
                    return None;
                }
                continue;
            }
            16 if patterns.is_some() && is("content-encoding") => return None,
            // RFC 9110 section 8.6: there is none.
            14 if head.status == StatusCode::NO_CONTENT && is("content-length") => continue,
            4 if is("date") => dated = true,
            _ if relay::not_for_the_agent(name) => continue,
            _ => {}
        }
        field.put(text, &mut out);
    }
    if !dated {
        put_date(&mut out, date);
    }
    if !lasts {
        out.extend_from_slice(b"connection: close\r\n");
    }
    out.extend_from_slice(b"\r\n");
    if !apart {
        out.extend_from_slice(body);
    }
    // As it is sent: a name that came in another case may be a key in this one.
    let clean = |patterns: &PatternSet| patterns.is_clean(&out) && (!apart || patterns.is_clean(body));
    if patterns.is_some_and(|patterns| !clean(patterns)) {
        return None;
    }
    Some(Whole { front: out, body: body.len(), apart })
}

/// What of a reply waits to be written.
#[derive(Default)]
struct Waiting {
    front: Vec<u8>,
    written: usize,
    data: Bytes,
    behind: &'static [u8],
}

impl Waiting {
    fn poll_write<W: AsyncWrite>(&mut self, mut to: Pin<&mut W>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        loop {
            let front = self.front.get(self.written..).unwrap_or_default();
            let slices = [IoSlice::new(front), IoSlice::new(&self.data), IoSlice::new(self.behind)];
            if slices.iter().all(|slice| slice.is_empty()) {
                self.front.clear();
                self.written = 0;
                return Poll::Ready(Ok(()));
            }
            let mut wrote = ready!(to.as_mut().poll_write_vectored(cx, &slices))?;
            if wrote == 0 {
                return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into()));
            }
            let of_front = wrote.min(front.len());
            self.written += of_front;
            wrote -= of_front;
            let of_data = wrote.min(self.data.len());
            self.data.advance(of_data);
            if self.data.is_empty() {
                // Even an empty view keeps the allocation, which is to be read into again.
                self.data = Bytes::new();
            }
            self.behind = self.behind.get(wrote - of_data..).unwrap_or_default();
        }
    }
}

/// Streams the reply to its end, beside what is left of the request.
pub(super) async fn stream<S>(
    agent: &mut Agent<S>,
    response: Response<Reply>,
    date: &str,
    of_head: bool,
    lasts: bool,
    mut beside: Option<&mut (Box<Upload>, Shared)>,
) -> Went
where
    S: AsyncRead + AsyncWrite + Fill + Unpin,
{
    let (parts, reply) = response.into_parts();
    let mut body = pin!(agent.stream.replies()(reply));
    let bodiless = of_head || matches!(parts.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let mut front = begin(parts.status, 512);
    for (name, value) in &parts.headers {
        if parts.status == StatusCode::NO_CONTENT && name == CONTENT_LENGTH {
            continue;
        }
        front.extend_from_slice(name.as_str().as_bytes());
        front.extend_from_slice(b": ");
        front.extend_from_slice(value.as_bytes());
        front.extend_from_slice(b"\r\n");
    }
    if !parts.headers.contains_key(DATE) {
        put_date(&mut front, date);
    }
    let mut chunked = false;
    if !bodiless && !parts.headers.contains_key(CONTENT_LENGTH) {
        match body.size_hint().exact() {
            Some(len) => front.extend_from_slice(format!("content-length: {len}\r\n").as_bytes()),
            None => {
                chunked = true;
                front.extend_from_slice(b"transfer-encoding: chunked\r\n");
            }
        }
    }
    if !lasts {
        front.extend_from_slice(b"connection: close\r\n");
    }
    front.extend_from_slice(b"\r\n");
    let mut waiting = Waiting { front, ..Waiting::default() };
    let mut over = bodiless;
    let ended = poll_fn(|cx| {
        if let Some((upload, to)) = beside.as_deref_mut().filter(|(upload, _)| !upload.is_over())
            && let Poll::Ready(Err(_)) = upload.poll(agent, Pin::new(to), cx)
        {
            return Poll::Ready(false);
        }
        loop {
            // The head waits for what is there of the body already, and goes out with it.
            let mut stands = false;
            if !over && waiting.data.is_empty() && waiting.behind.is_empty() {
                match body.as_mut().poll_frame(cx) {
                    Poll::Pending => stands = true,
                    Poll::Ready(Some(Err(_))) => return Poll::Ready(false),
                    Poll::Ready(Some(Ok(frame))) => {
                        // Trailers are sent to those who said that they take them, and this agent didn't.
                        if let Ok(data) = frame.into_data()
                            && !data.is_empty()
                        {
                            if chunked {
                                waiting.front.extend_from_slice(format!("{:x}\r\n", data.len()).as_bytes());
                                waiting.behind = b"\r\n";
                            }
                            waiting.data = data;
                        }
                    }
                    Poll::Ready(None) => {
                        over = true;
                        if chunked {
                            waiting.behind = b"0\r\n\r\n";
                        }
                    }
                }
            }
            match waiting.poll_write(Pin::new(&mut agent.stream), cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(false),
                Poll::Pending => return Poll::Pending,
            }
            if over || stands {
                match Pin::new(&mut agent.stream).poll_flush(cx) {
                    Poll::Ready(Ok(())) if over => return Poll::Ready(true),
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(_)) => return Poll::Ready(false),
                    Poll::Pending => return Poll::Pending,
                }
                if beside.as_ref().is_some_and(|(upload, _)| !upload.is_over()) {
                    return Poll::Pending;
                }
                return agent.poll_gone(cx).map(|()| false);
            }
        }
    })
    .await;
    match ended {
        true if lasts => Went::On,
        true => Went::Out,
        false => Went::Lost,
    }
}
