//! Frames on their way to a peer.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use zeroize::Zeroize as _;

use super::frame::{self, CloseCode, Head, Opcode, Sender};

/// What waits to be written to a peer. What goes to a server is wiped once it is out: it may hold a key.
pub struct Outgoing {
    to: Sender,
    bytes: Vec<u8>,
    /// How many of the bytes are out.
    written: usize,
    /// How many bytes were ever taken by the peer.
    moved: u64,
    limit: usize,
    masks: Masks,
    /// The last frame that may go out is among the bytes, or was.
    closed: bool,
}

impl Outgoing {
    /// Nothing waits. With more than `limit` bytes waiting nothing more should come.
    pub fn new(to: Sender, limit: usize) -> Self {
        Self { to, bytes: Vec::new(), written: 0, moved: 0, limit, masks: Masks::default(), closed: false }
    }

    /// Whether more should come.
    pub fn has_room(&self) -> bool {
        self.bytes.len() - self.written < self.limit
    }

    /// Whether everything is out.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Appends a frame with these pieces for a payload.
    ///
    /// # Errors
    /// The system's random source failed.
    pub fn frame<'a>(
        &mut self,
        (fin, compressed, opcode): (bool, bool, Opcode),
        pieces: impl Iterator<Item = &'a [u8]> + Clone,
    ) -> Result<(), getrandom::Error> {
        let len: usize = pieces.clone().map(<[u8]>::len).sum();
        // A server's frames go unmasked, a client's masked.
        let mask = match self.to {
            Sender::Client => None,
            Sender::Server => Some(self.masks.next()?),
        };
        self.reserve(len + frame::MAX_HEAD);
        let bytes = &mut self.bytes;
        let head = Head { fin, compressed, opcode, mask, len: len as u64 };
        head.write(|part| bytes.extend_from_slice(part));
        let begin = bytes.len();
        pieces.for_each(|piece| bytes.extend_from_slice(piece));
        if let (Some(key), Some(payload)) = (mask, bytes.get_mut(begin..)) {
            frame::mask(payload, key, 0);
        }
        self.closed |= opcode == Opcode::Close;
        Ok(())
    }

    /// Appends a close frame of our own, unless there is one.
    ///
    /// # Errors
    /// The system's random source failed.
    pub fn close(&mut self, code: CloseCode, reason: &str) -> Result<(), getrandom::Error> {
        if self.closed {
            return Ok(());
        }
        let code = (code as u16).to_be_bytes();
        let reason = &reason[..reason.floor_char_boundary(frame::MAX_CONTROL - code.len())];
        self.frame((true, false, Opcode::Close), [&code[..], reason.as_bytes()].into_iter())
    }

    /// Forgets what waits.
    pub fn clear(&mut self) {
        self.wipe();
        self.written = 0;
    }

    /// How many bytes the peer ever took.
    pub fn moved(&self) -> u64 {
        self.moved
    }

    fn wipe(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        if self.to == Sender::Server {
            bytes.zeroize();
        }
    }

    /// Makes room. What is moved for it leaves nothing behind.
    fn reserve(&mut self, more: usize) {
        if self.bytes.capacity() - self.bytes.len() >= more {
            return;
        }
        let rest = self.bytes.get(self.written..).unwrap_or_default();
        let mut larger = Vec::with_capacity((rest.len() + more).next_power_of_two());
        larger.extend_from_slice(rest);
        self.wipe();
        self.bytes = larger;
        self.written = 0;
    }

    /// Writes what waits. An idle one holds no memory.
    pub fn poll_write<S: AsyncWrite + ?Sized>(
        &mut self,
        mut stream: Pin<&mut S>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if self.bytes.is_empty() {
            return Poll::Ready(Ok(()));
        }
        while let Some(rest) = self.bytes.get(self.written..).filter(|rest| !rest.is_empty()) {
            match ready!(stream.as_mut().poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => {
                    self.written += written;
                    self.moved += written as u64;
                }
            }
        }
        ready!(stream.as_mut().poll_flush(cx))?;
        self.clear();
        Poll::Ready(Ok(()))
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.wipe();
    }
}

/// Fresh mask keys, which no peer can foretell (RFC 6455 section 5.3).
#[derive(Default)]
struct Masks {
    random: Bytes,
}

impl Masks {
    fn next(&mut self) -> Result<[u8; 4], getrandom::Error> {
        if self.random.is_empty() {
            let mut fresh = [0; 256];
            getrandom::fill(&mut fresh)?;
            self.random = Bytes::copy_from_slice(&fresh);
        }
        let key = self.random.split_to(4);
        Ok(<[u8; 4]>::try_from(&key[..]).unwrap_or_default())
    }
}
