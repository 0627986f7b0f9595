//! Tunnels to hosts that no key is bound to, where `proxy.unbound` is `tunnel` or `proxy.tunnel` names
//! them: bytes are moved, by the kernel where both sides are bare TCP, and nothing is looked into.
//!
//! It is never a way around: the address is checked like any other, a host that has a key is never
//! tunnelled, on no port, and a tunnel ends as soon as its host gets one or its session is over.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf, copy_bidirectional};
use tokio::time::Instant;

use super::core::Core;
use super::settings::Unbound;
use super::splice::Pipes;
use super::tunnel::Tunnel;
use super::wire::Bare;
use crate::model::Authority;
use crate::session::live::LiveSession;
use crate::upstream::Stream;

/// How often a tunnel is looked at: whether it may go on.
const LOOK: Duration = Duration::from_millis(250);

/// Whether connections to this authority are tunnelled.
pub fn applies(core: &Core, authority: &Authority) -> bool {
    let settings = &core.shared.settings;
    let asked = settings.unbound == Unbound::Tunnel
        || settings.tunnel.iter().any(|hosts| hosts.matches(authority, authority.port));
    asked && !core.shared.registry.is_named(&authority.host)
}

/// Serves the tunnel, and accounts for it. `early` came behind the request for it.
pub async fn serve<S>(
    core: &Core,
    mut agent: S,
    early: Bytes,
    mut upstream: Stream,
    authority: &Authority,
    tunnel: &Tunnel,
) where
    S: AsyncRead + AsyncWrite + Bare + Unpin,
{
    let began = Instant::now();
    let moved = Moved::default();
    let moving = async {
        upstream.write_all(&early).await?;
        upstream.flush().await?;
        moved.up.set(early.len() as u64);
        if let (Some(agent), Some(upstream)) = (agent.bare(), upstream.bare())
            && let Ok(_place) = core.shared.splices.try_acquire()
            && let Ok(pipes) = Pipes::open()
        {
            return pipes.join(agent, upstream, &moved.up, &moved.down).await;
        }
        let mut agent = Watched { inner: &mut agent, moved: &moved.up };
        let mut upstream = Watched { inner: &mut upstream, moved: &moved.down };
        copy_bidirectional(&mut agent, &mut upstream).await.map(|_| ())
    };
    watch(core, moving, &moved, authority, tunnel.session.as_ref()).await;
    let now = Instant::now();
    let took = now.saturating_duration_since(began);
    core.shared.metrics.exchange(tunnel.mode.as_str(), "tunnel");
    core.timed.exchange(tunnel.mode.as_str(), took, now.into_std());
    tracing::info!(
        upstream.authority = %authority,
        client = tunnel.client.as_deref(),
        bytes_in = moved.up.get(),
        bytes_out = moved.down.get(),
        duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        "tunnel closed"
    );
}

/// How many bytes were moved from the agent, and to it.
#[derive(Default)]
struct Moved {
    up: Cell<u64>,
    down: Cell<u64>,
}

/// Moves bytes until either side is done, nothing came for `upstream.deadlines.idle_body`, or the
/// tunnel may not go on.
async fn watch(
    core: &Core,
    moving: impl Future<Output = io::Result<()>>,
    moved: &Moved,
    authority: &Authority,
    session: Option<&Arc<LiveSession>>,
) {
    let idle = core.upstream.settings().deadlines.idle_body;
    let all = || (moved.up.get(), moved.down.get());
    let (mut seen, mut since) = (all(), Instant::now());
    let mut moving = std::pin::pin!(moving);
    let mut looks = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            _ = moving.as_mut() => return,
            _ = looks.tick() => {}
        }
        let over = session.is_some_and(|session| session.ended(core.shared.clock.now()).is_some());
        if over || !applies(core, authority) {
            return;
        }
        if all() != seen {
            (seen, since) = (all(), Instant::now());
        } else if since.elapsed() > idle {
            return;
        }
    }
}

/// A stream that counts the bytes that are read from it.
struct Watched<'a, S> {
    inner: &'a mut S,
    moved: &'a Cell<u64>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<'_, S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut *self.inner).poll_read(cx, buffer);
        let read = buffer.filled().len() - before;
        self.moved.set(self.moved.get().wrapping_add(read as u64));
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<'_, S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.inner).poll_shutdown(cx)
    }
}
