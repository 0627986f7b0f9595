//! The two databases: opening, migrating, and the statements that both read alike.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, PgPool, Postgres, Row, SqlSafeStr as _, SqlitePool};

use super::row::{Type, Value};
use super::{Batch, Error, Settings, Status};
use crate::model::OrgId;

/// An open database.
pub(super) enum Db {
    Sqlite { read: SqlitePool, write: SqlitePool, file: PathBuf, place: String },
    Postgres { app: PgPool, feed: PgPool, answer: Duration, place: String },
}

/// A connection that was asked something. Unless it answered it is closed: given back, the pool would
/// wait for it as long as the network keeps silent.
pub(super) struct Asked {
    pub connection: PoolConnection<Postgres>,
    pub answered: bool,
}

impl Asked {
    pub async fn of(pool: &PgPool) -> Result<Self, Error> {
        Ok(Self { connection: pool.acquire().await?, answered: false })
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        if !self.answered {
            self.connection.close_on_drop();
        }
    }
}

/// Works on a connection of a PostgreSQL pool for no longer than `limit`.
macro_rules! asking {
    ($pool:expr, $limit:expr, |$connection:ident| $work:block) => {{
        let mut asked = crate::store::db::Asked::of($pool).await?;
        let work = async {
            let $connection = &mut *asked.connection;
            let done: Result<_, crate::store::Error> = async $work.await;
            done
        };
        let done = tokio::time::timeout($limit, work).await;
        asked.answered = done.is_ok();
        done.unwrap_or_else(|_| Err(crate::store::Error::no_answer()))
    }};
}
pub(super) use asking;

/// The same statements on either database.
macro_rules! bound {
    ($sql:expr, $values:expr) => {{
        let mut query = sqlx::query(AssertSqlSafe($sql));
        for value in $values {
            query = match value {
                Value::Text(text) => query.bind(text),
                Value::Int(number) => query.bind(number),
                Value::Bytes(bytes) => query.bind(bytes),
            };
        }
        query
    }};
}

/// Reads a row's values by the types of its columns.
macro_rules! cells {
    ($row:expr, $types:expr) => {{
        let mut values = Vec::with_capacity($types.len());
        for (at, kind) in $types.iter().enumerate() {
            values.push(match kind {
                Type::Text => Value::Text($row.try_get(at)?),
                Type::Int => Value::Int($row.try_get(at)?),
                Type::Bytes => Value::Bytes($row.try_get(at)?),
            });
        }
        values
    }};
}

/// Names the organisation that a transaction works for; row-level security reads it.
pub(super) async fn act_for(tx: &mut sqlx::PgTransaction<'_>, org: OrgId) -> Result<(), sqlx::Error> {
    sqlx::query("select set_config('sallyport.org', $1, true)").bind(org.to_string()).execute(&mut **tx).await?;
    Ok(())
}

fn migrations(postgres: bool) -> Migrator {
    let all = [
        (
            1,
            "spine",
            include_str!("migrations/sqlite/0001_spine.sql"),
            include_str!("migrations/postgres/0001_spine.sql"),
        ),
        (
            2,
            "ended",
            include_str!("migrations/sqlite/0002_ended.sql"),
            include_str!("migrations/postgres/0002_ended.sql"),
        ),
    ];
    let list = all.into_iter().map(|(number, what, lite, pg)| {
        let sql = if postgres { pg } else { lite };
        Migration::new(number, what.into(), MigrationType::Simple, sql.into_sql_str(), false)
    });
    let mut migrator = Migrator::with_migrations(list.collect());
    // A newer node may have migrated already: the schema only ever grows.
    migrator.set_ignore_missing(true);
    migrator
}

fn migration_failed(why: sqlx::migrate::MigrateError) -> Error {
    match why {
        sqlx::migrate::MigrateError::VersionMismatch(version) => Error::Migration(format!(
            "version {version} was applied with another text; this database belongs to another program or build"
        )),
        other => Error::Migration(other.to_string()),
    }
}

enum Place {
    Sqlite(PathBuf),
    Postgres,
}

fn place_of(url: &str, data_dir: &Path) -> Result<Place, Error> {
    if let Some(path) = url.strip_prefix("sqlite:") {
        let path = path.strip_prefix("//").unwrap_or(path);
        if path.is_empty() || path.contains('?') {
            return Err(Error::Url("store.url".to_owned()));
        }
        return Ok(Place::Sqlite(data_dir.join(path)));
    }
    if url.starts_with("postgres://") || url.starts_with("postgresql://") {
        return Ok(Place::Postgres);
    }
    // The text isn't repeated: it may hold a password.
    Err(Error::Url("store.url".to_owned()))
}

fn postgres_options(url: &str) -> Result<PgConnectOptions, Error> {
    let options = PgConnectOptions::from_str(url).map_err(|_| Error::Url("a PostgreSQL URL".to_owned()))?;
    Ok(options.application_name("sallyport").disable_statement_logging())
}

fn sqlite_options(file: &Path, settings: &Settings) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(file)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(settings.timeout)
        .disable_statement_logging()
}

/// Makes the file with mode 0600 before SQLite would make it wider; its WAL takes the same mode.
fn ensure_private(file: &Path) -> Result<(), Error> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let made = std::fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(file);
    made.map(|_| ()).map_err(|why| Error::Database(format!("{}: {why}", file.display())))
}

impl Db {
    pub async fn open(settings: &Settings, data_dir: &Path) -> Result<Self, Error> {
        match place_of(&settings.url, data_dir)? {
            Place::Sqlite(file) => {
                ensure_private(&file)?;
                let options = sqlite_options(&file, settings);
                let write = SqlitePoolOptions::new().max_connections(1).acquire_timeout(settings.timeout);
                let write = write.connect_with(options.clone()).await?;
                migrations(false).run(&write).await.map_err(migration_failed)?;
                let read = SqlitePoolOptions::new().max_connections(settings.connections.max(1));
                let read = read.acquire_timeout(settings.timeout).connect_lazy_with(options.read_only(true));
                let place = format!("sqlite:{}", file.display());
                Ok(Self::Sqlite { read, write, file, place })
            }
            Place::Postgres => {
                let options = postgres_options(&settings.url)?;
                let place = format!("postgres://{}/{}", options.get_host(), options.get_database().unwrap_or_default());
                let owner = postgres_options(settings.owner_url.as_ref().unwrap_or(&settings.url))?;
                let owner = postgres_pool(settings, owner, 1, None).await?;
                migrations(true).run(&owner).await.map_err(migration_failed)?;
                owner.close().await;
                let feed = postgres_options(settings.feed_url.as_ref().unwrap_or(&settings.url))?;
                let feed = postgres_pool(settings, feed, 3, Some("set role sallyport_feed")).await?;
                let app = postgres_pool(settings, options, settings.connections.max(1), Some("set role sallyport_app"))
                    .await?;
                Ok(Self::Postgres { app, feed, answer: settings.answer, place })
            }
        }
    }

    pub fn place(&self) -> &str {
        match self {
            Self::Sqlite { place, .. } | Self::Postgres { place, .. } => place,
        }
    }

    /// The value kept under a name; `fresh` is kept if there is none.
    pub async fn meta(&self, name: &str, fresh: Vec<u8>) -> Result<Vec<u8>, Error> {
        const KEEP: &str = "insert into meta (name, value) values ($1, $2) on conflict (name) do nothing";
        const READ: &str = "select value from meta where name = $1";
        match self {
            Self::Sqlite { write, .. } => {
                sqlx::query(KEEP).bind(name).bind(fresh).execute(write).await?;
                Ok(sqlx::query(READ).bind(name).fetch_one(write).await?.try_get(0)?)
            }
            Self::Postgres { feed, .. } => {
                sqlx::query(KEEP).bind(name).bind(fresh).execute(feed).await?;
                Ok(sqlx::query(READ).bind(name).fetch_one(feed).await?.try_get(0)?)
            }
        }
    }

    /// Carries out a batch: its statements, then its changes under the numbers that follow the last.
    pub async fn commit(&self, batch: Batch) -> Result<i64, Error> {
        const NUMBER: &str = "update change_counter set number = number + $1 where id = 1 returning number";
        const CHANGE: &str =
            "insert into changes (number, org_id, kind, row_id, changed_at) values ($1, $2, $3, $4, $5)";
        let Batch { org, statements, changes, now, .. } = batch;
        let count = i64::try_from(changes.len()).unwrap_or(i64::MAX);
        macro_rules! carry_out {
            ($tx:expr) => {{
                for statement in statements {
                    let done = bound!(statement.sql, statement.values).execute(&mut **$tx).await?.rows_affected();
                    if statement.one_row && done != 1 {
                        return Err(Error::Changed);
                    }
                }
                let last: i64 = sqlx::query(NUMBER).bind(count).fetch_one(&mut **$tx).await?.try_get(0)?;
                for (at, (kind, id)) in changes.into_iter().enumerate() {
                    let number = last - count + 1 + i64::try_from(at).unwrap_or(0);
                    let row = [
                        Value::Int(Some(number)),
                        super::row::text(org),
                        super::row::word(&kind),
                        Value::Text(Some(id)),
                        Value::Int(Some(now)),
                    ];
                    bound!(CHANGE, row).execute(&mut **$tx).await?;
                }
                last
            }};
        }
        match self {
            Self::Sqlite { write, .. } => {
                let mut tx = write.begin_with("begin immediate").await?;
                let last = carry_out!(&mut tx);
                tx.commit().await?;
                Ok(last)
            }
            Self::Postgres { app, answer, .. } => asking!(app, *answer, |connection| {
                let mut tx = connection.begin().await?;
                act_for(&mut tx, org).await?;
                let last = carry_out!(&mut tx);
                sqlx::query("select pg_notify('sallyport_changes', $1)")
                    .bind(last.to_string())
                    .execute(&mut *tx)
                    .await?;
                tx.commit().await?;
                Ok(last)
            }),
        }
    }

    /// Rows of one organisation.
    pub async fn select(
        &self,
        org: OrgId,
        sql: String,
        values: Vec<Value>,
        types: &[Type],
    ) -> Result<Vec<Vec<Value>>, Error> {
        let mut out = Vec::new();
        match self {
            Self::Sqlite { read, .. } => {
                for row in bound!(sql, values).fetch_all(read).await? {
                    out.push(cells!(row, types));
                }
            }
            Self::Postgres { app, answer, .. } => asking!(app, *answer, |connection| {
                let mut tx = connection.begin().await?;
                act_for(&mut tx, org).await?;
                for row in bound!(sql, values).fetch_all(&mut *tx).await? {
                    out.push(cells!(row, types));
                }
                Ok(tx.commit().await?)
            })?,
        }
        Ok(out)
    }

    /// Rows of every organisation, for the nodes' memory.
    pub async fn select_all_orgs(
        &self,
        sql: String,
        values: Vec<Value>,
        types: &[Type],
    ) -> Result<Vec<Vec<Value>>, Error> {
        let mut out = Vec::new();
        match self {
            Self::Sqlite { read, .. } => {
                for row in bound!(sql, values).fetch_all(read).await? {
                    out.push(cells!(row, types));
                }
            }
            Self::Postgres { feed, answer, .. } => asking!(feed, *answer, |connection| {
                for row in bound!(sql, values).fetch_all(connection).await? {
                    out.push(cells!(row, types));
                }
                Ok(())
            })?,
        }
        Ok(out)
    }
}

async fn postgres_pool(
    settings: &Settings,
    options: PgConnectOptions,
    most: u32,
    role: Option<&'static str>,
) -> Result<PgPool, Error> {
    let pool = PgPoolOptions::new().max_connections(most).acquire_timeout(settings.timeout).after_connect(
        move |connection, _| {
            Box::pin(async move {
                if let Some(role) = role {
                    sqlx::query(role).execute(&mut *connection).await?;
                }
                Ok(())
            })
        },
    );
    Ok(pool.connect_with(options).await?)
}

pub(super) async fn status(settings: &Settings, data_dir: &Path) -> Result<Status, Error> {
    const APPLIED: &str = "select version from _sqlx_migrations order by version";
    let (kind, place, applied) = match place_of(&settings.url, data_dir)? {
        Place::Sqlite(file) => {
            let applied = if file.exists() {
                let options = sqlite_options(&file, settings).create_if_missing(false).read_only(true);
                let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await?;
                versions(sqlx::query(APPLIED).fetch_all(&pool).await)
            } else {
                Vec::new()
            };
            ("sqlite", format!("sqlite:{}", file.display()), applied)
        }
        Place::Postgres => {
            let options = postgres_options(settings.owner_url.as_ref().unwrap_or(&settings.url))?;
            let place = format!("postgres://{}/{}", options.get_host(), options.get_database().unwrap_or_default());
            let pool = postgres_pool(settings, options, 1, None).await?;
            ("postgresql", place, versions(sqlx::query(APPLIED).fetch_all(&pool).await))
        }
    };
    let ours = migrations(kind == "postgresql");
    let pending = ours.iter().map(|m| m.version).filter(|v| !applied.contains(v)).collect();
    Ok(Status { kind, place, applied, pending })
}

/// The versions that are applied; none if the table isn't there yet.
fn versions<R: Row>(rows: Result<Vec<R>, sqlx::Error>) -> Vec<i64>
where
    usize: sqlx::ColumnIndex<R>,
    i64: for<'r> sqlx::Decode<'r, R::Database> + sqlx::Type<R::Database>,
{
    rows.unwrap_or_default().iter().filter_map(|row| row.try_get(0).ok()).collect()
}
