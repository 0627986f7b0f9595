//! Over HTTP/2: frames are followed as they pass between TLS and hyper, whose h2 takes interim replies out
//! and tells nobody.
//!
//! The count is exact, in each form that HPACK has, and nothing of a payload is kept. A stream that
//! got too many is ended by h2, as hyper has no word for it: behind the head that was one too many it is shown
//! a malformed one, which is an error of that stream alone (RFC 9113 section 8.1.1). So the upstream gets a
//! RST_STREAM, what it has under way for that stream is ignored, and the others go on; if it goes on with more
//! than as many again, the connection is given up. What isn't exact: the exchange that is told why is
//! the next on that connection whose reply is malformed. It is another one only where an upstream
//! sends both at once, and each of them is answered with 502.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frames::{END_HEADERS, HEADERS};
use super::streams::Streams;

/// A stream of frames that are followed.
pub(in crate::upstream) struct Followed<S> {
    stream: S,
    streams: Streams,
    /// What h2 is shown next, of which the upstream said nothing.
    shown: Bytes,
    /// What came behind that, and isn't followed yet.
    held: Bytes,
    given_up: GivenUp,
}

/// How many streams of a connection were given up whose exchange wasn't told.
#[derive(Clone, Default)]
pub(in crate::upstream) struct GivenUp(Rc<Cell<u32>>);

impl GivenUp {
    /// Whether there is one; it is told now.
    pub fn tell(&self) -> bool {
        let left = self.0.get().checked_sub(1);
        self.0.set(left.unwrap_or(0));
        left.is_some()
    }
}

impl<S> Followed<S> {
    /// A connection on which nothing was said yet.
    pub fn new(stream: S, limit: u32, all: &Rc<Cell<u64>>) -> (Self, GivenUp) {
        let (given_up, streams) = (GivenUp::default(), Streams::new(limit, all));
        let told = given_up.clone();
        (Self { stream, streams, shown: Bytes::new(), held: Bytes::new(), given_up }, told)
    }
}

/// A head with two statuses (RFC 9113 section 8.3.2), which are of the static table, so that no table changes.
fn malformed(stream: u32) -> Bytes {
    let mut frame = vec![0, 0, 2, HEADERS, END_HEADERS];
    frame.extend(stream.to_be_bytes());
    frame.extend([0x88, 0x88]);
    frame.into()
}

impl<S: AsyncRead + Unpin> AsyncRead for Followed<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.shown.is_empty() {
            let len = this.shown.len().min(buf.remaining());
            buf.put_slice(&this.shown.split_to(len));
            return Poll::Ready(Ok(()));
        }
        let too_many = if this.held.is_empty() {
            let before = buf.filled().len();
            ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
            let followed = this.streams.read(buf.filled().get(before..).unwrap_or_default());
            let too_many = followed.inspect_err(|_| buf.set_filled(before))?;
            if let Some(too_many) = too_many {
                let read = before + too_many.read;
                this.held = Bytes::copy_from_slice(buf.filled().get(read..).unwrap_or_default());
                buf.set_filled(read);
            }
            too_many
        } else {
            let mut next = this.held.slice(..this.held.len().min(buf.remaining()));
            let too_many = this.streams.read(&next)?;
            if let Some(too_many) = too_many {
                next.truncate(too_many.read);
            }
            buf.put_slice(&this.held.split_to(next.len()));
            too_many
        };
        if let Some(too_many) = too_many {
            this.given_up.0.set(this.given_up.0.get().saturating_add(1));
            this.shown = malformed(too_many.stream);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Followed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        self.streams.wrote(bytes.get(..written).unwrap_or_default());
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, bytes))?;
        let mut left = written;
        for piece in bytes {
            let (now, _) = piece.split_at(piece.len().min(left));
            self.streams.wrote(now);
            left -= now.len();
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
