//! A stream to an upstream whose failed writes don't hide what the upstream said.
//!
//! A server that refuses an upload answers early, closes and so resets: the next write fails while the
//! answer still waits to be read. hyper takes the failed write for the end of everything. So from the
//! first failure on writes go nowhere, and reading tells: the answer first, then the end.
//!
//! A list of one piece is written as that piece; see [`super::forwarded`].

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::fill::{Fill, Readable, poll_over};

/// The stream, and whether its writes still go anywhere.
pub struct Lenient<S> {
    stream: S,
    broken: bool,
}

impl<S> Lenient<S> {
    /// A stream that was written to without failure.
    pub fn new(stream: S) -> Self {
        Self { stream, broken: false }
    }

    fn done<T>(&mut self, polled: Poll<io::Result<T>>, all: T) -> Poll<io::Result<T>> {
        match polled {
            Poll::Ready(Err(why)) => {
                tracing::debug!(error = %why, "the upstream takes nothing more");
                self.broken = true;
                Poll::Ready(Ok(all))
            }
            other => other,
        }
    }
}

impl<S: Readable> Readable for Lenient<S> {
    fn is_drained(&self) -> bool {
        self.stream.is_drained()
    }

    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.stream.poll_readable(cx)
    }
}

impl<S: AsyncRead + Readable + Unpin> Fill for Lenient<S> {
    fn poll_fill(&mut self, cx: &mut Context<'_>, input: &mut BytesMut) -> Poll<io::Result<usize>> {
        poll_over(self, cx, input)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Lenient<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Lenient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.broken {
            return Poll::Ready(Ok(bytes.len()));
        }
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.done(polled, bytes.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let [one] = bytes {
            return self.poll_write(cx, one);
        }
        let all = bytes.iter().map(|piece| piece.len()).sum();
        if self.broken {
            return Poll::Ready(Ok(all));
        }
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.done(polled, all)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.broken {
            return Poll::Ready(Ok(()));
        }
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        self.done(polled, ())
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.broken {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
