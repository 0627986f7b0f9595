//! Removing what nobody needs any more, a bounded piece at a time.

use std::time::Duration;

use sqlx::{Connection as _, Row as _};

use super::db::{Db, act_for, asking};
use super::{Error, Store};
use crate::model::{OrgId, Timestamp};

/// How much one transaction removes of each table; other writers wait no longer than that.
const PIECE: i64 = 500;
/// How many transactions one call makes.
const ROUNDS: usize = 20;

const SESSIONS: &str =
    "delete from sessions where id in (select id from sessions where expires_at < $1 order by expires_at limit $2)";
const REQUESTS: &str = "delete from access_requests where id in \
    (select id from access_requests where decided_at < $1 order by decided_at limit $2)";

impl Store {
    /// Removes changes older than `store.keep_changes`.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn prune_changes(&self, now: Timestamp) -> Result<(), Error> {
        const OLDEST: &str = "select coalesce(max(number), 0) from changes where changed_at < $1";
        const NOTE: &str = "update change_counter set pruned = $1 where id = 1 and pruned < $1";
        const PRUNE: &str = "delete from changes where number <= $1";
        let before = older(now, self.settings.keep_changes);
        macro_rules! prune {
            ($tx:expr) => {{
                let mut tx = $tx;
                let upto: i64 = sqlx::query(OLDEST).bind(before).fetch_one(&mut *tx).await?.try_get(0)?;
                sqlx::query(NOTE).bind(upto).execute(&mut *tx).await?;
                sqlx::query(PRUNE).bind(upto).execute(&mut *tx).await?;
                Ok(tx.commit().await?)
            }};
        }
        match &*self.db {
            Db::Sqlite { write, .. } => prune!(write.begin_with("begin immediate").await?),
            Db::Postgres { feed, answer, .. } => {
                asking!(feed, *answer, |connection| { prune!(connection.begin().await?) })
            }
        }
    }

    /// Removes sessions that expired longer than `store.keep_ended` ago, with their grants and tokens,
    /// and access requests that were decided as long ago; how many. The audit keeps its records of
    /// them. A call removes a bounded number.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn prune_ended(&self, now: Timestamp) -> Result<u64, Error> {
        let before = older(now, self.settings.keep_ended);
        let mut removed = 0;
        for _ in 0..ROUNDS {
            let piece = self.prune_piece(before).await?;
            removed += piece;
            if piece == 0 {
                break;
            }
        }
        Ok(removed)
    }

    async fn prune_piece(&self, before: i64) -> Result<u64, Error> {
        macro_rules! prune {
            ($tx:expr) => {{
                let mut removed = 0;
                for sql in [SESSIONS, REQUESTS] {
                    removed += sqlx::query(sql).bind(before).bind(PIECE).execute(&mut *$tx).await?.rows_affected();
                }
                removed
            }};
        }
        match &*self.db {
            Db::Sqlite { write, .. } => {
                let mut tx = write.begin_with("begin immediate").await?;
                let removed = prune!(tx);
                tx.commit().await?;
                Ok(removed)
            }
            Db::Postgres { app, feed, answer, .. } => {
                const ORGS: &str = "select org_id from sessions where expires_at < $1 \
                    union select org_id from access_requests where decided_at < $1";
                let orgs = asking!(feed, *answer, |connection| {
                    let rows = sqlx::query(ORGS).bind(before).fetch_all(connection).await?;
                    Ok(rows
                        .iter()
                        .filter_map(|row| row.try_get::<String, _>(0).ok()?.parse().ok())
                        .collect::<Vec<OrgId>>())
                })?;
                let mut all = 0;
                for org in orgs {
                    all += asking!(app, *answer, |connection| {
                        let mut tx = connection.begin().await?;
                        act_for(&mut tx, org).await?;
                        let removed = prune!(tx);
                        tx.commit().await?;
                        Ok(removed)
                    })?;
                }
                Ok(all)
            }
        }
    }
}

/// The time before which something is older than `keep`.
fn older(now: Timestamp, keep: Duration) -> i64 {
    now.millis().saturating_sub(i64::try_from(keep.as_millis()).unwrap_or(i64::MAX))
}
