//! A connection whose reply has begun while its request is still being sent.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::head::Head;
use super::{Line, Plain, Wire};
use crate::upstream::{Fill, Readable};

/// What two sides of one task read and write by turns.
#[derive(Clone)]
pub struct Shared(Rc<RefCell<Wire>>);

impl Plain {
    /// The connection for the reply that has begun, and for what is yet to be sent. It is not used again: the
    /// reply ends without telling whether the request has.
    #[must_use]
    pub fn share(self, head: &mut Head) -> (Self, Shared) {
        let Self { line, born, alarm, kept, home } = self;
        let Line { wire, input, fields, seen, open } = *line;
        let shared = Shared(Rc::new(RefCell::new(wire)));
        let line = Box::new(Line { wire: Wire::Shared(shared.clone()), input, fields, seen, open });
        head.lasts = false;
        (Self { line, born, alarm, kept, home }, shared)
    }
}

impl Readable for Shared {
    fn is_drained(&self) -> bool {
        self.0.borrow().is_drained()
    }

    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.borrow().poll_readable(cx)
    }
}

impl Fill for Shared {
    fn poll_fill(&mut self, cx: &mut Context<'_>, input: &mut BytesMut) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().poll_fill(cx, input)
    }
}

impl AsyncRead for Shared {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_read(cx, buf)
    }
}

impl AsyncWrite for Shared {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.borrow().is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_shutdown(cx)
    }
}
