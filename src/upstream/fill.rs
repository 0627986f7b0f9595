//! Reading to the end of a buffer, without room of its own for what doesn't come.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::{client, server};

/// The most that is read at once, in bytes; no more than a TLS record holds (RFC 8446 section 5.1).
pub const PIECE: usize = 16 * 1024;

/// A stream that appends what it reads to a buffer.
pub trait Fill {
    /// Reads up to [`PIECE`] bytes behind what the buffer holds. Ready with their number, 0 at the end.
    fn poll_fill(&mut self, cx: &mut Context<'_>, input: &mut BytesMut) -> Poll<io::Result<usize>>;
}

impl Fill for TcpStream {
    fn poll_fill(&mut self, cx: &mut Context<'_>, input: &mut BytesMut) -> Poll<io::Result<usize>> {
        poll_over(self, cx, input)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Fill for server::TlsStream<S> {
    fn poll_fill(&mut self, cx: &mut Context<'_>, input: &mut BytesMut) -> Poll<io::Result<usize>> {
        poll_held(self, cx, input)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Fill for client::TlsStream<S> {
    fn poll_fill(&mut self, cx: &mut Context<'_>, input: &mut BytesMut) -> Poll<io::Result<usize>> {
        poll_held(self, cx, input)
    }
}

/// Takes over what TLS has opened from where it lies.
fn poll_held<S: AsyncBufRead + Unpin>(
    stream: &mut S,
    cx: &mut Context<'_>,
    input: &mut BytesMut,
) -> Poll<io::Result<usize>> {
    let piece = ready!(Pin::new(&mut *stream).poll_fill_buf(cx))?;
    let read = piece.len();
    input.extend_from_slice(piece);
    Pin::new(stream).consume(read);
    Poll::Ready(Ok(read))
}

/// Reads by way of the stack. Never inlined: each poll of the caller would walk over that room.
#[inline(never)]
pub fn poll_over<S: AsyncRead + Unpin>(
    stream: &mut S,
    cx: &mut Context<'_>,
    input: &mut BytesMut,
) -> Poll<io::Result<usize>> {
    let mut piece = [MaybeUninit::<u8>::uninit(); PIECE];
    let mut piece = ReadBuf::uninit(&mut piece);
    ready!(Pin::new(stream).poll_read(cx, &mut piece))?;
    input.extend_from_slice(piece.filled());
    Poll::Ready(Ok(piece.filled().len()))
}
