//! Databases on the PostgreSQL that runs for the tests.

use std::path::PathBuf;

use sallyport::model::SessionId;
use sallyport::store::Settings;

/// A fresh database.
pub struct Database {
    /// The directory of PostgreSQL's socket.
    pub socket: String,
    pub name: String,
}

impl Database {
    /// `None` where no PostgreSQL runs for the tests, which only the fast run may do without.
    pub async fn fresh() -> Option<Self> {
        let Ok(socket) = std::env::var("SALLYPORT_TEST_POSTGRES") else {
            assert!(std::env::var_os("SALLYPORT_TEST_ALL").is_none(), "the whole run needs PostgreSQL");
            eprintln!("no PostgreSQL: skipped");
            return None;
        };
        let name = format!("t{}", SessionId::generate().to_string().replace('-', ""));
        sql(&socket, "postgres", &format!("create database {name}")).await;
        Some(Self { socket, name })
    }

    pub fn settings(&self) -> Settings {
        let url = format!("postgres://tester@localhost/{}?host={}", self.name, self.socket);
        Settings { url, ..Settings::default() }
    }

    /// The socket itself.
    pub fn file(&self) -> PathBuf {
        PathBuf::from(&self.socket).join(".s.PGSQL.5432")
    }

    /// The same through a port of this machine.
    pub fn through(&self, port: u16) -> Settings {
        let url = format!("postgres://tester@127.0.0.1:{port}/{}?sslmode=disable", self.name);
        Settings { url, ..Settings::default() }
    }

    pub async fn sql(&self, statement: &str) -> String {
        sql(&self.socket, &self.name, statement).await
    }
}

/// Runs a statement as the tests' PostgreSQL user, who is no superuser.
pub async fn sql(socket: &str, database: &str, statement: &str) -> String {
    let psql = tokio::process::Command::new("psql")
        .args(["-h", socket, "-U", "tester", "-d", database, "-At", "-v", "ON_ERROR_STOP=1", "-c", statement])
        .output()
        .await
        .expect("psql runs");
    assert!(psql.status.success(), "{statement}: {}", String::from_utf8_lossy(&psql.stderr));
    String::from_utf8_lossy(&psql.stdout).trim().to_owned()
}
