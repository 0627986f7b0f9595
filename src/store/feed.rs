//! The change feed: what other processes and nodes wrote, in the order of their commits.

use std::time::Duration;

use sqlx::postgres::PgListener;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions as _, Row};

use super::db::{Db, asking};
use super::{ChangeKind, Error, Store};

/// Something was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Its number; number order is commit order.
    pub number: i64,
    /// What it is about; `None` if only a newer node knows.
    pub kind: Option<ChangeKind>,
    /// The row's identifier.
    pub id: String,
}

/// What the feed brings.
#[derive(Debug, PartialEq, Eq)]
pub enum Page {
    /// Changes, oldest first; none means that the store answered and nothing happened.
    Changes(Vec<Change>),
    /// Changes that were not read yet are no longer kept: everything has to be read again.
    Gap,
}

/// The most changes in a page.
const PAGE: i64 = 1000;

enum Wake {
    Sqlite { connection: SqliteConnection, seen: Option<i64> },
    Postgres(Option<PgListener>),
}

/// A reader of the change feed.
pub struct Feed {
    store: Store,
    at: i64,
    wake: Wake,
    more: bool,
    behind: bool,
}

impl Store {
    /// A reader that begins behind the last change that is committed now.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn feed(&self) -> Result<Feed, Error> {
        let wake = match &*self.db {
            Db::Sqlite { file, .. } => {
                let options = SqliteConnectOptions::new().filename(file).read_only(true);
                let connection = options.busy_timeout(self.settings.timeout).connect().await?;
                Wake::Sqlite { connection, seen: None }
            }
            Db::Postgres { .. } => Wake::Postgres(None),
        };
        let (at, _) = self.counter().await?;
        Ok(Feed { store: self.clone(), at, wake, more: false, behind: false })
    }

    /// The number of the last change, and up to which number changes were removed.
    async fn counter(&self) -> Result<(i64, i64), Error> {
        const SQL: &str = "select number, pruned from change_counter where id = 1";
        Ok(match &*self.db {
            Db::Sqlite { read, .. } => {
                let row = sqlx::query(SQL).fetch_one(read).await?;
                (row.try_get(0)?, row.try_get(1)?)
            }
            Db::Postgres { feed, answer, .. } => asking!(feed, *answer, |connection| {
                let row = sqlx::query(SQL).fetch_one(connection).await?;
                Ok((row.try_get(0)?, row.try_get(1)?))
            })?,
        })
    }
}

impl Feed {
    /// The number of the last change that was returned.
    #[must_use]
    pub const fn at(&self) -> i64 {
        self.at
    }

    /// Waits for changes, `store.poll` at most, and returns those that there are. They come again
    /// until [`Feed::taken`] says that they were taken over, so a failure in between loses nothing.
    ///
    /// # Errors
    /// The store can't be reached; the next call tries again.
    ///
    /// # Cancellation
    /// A cancelled call loses nothing.
    pub async fn peek(&mut self) -> Result<Page, Error> {
        if !self.more && !self.wait().await? {
            return Ok(Page::Changes(Vec::new()));
        }
        self.more = true;
        let (_, pruned) = self.store.counter().await?;
        if self.at < pruned {
            return Ok(Page::Gap);
        }
        let changes = self.read().await?;
        self.more = !changes.is_empty();
        self.behind = changes.len() >= PAGE as usize;
        Ok(Page::Changes(changes))
    }

    /// Whether the last page was full, so that there are changes that weren't read yet.
    #[must_use]
    pub const fn is_behind(&self) -> bool {
        self.behind
    }

    /// The changes of the last page were taken over.
    pub fn taken(&mut self, changes: &[Change]) {
        if let Some(last) = changes.last() {
            self.at = last.number;
        }
    }

    /// Begins again behind the last change that is committed now; what was before has to be read
    /// otherwise.
    ///
    /// # Errors
    /// The store can't be reached.
    pub async fn skip(&mut self) -> Result<(), Error> {
        (self.at, _) = self.store.counter().await?;
        (self.more, self.behind) = (true, false);
        Ok(())
    }

    /// Whether there may be something to read.
    async fn wait(&mut self) -> Result<bool, Error> {
        let poll = self.store.settings.poll;
        match &mut self.wake {
            Wake::Sqlite { connection, seen } => {
                // The number changes when any other connection commits, in this process or another.
                // The first look always reads: something may have been committed before it.
                let version = async |connection: &mut SqliteConnection| -> Result<i64, Error> {
                    Ok(sqlx::query("pragma data_version").fetch_one(connection).await?.try_get(0)?)
                };
                let mut now = version(connection).await?;
                if *seen == Some(now) {
                    tokio::time::sleep(poll).await;
                    now = version(connection).await?;
                }
                Ok(seen.replace(now) != Some(now))
            }
            Wake::Postgres(listener) => {
                let Db::Postgres { feed, answer, .. } = &*self.store.db else { return Ok(true) };
                let listening = match listener {
                    Some(listening) => listening,
                    None => {
                        let mut fresh = PgListener::connect_with(feed).await?;
                        let heard = tokio::time::timeout(*answer, fresh.listen("sallyport_changes")).await;
                        heard.map_err(|_| Error::no_answer())??;
                        // What was committed before the listening began is read at once.
                        *listener = Some(fresh);
                        return Ok(true);
                    }
                };
                match tokio::time::timeout(poll.max(MIN_WAIT), listening.try_recv()).await {
                    Ok(Ok(Some(_))) => {
                        while listening.next_buffered().is_some() {}
                        Ok(true)
                    }
                    Ok(Ok(None) | Err(_)) => {
                        *listener = None;
                        Ok(true)
                    }
                    // The listener may hang on a dead connection: the read shows it.
                    Err(_) => Ok(true),
                }
            }
        }
    }

    async fn read(&self) -> Result<Vec<Change>, Error> {
        const SQL: &str = "select number, kind, row_id from changes where number > $1 order by number limit $2";
        let mut out = Vec::new();
        macro_rules! take {
            ($rows:expr) => {
                for row in $rows {
                    let kind: String = row.try_get(1)?;
                    let kind = serde_json::from_value(serde_json::Value::String(kind)).ok();
                    out.push(Change { number: row.try_get(0)?, kind, id: row.try_get(2)? });
                }
            };
        }
        match &*self.store.db {
            Db::Sqlite { read, .. } => take!(sqlx::query(SQL).bind(self.at).bind(PAGE).fetch_all(read).await?),
            Db::Postgres { feed, answer, .. } => {
                let rows = asking!(feed, *answer, |connection| {
                    Ok(sqlx::query(SQL).bind(self.at).bind(PAGE).fetch_all(connection).await?)
                });
                take!(rows?);
            }
        }
        Ok(out)
    }
}

/// PostgreSQL wakes by notification, so the look without one may be rarer than SQLite's.
const MIN_WAIT: Duration = Duration::from_millis(500);
