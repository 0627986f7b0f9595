//! One chain and its only writer.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};

use super::Error;
use super::journal::{AuditKeys, Receipt, Settings};
use super::layout::{Found, Head, MAX_CHAINS, Register, Tail, chains, open_options, segment_path};
use super::link::{Digest, genesis, link_key, signed_bytes};
use super::record::{Intent, Line, Outcome, RecordKind};
use super::uses::Uses;
use super::waiting::{Made, Waiting};
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
    /// Records that wait for the next append.
    waiting: Waiting,
    uses: Uses,
    /// Written records that the node's counts don't have yet.
    written: Made,
    /// Refusals that were left out because too much waited.
    dropped: u64,
    head: u64,
    /// The last write failed.
    failed: bool,
    /// How many did, and how the last of them.
    failures: u64,
    failed_with: std::io::ErrorKind,
    /// The number of the last record that is with the operating system.
    stored: u64,
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

    /// Appends what waits with one call, or leaves the segment as it was.
    fn append(&mut self, waiting: &Waiting, sync: bool) -> Result<(), Error> {
        let bytes = waiting.bytes();
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
        let waiting = Waiting::behind(tail.head, link_key(key));
        let mut chain = Self {
            place,
            keys,
            signer,
            uses: Uses::new(settings.uses),
            settings,
            clock,
            segment,
            waiting,
            written: Made::default(),
            dropped: 0,
            head: 0,
            failed: false,
            failures: 0,
            failed_with: std::io::ErrorKind::Other,
            stored: 0,
            #[cfg(test)]
            abandoned: false,
        };
        chain.sync_dir()?;
        chain.signed(RecordKind::Start, Some(&tail.digest), &[("torn", tail.torn), ("lost", lost)])?;
        chain.write_head()?;
        Register::add(&chain.place.all, chain.keys.mac.expose(), chain.place.slot)?;
        Ok(chain)
    }

    /// The time of records that bring none of their own.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Adds a record that isn't owed: it waits for the next append, and is counted instead of kept
    /// if too much waits already.
    pub fn hold(&mut self, kind: RecordKind, fill: impl FnOnce(&mut Line<'_>)) {
        if self.waiting.bytes().len() >= self.settings.held_bytes && (self.failed || self.write().is_err()) {
            self.dropped += 1;
        } else {
            self.waiting.add(self.clock.now(), kind, fill);
        }
    }

    /// Adds an outcome. It is owed to an intent, of which there are no more than running exchanges.
    pub fn outcome(&mut self, of: u64, outcome: &Outcome) {
        self.waiting.add(outcome.at, RecordKind::Outcome, |line| line.outcome(of, outcome));
    }

    /// Adds a record and writes it with everything that waits, or takes it back.
    pub fn append(&mut self, kind: RecordKind, fill: impl FnOnce(&mut Line<'_>)) -> Result<(), Error> {
        self.recover()?;
        let before = self.waiting.mark();
        self.waiting.add(self.clock.now(), kind, fill);
        self.write().inspect_err(|_| self.waiting.back_to(before))
    }

    /// Adds an intent and writes it with everything that waits, or takes it back.
    pub fn intent(&mut self, intent: &Intent<'_>) -> Result<Receipt, Error> {
        self.recover()?;
        let before = self.waiting.mark();
        let receipt = self.add_intent(intent);
        self.write().inspect_err(|_| {
            self.waiting.back_to(before);
            self.uses.forget();
        })?;
        Ok(receipt)
    }

    /// Adds an intent to what waits. The receipt holds once [`Chain::written_to`] has come to it.
    pub fn queue(&mut self, intent: &Intent<'_>) -> Result<Receipt, Error> {
        self.recover()?;
        Ok(self.add_intent(intent))
    }

    fn add_intent(&mut self, intent: &Intent<'_>) -> Receipt {
        let like = self.uses.said(intent, self.segment.number, self.waiting.head().seq + 1);
        self.waiting.add(intent.at, RecordKind::Intent, |line| line.intent(intent, like));
        Receipt::new(intent, self.waiting.head().seq)
    }

    /// The number of the last record that is with the operating system, and how many writes failed.
    pub fn written_to(&self) -> (u64, u64) {
        (self.stored, self.failures)
    }

    /// Why the last write that failed did.
    pub fn trouble(&self) -> Error {
        Error::io(&self.segment.path, self.failed_with.into())
    }

    /// What waits goes first after a failure: nothing is accepted before the chain can be written again.
    fn recover(&mut self) -> Result<(), Error> {
        if self.failed { self.write() } else { Ok(()) }
    }

    /// Writes what waits with one call. After a failure the file is cut back to its last whole
    /// record and the records keep waiting, so that nothing is lost once there is space again.
    pub fn write(&mut self) -> Result<(), Error> {
        if self.dropped == 0 {
            return self.write_out();
        }
        let (before, dropped) = (self.waiting.mark(), self.dropped);
        self.waiting.add(self.clock.now(), RecordKind::Security, |line| line.dropped(dropped));
        self.write_out().inspect_err(|_| self.waiting.back_to(before))?;
        self.dropped = 0;
        Ok(())
    }

    fn write_out(&mut self) -> Result<(), Error> {
        if self.waiting.bytes().is_empty() {
            return Ok(());
        }
        let written = self.segment.append(&self.waiting, self.settings.sync);
        self.failed = written.is_err();
        if let Err(Error::Io { why, .. }) = &written {
            self.failures += 1;
            self.failed_with = why.kind();
        }
        if written.is_ok() {
            self.stored = self.waiting.head().seq;
            for (all, made) in self.written.iter_mut().zip(self.waiting.written()) {
                *all += made;
            }
        }
        written
    }

    /// Tells the node's counts what was written.
    fn count(&mut self) {
        for (kind, written) in RecordKind::ALL.into_iter().zip(std::mem::take(&mut self.written)) {
            if written > 0 {
                self.settings.counts.make(kind, written);
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
        let (previous, slot, signer) = (self.waiting.head().mac, self.place.slot, Arc::clone(&self.signer));
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
        self.waiting.checked();
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
        let head = self.waiting.head();
        head.write(&self.place.dir, self.keys.mac.expose(), self.place.slot)?;
        self.head = head.seq;
        Ok(())
    }

    fn upkeep(&mut self) -> Result<(), Error> {
        if self.segment.len >= self.settings.segment_bytes {
            return self.roll();
        }
        if self.waiting.since_checkpoint() >= self.settings.checkpoint_every {
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
        let written = self.write();
        self.count();
        written?;
        let kept = self.upkeep();
        if self.head != self.waiting.head().seq {
            self.write_head()?;
        }
        kept
    }
}

#[cfg(test)]
impl Chain {
    pub fn abandon(&mut self) {
        self.waiting.written();
        self.abandoned = true;
    }

    pub fn waiting(&self) -> usize {
        self.waiting.bytes().len()
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
        self.count();
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
