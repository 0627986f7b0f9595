//! The records of a chain that wait for its next append, each linked to the one before it.

use std::ops::Range;

use super::layout::Head;
use super::link::{Digest, LinkKey, link, rest_hash};
use super::record::{Line, RecordKind, push_mac};
use super::rest::Rest;
use crate::model::Timestamp;

/// How many records of each kind.
pub(super) type Made = [u64; RecordKind::ALL.len()];

pub(super) struct Waiting {
    key: LinkKey,
    /// Whole lines with their MACs.
    bytes: Vec<u8>,
    /// What the digest of their segment takes of them.
    folded: Vec<u8>,
    /// What a MAC is made over.
    room: Vec<u8>,
    mark: Mark,
}

/// How far the chain has come: what is put back when records are taken back.
#[derive(Clone, Copy)]
pub(super) struct Mark {
    bytes: usize,
    folded: usize,
    head: Head,
    made: Made,
    since_checkpoint: u64,
}

impl Waiting {
    /// Nothing waits behind the head of the chain.
    pub fn behind(head: Head, key: LinkKey) -> Self {
        let mark = Mark { bytes: 0, folded: 0, head, made: Made::default(), since_checkpoint: 0 };
        Self {
            key,
            bytes: Vec::with_capacity(4096),
            folded: Vec::with_capacity(2048),
            room: Vec::with_capacity(512),
            mark,
        }
    }

    /// Adds a record. What `fill` writes comes behind its kind.
    pub fn add(&mut self, at: Timestamp, kind: RecordKind, fill: impl FnOnce(&mut Line<'_>)) {
        let from = self.bytes.len();
        let mut line = Line::begin(&mut self.bytes, self.mark.head.seq + 1, at);
        let own = line.len();
        line.kind(kind);
        fill(&mut line);
        let rest = &self.bytes[from + own..];
        let (hash, key) = (rest_hash(rest), self.key.over(rest));
        self.close(kind, from..from + own, &hash, key.expose());
    }

    /// Adds a record with a rest that was kept. What `own` writes comes before its kind.
    pub fn add_with(&mut self, at: Timestamp, kind: RecordKind, rest: &Rest, own: impl FnOnce(&mut Line<'_>)) {
        let from = self.bytes.len();
        let mut line = Line::begin(&mut self.bytes, self.mark.head.seq + 1, at);
        own(&mut line);
        let own = self.bytes.len();
        self.bytes.extend_from_slice(&rest.text);
        self.close(kind, from..own, &rest.hash, rest.key.expose());
    }

    /// Links the record to the one before.
    fn close(&mut self, kind: RecordKind, own: Range<usize>, rest: &[u8; 32], key: &[u8; 32]) {
        let head = &mut self.mark.head;
        let own = &self.bytes[own];
        head.mac = link(key, &head.mac, own, &mut self.room);
        Digest::fold(&mut self.folded, own, rest, &head.mac);
        head.seq += 1;
        push_mac(&mut self.bytes, &head.mac);
        self.mark.made[kind as usize] += 1;
        self.mark.since_checkpoint += 1;
        (self.mark.bytes, self.mark.folded) = (self.bytes.len(), self.folded.len());
    }

    /// What the rests of records are keyed by.
    pub fn key(&self) -> &LinkKey {
        &self.key
    }

    /// The lines that wait.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What the digest of their segment takes of them.
    pub fn folded(&self) -> &[u8] {
        &self.folded
    }

    /// The last record.
    pub fn head(&self) -> Head {
        self.mark.head
    }

    /// How many records came since the last checkpoint.
    pub fn since_checkpoint(&self) -> u64 {
        self.mark.since_checkpoint
    }

    /// A checkpoint was made.
    pub fn checked(&mut self) {
        self.mark.since_checkpoint = 0;
    }

    pub fn mark(&self) -> Mark {
        self.mark
    }

    /// Takes back what came since.
    pub fn back_to(&mut self, mark: Mark) {
        self.bytes.truncate(mark.bytes);
        self.folded.truncate(mark.folded);
        self.mark = mark;
    }

    /// What waited is written. Returns how many records of each kind that were.
    pub fn written(&mut self) -> Made {
        self.bytes.clear();
        self.folded.clear();
        (self.mark.bytes, self.mark.folded) = (0, 0);
        std::mem::take(&mut self.mark.made)
    }
}
