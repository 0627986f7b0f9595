//! The admin API's listeners: on the network, in clear or behind TLS, and on a socket of the data
//! directory's own user.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use super::{Peer, Settings};

/// How long after a failed `accept` the next try comes.
const PAUSE: Duration = Duration::from_millis(50);

/// Serves the API on the network until `stop`, then waits for what runs until `hard`.
pub async fn network(
    listener: TcpListener,
    tls: Option<Arc<rustls::ServerConfig>>,
    router: Router,
    settings: Settings,
    stop: CancellationToken,
) {
    let (permits, tasks) = (Arc::new(Semaphore::new(settings.connections)), TaskTracker::new());
    let settings = Arc::new(settings);
    let tls = tls.map(TlsAcceptor::from);
    let taken = Taken::default();
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { break };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(why) => {
                tracing::warn!(error = %why, "an admin connection can't be accepted");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let Some(place) = Place::take(&taken, from.ip(), settings.connections_of_one.max(1)) else { continue };
        let (router, tls, settings, stop) = (router.clone(), tls.clone(), Arc::clone(&settings), stop.clone());
        tasks.spawn(async move {
            let (_permit, _place) = (permit, place);
            let peer = Peer::Network(from);
            match tls {
                None => connection(stream, peer, router, &settings, stop).await,
                Some(tls) => {
                    if let Ok(Ok(stream)) = timeout(settings.head, tls.accept(stream)).await {
                        connection(stream, peer, router, &settings, stop).await;
                    }
                }
            }
        });
    }
    tasks.close();
    tasks.wait().await;
}

/// A socket of mode 0600 in the data directory. Of several nodes on one directory the newest has it,
/// and when that ends, one that still runs.
pub struct Socket {
    path: PathBuf,
    listener: UnixListener,
    /// Device and inode: whether what is at the path is still this one.
    place: (u64, u64),
}

impl Socket {
    /// Makes the socket in place of one that another process left or has.
    ///
    /// # Errors
    /// It can't be made.
    pub fn bind(path: PathBuf) -> std::io::Result<Self> {
        match std::fs::remove_file(&path) {
            Err(why) if why.kind() != std::io::ErrorKind::NotFound => Err(why),
            _ => Self::make(path),
        }
    }

    fn make(path: PathBuf) -> std::io::Result<Self> {
        // The directory is 0700, so nobody can connect before the mode is set.
        let listener = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        let place = place(&path)?;
        Ok(Self { path, listener, place })
    }

    /// Makes the socket again if there is none: the node that had it has ended.
    fn keep(&mut self) {
        let gone = matches!(place(&self.path), Err(why) if why.kind() == std::io::ErrorKind::NotFound);
        if gone && let Ok(fresh) = Self::make(self.path.clone()) {
            *self = fresh;
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if place(&self.path).is_ok_and(|place| place == self.place) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn place(path: &Path) -> std::io::Result<(u64, u64)> {
    std::fs::symlink_metadata(path).map(|it| (it.dev(), it.ino()))
}

/// Serves the API to the data directory's own user until `stop`.
pub async fn socket(mut socket: Socket, router: Router, settings: Settings, stop: CancellationToken) {
    let (permits, tasks) = (Arc::new(Semaphore::new(settings.connections)), TaskTracker::new());
    let settings = Arc::new(settings);
    let own = rustix::process::geteuid().as_raw();
    loop {
        let permit = tokio::select! {
            Ok(permit) = Arc::clone(&permits).acquire_owned() => permit,
            () = stop.cancelled() => break,
        };
        let accepted = tokio::select! {
            accepted = socket.listener.accept() => accepted,
            () = tokio::time::sleep(settings.socket_look) => {
                socket.keep();
                continue;
            }
            () = stop.cancelled() => break,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        // Whoever got past the directory's mode is still asked who they are.
        let user = stream.peer_cred().map(|c| c.uid());
        if !matches!(user, Ok(uid) if uid == own || uid == 0) {
            tracing::warn!("somebody else's connection to admin.sock was refused");
            continue;
        }
        let (router, settings, stop) = (router.clone(), Arc::clone(&settings), stop.clone());
        tasks.spawn(async move {
            let _permit = permit;
            connection(stream, Peer::Local, router, &settings, stop).await;
        });
    }
    drop(socket);
    tasks.close();
    tasks.wait().await;
}

/// How many connections each address has.
type Taken = Arc<Mutex<HashMap<IpAddr, usize>>>;

/// One connection of an address.
struct Place(Taken, IpAddr);

impl Place {
    /// A connection of this address, if it may have one more. Loopback has all: its agents and
    /// administrators share an address.
    fn take(taken: &Taken, from: IpAddr, most: usize) -> Option<Self> {
        let mut all = taken.lock().unwrap_or_else(PoisonError::into_inner);
        let count = all.entry(from).or_default();
        if *count >= most && !from.is_loopback() {
            return None;
        }
        *count += 1;
        Some(Self(Arc::clone(taken), from))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = all.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.1);
            }
        }
    }
}

async fn connection<S>(stream: S, peer: Peer, router: Router, settings: &Settings, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = router.map_request(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer);
        request.map(axum::body::Body::new)
    });
    let mut server = hyper::server::conn::http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(settings.head).max_headers(64).max_buf_size(64 * 1024);
    let served = server.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    let mut served = std::pin::pin!(served);
    tokio::select! {
        _ = served.as_mut() => return,
        () = tokio::time::sleep(settings.age) => {}
        () = stop.cancelled() => {}
    }
    // A request that runs gets its answer; whoever doesn't read it gives the connection back all the same.
    served.as_mut().graceful_shutdown();
    let _ = timeout(settings.head, served).await;
}

/// Where a listener is, for people.
#[must_use]
pub fn url(address: SocketAddr, tls: bool) -> String {
    format!("{}://{address}", if tls { "https" } else { "http" })
}
