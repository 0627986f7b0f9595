//! Reading to the end of a buffer, without room of its own for what doesn't come, and writing parts as one.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::{client, server};

/// The most that is read at once, in bytes; no more than a TLS record holds (RFC 8446 section 5.1).
pub const PIECE: usize = 16 * 1024;

/// A stream that can tell, without reading, that there is nothing to read.
pub trait Readable {
    /// Whether nothing that was read from the connection waits within.
    fn is_drained(&self) -> bool;

    /// Pending while the connection has nothing new; the task is woken then as by a read.
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()>;
}

impl Readable for TcpStream {
    fn is_drained(&self) -> bool {
        true
    }

    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_read_ready(cx).map(drop)
    }
}

/// TLS that wants to read holds nothing that it has opened, and hasn't heard the end.
macro_rules! readable_tls {
    ($side:ident) => {
        impl<S: Readable> Readable for $side::TlsStream<S> {
            fn is_drained(&self) -> bool {
                let (stream, session) = self.get_ref();
                session.wants_read() && stream.is_drained()
            }

            fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
                self.get_ref().0.poll_readable(cx)
            }
        }
    };
}

readable_tls!(server);
readable_tls!(client);

/// A stream that appends what it reads to a buffer.
pub trait Fill: Readable {
    /// Reads up to [`PIECE`] bytes behind what the buffer holds. Ready with their number, 0 at the end.
    fn poll_fill(&mut self, cx: &mut Context<'_>, input: &mut BytesMut) -> Poll<io::Result<usize>>;
}

impl Fill for TcpStream {
    fn poll_fill(&mut self, cx: &mut Context<'_>, input: &mut BytesMut) -> Poll<io::Result<usize>> {
        poll_over(self, cx, input)
    }
}

impl<S: AsyncRead + AsyncWrite + Readable + Unpin> Fill for server::TlsStream<S> {
    fn poll_fill(&mut self, cx: &mut Context<'_>, input: &mut BytesMut) -> Poll<io::Result<usize>> {
        poll_held(self, cx, input)
    }
}

impl<S: AsyncRead + AsyncWrite + Readable + Unpin> Fill for client::TlsStream<S> {
    fn poll_fill(&mut self, cx: &mut Context<'_>, input: &mut BytesMut) -> Poll<io::Result<usize>> {
        poll_held(self, cx, input)
    }
}

/// Takes over what TLS has opened from where it lies.
fn poll_held<S: AsyncBufRead + Readable + Unpin>(
    stream: &mut S,
    cx: &mut Context<'_>,
    input: &mut BytesMut,
) -> Poll<io::Result<usize>> {
    // TLS takes ten times as long as the connection under it to find out that nothing came.
    if stream.is_drained() {
        ready!(stream.poll_readable(cx));
    }
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

/// Writes parts that follow each other, as far as the stream takes them: ready once it took all. They have to be
/// the same list from poll to poll, and are advanced.
pub fn poll_write_parts<W: AsyncWrite + Unpin>(
    to: &mut W,
    cx: &mut Context<'_>,
    parts: &mut &mut [IoSlice<'_>],
) -> Poll<io::Result<()>> {
    IoSlice::advance_slices(parts, 0);
    while !parts.is_empty() {
        match ready!(Pin::new(&mut *to).poll_write_vectored(cx, parts))? {
            0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            written => IoSlice::advance_slices(parts, written),
        }
    }
    Poll::Ready(Ok(()))
}
