//! The bytes that hold records together: the parts of a line, the MACs over them, and what is signed.

use super::layout::slot_name;
use crate::model::Secret;

/// A record's MAC: the first 128 bits of keyed BLAKE3.
pub(super) type Mac = [u8; 16];

/// What stands in place of the MAC before a chain's first record: it differs from chain to chain,
/// so that the records of one don't fit into another.
pub(super) fn genesis(key: &[u8; 32], slot: u32) -> Mac {
    mac(&keyed(key, &[b"chain", &slot.to_be_bytes()]))
}

/// What the MACs of records are keyed by.
pub(super) fn link_key(key: &[u8; 32]) -> Secret<[u8; 32]> {
    Secret::new(keyed(key, &[b"record"]))
}

/// The MAC of a record: over its line up to the MAC, which stands in `room` from `from` on, and over the MAC of the
/// record before it. Both are hashed as one text; since that MAC has one length, no other pair gives the same text.
///
/// `room` is as it was afterwards: the MAC before is put behind the line for the time of hashing.
pub(super) fn link(key: &[u8; 32], previous: &Mac, from: usize, room: &mut Vec<u8>) -> Mac {
    let end = room.len();
    room.extend_from_slice(previous);
    let made = mac(blake3::keyed_hash(key, room.get(from..).unwrap_or_default()).as_bytes());
    room.truncate(end);
    made
}

fn mac(hash: &[u8; 32]) -> Mac {
    let mut mac = Mac::default();
    mac.copy_from_slice(&hash[..size_of::<Mac>()]);
    mac
}

pub(super) fn keyed(key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_keyed(key);
    for part in parts {
        hasher.update(part);
    }
    *hasher.finalize().as_bytes()
}

/// What a signature is over: the chain, and the record up to its signature.
pub(super) fn signed_bytes(slot: u32, line: &[u8]) -> Vec<u8> {
    [b"sallyport audit ".as_slice(), slot_name(slot).as_bytes(), b" ", line].concat()
}

/// How a line begins.
const SEQ: &[u8] = b"{\"seq\":";
/// What follows its number.
const TIME: &[u8] = b",\"time\":";
/// What follows its time.
const KIND: &[u8] = b",\"kind\":\"";
/// What comes before its MAC, and behind it.
const MAC: (&[u8], &[u8]) = (b",\"mac\":\"", b"\"}");

/// A record's line without its line break, taken apart.
#[derive(Clone, Copy)]
pub(super) struct Parts<'a> {
    pub seq: u64,
    /// The word for its kind.
    pub kind: &'a [u8],
    /// All of it up to the MAC.
    pub body: &'a [u8],
    pub mac: Mac,
}

impl<'a> Parts<'a> {
    /// Takes a line apart. There is one way to write a record: a line that has anything behind its
    /// MAC, which the MAC wouldn't cover, is none.
    pub fn of(line: &'a [u8]) -> Option<Self> {
        let close = 2 * size_of::<Mac>() + MAC.1.len();
        let (seq, behind) = number(line.strip_prefix(SEQ)?)?;
        let (_, behind) = number(behind.strip_prefix(TIME)?)?;
        let kind = behind.strip_prefix(KIND)?;
        let kind = &kind[..memchr::memchr(b'"', kind)?];
        let (body, hex) = line.strip_suffix(MAC.1)?.split_at_checked(line.len().checked_sub(close)?)?;
        let body = body.strip_suffix(MAC.0)?;
        Some(Self { seq, kind, body, mac: of_hex(std::str::from_utf8(hex).ok()?)? })
    }
}

/// The number of a record, by how its line begins.
pub(super) fn number_of(line: &[u8]) -> Option<u64> {
    Some(number(line.strip_prefix(SEQ)?)?.0)
}

/// A number without anything that could be left out, and what stands behind it.
fn number(text: &[u8]) -> Option<(u64, &[u8])> {
    let (digits, behind) = text.split_at_checked(memchr::memchr(b',', text)?)?;
    if digits.first() == Some(&b'0') && digits.len() > 1 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    // The numbers near the end are left out, so that counting on from one can't overflow.
    let number = std::str::from_utf8(digits).ok()?.parse().ok().filter(|number| *number < u64::MAX >> 1)?;
    Some((number, behind))
}

/// So many bytes of lower-case hex.
pub(super) fn of_hex<const N: usize>(hex: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    hex::decode_to_slice(hex, &mut bytes).ok()?;
    (!hex.bytes().any(|b| b.is_ascii_uppercase())).then_some(bytes)
}

/// The hash of what a segment holds, which signed records name so that the public key alone shows a
/// change.
///
/// Small pieces are gathered, because BLAKE3 hashes long runs several times faster.
#[derive(Default)]
pub(super) struct Digest {
    hasher: blake3::Hasher,
    waiting: Vec<u8>,
}

impl Digest {
    const RUN: usize = 64 * 1024;

    /// The digest of a segment.
    pub fn of(text: &[u8]) -> [u8; 32] {
        *blake3::hash(text).as_bytes()
    }

    /// Takes what comes next.
    pub fn take(&mut self, text: &[u8]) {
        self.waiting.extend_from_slice(text);
        if self.waiting.len() >= Self::RUN {
            self.run();
        }
    }

    fn run(&mut self) {
        self.hasher.update(&self.waiting);
        self.waiting.clear();
    }

    pub fn value(&mut self) -> [u8; 32] {
        self.run();
        *self.hasher.finalize().as_bytes()
    }
}
