//! The directory of chains, and the writers that hand out receipts.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::FlockOperation;

use super::Error;
use super::batch::{Batch, Queued};
use super::chain::{Chain, Place};
use super::layout::{MAX_CHAINS, lock, make_dir, slot_name};
use super::record::{Intent, Line, Outcome, OutcomeWord, RecordKind};
use crate::model::{Clock, ExchangeId, KeyId, Name, Secret, SessionId, TokenId};

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
    /// The most chains, and so the most cores of all processes together. Default: 256; more than 512
    /// count as 512.
    pub chains: u32,
    /// How many records lie between two signed checkpoints. Default: 1,000.
    pub checkpoint_every: u64,
    /// How much may wait while records can't be written, in bytes; refusals beyond it are counted
    /// instead of kept. Default: 1 MiB.
    pub held_bytes: usize,
    /// How many uses of keys each chain knows that it has recorded in its segment, so that later records name
    /// those. Default: 1,024; each takes about 1 KiB, and one that comes to the place of another takes it.
    pub uses: usize,
    /// Whether each intent waits for the disk (`sync`) or for the operating system (`os`).
    pub sync: bool,
    /// Counts what is recorded; all chains of a node share it.
    pub counts: Counts,
}

/// How many records were written, by kind. Each chain adds its own when it is flushed.
#[derive(Clone, Default)]
pub struct Counts(Arc<[AtomicU64; RecordKind::ALL.len()]>);

impl Counts {
    /// How many records of a kind were written.
    #[must_use]
    pub fn of(&self, kind: RecordKind) -> u64 {
        self.0[kind as usize].load(Ordering::Relaxed)
    }

    pub(super) fn make(&self, kind: RecordKind, written: u64) {
        self.0[kind as usize].fetch_add(written, Ordering::Relaxed);
    }
}

impl std::fmt::Debug for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Counts")
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            chains: 256,
            checkpoint_every: 1000,
            held_bytes: 1 << 20,
            uses: 1024,
            sync: false,
            counts: Counts::default(),
        }
    }
}

/// Proof that the intent to use a key is recorded. Only the audit makes one.
///
/// ```compile_fail
/// let forged = sallyport::audit::Receipt { exchange: todo!(), key: todo!(), version: 1, seq: 1 };
/// ```
#[derive(Debug)]
pub struct Receipt {
    exchange: ExchangeId,
    key: KeyId,
    version: u32,
    seq: u64,
}

impl Receipt {
    pub(super) fn new(intent: &Intent<'_>, seq: u64) -> Self {
        Self { exchange: intent.exchange, key: intent.key, version: intent.version, seq }
    }

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

    /// The key's version that was recorded.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
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
        Ok(Writer(Rc::new(RefCell::new(self.claim()?)), Rc::default()))
    }

    /// A chain for the admin side, whose threads share it behind a lock.
    ///
    /// # Errors
    /// See [`Journal::writer`].
    pub fn shared_writer(&self) -> Result<SharedWriter, Error> {
        Ok(SharedWriter(Arc::new(Mutex::new(self.claim()?))))
    }

    fn claim(&self) -> Result<Chain, Error> {
        let chains = self.settings.chains.min(MAX_CHAINS);
        for slot in 0..chains {
            let dir = self.dir.join(slot_name(slot));
            make_dir(&dir)?;
            if let Some(lock) = lock(&dir.join("lock"), FlockOperation::NonBlockingLockExclusive)? {
                let place = Place { all: self.dir.clone(), dir, slot, _lock: lock };
                return Chain::take_up(place, Arc::clone(&self.keys), self.settings.clone(), Arc::clone(&self.clock));
            }
        }
        Err(Error::NoChain(chains))
    }
}

/// Who asked for what was refused, as far as that is known.
#[derive(Debug, Clone, Default)]
pub struct Asker {
    /// The session, by its token or its proxy credentials.
    pub session: Option<SessionId>,
    /// The token.
    pub token: Option<TokenId>,
    /// The name of the token's key.
    pub key: Option<Name>,
}

impl Asker {
    fn put(&self, line: &mut Line<'_>) {
        if let Some(session) = &self.session {
            line.id("session", &session.digits());
        }
        if let Some(token) = &self.token {
            line.id("token", &token.digits());
        }
        if let Some(key) = &self.key {
            line.text("key", key.as_str());
        }
    }
}

/// The writer of one core.
#[derive(Clone)]
pub struct Writer(Rc<RefCell<Chain>>, Rc<Batch>);

impl Writer {
    /// Records that a key is about to be used. When this returns, the record and everything that
    /// waited before it are with the operating system.
    ///
    /// # Errors
    /// It can't be written; then there is no receipt, and no key.
    pub fn intent(&self, intent: &Intent<'_>) -> Result<(Receipt, Draft), Error> {
        let receipt = self.0.borrow_mut().intent(intent)?;
        Ok(self.drafted(receipt))
    }

    /// The same for several that are ready at once: all are written with one call. What is returned is
    /// ready when this one is.
    ///
    /// # Errors
    /// Records couldn't be written before, and still can't.
    pub fn queue(&self, intent: &Intent<'_>) -> Result<Queued, Error> {
        let mut chain = self.0.borrow_mut();
        let receipt = chain.queue(intent)?;
        let (_, failures) = chain.written_to();
        Ok(Queued::new(Rc::clone(&self.0), Rc::clone(&self.1), self.drafted(receipt), failures))
    }

    fn drafted(&self, receipt: Receipt) -> (Receipt, Draft) {
        let draft = Draft { chain: Rc::clone(&self.0), seq: receipt.seq, open: true };
        (receipt, draft)
    }

    /// Records that somebody should look at something that is no exchange; it rides on the next append.
    pub fn event(&self, who: &str, event: &str, subject: &str, detail: &str) {
        self.0.borrow_mut().hold(RecordKind::Security, |line| line.deed(who, event, subject, detail));
    }

    /// Records a refusal; it rides on the next append. While records can't be written, refusals are
    /// kept up to [`Settings::held_bytes`] and counted beyond it.
    pub fn denied(
        &self,
        exchange: ExchangeId,
        code: &str,
        detail: &str,
        authority: Option<&str>,
        client: Option<&str>,
        asker: &Asker,
    ) {
        self.0.borrow_mut().hold(RecordKind::Denied, |line| {
            line.id("exchange", &exchange.digits());
            line.text("code", code);
            line.text("detail", detail);
            if let Some(authority) = authority {
                line.text("authority", authority);
            }
            if let Some(client) = client {
                line.text("client", client);
            }
            asker.put(line);
        });
    }

    /// Records something about an exchange that someone should look at; it rides on the next append.
    pub fn security(&self, exchange: ExchangeId, event: &str, authority: Option<&str>, detail: &str, asker: &Asker) {
        self.0.borrow_mut().hold(RecordKind::Security, |line| {
            line.deed("agent", event, authority.unwrap_or_default(), detail);
            line.id("exchange", &exchange.digits());
            asker.put(line);
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

#[cfg(test)]
impl Writer {
    /// Lets go of the chain without a stop record, as a killed process does.
    pub(super) fn abandon(self) {
        self.0.borrow_mut().abandon();
    }

    /// How many bytes wait for the next append.
    pub(super) fn waiting(&self) -> usize {
        self.0.borrow().waiting()
    }
}

/// An intent whose outcome is owed. Dropped unfinished, it records `aborted`.
pub struct Draft {
    chain: Rc<RefCell<Chain>>,
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
            self.chain.borrow_mut().outcome(self.seq, outcome);
        }
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.open {
            return;
        }
        let at = self.chain.borrow().now();
        self.settle(&Outcome {
            at,
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
    /// It can't be written; then it is taken back, and the change isn't made.
    pub fn admin(&self, who: &str, action: &str, subject: &str, detail: &str) -> Result<(), Error> {
        let mut chain = self.chain();
        chain.append(RecordKind::Admin, |line| line.deed(who, action, subject, detail))?;
        // The record is written. That its head or checkpoint isn't is told, and made up for later.
        if let Err(why) = chain.flush() {
            tracing::error!(error = %why, "the head of the audit chain can't be written");
        }
        Ok(())
    }

    /// Records something that someone should look at.
    ///
    /// # Errors
    /// It can't be written; then it waits for the next append, up to [`Settings::held_bytes`].
    pub fn security(&self, who: &str, event: &str, subject: &str, detail: &str) -> Result<(), Error> {
        let mut chain = self.chain();
        chain.hold(RecordKind::Security, |line| line.deed(who, event, subject, detail));
        chain.flush()
    }

    fn chain(&self) -> std::sync::MutexGuard<'_, Chain> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
