//! Where keys, tools, requests, sessions, tokens and principals are kept: SQLite or PostgreSQL,
//! behind one type and with one SQL text.
//!
//! Each row ends in a MAC under a key derived from the key-encryption key; a row without a good one
//! is refused ([`Error::Tampered`]). Every write is a [`Batch`]: one transaction that also adds to
//! the change feed, from which nodes keep their memory ([`Feed`]). The data path never asks the
//! store.
//!
//! On PostgreSQL the connections act in roles: `sallyport_app` sees the one organisation that its
//! transaction names (row-level security), `sallyport_feed` reads all.

mod batch;
mod db;
mod feed;
mod prune;
mod query;
mod records;
pub mod row;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

pub use batch::Batch;
pub use feed::{Change, Feed, Page};
pub use query::Find;
pub use row::Record;

use crate::model::{OrgId, Secret};
use crate::vault::Keyring;
use db::Db;

/// Why the store can't do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL names no database.
    #[error("{0} is no store URL: write sqlite:FILE or postgres://USER@HOST/DATABASE")]
    Url(String),
    /// The database can't be reached, or refused.
    #[error("the store can't be used: {0}. Check store.url, the database's log and the disk's space")]
    Database(String),
    /// A migration failed or doesn't fit.
    #[error("the store's schema can't be brought up to date: {0}")]
    Migration(String),
    /// The store was sealed under another key-encryption key.
    #[error(
        "the store at {0} was sealed with another key-encryption key; nothing was changed. Give every node the same one"
    )]
    WrongKek(String),
    /// A row was changed by somebody without the key-encryption key.
    #[error("row {id} of table {table} was not written by sallyport, or was changed since; it is refused")]
    Tampered {
        /// The table.
        table: &'static str,
        /// The row's identifier.
        id: String,
    },
    /// The name is taken.
    #[error("something with this name is there already")]
    Taken,
    /// A reference leads nowhere, or would after the change.
    #[error("something that it refers to is missing, or something still refers to it")]
    Referred,
    /// The row was changed by somebody else in the meantime, or is gone.
    #[error("it was changed by somebody else in the meantime; look at it again and repeat")]
    Changed,
}

impl Error {
    fn no_answer() -> Self {
        Self::Database("it gave no answer within store.answer".to_owned())
    }
}

impl From<sqlx::Error> for Error {
    fn from(why: sqlx::Error) -> Self {
        if let Some(of_database) = why.as_database_error() {
            if of_database.is_unique_violation() {
                return Self::Taken;
            }
            if of_database.is_foreign_key_violation() {
                return Self::Referred;
            }
        }
        Self::Database(why.to_string())
    }
}

/// What a change is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are those of the records")]
pub enum ChangeKind {
    Project,
    Key,
    KeyVersion,
    Tool,
    AccessRequest,
    Session,
    Grant,
    Token,
    Principal,
    Lease,
}

/// Settings of the store.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `sqlite:FILE` (a relative path is in the data directory) or `postgres://...`.
    pub url: String,
    /// PostgreSQL: another URL for migrations, whose role owns the tables. Default: `url`.
    pub owner_url: Option<String>,
    /// PostgreSQL: another URL for the change feed. Default: `url`.
    pub feed_url: Option<String>,
    /// The most connections for reading and writing. Default: 8.
    pub connections: u32,
    /// How long a connection may take, and how long a locked SQLite file is waited for. Default: 5 s.
    pub timeout: Duration,
    /// PostgreSQL: how long an answer may take before its connection is given up. Default: 10 s.
    pub answer: Duration,
    /// How often the feed looks for changes: SQLite's file, and PostgreSQL when no notification
    /// came. Default: 100 ms.
    pub poll: Duration,
    /// How long changes are kept for nodes that were cut off; a node that was away for longer reads
    /// everything again. Default: 1 day.
    pub keep_changes: Duration,
    /// How long sessions with their tokens are kept after they expired, and access requests after
    /// they were decided. Default: 30 days.
    pub keep_ended: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            url: "sqlite:sallyport.db".to_owned(),
            owner_url: None,
            feed_url: None,
            connections: 8,
            timeout: Duration::from_secs(5),
            answer: Duration::from_secs(10),
            poll: Duration::from_millis(100),
            keep_changes: Duration::from_secs(24 * 3600),
            keep_ended: Duration::from_secs(30 * 24 * 3600),
        }
    }
}

/// The store. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    db: Arc<Db>,
    mac: Arc<Secret<[u8; 32]>>,
    settings: Arc<Settings>,
    timing: Arc<Timing>,
}

/// Is told how long a statement took.
type Timing = dyn Fn(&'static str, Duration) + Send + Sync;

/// What `store status` says.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// `sqlite` or `postgresql`.
    pub kind: &'static str,
    /// Where, without credentials.
    pub place: String,
    /// The versions of the schema that are applied.
    pub applied: Vec<i64>,
    /// The versions that this sallyport would apply.
    pub pending: Vec<i64>,
}

impl Store {
    /// Opens the store, brings its schema up to date, and checks that it was sealed under this
    /// keyring.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn open(settings: Settings, data_dir: &Path, keyring: &Keyring) -> Result<Self, Error> {
        let db = Db::open(&settings, data_dir).await?;
        let store = Self {
            db: Arc::new(db),
            mac: Arc::new(keyring.subkey("row-mac")),
            settings: Arc::new(settings),
            timing: Arc::new(|_, _| {}),
        };
        let canary = keyring.canary().map_err(|why| Error::Database(why.to_string()))?;
        let kept = store.db.meta("canary", canary).await?;
        keyring.check(&kept).map_err(|_| Error::WrongKek(store.db.place().to_owned()))?;
        Ok(store)
    }

    /// The same store, whose statements' times are told to `timing`.
    #[must_use]
    pub fn timed(self, timing: impl Fn(&'static str, Duration) + Send + Sync + 'static) -> Self {
        Self { timing: Arc::new(timing), ..self }
    }

    /// What is applied and what isn't, without changing anything.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn status(settings: &Settings, data_dir: &Path) -> Result<Status, Error> {
        db::status(settings, data_dir).await
    }

    /// Where the store is, without credentials.
    #[must_use]
    pub fn place(&self) -> &str {
        self.db.place()
    }

    /// An empty batch of changes of an organisation.
    pub fn batch(&self, org: OrgId) -> Batch {
        Batch::new(org, Arc::clone(&self.mac))
    }

    /// Carries out a batch in one transaction; it is durable when this returns. The number of its
    /// last change, for [`Feed`].
    ///
    /// # Errors
    /// Nothing was changed: [`Error::Taken`], [`Error::Referred`], [`Error::Changed`], or the database refused.
    pub async fn commit(&self, batch: Batch) -> Result<i64, Error> {
        self.measured("commit", self.db.commit(batch)).await
    }

    async fn measured<F: Future>(&self, what: &'static str, work: F) -> F::Output {
        let began = tokio::time::Instant::now();
        let out = work.await;
        (self.timing)(what, began.elapsed());
        out
    }
}
