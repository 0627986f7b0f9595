//! Chains and their writers.

use std::cell::RefCell;
use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use rustix::fs::{FlockOperation, flock};

use super::Error;
use super::record::{Intent, Line, Outcome, OutcomeWord, RecordKind, push_hex};
use crate::model::{Clock, ExchangeId, KeyId, Secret};

/// The keys of the audit, both derived from the KEK.
pub struct AuditKeys {
    /// Keys the MAC chain.
    pub mac: Secret<[u8; 32]>,
    /// The seed of the Ed25519 key that signs checkpoints.
    pub sign: Secret<[u8; 32]>,
}

/// Settings of the audit.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The length past which a new segment begins, in bytes. Default: 64 MiB.
    pub segment_bytes: u64,
    /// The most chains, and so the most cores of all processes together. Default: 256.
    pub chains: u32,
    /// How many records lie between two signed checkpoints. Default: 1,000.
    pub checkpoint_every: u64,
    /// Whether each intent waits for the disk (`sync`) or for the operating system (`os`).
    pub sync: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { segment_bytes: 64 << 20, chains: 256, checkpoint_every: 1000, sync: false }
    }
}

/// Proof that the intent to use a key is recorded. Only the audit makes one.
///
/// ```compile_fail
/// let forged = sallyport::audit::Receipt { exchange: todo!(), key: todo!(), seq: 1 };
/// ```
#[derive(Debug)]
pub struct Receipt {
    exchange: ExchangeId,
    key: KeyId,
    seq: u64,
}

impl Receipt {
    /// The exchange that was recorded.
    #[must_use]
    pub fn exchange(&self) -> ExchangeId {
        self.exchange
    }

    /// The key that was recorded.
    #[must_use]
    pub fn key(&self) -> KeyId {
        self.key
    }

    /// The record's number in its chain.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.seq
    }
}

/// The directory of chains.
pub struct Journal {
    dir: PathBuf,
    keys: Arc<AuditKeys>,
    settings: Settings,
    clock: Arc<dyn Clock>,
}

impl Journal {
    /// The journal in this directory, made if it isn't there.
    ///
    /// # Errors
    /// The directory can't be made.
    pub fn open(dir: &Path, keys: AuditKeys, settings: Settings, clock: Arc<dyn Clock>) -> Result<Self, Error> {
        make_dir(dir)?;
        Ok(Self { dir: dir.to_owned(), keys: Arc::new(keys), settings, clock })
    }

    /// The journal's directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The journal's keys, to verify with.
    #[must_use]
    pub fn keys(&self) -> &AuditKeys {
        &self.keys
    }

    /// Claims the first free chain and takes it up with a signed start record.
    ///
    /// # Errors
    /// No chain is free, or it can't be written.
    pub fn writer(&self) -> Result<Writer, Error> {
        for slot in 0..self.settings.chains {
            let dir = self.dir.join(format!("{slot:04}"));
            make_dir(&dir)?;
            let path = dir.join("lock");
            let lock = open_options()
                .create(true)
                .truncate(false)
                .read(true)
                .write(true)
                .open(&path)
                .map_err(|e| Error::io(&path, e))?;
            if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
                let chain =
                    Chain::take_up(dir, lock, Arc::clone(&self.keys), self.settings.clone(), Arc::clone(&self.clock))?;
                return Ok(Writer(Rc::new(RefCell::new(chain))));
            }
        }
        Err(Error::NoChain(self.settings.chains))
    }

    /// A chain for the admin side, whose threads share it behind a lock.
    ///
    /// # Errors
    /// See [`Journal::writer`].
    pub fn shared_writer(&self) -> Result<SharedWriter, Error> {
        for slot in 0..self.settings.chains {
            let dir = self.dir.join(format!("{slot:04}"));
            make_dir(&dir)?;
            let path = dir.join("lock");
            let lock = open_options()
                .create(true)
                .truncate(false)
                .read(true)
                .write(true)
                .open(&path)
                .map_err(|e| Error::io(&path, e))?;
            if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
                let chain =
                    Chain::take_up(dir, lock, Arc::clone(&self.keys), self.settings.clone(), Arc::clone(&self.clock))?;
                return Ok(SharedWriter(Arc::new(Mutex::new(chain))));
            }
        }
        Err(Error::NoChain(self.settings.chains))
    }
}

fn open_options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600);
    options
}

fn make_dir(dir: &Path) -> Result<(), Error> {
    use std::os::unix::fs::DirBuilderExt;
    match fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(why) if why.kind() != std::io::ErrorKind::AlreadyExists => Err(Error::io(dir, why)),
        _ => Ok(()),
    }
}

struct Chain {
    dir: PathBuf,
    _lock: File,
    keys: Arc<AuditKeys>,
    signer: Ed25519KeyPair,
    settings: Settings,
    clock: Arc<dyn Clock>,
    file: File,
    path: PathBuf,
    segment: u64,
    len: u64,
    seq: u64,
    mac: [u8; 32],
    /// Records that wait for the next append: whole lines with their MACs.
    pending: Vec<u8>,
    since_checkpoint: u64,
    failed: bool,
}

impl Chain {
    fn take_up(
        dir: PathBuf,
        lock: File,
        keys: Arc<AuditKeys>,
        settings: Settings,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, Error> {
        let signer = Ed25519KeyPair::from_seed_unchecked(keys.sign.expose()).map_err(|_| Error::Key)?;
        let tail = Tail::read(&dir)?;
        let segment = tail.segment + 1;
        let path = segment_path(&dir, segment);
        let file = open_options().create_new(true).append(true).open(&path).map_err(|e| Error::io(&path, e))?;
        let mut chain = Self {
            dir,
            _lock: lock,
            keys,
            signer,
            settings,
            clock,
            file,
            path,
            segment,
            len: 0,
            seq: tail.seq,
            mac: tail.mac,
            pending: Vec::with_capacity(4096),
            since_checkpoint: 0,
            failed: false,
        };
        chain.signed(RecordKind::Start, tail.torn)?;
        Ok(chain)
    }

    /// Adds a record to what waits. Returns its number.
    fn add(&mut self, kind: RecordKind, fill: impl FnOnce(&mut Line<'_>)) -> u64 {
        self.seq += 1;
        let from = self.pending.len();
        let mut line = Line::begin(&mut self.pending, self.seq, self.clock.now(), kind);
        fill(&mut line);
        self.mac = link(self.keys.mac.expose(), &self.mac, &self.pending[from..]);
        self.pending.extend_from_slice(b",\"mac\":\"");
        push_hex(&mut self.pending, &self.mac);
        self.pending.extend_from_slice(b"\"}\n");
        self.since_checkpoint += 1;
        self.seq
    }

    /// Writes what waits with one call. After a failure the file is cut back to its last whole
    /// record and the records keep waiting, so that nothing is lost once there is space again.
    fn write(&mut self) -> Result<(), Error> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let written = match self.file.write(&self.pending) {
            Ok(n) if n == self.pending.len() => Ok(()),
            Ok(_) => Err(std::io::Error::from(std::io::ErrorKind::WriteZero)),
            Err(why) => Err(why),
        };
        let synced = written.and_then(|()| if self.settings.sync { self.file.sync_data() } else { Ok(()) });
        match synced {
            Ok(()) => {
                self.len += self.pending.len() as u64;
                self.pending.clear();
                self.failed = false;
                Ok(())
            }
            Err(why) => {
                let _ = self.file.set_len(self.len);
                self.failed = true;
                Err(Error::io(&self.path, why))
            }
        }
    }

    fn signed(&mut self, kind: RecordKind, torn: u64) -> Result<(), Error> {
        let previous = self.mac;
        let seq = self.seq + 1;
        let signature = self.signer.sign(&signed_bytes(kind, seq, &previous));
        let signer = self.signer.public_key().as_ref().to_vec();
        self.add(kind, |line| {
            line.hex("previous", &previous);
            line.hex("signer", &signer);
            line.hex("signature", signature.as_ref());
            if torn > 0 {
                line.number("torn", torn);
            }
        });
        self.since_checkpoint = 0;
        self.write()?;
        self.write_head()
    }

    /// What the chain's head is, beside the chain: a chain that ends before it was truncated.
    fn write_head(&self) -> Result<(), Error> {
        let path = self.dir.join("head");
        let text = format!(
            "{} {} {}\n",
            self.segment,
            self.seq,
            hex::encode(head_mac(self.keys.mac.expose(), self.seq, &self.mac))
        );
        let fresh = self.dir.join("head.new");
        let mut file =
            open_options().create(true).truncate(true).write(true).open(&fresh).map_err(|e| Error::io(&fresh, e))?;
        file.write_all(text.as_bytes()).map_err(|e| Error::io(&fresh, e))?;
        fs::rename(&fresh, &path).map_err(|e| Error::io(&path, e))
    }

    fn upkeep(&mut self) -> Result<(), Error> {
        if self.since_checkpoint >= self.settings.checkpoint_every {
            self.signed(RecordKind::Checkpoint, 0)?;
        }
        if self.len >= self.settings.segment_bytes {
            let path = segment_path(&self.dir, self.segment + 1);
            let file = open_options().create_new(true).append(true).open(&path).map_err(|e| Error::io(&path, e))?;
            self.segment += 1;
            (self.file, self.path, self.len) = (file, path, 0);
            self.signed(RecordKind::Checkpoint, 0)?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Error> {
        let had = !self.pending.is_empty();
        self.write()?;
        self.upkeep()?;
        if had { self.write_head() } else { Ok(()) }
    }

    fn intent(&mut self, intent: &Intent<'_>) -> Result<Receipt, Error> {
        if self.failed {
            // What waits goes first: nothing is accepted before the chain can be written again.
            self.write()?;
        }
        let (waits, mac) = (self.pending.len(), self.mac);
        let seq = self.add(RecordKind::Intent, |line| line.intent(intent));
        match self.write() {
            Ok(()) => Ok(Receipt { exchange: intent.exchange, key: intent.key, seq }),
            Err(why) => {
                // The intent is taken back; earlier records still wait.
                self.pending.truncate(waits);
                self.mac = mac;
                self.seq = seq - 1;
                Err(why)
            }
        }
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        if self.signed(RecordKind::Stop, 0).is_err() {
            tracing::error!(path = %self.path.display(), "the audit chain's stop record can't be written");
        }
    }
}

/// The MAC of a record: keyed BLAKE3 over the MAC before it and its own bytes.
pub(super) fn link(key: &[u8; 32], previous: &[u8; 32], line: &[u8]) -> [u8; 32] {
    *blake3::Hasher::new_keyed(key).update(previous).update(line).finalize().as_bytes()
}

pub(super) fn head_mac(key: &[u8; 32], seq: u64, mac: &[u8; 32]) -> [u8; 32] {
    *blake3::Hasher::new_keyed(key).update(b"head").update(&seq.to_be_bytes()).update(mac).finalize().as_bytes()
}

pub(super) fn signed_bytes(kind: RecordKind, seq: u64, previous: &[u8; 32]) -> Vec<u8> {
    let mut bytes = b"sallyport audit ".to_vec();
    bytes.extend_from_slice(kind.as_str().as_bytes());
    bytes.extend_from_slice(&seq.to_be_bytes());
    bytes.extend_from_slice(previous);
    bytes
}

pub(super) fn segment_path(dir: &Path, segment: u64) -> PathBuf {
    dir.join(format!("{segment:08}.jsonl"))
}

pub(super) fn segments(dir: &Path) -> Result<Vec<(u64, PathBuf)>, Error> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).map_err(|e| Error::io(dir, e))? {
        let path = entry.map_err(|e| Error::io(dir, e))?.path();
        let number = path
            .file_name()
            .and_then(|n| n.to_str())
            .and_then(|n| n.strip_suffix(".jsonl"))
            .and_then(|n| n.parse().ok());
        if let Some(number) = number {
            all.push((number, path));
        }
    }
    all.sort();
    Ok(all)
}

/// Where a chain ends: its last whole record, and how many bytes of a torn one follow it.
struct Tail {
    segment: u64,
    seq: u64,
    mac: [u8; 32],
    torn: u64,
}

impl Tail {
    fn read(dir: &Path) -> Result<Self, Error> {
        let all = segments(dir)?;
        let mut tail = Self { segment: all.last().map_or(0, |(n, _)| *n), seq: 0, mac: [0; 32], torn: 0 };
        for (_, path) in all.iter().rev() {
            let mut file = File::open(path).map_err(|e| Error::io(path, e))?;
            let len = file.metadata().map_err(|e| Error::io(path, e))?.len();
            // The last record is within the last 64 KiB: no line is longer.
            file.seek(SeekFrom::Start(len.saturating_sub(64 * 1024))).map_err(|e| Error::io(path, e))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).map_err(|e| Error::io(path, e))?;
            let whole = memchr::memrchr(b'\n', &bytes).map_or(0, |at| at + 1);
            tail.torn += (bytes.len() - whole) as u64;
            if whole > 0 {
                let from = memchr::memrchr(b'\n', &bytes[..whole - 1]).map_or(0, |at| at + 1);
                if let Some((seq, mac)) = seq_and_mac(&bytes[from..whole - 1]) {
                    (tail.seq, tail.mac) = (seq, mac);
                }
                return Ok(tail);
            }
        }
        Ok(tail)
    }
}

pub(super) fn seq_and_mac(line: &[u8]) -> Option<(u64, [u8; 32])> {
    let seq = line.strip_prefix(b"{\"seq\":")?;
    let end = memchr::memchr(b',', seq)?;
    let seq = std::str::from_utf8(&seq[..end]).ok()?.parse().ok()?;
    let at = memchr::memmem::rfind(line, b",\"mac\":\"")?;
    let hex = line.get(at + 8..at + 72)?;
    let mut mac = [0; 32];
    hex::decode_to_slice(hex, &mut mac).ok()?;
    Some((seq, mac))
}

/// The writer of one core.
#[derive(Clone)]
pub struct Writer(Rc<RefCell<Chain>>);

impl Writer {
    /// Records that a key is about to be used. When this returns, the record and everything that
    /// waited before it are with the operating system.
    ///
    /// # Errors
    /// It can't be written; then there is no receipt, and no key.
    pub fn intent(&self, intent: &Intent<'_>) -> Result<(Receipt, Draft), Error> {
        let receipt = self.0.borrow_mut().intent(intent)?;
        let draft = Draft { chain: Rc::clone(&self.0), exchange: receipt.exchange, seq: receipt.seq, open: true };
        Ok((receipt, draft))
    }

    /// Records a refusal; it rides on the next append.
    pub fn denied(
        &self,
        exchange: ExchangeId,
        code: &str,
        detail: &str,
        authority: Option<&str>,
        client: Option<std::net::SocketAddr>,
    ) {
        self.0.borrow_mut().add(RecordKind::Denied, |line| {
            line.shown("exchange", exchange);
            line.text("code", code);
            line.text("detail", detail);
            if let Some(authority) = authority {
                line.text("authority", authority);
            }
            if let Some(client) = client {
                line.shown("client", client);
            }
        });
    }

    /// Writes what waits; a core calls it every 100 ms at most.
    ///
    /// # Errors
    /// It can't be written; it keeps waiting.
    pub fn flush(&self) -> Result<(), Error> {
        self.0.borrow_mut().flush()
    }
}

/// An intent whose outcome is owed. Dropped unfinished, it records `aborted`.
pub struct Draft {
    chain: Rc<RefCell<Chain>>,
    exchange: ExchangeId,
    seq: u64,
    open: bool,
}

impl Draft {
    /// Records how the exchange ended; it rides on the core's next append.
    pub fn finish(mut self, outcome: Outcome) {
        self.settle(&outcome);
    }

    fn settle(&mut self, outcome: &Outcome) {
        if std::mem::replace(&mut self.open, false) {
            self.chain.borrow_mut().add(RecordKind::Outcome, |line| line.outcome(self.exchange, self.seq, outcome));
        }
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        self.settle(&Outcome {
            status: None,
            outcome: OutcomeWord::Aborted,
            bytes_in: 0,
            bytes_out: 0,
            duration: std::time::Duration::ZERO,
            scrubbed: 0,
        });
    }
}

/// The writer of the admin side.
#[derive(Clone)]
pub struct SharedWriter(Arc<Mutex<Chain>>);

impl SharedWriter {
    /// Records that somebody changed something, before the change is acknowledged.
    ///
    /// # Errors
    /// It can't be written; then the change isn't acknowledged either.
    pub fn admin(&self, who: &str, action: &str, subject: &str, detail: &str) -> Result<(), Error> {
        self.write(RecordKind::Admin, who, action, subject, detail)
    }

    /// Records something that someone should look at.
    ///
    /// # Errors
    /// It can't be written.
    pub fn security(&self, who: &str, event: &str, subject: &str, detail: &str) -> Result<(), Error> {
        self.write(RecordKind::Security, who, event, subject, detail)
    }

    fn write(&self, kind: RecordKind, who: &str, action: &str, subject: &str, detail: &str) -> Result<(), Error> {
        let mut chain = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        chain.add(kind, |line| {
            line.text("principal", who);
            line.text("action", action);
            line.text("subject", subject);
            line.text("detail", detail);
        });
        chain.flush()
    }
}
