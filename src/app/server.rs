//! `serve`: a node with the admin API beside it.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use anyhow::{Context as _, bail};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Home, Node};
use crate::admin::{self, Admin, NodeView, server};
use crate::audit::{self, Journal, SharedWriter};
use crate::config::Config;
use crate::model::{Host, OrgId, PrincipalId, SessionSecret};
use crate::policy::{Library, Problem};
use crate::providers;
use crate::proxy::core::Shared;
use crate::session::records::{Principal, Role};
use crate::session::registry::Moment;
use crate::shutdown::{Ask, Signals};
use crate::store::{Find, Store};
use crate::telemetry::{self, Metrics};
use crate::vault::Vault;

/// The file in which a fresh data directory has its admin token.
const TOKEN_FILE: &str = "admin.token";

/// Where the configuration came from, to read it again.
pub struct Source {
    /// The file, if there is one.
    pub file: Option<PathBuf>,
}

impl Source {
    /// Reads the configuration.
    ///
    /// # Errors
    /// All its mistakes, a line each.
    pub fn read(&self) -> Result<Config, Vec<String>> {
        let variables = std::env::vars_os().filter_map(|(n, v)| Some((n.into_string().ok()?, v.into_string().ok()?)));
        Config::load(self.file.as_deref(), variables)
            .map_err(|problems| problems.iter().map(ToString::to_string).collect())
    }
}

/// Runs a node until a signal ends it.
///
/// # Errors
/// Something that is needed can't be had; nothing was served then.
pub async fn serve(home: &Home, config: Config, source: Source) -> anyhow::Result<()> {
    let mut signals = Signals::listen().context("listening for signals")?;
    let store = Store::open(config.store.clone(), home.dir(), home.keyring()).await?;
    bootstrap(home, &store).await?;
    let mut settings = config.node.clone();
    // Before the node starts, so that agents can't reach the admin API through it.
    let admin_listener = match config.admin_listen {
        None => None,
        Some(at) => {
            let listener = super::listen::bind("listen.admin", at).await?;
            settings.upstream.own_addresses.push(listener.local_addr()?);
            Some(listener)
        }
    };
    let node = Node::start(home, &store, settings).await?;
    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    let drain = config.drain;
    let reload = Arc::new(Reload::new(&node, config.clone(), source));
    let router = admin::router(admin_of_node(home, &store, &node, &config, Arc::clone(&reload), stop.clone())?);
    if let Some(listener) = admin_listener {
        let at = listener.local_addr()?;
        let tls = admin_tls(&node, &config, at)?;
        tracing::info!(address = %server::url(at, tls.is_some()), "admin API");
        tasks.spawn(server::network(listener, tls, router.clone(), config.admin.clone(), stop.clone()));
    }
    let socket = home.socket();
    let why = format!("making {}", socket.display());
    let socket = server::Socket::bind(socket).context(why)?;
    tasks.spawn(server::socket(socket, router, config.admin.clone(), stop.clone()));
    for (what, at) in [
        ("forward proxy", node.forward),
        ("forward proxy behind TLS", node.forward_tls),
        ("gateway", node.gateway),
        ("gateway behind TLS", node.gateway_tls),
    ] {
        if let Some(at) = at {
            tracing::info!(address = %at, "{what}");
        }
    }
    tracing::info!(data_dir = %home.dir().display(), store = store.place(), "ready");
    while signals.next().await == Ask::Reload {
        // What is wrong is logged; the old stays in force.
        let _ = reload.run();
    }
    tracing::info!(seconds = drain.as_secs(), "stopping: running exchanges are finished first");
    stop.cancel();
    tasks.close();
    let end = node.end();
    if !signals.drain(node.stop(drain), drain + std::time::Duration::from_secs(1)).await {
        end.cancel();
        tracing::warn!("running exchanges were cut off");
    }
    tasks.wait().await;
    tracing::info!("stopped");
    Ok(())
}

/// Makes the first principal, and writes its token for the data directory's user to find.
/// # Errors
/// The store or the data directory can't be written.
pub async fn bootstrap(home: &Home, store: &Store) -> anyhow::Result<()> {
    if !store.find::<Principal>(OrgId::DEFAULT, Find::all().limit(1)).await?.is_empty() {
        return Ok(());
    }
    let token = SessionSecret::generate().map_err(|_| anyhow::anyhow!("the system's random source failed"))?;
    let now = home.clock().now();
    let principal = Principal {
        id: PrincipalId::generate(),
        org: OrgId::DEFAULT,
        name: "admin".parse()?,
        role: Role::Admin,
        token: token.hash(),
        enabled: true,
        created_at: now,
    };
    // The file first: a token that nobody can read would lock everybody out.
    home.put(TOKEN_FILE, format!("{}\n", token.expose()).as_bytes())?;
    match store.commit(store.batch(OrgId::DEFAULT).at(now).insert(&principal)).await {
        // Another node made it a moment ago, and has its token.
        Err(crate::store::Error::Taken) => std::fs::remove_file(home.dir().join(TOKEN_FILE))?,
        other => drop(other?),
    }
    Ok(())
}

fn admin_tls(
    node: &Node,
    config: &Config,
    at: std::net::SocketAddr,
) -> anyhow::Result<Option<Arc<rustls::ServerConfig>>> {
    if let (Some(chain), Some(key)) = (&config.admin_certificate, &config.admin_key) {
        return Ok(Some(crate::tls::own_certificate(chain, key)?));
    }
    if !config.admin_tls {
        return Ok(None);
    }
    Ok(Some(node.shared().leaves.named(&Host::Ip(at.ip()))?))
}

/// Takes over what changed in files.
struct Reload {
    shared: Arc<Shared>,
    providers: Arc<providers::Library>,
    current: Mutex<Config>,
    source: Source,
}

impl Reload {
    fn new(node: &Node, config: Config, source: Source) -> Self {
        let (shared, providers) = (Arc::clone(node.shared()), Arc::clone(node.providers()));
        Self { shared, providers, current: Mutex::new(config), source }
    }

    fn run(&self) -> Result<(), Vec<String>> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let mut problems = Vec::new();
        match self.source.read() {
            Ok(fresh) => {
                telemetry::set_filter(&fresh.log);
                let later = current.needs_restart(&fresh);
                if !later.is_empty() {
                    tracing::warn!(settings = later.join(", "), "changed settings that take effect at the next start");
                }
                current.log = fresh.log;
            }
            Err(mistakes) => problems.extend(mistakes),
        }
        match self.providers.reload() {
            Ok(()) => match super::node::routes(&self.providers, &current.node.routes) {
                Ok(routes) => self.shared.routes.store(Arc::new(routes)),
                Err(why) => problems.push(format!("{why:#}")),
            },
            Err(mistakes) => problems.extend(mistakes.iter().map(ToString::to_string)),
        }
        let reloaded = self.shared.policies.reload();
        self.shared.metrics.policy_reloaded(reloaded.is_ok());
        if let Err(mistakes) = reloaded {
            problems.extend(mistakes.iter().map(ToString::to_string));
        }
        if problems.is_empty() {
            tracing::info!(policies = hex::encode(self.shared.policies.current().digest()), "reloaded");
            return Ok(());
        }
        for problem in &problems {
            tracing::error!(problem, "not reloaded; what was in force stays");
        }
        Err(problems)
    }
}

fn admin_of_node(
    home: &Home,
    store: &Store,
    node: &Node,
    config: &Config,
    reload: Arc<Reload>,
    stop: CancellationToken,
) -> anyhow::Result<Admin> {
    let shared = Arc::clone(node.shared());
    let (registry, clock, metrics) = (Arc::clone(&shared.registry), Arc::clone(&shared.clock), Arc::clone(&shared));
    let unready = move || {
        if stop.is_cancelled() {
            return Some("the node is stopping".to_owned());
        }
        registry.is_stale(Moment::now(&*clock)).then(|| "the store has been out of reach for too long".to_owned())
    };
    let listens = [
        ("proxy", node.forward),
        ("proxy_tls", node.forward_tls),
        ("gateway", node.gateway),
        ("gateway_tls", node.gateway_tls),
    ];
    let view = NodeView {
        listens: listens.into_iter().filter_map(|(what, at)| Some((what, at?))).collect(),
        reached: node.reached(),
        unready: Box::new(unready),
        reload: Box::new(move || reload.run()),
        metrics: Box::new(move || super::node::metrics_text(&metrics)),
    };
    let prober = node.prober();
    let audit = node.audit().clone();
    let timing = Arc::clone(&shared.metrics);
    Ok(Admin {
        store: store.clone().timed(move |what, took| timing.store_query(what, took)),
        vault: Arc::clone(&shared.vault),
        policies: Arc::clone(&shared.policies),
        audit: Box::new(move || Ok(audit.clone())),
        audit_dir: home.audit_dir(),
        audit_keys: home.audit_keys(),
        ca_pem: home.ca_pem().to_owned(),
        providers: Arc::clone(node.providers()),
        clock: Arc::clone(&shared.clock),
        metrics: Arc::clone(&shared.metrics),
        probe: Box::new(move |probing| Box::pin(prober.clone().probe(probing))),
        node: Some(view),
        settings: config.admin.clone(),
    })
}

/// The admin API on the data directory itself, for a command that runs beside no node, or beside
/// one that it can't reach. It claims an audit chain of its own with its first change.
///
/// # Errors
/// The store can't be opened.
pub async fn admin_alone(home: &Home, config: &Config) -> anyhow::Result<Admin> {
    let store = Store::open(config.store.clone(), home.dir(), home.keyring()).await?;
    super::default_project(&store, home.clock().now()).await?;
    let policies = match Library::load(&home.policy_dir()) {
        Ok(policies) => policies,
        Err(problems) => {
            warn(&problems);
            Library::empty(&home.policy_dir())
        }
    };
    let (dir, keys, clock) = (home.audit_dir(), home.keyring().clone(), Arc::clone(home.clock()));
    let settings = config.node.audit.clone();
    let claimed: OnceLock<SharedWriter> = OnceLock::new();
    let open = move || -> Result<SharedWriter, audit::Error> {
        if let Some(writer) = claimed.get() {
            return Ok(writer.clone());
        }
        let keys = audit::AuditKeys { mac: keys.subkey("audit-mac"), sign: keys.subkey("audit-sign") };
        let writer = Journal::open(&dir, keys, settings.clone(), Arc::clone(&clock))?.shared_writer()?;
        Ok(claimed.get_or_init(|| writer).clone())
    };
    Ok(Admin {
        probe: probe_alone(home, config, &store),
        store,
        vault: Arc::new(Vault::new(Arc::clone(home.keyring()), Arc::clone(home.clock()))),
        policies: Arc::new(policies),
        audit: Box::new(open),
        audit_dir: home.audit_dir(),
        audit_keys: home.audit_keys(),
        ca_pem: home.ca_pem().to_owned(),
        providers: Arc::new(services(home)),
        clock: Arc::clone(home.clock()),
        metrics: Arc::new(Metrics::new()?),
        node: None,
        settings: config.admin.clone(),
    })
}

/// Where no node runs, a call with a key starts one for itself, which listens nowhere.
fn probe_alone(home: &Home, config: &Config, store: &Store) -> admin::Probe {
    let (dir, clock, store) = (home.dir().to_owned(), Arc::clone(home.clock()), store.clone());
    let mut settings = config.node.clone();
    (settings.forward, settings.forward_tls, settings.gateway, settings.gateway_tls) = (None, None, None, None);
    settings.cores = 1;
    Box::new(move |probing| {
        let (dir, clock, store, settings) = (dir.clone(), Arc::clone(&clock), store.clone(), settings.clone());
        Box::pin(async move {
            let words = |why: anyhow::Error| format!("{why:#}");
            let home = Home::open(&dir, clock).map_err(words)?;
            let node = Node::start(&home, &store, settings).await.map_err(words)?;
            let probed = node.prober().probe(probing).await;
            node.stop(std::time::Duration::from_secs(1)).await;
            probed
        })
    })
}

/// The services that are known; the bundled ones alone if the user's own have a mistake.
fn services(home: &Home) -> providers::Library {
    providers::Library::load(&home.provider_dir()).unwrap_or_else(|problems| {
        for problem in &problems {
            tracing::warn!(%problem, "a description of a service has a mistake, so only bundled services are known");
        }
        providers::Library::bundled(&home.provider_dir())
    })
}

fn warn(problems: &[Problem]) {
    for problem in problems {
        tracing::warn!(%problem, "a policy has a mistake, so nothing counts as approved by policy");
    }
}

/// Reads the configuration of a data directory, or the named file.
///
/// # Errors
/// All its mistakes.
pub fn configuration(dir: &std::path::Path, file: Option<PathBuf>) -> anyhow::Result<(Config, Source)> {
    let file = file.or_else(|| Some(dir.join("sallyport.yaml")).filter(|path| path.exists()));
    let source = Source { file };
    match source.read() {
        Ok(config) => Ok((config, source)),
        Err(problems) => bail!("the configuration has mistakes:\n  {}", problems.join("\n  ")),
    }
}
