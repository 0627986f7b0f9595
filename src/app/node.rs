//! A running node: listeners, cores, and the memory that they work from.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use rustls::RootCertStore;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::listen::bind;
use super::live::Live;
use super::probe::Prober;
use super::{Home, NodeSettings};
use crate::audit::{Journal, RecordKind, SharedWriter};
use crate::credential::oauth::Mints;
use crate::credential::oauth::rotation::Rotation;
use crate::model::{BaseUrl, OrgId, ProjectId, Secret, Timestamp};
use crate::policy::Library;
use crate::providers;
use crate::proxy::coding::Memory;
use crate::proxy::core::{Core, Route, Routes, Shared};
use crate::proxy::listener::{Kind, Worker, accept};
use crate::session::live::Masked;
use crate::session::records::Project;
use crate::session::registry::Registry;
use crate::store::{Find, Store};
use crate::telemetry::Metrics;
use crate::tls::ca::LeafCache;
use crate::upstream::{self, Word};
use crate::vault::Vault;

/// How often a core looks for what has to stop and writes what waits.
const TICK: Duration = Duration::from_millis(100);
/// How many hosts' leaf certificates are held.
const LEAVES: usize = 10_000;

/// A running node.
pub struct Node {
    /// Where the forward listener is.
    pub forward: Option<SocketAddr>,
    /// Where the forward listener behind TLS is.
    pub forward_tls: Option<SocketAddr>,
    /// Where the gateway listener is.
    pub gateway: Option<SocketAddr>,
    /// Where the gateway listener behind TLS is.
    pub gateway_tls: Option<SocketAddr>,
    pub(super) shared: Arc<Shared>,
    providers: Arc<providers::Library>,
    workers: Arc<Vec<Worker>>,
    audit: SharedWriter,
    stop: CancellationToken,
    hard: CancellationToken,
    accepting: TaskTracker,
    permits: Arc<Semaphore>,
    following: tokio::task::JoinHandle<()>,
    tidying: tokio::task::JoinHandle<()>,
    reached: watch::Receiver<i64>,
    pub(super) project: Project,
}

impl Node {
    /// Starts a node on the data directory and the store.
    ///
    /// # Errors
    /// A listener can't be bound, a policy or certificate is wrong, the audit can't be written, or the
    /// store can't be read.
    pub async fn start(home: &Home, store: &Store, mut settings: NodeSettings) -> anyhow::Result<Self> {
        let clock = Arc::clone(home.clock());
        let policies = Library::load(&home.policy_dir()).map_err(|problems| {
            let all: Vec<_> = problems.iter().map(|p| format!("  {p}")).collect();
            anyhow::anyhow!("the policies have mistakes:\n{}", all.join("\n"))
        })?;
        let providers = providers::Library::load(&home.provider_dir()).map_err(|problems| {
            let all: Vec<_> = problems.iter().map(|p| format!("  {p}")).collect();
            anyhow::anyhow!("the descriptions of services have mistakes:\n{}", all.join("\n"))
        })?;
        let roots = Arc::new(crate::tls::trust::roots(&settings.extra_ca)?);
        settings.upstream.egress =
            settings.out().map_err(|why| anyhow::anyhow!("upstream.proxy_credentials: {why}"))?;
        let listeners = bind_all(&settings).await?;
        for (listener, _) in &listeners {
            settings.upstream.own_addresses.push(listener.local_addr()?);
        }
        let mut scrub_key = [0u8; 32];
        getrandom::fill(&mut scrub_key).map_err(|_| anyhow::anyhow!("the system's random source failed"))?;
        let connections = settings.proxy.limits.connections;
        let spliced = settings.proxy.limits.spliced.min(Semaphore::MAX_PERMITS);
        let metrics = Arc::new(Metrics::new()?);
        let of_leaves = Arc::clone(&metrics);
        let registry = Arc::new(Registry::new(settings.max_staleness));
        let vault = Arc::new(Vault::new(Arc::clone(home.keyring()), Arc::clone(&clock)));
        let rotation = Rotation::new(
            store.clone(),
            Arc::clone(&vault),
            Arc::clone(&registry),
            Arc::clone(&clock),
            settings.credential.clone(),
        );
        let shared = Arc::new(Shared {
            registry,
            vault,
            mints: Arc::new(Mints::new(settings.credential.clone(), Arc::clone(&clock))),
            rotation,
            policies: Arc::new(policies),
            metrics: Arc::clone(&metrics),
            audit_counts: settings.audit.counts.clone(),
            leaves: Arc::new(LeafCache::new(home.ca()?, Arc::clone(&clock), LEAVES)?.observed(
                move |minted| match minted {
                    Some(took) => of_leaves.leaf_minted(took),
                    None => of_leaves.leaf_hit(),
                },
            )),
            clock: Arc::clone(&clock),
            settings: settings.proxy,
            routes: ArcSwap::from_pointee(routes(&providers, &settings.routes)?),
            scrub_key: Secret::new(scrub_key),
            decoding: Memory::default(),
            masked: Masked::default(),
            splices: Semaphore::new(spliced),
            draining: CancellationToken::new(),
        });
        let journal = Journal::open(&home.audit_dir(), home.audit_keys(), settings.audit.clone(), Arc::clone(&clock))?;
        let audit = journal.shared_writer()?;
        let timing = Arc::clone(&shared.metrics);
        let live = Live {
            registry: Arc::clone(&shared.registry),
            vault: Arc::clone(&shared.vault),
            mints: Arc::clone(&shared.mints),
            store: store.clone().timed(move |what, took| timing.store_query(what, took)),
            clock: Arc::clone(&clock),
            audit: audit.clone(),
            metrics: Arc::clone(&shared.metrics),
        };
        // The feed begins before the reading, so that nothing falls between them.
        let feed = store.feed().await?;
        let (reached_to, reached) = watch::channel(feed.at());
        live.load().await?;
        let hard = CancellationToken::new();
        let workers =
            start_cores(home, &shared, &settings.upstream, roots, &settings.audit, settings.cores, &hard).await?;
        let workers = Arc::new(workers);
        let (stop, permits) = (CancellationToken::new(), Arc::new(Semaphore::new(connections)));
        let at = |wanted| listeners.iter().find(|(_, kind)| *kind == wanted).and_then(|(l, _)| l.local_addr().ok());
        let (forward, forward_tls) = (at(Kind::Forward), at(Kind::ForwardTls));
        let (gateway, gateway_tls) = (at(Kind::Gateway), at(Kind::GatewayTls));
        let accepting = TaskTracker::new();
        for (listener, kind) in listeners {
            accepting.spawn(accept(listener, kind, Arc::clone(&workers), Arc::clone(&permits), stop.clone()));
        }
        let project = default_project(store, clock.now()).await?;
        shared.registry.put_project(&project);
        let tidying = tokio::spawn(live.clone().tidy(settings.tidy, hard.clone()));
        let following = tokio::spawn(live.follow(feed, reached_to, settings.retry, hard.clone()));
        Ok(Self {
            forward,
            forward_tls,
            gateway,
            gateway_tls,
            shared,
            providers: Arc::new(providers),
            workers,
            audit,
            stop,
            hard,
            accepting,
            permits,
            following,
            tidying,
            reached,
            project,
        })
    }

    /// The policies in force.
    #[must_use]
    pub fn policies(&self) -> &Library {
        &self.shared.policies
    }

    /// The services that are known.
    #[must_use]
    pub fn providers(&self) -> &Arc<providers::Library> {
        &self.providers
    }

    /// The metrics, as text.
    #[must_use]
    pub fn metrics(&self) -> String {
        metrics_text(&self.shared)
    }

    /// Takes connections of agents on another socket too, which may be one of another network. Its
    /// address isn't among those that agents can't reach through us.
    ///
    /// # Errors
    /// It is no listening socket that doesn't block.
    pub fn listen(&self, listener: std::net::TcpListener, kind: Kind) -> std::io::Result<()> {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let (workers, permits) = (Arc::clone(&self.workers), Arc::clone(&self.permits));
        self.accepting.spawn(accept(listener, kind, workers, permits, self.stop.clone()));
        Ok(())
    }

    /// Makes calls with keys through the data path, for as long as the node runs.
    #[must_use]
    pub fn prober(&self) -> Prober {
        let workers = Arc::downgrade(&self.workers);
        Prober { shared: Arc::clone(&self.shared), workers, permits: Arc::clone(&self.permits) }
    }

    /// Ends what still runs, while [`Node::stop`] waits for it.
    #[must_use]
    pub fn end(&self) -> CancellationToken {
        self.hard.clone()
    }

    /// What the cores share.
    #[must_use]
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The audit chain of the node itself.
    #[must_use]
    pub fn audit(&self) -> &SharedWriter {
        &self.audit
    }

    /// The number of the last change of the store that the node's memory holds.
    #[must_use]
    pub fn reached(&self) -> watch::Receiver<i64> {
        self.reached.clone()
    }

    /// Stops: takes nothing new, lets what runs finish for as long as `patience`, then ends it.
    pub async fn stop(self, patience: Duration) {
        self.stop.cancel();
        self.shared.draining.cancel();
        self.accepting.close();
        self.accepting.wait().await;
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
        self.hard.cancel();
        self.shared.rotation.finish().await;
        let _ = self.following.await;
        let _ = self.tidying.await;
    }
}

/// The listeners that are set, each with what it takes.
async fn bind_all(settings: &NodeSettings) -> anyhow::Result<Vec<(TcpListener, Kind)>> {
    let mut listeners = Vec::new();
    for (at, kind) in [
        (settings.forward, Kind::Forward),
        (settings.forward_tls, Kind::ForwardTls),
        (settings.gateway, Kind::Gateway),
        (settings.gateway_tls, Kind::GatewayTls),
    ] {
        if let Some(at) = at {
            listeners.push((bind(kind.setting(), at).await?, kind));
        }
    }
    Ok(listeners)
}

/// Starts so many cores, each a thread with an audit chain and an upstream pool of its own.
async fn start_cores(
    home: &Home,
    shared: &Arc<Shared>,
    upstream: &upstream::Settings,
    roots: Arc<RootCertStore>,
    audit: &crate::audit::Settings,
    cores: usize,
    hard: &CancellationToken,
) -> anyhow::Result<Vec<Worker>> {
    let cores = match cores {
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get),
        cores => cores,
    };
    let mut workers = Vec::new();
    for core in 0..cores {
        let (shared, upstream, roots) = (Arc::clone(shared), upstream.clone(), Arc::clone(&roots));
        let (dir, keys, clock) = (home.audit_dir(), home.audit_keys(), Arc::clone(home.clock()));
        let audit = audit.clone();
        let make = move |load| {
            let journal = Journal::open(&dir, keys, audit, clock).map_err(|e| e.to_string())?;
            let writer = journal.writer().map_err(|e| e.to_string())?;
            let tls = upstream::Tls::new(roots).map_err(|e| e.to_string())?;
            Ok(Core::new(shared, writer, upstream::Upstream::new(upstream, tls), load))
        };
        let worker = Worker::start(&format!("core-{core}"), TICK, hard.clone(), make).await;
        workers.push(worker.map_err(|why| anyhow::anyhow!("a core can't start: {why}"))?);
    }
    Ok(workers)
}

/// The project that things belong to where nobody named one; made if it isn't there.
///
/// # Errors
/// The store can't be reached.
pub async fn default_project(store: &Store, now: Timestamp) -> anyhow::Result<Project> {
    let find = async || store.find::<Project>(OrgId::DEFAULT, Find::all().with("name", "default").limit(1)).await;
    if let Some(project) = find().await?.pop() {
        return Ok(project);
    }
    let project = Project {
        id: ProjectId::generate(),
        org: OrgId::DEFAULT,
        name: "default".parse()?,
        description: String::new(),
        created_at: now,
    };
    match store.commit(store.batch(OrgId::DEFAULT).at(now).insert(&project)).await {
        Ok(_) => Ok(project),
        // Another node made it a moment ago.
        Err(crate::store::Error::Taken) => find().await?.pop().context("the default project can't be found"),
        Err(why) => Err(why.into()),
    }
}

/// The metrics as text, with what is counted only when somebody looks.
#[must_use]
pub fn metrics_text(shared: &Shared) -> String {
    let (tokens, sessions) = shared.registry.counts();
    shared.metrics.live(tokens, sessions);
    for lasted in shared.registry.take_ended(shared.clock.now()) {
        shared.metrics.session_ended(lasted);
    }
    for kind in RecordKind::ALL {
        shared.metrics.audit_records(kind.as_str(), shared.audit_counts.of(kind));
    }
    shared.metrics.text()
}

/// The gateway's routes: those of the services that are known, and over them those that are set. What an
/// operator wrote, in the settings or in a provider's file, may lead to this machine.
///
/// # Errors
/// One that is set isn't a base URL.
pub(super) fn routes(providers: &providers::Library, set: &BTreeMap<String, String>) -> anyhow::Result<Routes> {
    let of_providers = |p: &providers::Provider| {
        let by = if p.own { Word::Operator } else { Word::Check };
        Some((p.name.to_string(), Route::new(p.base.clone()?, by)))
    };
    let mut routes: Routes = providers.current().iter().filter_map(of_providers).collect();
    for (name, base) in set {
        let base = BaseUrl::parse(base).with_context(|| format!("gateway route {name}"))?;
        routes.insert(name.clone(), Route::new(base, Word::Operator));
    }
    Ok(routes)
}
