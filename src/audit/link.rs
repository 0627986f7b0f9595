//! The bytes that hold records together: the parts of a line, MACs over them, and what is signed.

use super::layout::slot_name;
use crate::model::Secret;

/// What stands in place of the MAC before a chain's first record: it differs from chain to chain,
/// so that the records of one don't fit into another.
pub(super) fn genesis(key: &[u8; 32], slot: u32) -> [u8; 32] {
    keyed(key, &[b"chain", &slot.to_be_bytes()])
}

/// What the MACs of a chain's records are keyed by.
///
/// A line has two parts: from its kind on is its rest, before it what is its own. The rest gives the
/// key for the MAC over the MAC before it and the record's own part. The parts lie side by side, so
/// a line that is split elsewhere has another rest, and so another key.
pub(super) struct LinkKey(Secret<[u8; 32]>);

impl LinkKey {
    pub fn of(key: &[u8; 32]) -> Self {
        Self(Secret::new(keyed(key, &[b"rest"])))
    }

    /// The key of the MACs of the records that have this rest.
    pub fn over(&self, rest: &[u8]) -> Secret<[u8; 32]> {
        Secret::new(*blake3::keyed_hash(self.0.expose(), rest).as_bytes())
    }
}

/// The MAC of a record under the key of its rest. `room` is only to spare an allocation.
pub(super) fn link(key: &[u8; 32], previous: &[u8; 32], own: &[u8], room: &mut Vec<u8>) -> [u8; 32] {
    room.clear();
    room.extend_from_slice(previous);
    room.extend_from_slice(own);
    *blake3::keyed_hash(key, room).as_bytes()
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

/// How the rest of a line begins.
const KIND: &[u8] = b",\"kind\":\"";

/// A record's line without its line break, taken apart.
#[derive(Clone, Copy)]
pub(super) struct Parts<'a> {
    pub seq: u64,
    /// What only this record says.
    pub own: &'a [u8],
    /// From its kind on, without the MAC.
    pub rest: &'a [u8],
    pub mac: [u8; 32],
}

impl<'a> Parts<'a> {
    /// Takes a line apart. There is one way to write a record: a line that has anything behind its
    /// MAC, which the MAC wouldn't cover, is none.
    pub fn of(line: &'a [u8]) -> Option<Self> {
        const CLOSE: usize = 64 + 2;
        let number = line.strip_prefix(b"{\"seq\":")?;
        let digits = &number[..memchr::memchr(b',', number)?];
        if digits.first() == Some(&b'0') || !digits.iter().all(u8::is_ascii_digit) {
            return None;
        }
        // The numbers near the end are left out, so that counting on from one can't overflow.
        let seq = std::str::from_utf8(digits).ok()?.parse().ok().filter(|seq| *seq < u64::MAX >> 1)?;
        let (body, hex) = line.strip_suffix(b"\"}")?.split_at_checked(line.len().checked_sub(CLOSE)?)?;
        let body = body.strip_suffix(b",\"mac\":\"")?;
        let mac = mac_of(std::str::from_utf8(hex).ok()?)?;
        // No text holds these bytes: a quotation mark in one is escaped.
        let (own, rest) = body.split_at_checked(memchr::memmem::find(body, KIND)?)?;
        Some(Self { seq, own, rest, mac })
    }

    /// The record's kind.
    pub fn kind(&self) -> &'a [u8] {
        let kind = self.rest.strip_prefix(KIND).unwrap_or_default();
        memchr::memchr(b'"', kind).map_or(&[], |end| &kind[..end])
    }
}

/// 32 bytes of lower-case hex.
pub(super) fn mac_of(hex: &str) -> Option<[u8; 32]> {
    let mut mac = [0; 32];
    hex::decode_to_slice(hex, &mut mac).ok()?;
    (!hex.bytes().any(|b| b.is_ascii_uppercase())).then_some(mac)
}

/// The hash of what a segment holds, which signed records name so that the public key alone shows a
/// change. In place of the rest of each record it takes its hash, so that a rest that comes again and
/// again is hashed once. Whatever it takes says its own length: no two texts give it the same bytes.
///
/// Small pieces are gathered, because BLAKE3 hashes long runs several times faster.
#[derive(Default)]
pub(super) struct Digest {
    hasher: blake3::Hasher,
    waiting: Vec<u8>,
}

impl Digest {
    const RUN: usize = 64 * 1024;
    /// What stands in place of the length of a record's own part before what is no record.
    const NO_RECORD: u64 = u64::MAX;
    const TORN: u64 = u64::MAX - 1;

    /// The digest of a segment.
    pub fn of(text: &[u8]) -> [u8; 32] {
        let mut digest = Self::default();
        let mut from = 0;
        for end in memchr::memchr_iter(b'\n', text) {
            let line = &text[from..end];
            digest.line(line, Parts::of(line).as_ref());
            from = end + 1;
        }
        digest.torn(&text[from..]);
        digest.value()
    }

    /// What the digest takes of a record.
    pub fn fold(out: &mut Vec<u8>, own: &[u8], rest: &[u8; 32], mac: &[u8; 32]) {
        out.extend_from_slice(&(own.len() as u64).to_be_bytes());
        out.extend_from_slice(own);
        out.extend_from_slice(rest);
        out.extend_from_slice(mac);
    }

    /// Takes records that are folded already.
    pub fn take(&mut self, folded: &[u8]) {
        self.waiting.extend_from_slice(folded);
        if self.waiting.len() >= Self::RUN {
            self.run();
        }
    }

    /// Takes a line without its line break, taken apart if it is a record.
    pub fn line(&mut self, line: &[u8], parts: Option<&Parts<'_>>) {
        match parts {
            Some(parts) => Self::fold(&mut self.waiting, parts.own, &rest_hash(parts.rest), &parts.mac),
            None => self.other(Self::NO_RECORD, line),
        }
        if self.waiting.len() >= Self::RUN {
            self.run();
        }
    }

    /// Takes what stands behind the last line break.
    pub fn torn(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.other(Self::TORN, bytes);
        }
    }

    fn other(&mut self, what: u64, bytes: &[u8]) {
        self.waiting.extend_from_slice(&what.to_be_bytes());
        self.waiting.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
        self.waiting.extend_from_slice(bytes);
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

/// What stands for the rest of a record in the digest of its segment.
pub(super) fn rest_hash(rest: &[u8]) -> [u8; 32] {
    *blake3::hash(rest).as_bytes()
}
