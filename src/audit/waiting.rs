//! The records of a chain that wait for its next append, each linked to the one before it.

use super::layout::Head;
use super::link::link;
use super::record::{Line, RecordKind, push_mac};
use crate::model::{Secret, Timestamp};

/// How many records of each kind.
pub(super) type Made = [u64; RecordKind::ALL.len()];

pub(super) struct Waiting {
    key: Secret<[u8; 32]>,
    /// Whole lines with their MACs.
    bytes: Vec<u8>,
    mark: Mark,
}

/// How far the chain has come: what is put back when records are taken back.
#[derive(Clone, Copy)]
pub(super) struct Mark {
    bytes: usize,
    head: Head,
    made: Made,
    since_checkpoint: u64,
}

impl Waiting {
    /// Nothing waits behind the head of the chain.
    pub fn behind(head: Head, key: Secret<[u8; 32]>) -> Self {
        let mark = Mark { bytes: 0, head, made: Made::default(), since_checkpoint: 0 };
        Self { key, bytes: Vec::with_capacity(4096), mark }
    }

    /// Adds a record, and links it to the one before.
    pub fn add(&mut self, at: Timestamp, kind: RecordKind, fill: impl FnOnce(&mut Line<'_>)) {
        let from = self.bytes.len();
        let head = &mut self.mark.head;
        fill(&mut Line::begin(&mut self.bytes, head.seq + 1, at, kind));
        head.mac = link(self.key.expose(), &head.mac, from, &mut self.bytes);
        head.seq += 1;
        push_mac(&mut self.bytes, &head.mac);
        self.mark.made[kind as usize] += 1;
        self.mark.since_checkpoint += 1;
        self.mark.bytes = self.bytes.len();
    }

    /// The lines that wait.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
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
        self.mark = mark;
    }

    /// What waited is written. Returns how many records of each kind that were.
    pub fn written(&mut self) -> Made {
        self.bytes.clear();
        self.mark.bytes = 0;
        std::mem::take(&mut self.mark.made)
    }
}
