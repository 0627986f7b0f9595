//! What can be set about the data path, with defaults.

use std::time::Duration;

/// What happens to hosts that no key is bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Unbound {
    /// They are intercepted and forwarded without a key; the default.
    #[default]
    Forward,
    /// Their tunnels are copied without a look inside.
    Tunnel,
    /// They are refused.
    Deny,
}

/// Settings of the data path.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Whether agents have to present a session's proxy credentials. Default: no; `run` sets it.
    pub require_auth: bool,
    /// What happens to hosts that no key is bound to. Default: forward.
    pub unbound: Unbound,
    /// The bounds.
    pub limits: Limits,
    /// How long each wait may take.
    pub deadlines: Deadlines,
}

/// Bounds of the data path.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The longest head of a request, in bytes. Default: 64 KiB.
    pub head_bytes: usize,
    /// The most header fields in a request. Default: 100.
    pub headers: usize,
    /// The most agent connections at once on this node. Default: 10,000.
    pub connections: usize,
    /// The most concurrent streams on an HTTP/2 connection of an agent. Default: 100.
    pub streams: u32,
    /// The most tries at proxy credentials on one connection before it is closed. Default: 3.
    pub auth_tries: u32,
}

/// How long each wait may take.
#[derive(Debug, Clone)]
pub struct Deadlines {
    /// From accept, or the end of the last exchange, to the end of a request's head. Default: 30 s.
    pub head: Duration,
    /// The agent's TLS handshake. Default: 10 s.
    pub tls: Duration,
    /// Between two pieces of a request's body. Default: 30 s.
    pub idle_body: Duration,
    /// How long an agent may leave a reply unread. Default: 60 s.
    pub unread: Duration,
    /// How long after the end of a connection what its agent still sends is read. Default: 2 s.
    pub linger: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            require_auth: false,
            unbound: Unbound::default(),
            limits: Limits { head_bytes: 64 * 1024, headers: 100, connections: 10_000, streams: 100, auth_tries: 3 },
            deadlines: Deadlines {
                head: Duration::from_secs(30),
                tls: Duration::from_secs(10),
                idle_body: Duration::from_secs(30),
                unread: Duration::from_secs(60),
                linger: Duration::from_secs(2),
            },
        }
    }
}
