//! Listening sockets, and what to say where there can be none.

use std::io::ErrorKind;
use std::net::SocketAddr;

use tokio::net::TcpListener;

/// Listens where a setting says.
///
/// # Errors
/// Another program is there, the machine has no such address, or the system doesn't allow it.
pub(super) async fn bind(setting: &str, at: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(at).await.map_err(|why| match why.kind() {
        ErrorKind::AddrInUse => anyhow::anyhow!(
            "listening on {at} ({setting}): another program is there, or sallyport runs already (`sallyport status` \
             says so); end it, or give {setting} another port"
        ),
        ErrorKind::AddrNotAvailable => {
            anyhow::anyhow!(
                "listening on {at} ({setting}): this machine has no such address; 127.0.0.1 is always there"
            )
        }
        ErrorKind::PermissionDenied => {
            anyhow::anyhow!(
                "listening on {at} ({setting}): the system allows it to root only; take a port from 1024 on"
            )
        }
        _ => anyhow::anyhow!("listening on {at} ({setting}): {why}"),
    })
}
