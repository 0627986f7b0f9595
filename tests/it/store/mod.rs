//! The store: one contract, run on both databases, and what each has of its own.

mod contract;
mod postgres;

use std::path::Path;
use std::sync::Arc;

use sallyport::app::Home;
use sallyport::model::{
    Bounds, Cleartext, Clock, Destination, Environment, GrantId, HostPattern, KeyId, KeyKind, OrgId, ProjectId,
    ProxyToken, Secret, SessionId, SessionSecret, Slot, SystemClock, Timestamp, TokenForm, TokenId, TokenShape,
};
use sallyport::session::records::{Grant, Project, Session, Standing, Token};
use sallyport::store::{Settings, Store};
use sallyport::vault::Vault;
use sallyport::vault::key::{Key, KeyState, SealedVersion};
use tempfile::TempDir;

use crate::support::postgres::Database;
pub use crate::support::postgres::sql;

/// A data directory with an open store.
pub struct Case {
    pub dir: TempDir,
    pub home: Home,
    pub settings: Settings,
    pub store: Store,
}

impl Case {
    pub async fn open(settings: Settings) -> Self {
        let dir = TempDir::new().expect("a temporary directory");
        let home = Home::open(&dir.path().join("data"), Arc::new(SystemClock)).expect("a data directory");
        let store = Store::open(settings.clone(), home.dir(), home.keyring()).await.expect("an open store");
        Self { dir, home, settings, store }
    }

    /// The same database as another process sees it.
    pub async fn again(&self) -> Store {
        Store::open(self.settings.clone(), self.home.dir(), self.home.keyring()).await.expect("an open store")
    }

    pub async fn sqlite() -> Self {
        Self::open(Settings::default()).await
    }

    /// A case on a database of its own; `None` where no PostgreSQL runs for the tests.
    pub async fn postgres() -> Option<Self> {
        Some(Self::open(Database::fresh().await?.settings()).await)
    }
}

pub fn now() -> Timestamp {
    SystemClock.now()
}

pub fn project(org: OrgId, name: &str) -> Project {
    Project {
        id: ProjectId::generate(),
        org,
        name: name.parse().expect("a name"),
        description: "what 'it' is for; drop table keys".to_owned(),
        created_at: now(),
    }
}

pub fn key(project: &Project, name: &str) -> Key {
    Key {
        id: KeyId::generate(),
        org: project.org,
        project: project.id,
        environment: Environment::Development,
        name: name.parse().expect("a name"),
        provider: "custom".parse().expect("a name"),
        kind: KeyKind::Secret,
        token_endpoint: None,
        destination: Destination {
            hosts: vec![HostPattern::parse("api.example.com").expect("a host")],
            slots: vec![Slot::Bearer],
            cleartext: Cleartext::Never,
        },
        shape: TokenShape::default(),
        state: KeyState::Enabled,
        version: 1,
        given: 1,
        created_at: now(),
        updated_at: now(),
        expires_at: None,
    }
}

pub fn sealed(case: &Case, key: &Key, version: u32, secret: &str) -> SealedVersion {
    let vault = Vault::new(Arc::clone(case.home.keyring()), Arc::clone(case.home.clock()));
    vault.seal(key, version, &Secret::new(secret.as_bytes().to_vec())).expect("sealed")
}

pub fn session(project: &Project, key: &Key) -> (Session, Grant, Token) {
    let session = Session {
        id: SessionId::generate(),
        org: project.org,
        project: project.id,
        environment: Environment::Development,
        tool: None,
        secret: SessionSecret::generate().expect("random").hash(),
        bounds: Bounds::default(),
        standing: Standing::Active,
        created_at: now(),
        expires_at: now().plus(std::time::Duration::from_secs(60)),
    };
    let grant =
        Grant { id: GrantId::generate(), org: project.org, session: session.id, key: key.id, created_at: now() };
    let token = Token {
        id: TokenId::generate(),
        org: project.org,
        session: session.id,
        grant: grant.id,
        root: None,
        hash: ProxyToken::generate(TokenForm::Long, &key.shape).expect("random").hash(),
        shape: key.shape.clone(),
        standing: Standing::Active,
        created_at: now(),
        expires_at: session.expires_at,
    };
    (session, grant, token)
}

#[tokio::test]
async fn sqlite_file_and_its_companions_are_private() {
    use std::os::unix::fs::MetadataExt as _;
    let case = Case::sqlite().await;
    let project = project(OrgId::DEFAULT, "a");
    case.store.commit(case.store.batch(OrgId::DEFAULT).insert(&project)).await.expect("committed");
    let mut seen = 0;
    for entry in std::fs::read_dir(case.home.dir()).expect("readable").map(|e| e.expect("readable")) {
        if entry.file_name().to_string_lossy().starts_with("sallyport.db") {
            assert_eq!(entry.metadata().expect("readable").mode() & 0o077, 0, "{:?}", entry.path());
            seen += 1;
        }
    }
    assert!(seen >= 2, "the file and its write-ahead log");
}

#[tokio::test]
async fn secret_is_nowhere_in_the_database_files() {
    let case = Case::sqlite().await;
    let project = project(OrgId::DEFAULT, "a");
    let key = key(&project, "k");
    let version = sealed(&case, &key, 1, "sk-live-never-on-disk-1");
    let batch = case.store.batch(OrgId::DEFAULT).insert(&project).insert(&key).insert(&version);
    case.store.commit(batch).await.expect("committed");
    assert_absent(case.home.dir(), b"sk-live-never-on-disk-1");
}

pub fn assert_absent(dir: &Path, needle: &[u8]) {
    for entry in std::fs::read_dir(dir).expect("readable").map(|e| e.expect("readable").path()) {
        if entry.is_dir() {
            assert_absent(&entry, needle);
        } else {
            let bytes = std::fs::read(&entry).expect("readable");
            assert!(!bytes.windows(needle.len()).any(|w| w == needle), "{}", entry.display());
        }
    }
}

#[tokio::test]
async fn store_sealed_under_another_key_is_refused_and_left_alone() {
    let case = Case::sqlite().await;
    let other = Home::open(&case.dir.path().join("other"), Arc::new(SystemClock)).expect("another directory");
    let url = format!("sqlite:{}", case.home.dir().join("sallyport.db").display());
    let why = Store::open(Settings { url, ..Settings::default() }, other.dir(), other.keyring()).await.err();
    assert!(matches!(why, Some(sallyport::store::Error::WrongKek(_))), "{why:?}");
    case.again().await;
}

#[tokio::test]
async fn url_that_names_no_database_is_refused_without_repeating_it() {
    let dir = TempDir::new().expect("a temporary directory");
    let home = Home::open(&dir.path().join("data"), Arc::new(SystemClock)).expect("a data directory");
    for url in ["mysql://root:hunter2@db/x", "hunter2", "sqlite:", "postgres://u:hunter2@[::"] {
        let settings = Settings { url: url.to_owned(), ..Settings::default() };
        let why = Store::open(settings, home.dir(), home.keyring()).await.err().expect("refused").to_string();
        assert!(!why.contains("hunter2"), "{why}");
    }
}
