//! Over HTTP/1.1: status lines and the ends of heads are found in what is read.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};

use crate::upstream::forwarded::writes_pass;

/// What came on one HTTP/1.1 connection before the reply that is waited for.
pub(in crate::upstream) struct Interim {
    at: Cell<At>,
    came: Cell<u32>,
    limit: u32,
    /// Those of all connections.
    all: Rc<Cell<u64>>,
}

/// Where in what is read.
#[derive(Clone, Copy)]
enum At {
    /// In a reply, or before anything was asked.
    Reply,
    /// This far in a status line, and its second digit.
    Status(usize, u8),
    /// In an interim reply's head, at the start of a line or not.
    Head { fresh: bool },
}

/// `HTTP/1.1 1`, of which the last byte tells.
const CLASS: usize = "HTTP/1.1 ".len();

impl Interim {
    /// Of a connection on which nothing was asked yet.
    pub fn new(limit: u32, all: &Rc<Cell<u64>>) -> Rc<Self> {
        Rc::new(Self { at: Cell::new(At::Reply), came: Cell::new(0), limit, all: Rc::clone(all) })
    }

    /// A request is sent: its reply, and what comes before that, is next.
    pub fn expect(&self) {
        self.at.set(At::Status(0, 0));
        self.came.set(0);
    }

    /// Whether more came than may.
    pub fn too_many(&self) -> bool {
        self.came.get() > self.limit
    }

    fn read(&self, bytes: &[u8]) -> io::Result<()> {
        let mut at = self.at.get();
        for byte in bytes {
            at = match (at, byte) {
                (At::Reply, _) => break,
                // Empty lines before a status line are skipped, as parsers do.
                (At::Status(0, _), b'\r' | b'\n') => at,
                (At::Status(CLASS, _), b'1') => At::Status(CLASS + 1, 0),
                (At::Status(CLASS, _), _) => At::Reply,
                (At::Status(n, second), third) if n == CLASS + 2 => match (second, third) {
                    // 101 ends what was waited for.
                    (b'0', b'1') => At::Reply,
                    _ => {
                        self.came.set(self.came.get().saturating_add(1));
                        self.all.set(self.all.get() + 1);
                        At::Head { fresh: false }
                    }
                },
                (At::Status(n, _), byte) => At::Status(n + 1, *byte),
                (At::Head { fresh: true }, b'\n') => At::Status(0, 0),
                (At::Head { .. }, b'\n') => At::Head { fresh: true },
                (At::Head { fresh }, b'\r') => At::Head { fresh },
                (At::Head { .. }, _) => At::Head { fresh: false },
            };
        }
        self.at.set(at);
        if self.too_many() { Err(io::Error::other("too many interim replies")) } else { Ok(()) }
    }
}

/// A stream that is looked at as it is read.
pub(in crate::upstream) struct Watched<S> {
    stream: S,
    interim: Rc<Interim>,
}

impl<S> Watched<S> {
    /// What is read from the stream is looked at.
    pub fn new(stream: S, interim: Rc<Interim>) -> Self {
        Self { stream, interim }
    }

    /// The stream again.
    pub fn into_inner(self) -> S {
        self.stream
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if let Poll::Ready(Ok(())) = polled
            && !matches!(self.interim.at.get(), At::Reply)
        {
            return Poll::Ready(self.interim.read(buf.filled().get(before..).unwrap_or_default()));
        }
        polled
    }
}

writes_pass!(Watched);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interim_replies_are_counted_at_every_cut_and_nothing_else_is() {
        for (reply, count) in [
            ("HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 103 no\r\n\r\n", 0),
            ("HTTP/1.1 101 Switching\r\n\r\nHTTP/1.1 103 no\r\n\r\n", 0),
            ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", 1),
            (
                "\r\nHTTP/1.1 103 Early\r\nlink: a\r\nx: HTTP/1.1 103 \r\n\r\nHTTP/1.0 102 P\n\nHTTP/1.1 404 No\r\n\r\n",
                2,
            ),
            ("HTTP/1.1 199 Odd\r\n\r\nHTTP/1.1 111 Odd\r\n\r\nHTTP/1.1 200 OK\r\n\r\nHTTP/1.1 103 no\r\n\r\n", 2),
        ] {
            for size in 1..=reply.len() {
                let all = Rc::default();
                let interim = Interim::new(10, &all);
                interim.read(b"HTTP/1.1 103 of nothing\r\n\r\n").expect("nothing was asked");
                interim.expect();
                for piece in reply.as_bytes().chunks(size) {
                    interim.read(piece).expect("few");
                }
                assert_eq!(
                    (all.get(), interim.came.get()),
                    (count, u32::try_from(count).expect("few")),
                    "{reply:?} {size}"
                );
                interim.expect();
                let many = b"HTTP/1.1 102 Processing\r\n\r\n".repeat(11);
                assert!(interim.read(&many).is_err() && interim.too_many());
            }
        }
    }
}
