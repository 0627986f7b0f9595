//! A byte stream of which some bytes were read already.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;

use crate::upstream::{Fill, Readable, Stream, writes_pass};

/// A stream of which the kernel may move the bytes, if it is bare TCP.
pub trait Bare {
    /// The connection, if there is nothing between it and the bytes.
    fn bare(&self) -> Option<&TcpStream>;
}

impl Bare for TcpStream {
    fn bare(&self) -> Option<&TcpStream> {
        Some(self)
    }
}

impl<S> Bare for tokio_rustls::server::TlsStream<S> {
    fn bare(&self) -> Option<&TcpStream> {
        None
    }
}

impl Bare for Stream {
    fn bare(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(stream) => Some(stream),
            Self::Tls(_) => None,
        }
    }
}

/// Gives the bytes in front first, then reads on from the stream.
pub struct Prefixed<T> {
    front: Bytes,
    stream: T,
}

impl<T> Prefixed<T> {
    /// A stream that begins with `front`.
    pub fn new(front: Bytes, stream: T) -> Self {
        Self { front, stream }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Prefixed<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.front.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let len = self.front.len().min(buf.remaining());
        buf.put_slice(&self.front[..len]);
        self.front.advance(len);
        if self.front.is_empty() {
            // Even an empty view keeps the whole allocation.
            self.front = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: Readable> Readable for Prefixed<T> {
    fn is_drained(&self) -> bool {
        self.front.is_empty() && self.stream.is_drained()
    }

    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.front.is_empty() { self.stream.poll_readable(cx) } else { Poll::Ready(()) }
    }
}

impl<T: Fill> Fill for Prefixed<T> {
    fn poll_fill(&mut self, cx: &mut Context<'_>, input: &mut BytesMut) -> Poll<io::Result<usize>> {
        if self.front.is_empty() {
            return self.stream.poll_fill(cx, input);
        }
        let front = std::mem::take(&mut self.front);
        input.extend_from_slice(&front);
        Poll::Ready(Ok(front.len()))
    }
}

writes_pass!(Prefixed);
