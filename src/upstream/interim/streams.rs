//! Which streams of an HTTP/2 connection await a reply, and what came before it.
//!
//! Both directions are followed: what we ask and reset, and what the upstream says. So there is an entry
//! for each stream whose reply's head is awaited and for no other: as many as exchanges wait at once.

use std::cell::Cell;
use std::io;
use std::rc::Rc;

use super::block::{Block, Status};
use super::frames::{CONTINUATION, END_HEADERS, END_STREAM, Frames, HEADERS, PADDED, PRIORITY, Piece, RST_STREAM};

/// The streams of one connection.
pub(super) struct Streams {
    went: Frames,
    came: Frames,
    awaited: Vec<Awaited>,
    /// The newest that we opened; their numbers rise.
    newest: u32,
    head: Head,
    block: Block,
    limit: u32,
    /// Interim replies on streams that await none, since one was given up.
    late: Option<u32>,
    /// Those of all connections.
    all: Rc<Cell<u64>>,
}

/// A stream whose reply's head hasn't come.
struct Awaited {
    stream: u32,
    interim: u32,
}

/// The head that comes, and how much of its frame is what.
#[derive(Default)]
struct Head {
    stream: u32,
    ends: bool,
    /// The length of the padding is yet to come.
    padded: bool,
    before: usize,
    block: usize,
}

/// One interim reply too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooMany {
    pub stream: u32,
    /// How many of the bytes were its head and what came before it.
    pub read: usize,
}

/// What a client says first (RFC 9113 section 3.4).
const PREFACE: usize = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len();

impl Streams {
    /// Of a connection on which nothing was said yet.
    pub fn new(limit: u32, all: &Rc<Cell<u64>>) -> Self {
        Self {
            went: Frames::behind(PREFACE),
            came: Frames::default(),
            awaited: Vec::new(),
            newest: 0,
            head: Head::default(),
            block: Block::default(),
            limit,
            late: None,
            all: Rc::clone(all),
        }
    }

    /// These bytes were sent.
    pub fn wrote(&mut self, mut bytes: &[u8]) {
        while let Some(piece) = self.went.next(&mut bytes) {
            let stream = piece.header.stream;
            match piece.header.kind {
                // Others are trailers.
                HEADERS if piece.begins && stream > self.newest => {
                    self.newest = stream;
                    self.awaited.push(Awaited { stream, interim: 0 });
                }
                RST_STREAM if piece.begins => self.forget(stream),
                _ => {}
            }
        }
    }

    /// These bytes came. They are read up to the head of the first interim reply that was one too many.
    ///
    /// # Errors
    /// The upstream goes on with interim replies on streams that were given up.
    pub fn read(&mut self, bytes: &[u8]) -> io::Result<Option<TooMany>> {
        let mut rest = bytes;
        while let Some(piece) = self.came.next(&mut rest) {
            match piece.header.kind {
                HEADERS | CONTINUATION => {
                    self.fields(&piece);
                    if piece.ends
                        && piece.header.flags & END_HEADERS != 0
                        && let Some(stream) = self.head_ends()?
                    {
                        return Ok(Some(TooMany { stream, read: bytes.len() - rest.len() }));
                    }
                }
                RST_STREAM if piece.begins => self.forget(piece.header.stream),
                _ => {}
            }
        }
        Ok(None)
    }

    /// Some of a head (RFC 9113 sections 6.2 and 6.10).
    fn fields(&mut self, piece: &Piece<'_>) {
        let (header, head) = (piece.header, &mut self.head);
        if piece.begins {
            let mut flags = header.flags;
            if header.kind == HEADERS {
                (head.stream, head.ends) = (header.stream, flags & END_STREAM != 0);
            } else {
                flags = 0;
            }
            head.padded = flags & PADDED != 0;
            head.before = if flags & PRIORITY == 0 { 0 } else { 5 };
            head.block = (header.len as usize).saturating_sub(head.before + usize::from(head.padded));
        }
        let mut payload = piece.payload;
        if head.padded
            && let Some((padding, rest)) = payload.split_first()
        {
            head.padded = false;
            head.block = head.block.saturating_sub(usize::from(*padding));
            payload = rest;
        }
        let (before, rest) = payload.split_at(payload.len().min(head.before));
        head.before -= before.len();
        let (block, _) = rest.split_at(rest.len().min(head.block));
        head.block -= block.len();
        self.block.read(block);
    }

    /// A head is whole. An interim reply that ends its stream is malformed (RFC 9113 section 8.1), so it is none.
    fn head_ends(&mut self) -> io::Result<Option<u32>> {
        let interim = self.block.end() == Some(Status::Interim) && !self.head.ends;
        let stream = self.head.stream;
        match self.awaited.iter_mut().find(|awaited| awaited.stream == stream) {
            Some(awaited) if interim => {
                self.all.set(self.all.get() + 1);
                awaited.interim += 1;
                if awaited.interim > self.limit {
                    self.forget(stream);
                    self.late.get_or_insert(0);
                    return Ok(Some(stream));
                }
            }
            Some(_) => self.forget(stream),
            None if interim => {
                // Until the first is given up they are harmless: the agent may have gone.
                if let Some(late) = &mut self.late {
                    *late += 1;
                    if *late > self.limit {
                        return Err(io::Error::other("interim replies without end"));
                    }
                }
            }
            None => {}
        }
        Ok(None)
    }

    fn forget(&mut self, stream: u32) {
        if let Some(at) = self.awaited.iter().position(|awaited| awaited.stream == stream) {
            self.awaited.swap_remove(at);
        }
    }
}

#[cfg(test)]
mod tests;
