//! The one place that joins parts: the data directory, and a running node.

use std::collections::HashMap;
use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::audit::{AuditKeys, Journal};
use crate::model::{
    Authority, Clock, Destination, Environment, GrantId, KeyId, Name, OrgId, ProjectId, ProxyToken, Scheme, Secret,
    SessionId, SessionSecret, TokenForm, TokenId, TokenShape, ToolId,
};
use crate::policy::{Library, shipped};
use crate::proxy::core::{Core, Route, Shared};
use crate::proxy::listener::{Kind, Worker, accept};
use crate::proxy::settings::Settings;
use crate::session::records::{Grant, Project, Session, Standing, Token, Tool};
use crate::session::registry::Registry;
use crate::telemetry::Metrics;
use crate::tls::ca::{Ca, LeafCache};
use crate::upstream;
use crate::vault::key::{Key, KeyState};
use crate::vault::{EnvKek, FileKek, KekSource, Keyring, Vault};

/// The format of the data directory; another one is refused.
const FORMAT: &str = "1";
/// How often a core looks for what has to stop and writes what waits.
const TICK: Duration = Duration::from_millis(100);
/// How long the store may be out of reach before no key is used.
const MAX_STALENESS: Duration = Duration::from_secs(5);
/// How many hosts' leaf certificates are held.
const LEAVES: usize = 10_000;

/// The data directory, opened.
pub struct Home {
    dir: PathBuf,
    keyring: Arc<Keyring>,
    ca_pem: String,
    clock: Arc<dyn Clock>,
}

impl Home {
    /// Where the data directory is: `SALLYPORT_DATA_DIR`, else `$XDG_DATA_HOME/sallyport`, else
    /// `~/.local/share/sallyport`.
    ///
    /// # Errors
    /// None of the variables is set.
    pub fn default_dir() -> anyhow::Result<PathBuf> {
        let var = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        var("SALLYPORT_DATA_DIR")
            .or_else(|| var("XDG_DATA_HOME").map(|d| d.join("sallyport")))
            .or_else(|| var("HOME").map(|d| d.join(".local/share/sallyport")))
            .context("no data directory: give --data-dir, or set SALLYPORT_DATA_DIR or HOME")
    }

    /// Opens the data directory; makes it first if there is none.
    ///
    /// # Errors
    /// It can't be made or read, others may read it, it has another format, or the KEK is not its own.
    pub fn open(dir: &Path, clock: Arc<dyn Clock>) -> anyhow::Result<Self> {
        if !dir.exists() {
            create(dir, &*clock).with_context(|| format!("making the data directory {}", dir.display()))?;
        }
        let mode = fs::metadata(dir).with_context(|| format!("reading {}", dir.display()))?.mode() & 0o777;
        if mode & 0o077 != 0 {
            bail!("{} has mode {mode:o}, so others may look into it. Run: chmod 700 {}", dir.display(), dir.display());
        }
        let format = read(&dir.join("format"))?;
        if format.trim() != FORMAT {
            bail!(
                "{} has format {:?}, and this sallyport reads {FORMAT:?}. Use the version that made it",
                dir.display(),
                format.trim()
            );
        }
        for file in ["canary", "ca.key"] {
            let path = dir.join(file);
            let mode = fs::metadata(&path).with_context(|| format!("reading {}", path.display()))?.mode() & 0o777;
            if mode & 0o077 != 0 {
                bail!("{} has mode {mode:o}, so others may read it. Run: chmod 600 {}", path.display(), path.display());
            }
        }
        let keyring = Keyring::load(&*kek_source(dir))?;
        keyring.check(&fs::read(dir.join("canary")).context("reading the canary")?)?;
        let ca_pem = read(&dir.join("ca.pem"))?;
        Ok(Self { dir: dir.to_owned(), keyring: Arc::new(keyring), ca_pem, clock })
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The CA certificate that agents have to trust, in PEM.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// Where the audit chains are.
    #[must_use]
    pub fn audit_dir(&self) -> PathBuf {
        self.dir.join("audit")
    }

    /// Where the policies are.
    #[must_use]
    pub fn policy_dir(&self) -> PathBuf {
        self.dir.join("policies")
    }

    /// The keys of the audit.
    #[must_use]
    pub fn audit_keys(&self) -> AuditKeys {
        AuditKeys { mac: self.keyring.subkey("audit-mac"), sign: self.keyring.subkey("audit-sign") }
    }

    fn ca(&self) -> anyhow::Result<Ca> {
        let sealed = fs::read(self.dir.join("ca.key")).context("reading ca.key")?;
        let key = self
            .keyring
            .open_blob("ca-key", &sealed)
            .context("ca.key doesn't open: it was changed, or belongs to another data directory")?;
        let key = Secret::new(String::from_utf8(key.to_vec()).context("ca.key isn't text")?);
        Ok(Ca::open(&self.ca_pem, &key)?)
    }
}

fn read(path: &Path) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}

fn kek_source(dir: &Path) -> Box<dyn KekSource> {
    match std::env::var("SALLYPORT_KEK") {
        Ok(value) => Box::new(EnvKek { name: "SALLYPORT_KEK", value: Secret::new(value) }),
        Err(_) => Box::new(FileKek(dir.join("kek"))),
    }
}

/// Makes the directory beside its place and moves it there whole, so that a crash leaves none half
/// made.
fn create(dir: &Path, clock: &dyn Clock) -> anyhow::Result<()> {
    let parent = dir.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent)?;
    let fresh = parent.join(format!(".sallyport-{}", SessionId::generate()));
    let make = |path: &Path| fs::DirBuilder::new().mode(0o700).create(path);
    make(&fresh)?;
    let put = |name: &str, bytes: &[u8]| -> std::io::Result<()> {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(fresh.join(name))?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    if std::env::var_os("SALLYPORT_KEK").is_none() {
        FileKek(fresh.join("kek")).create()?;
    }
    let keyring = Keyring::load(&*kek_source(&fresh))?;
    let made = Ca::create(clock)?;
    put("format", FORMAT.as_bytes())?;
    put("canary", &keyring.canary()?)?;
    put("ca.pem", made.ca.pem().as_bytes())?;
    let sealed = keyring.seal_blob("ca-key", made.key_pem.expose().as_bytes()).context("sealing the CA's key")?;
    put("ca.key", &sealed)?;
    make(&fresh.join("audit"))?;
    make(&fresh.join("policies"))?;
    for (name, text) in shipped() {
        put(&format!("policies/{name}"), text.as_bytes())?;
    }
    fs::rename(&fresh, dir).with_context(|| format!("moving the fresh directory to {}", dir.display()))
}

/// What a node listens on and reaches.
pub struct NodeSettings {
    /// The forward listener; port 0 takes a free one.
    pub forward: Option<SocketAddr>,
    /// The gateway listener in clear.
    pub gateway: Option<SocketAddr>,
    /// The gateway listener behind TLS.
    pub gateway_tls: Option<SocketAddr>,
    /// How many cores, at least one.
    pub cores: usize,
    /// The data path.
    pub proxy: Settings,
    /// The upstream side.
    pub upstream: upstream::Settings,
    /// Extra roots for upstreams.
    pub extra_ca: Vec<PathBuf>,
    /// Gateway routes: name and base URL.
    pub routes: HashMap<String, String>,
}

impl Default for NodeSettings {
    fn default() -> Self {
        Self {
            forward: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
            gateway: None,
            gateway_tls: None,
            cores: 1,
            proxy: Settings::default(),
            upstream: upstream::Settings::default(),
            extra_ca: Vec::new(),
            routes: HashMap::new(),
        }
    }
}

/// A running node.
pub struct Node {
    /// Where the forward listener is.
    pub forward: Option<SocketAddr>,
    /// Where the gateway listener is.
    pub gateway: Option<SocketAddr>,
    /// Where the gateway listener behind TLS is.
    pub gateway_tls: Option<SocketAddr>,
    shared: Arc<Shared>,
    workers: Arc<Vec<Worker>>,
    stop: CancellationToken,
    hard: CancellationToken,
    accepting: Vec<tokio::task::JoinHandle<()>>,
    project: Project,
}

impl Node {
    /// Starts a node on the data directory.
    ///
    /// # Errors
    /// A listener can't be bound, a policy or certificate is wrong, or the audit can't be written.
    pub async fn start(home: &Home, mut settings: NodeSettings) -> anyhow::Result<Self> {
        let clock = Arc::clone(&home.clock);
        let policies = Library::load(&home.policy_dir()).map_err(|problems| {
            let all: Vec<_> = problems.iter().map(|p| format!("  {p}")).collect();
            anyhow::anyhow!("the policies have mistakes:\n{}", all.join("\n"))
        })?;
        let roots = Arc::new(crate::tls::trust::roots(&settings.extra_ca)?);
        let mut listeners = Vec::new();
        for (at, kind) in [
            (settings.forward, Kind::Forward),
            (settings.gateway, Kind::Gateway),
            (settings.gateway_tls, Kind::GatewayTls),
        ] {
            if let Some(at) = at {
                let listener = TcpListener::bind(at)
                    .await
                    .with_context(|| format!("listening on {at}: is another program there?"))?;
                settings.upstream.own_addresses.push(listener.local_addr()?);
                listeners.push((listener, kind));
            }
        }
        let mut scrub_key = [0u8; 32];
        getrandom::fill(&mut scrub_key).map_err(|_| anyhow::anyhow!("the system's random source failed"))?;
        let connections = settings.proxy.limits.connections;
        let shared = Arc::new(Shared {
            registry: Arc::new(Registry::new(MAX_STALENESS)),
            vault: Arc::new(Vault::new(Arc::clone(&home.keyring), Arc::clone(&clock))),
            policies: Arc::new(policies),
            metrics: Arc::new(Metrics::new()?),
            leaves: Arc::new(LeafCache::new(home.ca()?, Arc::clone(&clock), LEAVES)?),
            clock: Arc::clone(&clock),
            settings: settings.proxy,
            routes: routes(&settings.routes)?,
            scrub_key: Secret::new(scrub_key),
            draining: CancellationToken::new(),
        });
        let hard = CancellationToken::new();
        let mut workers = Vec::new();
        for core in 0..settings.cores.max(1) {
            let (shared, upstream, roots) = (Arc::clone(&shared), settings.upstream.clone(), Arc::clone(&roots));
            let (dir, keys, clock) = (home.audit_dir(), home.audit_keys(), Arc::clone(&clock));
            let make = move |load| {
                let journal =
                    Journal::open(&dir, keys, crate::audit::Settings::default(), clock).map_err(|e| e.to_string())?;
                let writer = journal.writer().map_err(|e| e.to_string())?;
                let tls = upstream::Tls::new(roots).map_err(|e| e.to_string())?;
                Ok(Core::new(shared, writer, upstream::Upstream::new(upstream, tls), load))
            };
            let worker = Worker::start(&format!("core-{core}"), TICK, hard.clone(), make).await;
            workers.push(worker.map_err(|why| anyhow::anyhow!("a core can't start: {why}"))?);
        }
        let workers = Arc::new(workers);
        let (stop, permits) = (CancellationToken::new(), Arc::new(Semaphore::new(connections)));
        let at = |wanted| listeners.iter().find(|(_, kind)| *kind == wanted).and_then(|(l, _)| l.local_addr().ok());
        let (forward, gateway, gateway_tls) = (at(Kind::Forward), at(Kind::Gateway), at(Kind::GatewayTls));
        let accepting = listeners
            .into_iter()
            .map(|(listener, kind)| {
                tokio::spawn(accept(listener, kind, Arc::clone(&workers), Arc::clone(&permits), stop.clone()))
            })
            .collect();
        let project = Project {
            id: ProjectId::generate(),
            org: OrgId::DEFAULT,
            name: "default".parse()?,
            description: String::new(),
            created_at: clock.now(),
        };
        shared.registry.put_project(&project);
        // Keys and sessions of this node live in its own memory, which can't be out of reach.
        shared.registry.mark_fresh(crate::model::Timestamp(i64::MAX));
        Ok(Self { forward, gateway, gateway_tls, shared, workers, stop, hard, accepting, project })
    }

    /// The policies in force.
    #[must_use]
    pub fn policies(&self) -> &Library {
        &self.shared.policies
    }

    /// The metrics, as text.
    #[must_use]
    pub fn metrics(&self) -> String {
        let (tokens, sessions) = self.shared.registry.counts();
        self.shared.metrics.live(tokens, sessions);
        self.shared.metrics.text()
    }

    /// Seals a key and takes it into memory.
    ///
    /// # Errors
    /// The secret can't be taken.
    pub fn add_key(
        &self,
        name: &Name,
        provider: &Name,
        environment: Environment,
        destination: Destination,
        shape: TokenShape,
        secret: &Secret<Vec<u8>>,
    ) -> anyhow::Result<Key> {
        let now = self.shared.clock.now();
        let key = Key {
            id: KeyId::generate(),
            org: OrgId::DEFAULT,
            project: self.project.id,
            environment,
            name: name.clone(),
            provider: provider.clone(),
            destination,
            shape,
            state: KeyState::Enabled,
            version: 1,
            created_at: now,
            updated_at: now,
            expires_at: None,
        };
        let sealed = self.shared.vault.seal(&key, 1, secret).with_context(|| format!("key {name}"))?;
        self.shared.vault.load(&key, &sealed)?;
        self.shared.registry.put_keys([key.clone()]);
        Ok(key)
    }

    /// Changes a key's state.
    pub fn set_key_state(&self, key: &Key, state: KeyState) {
        self.shared.registry.put_keys([Key { state, ..key.clone() }]);
    }

    /// Starts a session that may use these keys.
    ///
    /// # Errors
    /// The system's random source failed.
    pub fn start_session(
        &self,
        tool: Option<&Name>,
        environment: Environment,
        keys: &[Key],
        lasts: Duration,
    ) -> anyhow::Result<Started> {
        let now = self.shared.clock.now();
        let secret = SessionSecret::generate().map_err(|_| anyhow::anyhow!("the system's random source failed"))?;
        let tool = tool.map(|name| Tool {
            id: ToolId::generate(),
            org: OrgId::DEFAULT,
            project: self.project.id,
            name: name.clone(),
            description: String::new(),
            keys: vec!["*".to_owned()],
            environments: vec![environment],
            max_session_secs: u32::try_from(lasts.as_secs()).unwrap_or(u32::MAX),
            enabled: true,
            created_at: now,
        });
        if let Some(tool) = &tool {
            self.shared.registry.put_tool(tool);
        }
        let session = Session {
            id: SessionId::generate(),
            org: OrgId::DEFAULT,
            project: self.project.id,
            environment,
            tool: tool.map(|t| t.id),
            secret: secret.hash(),
            standing: Standing::Active,
            created_at: now,
            expires_at: now.plus(lasts),
        };
        let mut grants = Vec::new();
        for key in keys {
            let grant = Grant {
                id: GrantId::generate(),
                org: OrgId::DEFAULT,
                session: session.id,
                key: key.id,
                created_at: now,
            };
            self.shared.registry.put_grant(&grant);
            grants.push(grant);
        }
        self.shared.registry.put_session(&session);
        Ok(Started { session, secret, grants })
    }

    /// Mints a token for one of the session's keys.
    ///
    /// # Errors
    /// The session has no grant for the key, or the system's random source failed.
    pub fn mint(&self, started: &Started, key: &Key) -> anyhow::Result<(Token, ProxyToken)> {
        let grant = started.grants.iter().find(|g| g.key == key.id).context("the session may not use the key")?;
        let value = ProxyToken::generate(TokenForm::Long, &key.shape)
            .map_err(|_| anyhow::anyhow!("the system's random source failed"))?;
        let token = Token {
            id: TokenId::generate(),
            org: OrgId::DEFAULT,
            session: started.session.id,
            grant: grant.id,
            hash: value.hash(),
            shape: key.shape.clone(),
            standing: Standing::Active,
            created_at: self.shared.clock.now(),
            expires_at: started.session.expires_at,
        };
        self.shared.registry.put_token(&token);
        Ok((token, value))
    }

    /// Revokes a token.
    pub fn revoke_token(&self, token: &Token, by: &str) {
        let standing = Standing::Revoked { at: self.shared.clock.now(), by: by.to_owned() };
        self.shared.registry.put_token(&Token { standing, ..token.clone() });
    }

    /// Revokes a session and everything in it.
    pub fn revoke_session(&self, session: &Session, by: &str) {
        let standing = Standing::Revoked { at: self.shared.clock.now(), by: by.to_owned() };
        self.shared.registry.put_session(&Session { standing, ..session.clone() });
    }

    /// Stops: takes nothing new, lets what runs finish for as long as `patience`, then ends it.
    pub async fn stop(self, patience: Duration) {
        self.stop.cancel();
        self.shared.draining.cancel();
        for task in self.accepting {
            let _ = task.await;
        }
        let hard = self.hard.clone();
        let timer = tokio::spawn(async move {
            tokio::time::sleep(patience).await;
            hard.cancel();
        });
        if let Ok(workers) = Arc::try_unwrap(self.workers) {
            let joined = tokio::task::spawn_blocking(move || workers.into_iter().for_each(Worker::join));
            let _ = joined.await;
        }
        timer.abort();
    }
}

/// A session that began a moment ago, with what is shown only once.
pub struct Started {
    /// The session.
    pub session: Session,
    /// The password of its proxy credentials.
    pub secret: SessionSecret,
    /// What it may use.
    pub grants: Vec<Grant>,
}

fn routes(wanted: &HashMap<String, String>) -> anyhow::Result<HashMap<String, Route>> {
    let mut routes = HashMap::new();
    for (name, base) in wanted {
        let route = parse_base(base).with_context(|| {
            format!("gateway route {name}: {base:?} is no base URL such as https://api.example.com/v1")
        })?;
        routes.insert(name.clone(), route);
    }
    Ok(routes)
}

fn parse_base(base: &str) -> Option<Route> {
    let (scheme, rest) = match (base.strip_prefix("https://"), base.strip_prefix("http://")) {
        (Some(rest), _) => (Scheme::Https, rest),
        (_, Some(rest)) => (Scheme::Http, rest),
        _ => return None,
    };
    let end = rest.find('/').unwrap_or(rest.len());
    let authority = Authority::parse(&rest[..end], scheme.default_port()).ok()?;
    Some(Route { scheme, authority, base_path: rest[end..].trim_end_matches('/').to_owned() })
}
