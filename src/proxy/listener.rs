//! Accepts agents' connections and hands each to the least loaded core.
//!
//! One exclusive socket an address: a program of the same user must not be able to share our port,
//! so there is no `SO_REUSEPORT`. A connection permit is taken before `accept`, so that past the
//! limit connections wait in the kernel's queue instead of in our memory.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::LocalSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::core::{Connected, Core};
use super::step::{self, then};
use super::tunnel::{self, Credentials, Tunnel};
use super::wire::Prefixed;
use super::{Mode, balanced, intercept, plain};
use crate::model::{Authority, Host, Origin, Scheme};

/// What is served on a listening socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// CONNECT and absolute form.
    Forward,
    /// The same for clients of this machine that can't send proxy credentials.
    ForwardOpen,
    /// The same behind TLS with a leaf of our own CA; proxy credentials are always required.
    ForwardTls,
    /// Gateway routes in clear.
    Gateway,
    /// Gateway routes behind TLS with a leaf of our own CA.
    GatewayTls,
}

impl Kind {
    const fn mode(self) -> Mode {
        match self {
            Self::Forward | Self::ForwardOpen | Self::ForwardTls => Mode::Forward,
            Self::Gateway | Self::GatewayTls => Mode::Gateway,
        }
    }

    /// The setting that says where it listens.
    #[must_use]
    pub const fn setting(self) -> &'static str {
        match self {
            Self::Forward | Self::ForwardOpen => "listen.proxy",
            Self::ForwardTls => "listen.proxy_tls",
            Self::Gateway => "listen.gateway",
            Self::GatewayTls => "listen.gateway_tls",
        }
    }
}

/// A connection on its way to a core.
pub struct Arrival {
    stream: std::net::TcpStream,
    peer: SocketAddr,
    kind: Kind,
    permit: OwnedSemaphorePermit,
}

/// A core's thread as the acceptor sees it.
pub struct Worker {
    arrivals: mpsc::Sender<Arrival>,
    load: Arc<AtomicUsize>,
    thread: Option<thread::JoinHandle<()>>,
}

/// How many connections may wait for a core to take them.
const ARRIVALS: usize = 1024;

/// How long after a failed `accept` the next try comes.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

impl Worker {
    /// Starts a core on a thread of its own. `make` runs on that thread; `hard` ends whatever still
    /// runs.
    ///
    /// # Errors
    /// The thread can't be started, or `make` failed: its words come back.
    pub async fn start<F>(name: &str, tick: Duration, hard: CancellationToken, make: F) -> Result<Self, String>
    where
        F: FnOnce(Arc<AtomicUsize>) -> Result<Core, String> + Send + 'static,
    {
        let (arrivals, queue) = mpsc::channel(ARRIVALS);
        let load = Arc::new(AtomicUsize::new(0));
        let (started, ready) = oneshot::channel();
        let of_core = Arc::clone(&load);
        let body = move || {
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(why) => {
                    let _ = started.send(Err(format!("a core's runtime can't be made: {why}")));
                    return;
                }
            };
            let local = LocalSet::new();
            local.block_on(&runtime, async move {
                match make(of_core) {
                    Ok(core) => {
                        let _ = started.send(Ok(()));
                        // A task of its own is polled when it is woken; what is awaited right here
                        // would be polled at every turn of the core.
                        let serving = tokio::task::spawn_local(serve(Rc::new(core), queue, tick, hard));
                        if let Err(why) = serving.await {
                            tracing::error!(error = %why, "a core stopped serving");
                        }
                    }
                    Err(why) => {
                        let _ = started.send(Err(why));
                    }
                }
            });
        };
        let thread = thread::Builder::new().name(name.to_owned()).spawn(body).map_err(|why| why.to_string())?;
        match ready.await {
            Ok(Ok(())) => Ok(Self { arrivals, load, thread: Some(thread) }),
            Ok(Err(why)) => Err(why),
            Err(_) => Err("a core ended before it began".to_owned()),
        }
    }

    /// Closes the core's queue and waits for its thread: what runs is finished first, or ended by
    /// the hard token.
    pub fn join(mut self) {
        drop(self.arrivals);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn serve(core: Rc<Core>, mut queue: mpsc::Receiver<Arrival>, tick: Duration, hard: CancellationToken) {
    let tasks = TaskTracker::new();
    let mut ticks = tokio::time::interval(tick);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut open = true;
    loop {
        tokio::select! {
            arrival = queue.recv(), if open => match arrival {
                Some(arrival) => {
                    let core = Rc::clone(&core);
                    tasks.spawn_local(connection(core, arrival));
                }
                None => {
                    open = false;
                    tasks.close();
                    core.minting.close();
                }
            },
            _ = ticks.tick() => core.tick(),
            () = core.shared.draining.cancelled(), if !core.draining.begun() => core.draining.begin(),
            () = finished(&tasks, &core.minting), if !open => break,
            () = hard.cancelled() => break,
        }
    }
    core.tick();
}

/// Ready once every connection and then every mint has ended.
async fn finished(connections: &TaskTracker, minting: &TaskTracker) {
    connections.wait().await;
    minting.wait().await;
}

async fn connection(core: Rc<Core>, arrival: Arrival) {
    let Arrival { stream, peer, kind, permit } = arrival;
    let _permit = permit;
    let _connected = Connected::new(&core.load);
    let _counted = core.shared.metrics.agent_connection();
    let Ok(mut stream) = TcpStream::from_std(stream) else { return };
    let _ = stream.set_nodelay(true);
    // No balancer stands in front of what is open to this machine alone.
    let agent = match kind {
        Kind::ForwardOpen => Some(peer),
        _ => Box::pin(balanced::agent(&core, &mut stream, peer, kind.mode())).await,
    };
    let Some(address) = agent else { return };
    let from = Origin { address, certificate: None };
    // Behind a balancer, what listens on loopback is reached from other machines.
    let beyond = !address.ip().to_canonical().is_loopback();
    let gateway = |target| Tunnel { target, ..Tunnel::new(Mode::Gateway, from, false) };
    let next = match kind {
        Kind::Forward => {
            let credentials = if beyond { Credentials::Required } else { Credentials::AsSet };
            then(tunnel::serve(core, stream, from, credentials, beyond))
        }
        Kind::ForwardOpen => then(tunnel::serve(core, stream, from, Credentials::NotAsked, beyond)),
        Kind::ForwardTls => {
            let Ok(local) = stream.local_addr() else { return };
            let limit = core.shared.settings.deadlines.tls;
            let accepted = tokio::time::timeout(limit, Box::pin(intercept::own_tls(&core, stream, local.ip()))).await;
            let Ok(Some(stream)) = accepted else { return };
            let from = Origin { certificate: intercept::shown(&stream), ..from };
            then(tunnel::serve(core, stream, from, Credentials::Required, false))
        }
        Kind::Gateway => then(plain::serve(core, stream, Rc::new(gateway(None)))),
        Kind::GatewayTls => {
            // The leaf is for the address that the agent reached; a name in its hello wins.
            let Ok(local) = stream.local_addr() else { return };
            let authority = Authority { host: Host::Ip(local.ip()), port: local.port() };
            let stream = Prefixed::new(Bytes::new(), stream);
            then(intercept::tls(core, stream, gateway(Some((Scheme::Https, authority)))))
        }
    };
    step::take(next).await;
}

/// Accepts on a socket until `stop`, and hands each connection to the least loaded core.
pub async fn accept(
    listener: tokio::net::TcpListener,
    kind: Kind,
    workers: Arc<Vec<Worker>>,
    permits: Arc<Semaphore>,
    stop: CancellationToken,
) {
    loop {
        let permit = tokio::select! {
            permit = Arc::clone(&permits).acquire_owned() => permit,
            () = stop.cancelled() => return,
        };
        let Ok(permit) = permit else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        let (stream, peer) = match accepted.and_then(|(stream, peer)| Ok((stream.into_std()?, peer))) {
            Ok(accepted) => accepted,
            Err(why) => {
                tracing::warn!(error = %why, "a connection can't be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if !hand(&workers, stream, peer, kind, permit).await {
            return;
        }
    }
}

/// Hands a connection to the least loaded core; whether there is one that takes it.
pub async fn hand(
    workers: &[Worker],
    stream: std::net::TcpStream,
    peer: SocketAddr,
    kind: Kind,
    permit: OwnedSemaphorePermit,
) -> bool {
    let Some(worker) = workers.iter().min_by_key(|w| w.load.load(Ordering::Relaxed)) else { return false };
    worker.arrivals.send(Arrival { stream, peer, kind, permit }).await.is_ok()
}
