//! What is written in small pieces goes out together.
//!
//! h2 has 16 KiB for frames that go out together, but on a stream that says it takes several pieces at once it
//! writes each DATA frame of 256 bytes or more by itself: a TLS record and a system call for each short reply.
//! On other streams it does so from 1 KiB on, and writes such a frame in two pieces. So this stream says that
//! it doesn't, and puts the pieces together again.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use zeroize::Zeroizing;

/// A stream for HTTP/2. What is short is held until it is flushed, or written with what follows it.
pub struct Gathered<S> {
    stream: S,
    /// What was taken and isn't written. There may be a key in it.
    held: Zeroizing<Vec<u8>>,
}

/// The most that is held, in bytes: the first piece of a frame that h2 writes in two, and a little more.
const HELD: usize = 2048;

impl<S> Gathered<S> {
    /// A stream to which nothing was written.
    pub fn new(stream: S) -> Self {
        Self { stream, held: Zeroizing::default() }
    }
}

impl<S: AsyncWrite + Unpin> Gathered<S> {
    /// Writes what is held, and what follows: how much of that was written with it.
    fn poll_held(&mut self, cx: &mut Context<'_>, follows: &[u8]) -> Poll<io::Result<usize>> {
        while !self.held.is_empty() {
            let pieces = [IoSlice::new(&self.held), IoSlice::new(follows)];
            let written = match follows {
                [] => ready!(Pin::new(&mut self.stream).poll_write(cx, &self.held))?,
                _ => ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, &pieces))?,
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let of_held = written.min(self.held.len());
            self.held.drain(..of_held);
            if written > of_held {
                return Poll::Ready(Ok(written - of_held));
            }
        }
        Poll::Ready(Ok(0))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gathered<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathered<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.held.len() + bytes.len() <= HELD {
            // All at once: a vector that grows leaves copies behind.
            if self.held.capacity() == 0 {
                self.held.reserve_exact(HELD);
            }
            self.held.extend_from_slice(bytes);
            return Poll::Ready(Ok(bytes.len()));
        }
        match ready!(self.poll_held(cx, bytes))? {
            0 => Pin::new(&mut self.stream).poll_write(cx, bytes),
            written => Poll::Ready(Ok(written)),
        }
    }

    fn is_write_vectored(&self) -> bool {
        false
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_held(cx, &[]))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_held(cx, &[]))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::AsyncWriteExt as _;

    use super::*;

    /// Takes so much of each write, and keeps the writes.
    struct Taker(usize, Vec<Vec<u8>>);

    impl AsyncWrite for Taker {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            let taken = bytes.len().min(self.0);
            self.1.push(bytes[..taken].to_vec());
            Poll::Ready(Ok(taken))
        }

        fn poll_write_vectored(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            pieces: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let all: Vec<u8> = pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
            self.poll_write(cx, &all)
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn short_pieces_go_out_at_the_flush_and_long_ones_with_what_was_held() {
        let mut stream = Gathered::new(Taker(usize::MAX, Vec::new()));
        stream.write_all(b"ab").await.expect("taken");
        stream.write_all(b"cd").await.expect("taken");
        assert!(stream.stream.1.is_empty());
        stream.flush().await.expect("written");
        assert_eq!(stream.stream.1, [b"abcd"]);
        stream.write_all(b"head").await.expect("taken");
        let long = vec![b'x'; 2 * HELD];
        let taken = poll_fn(|cx| Pin::new(&mut stream).poll_write(cx, &long)).await.expect("written");
        assert_eq!((taken, stream.held.len()), (long.len(), 0));
        assert_eq!(stream.stream.1[1], [&b"head"[..], &long].concat());
        stream.shutdown().await.expect("closed");
        assert_eq!(stream.stream.1.len(), 2, "nothing was left to write");
    }

    #[tokio::test]
    async fn nothing_is_lost_or_doubled_however_little_is_taken_at_once() {
        for most in [1, 3, 1000, HELD, 5000] {
            let mut stream = Gathered::new(Taker(most, Vec::new()));
            let mut all = Vec::new();
            for (number, len) in [10, 0, 3000, 7, 2041, 2048, 1, 9000].into_iter().enumerate() {
                let piece = vec![number as u8; len];
                stream.write_all(&piece).await.expect("written");
                all.extend(piece);
            }
            stream.shutdown().await.expect("closed");
            assert_eq!(stream.stream.1.concat(), all, "{most} at once");
        }
    }
}
