//! One chain and its only writer.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};

use super::Error;
use super::journal::{AuditKeys, Receipt, Settings};
use super::layout::{
    Digest, Found, Head, MAX_CHAINS, Register, Tail, chains, genesis, link, open_options, segment_path, signed_bytes,
};
use super::record::{Intent, Line, RecordKind, push_hex};
use crate::model::{Clock, Timestamp};

/// Where a chain is: the directory of all chains, its own in there, and its number.
pub(super) struct Place {
    pub all: PathBuf,
    pub dir: PathBuf,
    pub slot: u32,
    pub _lock: File,
}

pub(super) struct Chain {
    place: Place,
    keys: Arc<AuditKeys>,
    signer: Arc<Ed25519KeyPair>,
    settings: Settings,
    clock: Arc<dyn Clock>,
    segment: Segment,
    seq: u64,
    mac: [u8; 32],
    /// Records that wait for the next append: whole lines with their MACs.
    pending: Vec<u8>,
    /// The kinds of the records that wait.
    kinds: Vec<RecordKind>,
    /// Refusals that were left out because too much waited.
    dropped: u64,
    since_checkpoint: u64,
    head: u64,
    /// The last write failed.
    failed: bool,
    #[cfg(test)]
    abandoned: bool,
}

/// The segment that is written to.
struct Segment {
    file: File,
    path: PathBuf,
    number: u64,
    /// The bytes of it that are whole records.
    len: u64,
    digest: Digest,
    /// What the last write left behind the whole records has to be cut off first.
    ragged: bool,
}

impl Segment {
    fn begin(dir: &Path, number: u64) -> Result<Self, Error> {
        let path = segment_path(dir, number);
        let file = open_options().create(true).append(true).open(&path);
        // One that failed to begin may have been left over.
        let file = file.and_then(|file| file.set_len(0).map(|()| file)).map_err(|e| Error::io(&path, e))?;
        Ok(Self { file, path, number, len: 0, digest: Digest::default(), ragged: false })
    }

    /// Appends with one call, or leaves the segment as it was.
    fn append(&mut self, bytes: &[u8], sync: bool) -> Result<(), Error> {
        let written = self.try_append(bytes, sync);
        match written {
            Ok(()) => {
                self.len += bytes.len() as u64;
                self.digest.take(bytes);
                Ok(())
            }
            Err(why) => {
                self.ragged = self.file.set_len(self.len).is_err();
                Err(Error::io(&self.path, why))
            }
        }
    }

    fn try_append(&mut self, bytes: &[u8], sync: bool) -> std::io::Result<()> {
        if self.ragged {
            self.file.set_len(self.len)?;
        }
        let written = loop {
            match self.file.write(bytes) {
                Err(why) if why.kind() == std::io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        if written < bytes.len() {
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        if sync { self.file.sync_data() } else { Ok(()) }
    }
}

/// What is put back when a record is taken back.
struct Before {
    pending: usize,
    seq: u64,
    mac: [u8; 32],
    since_checkpoint: u64,
}

impl Chain {
    pub fn take_up(
        place: Place,
        keys: Arc<AuditKeys>,
        settings: Settings,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, Error> {
        let signer = Ed25519KeyPair::from_seed_unchecked(keys.sign.expose()).map_err(|_| Error::Key)?;
        let signer = Arc::new(signer);
        let key = keys.mac.expose();
        let tail = Tail::read(&place.dir, genesis(key, place.slot))?;
        let lost = lost(&place, key, &tail)?;
        let segment = Segment::begin(&place.dir, tail.segment + 1)?;
        let mut chain = Self {
            place,
            keys,
            signer,
            settings,
            clock,
            segment,
            seq: tail.head.seq,
            mac: tail.head.mac,
            pending: Vec::with_capacity(4096),
            kinds: Vec::new(),
            dropped: 0,
            since_checkpoint: 0,
            head: 0,
            failed: false,
            #[cfg(test)]
            abandoned: false,
        };
        chain.sync_dir()?;
        chain.signed(RecordKind::Start, Some(&tail.digest), &[("torn", tail.torn), ("lost", lost)])?;
        chain.write_head()?;
        Register::add(&chain.place.all, chain.keys.mac.expose(), chain.place.slot)?;
        Ok(chain)
    }

    /// Adds a record to what waits. Returns its number.
    fn add(&mut self, kind: RecordKind, fill: impl FnOnce(&mut Line<'_>)) -> u64 {
        self.add_at(self.clock.now(), kind, fill)
    }

    fn add_at(&mut self, at: Timestamp, kind: RecordKind, fill: impl FnOnce(&mut Line<'_>)) -> u64 {
        self.seq += 1;
        let from = self.pending.len();
        let mut line = Line::begin(&mut self.pending, self.seq, at, kind);
        fill(&mut line);
        self.mac = link(self.keys.mac.expose(), &self.mac, &self.pending[from..]);
        self.pending.extend_from_slice(b",\"mac\":\"");
        push_hex(&mut self.pending, &self.mac);
        self.pending.extend_from_slice(b"\"}\n");
        self.since_checkpoint += 1;
        self.kinds.push(kind);
        self.seq
    }

    /// The time of records that bring none of their own.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn before(&self) -> Before {
        Before { pending: self.pending.len(), seq: self.seq, mac: self.mac, since_checkpoint: self.since_checkpoint }
    }

    fn take_back(&mut self, before: &Before) {
        self.pending.truncate(before.pending);
        let taken_back = usize::try_from(self.seq - before.seq).unwrap_or(usize::MAX);
        self.kinds.truncate(self.kinds.len().saturating_sub(taken_back));
        (self.seq, self.mac, self.since_checkpoint) = (before.seq, before.mac, before.since_checkpoint);
    }

    /// Adds a record that isn't owed: it waits for the next append, and is counted instead of kept
    /// if too much waits already.
    pub fn hold(&mut self, kind: RecordKind, fill: impl FnOnce(&mut Line<'_>)) {
        if self.pending.len() >= self.settings.held_bytes && (self.failed || self.write().is_err()) {
            self.dropped += 1;
        } else {
            self.add(kind, fill);
        }
    }

    /// Adds a record that is owed to an intent, of which there are no more than running exchanges.
    pub fn owe(&mut self, at: Timestamp, kind: RecordKind, fill: impl FnOnce(&mut Line<'_>)) {
        self.add_at(at, kind, fill);
    }

    /// Adds a record and writes it with everything that waits, or takes it back.
    pub fn append(&mut self, kind: RecordKind, fill: impl FnOnce(&mut Line<'_>)) -> Result<u64, Error> {
        self.append_at(self.clock.now(), kind, fill)
    }

    fn append_at(&mut self, at: Timestamp, kind: RecordKind, fill: impl FnOnce(&mut Line<'_>)) -> Result<u64, Error> {
        if self.failed {
            // What waits goes first: nothing is accepted before the chain can be written again.
            self.write()?;
        }
        let before = self.before();
        let seq = self.add_at(at, kind, fill);
        self.write().inspect_err(|_| self.take_back(&before))?;
        Ok(seq)
    }

    pub fn intent(&mut self, intent: &Intent<'_>) -> Result<Receipt, Error> {
        let seq = self.append_at(intent.at, RecordKind::Intent, |line| line.intent(intent))?;
        Ok(Receipt::new(intent, seq))
    }

    /// Writes what waits with one call. After a failure the file is cut back to its last whole
    /// record and the records keep waiting, so that nothing is lost once there is space again.
    fn write(&mut self) -> Result<(), Error> {
        let before = self.before();
        if self.dropped > 0 {
            let dropped = self.dropped;
            self.add(RecordKind::Security, |line| line.dropped(dropped));
        }
        if self.pending.is_empty() {
            return Ok(());
        }
        match self.segment.append(&self.pending, self.settings.sync) {
            Ok(()) => {
                self.pending.clear();
                self.kinds.drain(..).for_each(|kind| self.settings.counts.make(kind));
                self.dropped = 0;
                self.failed = false;
                Ok(())
            }
            Err(why) => {
                self.take_back(&before);
                self.failed = true;
                Err(why)
            }
        }
    }

    fn sync_dir(&self) -> Result<(), Error> {
        if !self.settings.sync {
            return Ok(());
        }
        File::open(&self.place.dir).and_then(|d| d.sync_all()).map_err(|e| Error::io(&self.place.dir, e))
    }

    /// Adds a signed record. It holds the digest of what lies before it in its segment, or of the
    /// segment before if it begins one, and the heads of the other chains.
    fn signed(&mut self, kind: RecordKind, digest: Option<&[u8; 32]>, counts: &[(&str, u64)]) -> Result<(), Error> {
        // What waits goes first, because the digest is over what is written.
        self.write()?;
        let (previous, slot, signer) = (self.mac, self.place.slot, Arc::clone(&self.signer));
        let joins = self.heads_of_others();
        let digest = digest.copied().unwrap_or_else(|| self.segment.digest.value());
        self.append(kind, |line| {
            line.hex("previous", &previous);
            line.hex("digest", &digest);
            line.texts("joins", &joins);
            for (name, count) in counts.iter().filter(|(_, count)| *count > 0) {
                line.number(name, *count);
            }
            line.hex("signer", signer.public_key().as_ref());
            line.sign(|text| signer.sign(&signed_bytes(slot, text)));
        })?;
        self.since_checkpoint = 0;
        Ok(())
    }

    /// How far the other chains have come: one that is cut or removed later is missed here.
    fn heads_of_others(&self) -> Vec<String> {
        let others = chains(&self.place.all).unwrap_or_default();
        let others = others.into_iter().filter(|(slot, _)| *slot != self.place.slot);
        others
            .filter_map(|(slot, dir)| match Head::read(&dir, Some(self.keys.mac.expose()), slot) {
                Ok(Found::Whole(head)) => Some(format!("{slot} {} {}", head.seq, hex::encode(head.mac))),
                _ => None,
            })
            .take(MAX_CHAINS as usize)
            .collect()
    }

    fn write_head(&mut self) -> Result<(), Error> {
        let head = Head { seq: self.seq, mac: self.mac };
        head.write(&self.place.dir, self.keys.mac.expose(), self.place.slot)?;
        self.head = self.seq;
        Ok(())
    }

    fn upkeep(&mut self) -> Result<(), Error> {
        if self.segment.len >= self.settings.segment_bytes {
            return self.roll();
        }
        if self.since_checkpoint >= self.settings.checkpoint_every {
            return self.signed(RecordKind::Checkpoint, None, &[]);
        }
        Ok(())
    }

    /// Goes on in a fresh segment, or stays where it is if that can't be begun.
    fn roll(&mut self) -> Result<(), Error> {
        self.write()?;
        let digest = self.segment.digest.value();
        let fresh = Segment::begin(&self.place.dir, self.segment.number + 1)?;
        let full = std::mem::replace(&mut self.segment, fresh);
        if let Err(why) = self.signed(RecordKind::Checkpoint, Some(&digest), &[]) {
            let failed = std::mem::replace(&mut self.segment, full);
            let _ = std::fs::remove_file(&failed.path);
            return Err(why);
        }
        self.sync_dir()
    }

    /// Writes what waits, then checkpoint, segment and head where they are due.
    pub fn flush(&mut self) -> Result<(), Error> {
        self.write()?;
        let kept = self.upkeep();
        if self.head != self.seq {
            self.write_head()?;
        }
        kept
    }
}

#[cfg(test)]
impl Chain {
    pub fn abandon(&mut self) {
        self.pending.clear();
        self.kinds.clear();
        self.abandoned = true;
    }

    pub fn waiting(&self) -> usize {
        self.pending.len()
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        #[cfg(test)]
        if self.abandoned {
            return;
        }
        let stopped =
            self.upkeep().and_then(|()| self.signed(RecordKind::Stop, None, &[])).and_then(|()| self.write_head());
        if let Err(why) = stopped {
            tracing::error!(error = %why, "the audit chain's stop record can't be written");
        }
    }
}

/// The number up to which records are known to be missing at the end of the chain; 0 if none is.
/// The start record says so for good, because it is about to replace the head that shows it.
fn lost(place: &Place, key: &[u8; 32], tail: &Tail) -> Result<u64, Error> {
    let known = |register: Found<BTreeSet<u32>>| match register {
        Found::Whole(slots) => slots.contains(&place.slot),
        Found::Changed => tail.head.seq > 0,
        // The very first chain is registered last, so that a crash before that is none.
        Found::Absent => chains(&place.all).is_ok_and(|all| all.iter().any(|(_, dir)| dir.join("head").exists())),
    };
    let lost = match Head::read(&place.dir, Some(key), place.slot)? {
        Found::Whole(head) if head.seq < tail.head.seq || head == tail.head => 0,
        Found::Whole(head) => head.seq,
        Found::Changed => tail.head.seq + 1,
        Found::Absent if known(Register::read(&place.all, Some(key))?) => tail.head.seq + 1,
        Found::Absent => 0,
    };
    if lost > 0 {
        let path = place.dir.display();
        tracing::error!(%path, lost, "the end of an audit chain was cut off; see `sallyport audit verify`");
    }
    Ok(lost)
}
