//! Tunnels to hosts that no key is bound to, where `proxy.unbound` is `tunnel`: bytes are copied and
//! nothing is looked into.
//!
//! It is never a way around: the address is checked like any other, a host that has a key is never
//! tunnelled, on no port, and a tunnel ends as soon as its host gets one or its session is over.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional};
use tokio::time::Instant;

use super::core::Core;
use super::settings::Unbound;
use super::tunnel::Tunnel;
use crate::model::Authority;
use crate::session::live::LiveSession;
use crate::upstream::Stream;

/// How often a tunnel is looked at: whether it may go on.
const LOOK: Duration = Duration::from_millis(250);

/// Whether connections to this authority are tunnelled.
pub fn applies(core: &Core, authority: &Authority) -> bool {
    core.shared.settings.unbound == Unbound::Tunnel && !core.shared.registry.is_named(&authority.host)
}

/// Serves the tunnel, and accounts for it.
pub async fn serve<S>(core: &Core, agent: S, upstream: Stream, authority: &Authority, tunnel: &Tunnel)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let began = Instant::now();
    copy(core, agent, upstream, authority, tunnel.session.as_ref()).await;
    let took = began.elapsed();
    core.shared.metrics.exchange(tunnel.mode.as_str(), "tunnel");
    core.timed.exchange(tunnel.mode.as_str(), took);
    tracing::info!(
        upstream.authority = %authority,
        client = tunnel.client.as_deref(),
        duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        "tunnel closed"
    );
}

/// Copies both ways until either side is done, nothing came for `upstream.deadlines.idle_body`, or the
/// tunnel may not go on.
async fn copy<S>(core: &Core, agent: S, upstream: Stream, authority: &Authority, session: Option<&Arc<LiveSession>>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let moved = Rc::new(Cell::new(0));
    let mut agent = Watched { inner: agent, moved: Rc::clone(&moved) };
    let mut upstream = Watched { inner: upstream, moved: Rc::clone(&moved) };
    let idle = core.upstream.settings().deadlines.idle_body;
    let (mut seen, mut since) = (0_u64, Instant::now());
    let mut copying = std::pin::pin!(copy_bidirectional(&mut agent, &mut upstream));
    let mut looks = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            _ = copying.as_mut() => return,
            _ = looks.tick() => {}
        }
        let over = session.is_some_and(|session| session.ended(core.shared.clock.now()).is_some());
        if over || !applies(core, authority) {
            return;
        }
        if moved.get() != seen {
            (seen, since) = (moved.get(), Instant::now());
        } else if since.elapsed() > idle {
            return;
        }
    }
}

/// A stream that counts what is read from it.
struct Watched<S> {
    inner: S,
    moved: Rc<Cell<u64>>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.moved.set(self.moved.get().wrapping_add(1));
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
