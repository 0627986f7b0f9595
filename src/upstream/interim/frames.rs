//! HTTP/2 frames in bytes that pass by (RFC 9113 section 4.1), whatever pieces they come in.

pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const CONTINUATION: u8 = 9;
pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;
pub(super) const PADDED: u8 = 8;
pub(super) const PRIORITY: u8 = 0x20;

/// One direction of a connection.
#[derive(Default)]
pub(super) struct Frames {
    /// The header of the frame that passes, as far as it came.
    header: u128,
    /// How many of its bytes did.
    came: usize,
    /// How much of its payload is to come.
    left: usize,
}

/// A frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// Of the payload.
    pub len: u32,
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
}

/// Some of a frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Piece<'a> {
    pub header: Header,
    /// What is here of its payload.
    pub payload: &'a [u8],
    /// Whether it is the first of its frame, and the last.
    pub begins: bool,
    pub ends: bool,
}

/// How long a header is.
const HEADER: usize = 9;

impl Frames {
    /// Frames behind so many other bytes, which pass as the payload of one that means nothing.
    pub fn behind(bytes: usize) -> Self {
        Self { header: 0, came: HEADER, left: bytes }
    }

    /// The next piece, which is taken from the bytes.
    pub fn next<'a>(&mut self, bytes: &mut &'a [u8]) -> Option<Piece<'a>> {
        if bytes.is_empty() {
            return None;
        }
        let begins = self.came < HEADER;
        if begins {
            let more = take(bytes, HEADER - self.came);
            self.header = more.iter().fold(self.header, |header, byte| header << 8 | u128::from(*byte));
            self.came += more.len();
            if self.came < HEADER {
                return None;
            }
            self.left = self.header().len as usize;
        }
        let header = self.header();
        let payload = take(bytes, self.left);
        self.left -= payload.len();
        let ends = self.left == 0;
        if ends {
            *self = Self::default();
        }
        Some(Piece { header, payload, begins, ends })
    }

    fn header(&self) -> Header {
        let of = self.header;
        Header {
            len: (of >> 48) as u32,
            kind: (of >> 40) as u8,
            flags: (of >> 32) as u8,
            stream: of as u32 & 0x7fff_ffff,
        }
    }
}

fn take<'a>(bytes: &mut &'a [u8], most: usize) -> &'a [u8] {
    let (now, rest) = bytes.split_at(bytes.len().min(most));
    *bytes = rest;
    now
}
