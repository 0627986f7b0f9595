//! The upstream side of one core: connect, verify, pool, send.
//!
//! Connections are shared among the agents of one organisation and never hold anything of a
//! session. A connection goes back to its pool only after a clean end; one with any anomaly is not
//! used again.

pub mod address;
mod alarm;
mod connect;
mod continued;
pub mod egress;
mod fill;
mod forwarded;
mod gathered;
mod http2;
mod interim;
mod lenient;
pub mod plain;
mod pool;
mod reply;
mod send;
mod shared;
mod shown;
mod stream;
mod through;
mod upgrade;
mod verdict;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;

use crate::model::Authority;
pub use alarm::Alarm;
pub use connect::{Tls, Word};
pub use continued::Expects;
pub use fill::{Fill, Readable, poll_write_parts};
pub(crate) use forwarded::writes_pass;
pub use gathered::Gathered;
pub use pool::{Checkout, Connection, Place, PlainCheckout, Upstream};
pub use reply::ReplyBody;
pub use send::join_cookies;
pub use shown::{Refusal, Shown, Whose};
pub use stream::Stream;
pub use upgrade::Switched;

/// A request's body on its way up.
pub type RequestBody =
    std::pin::Pin<Box<dyn http_body::Body<Data = bytes::Bytes, Error = Box<dyn std::error::Error + Send + Sync>>>>;

/// Which protocol is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.1, unless the peer insists on HTTP/2.
    Http1,
    /// HTTP/2 or HTTP/1.1, as the peer likes.
    Any,
    /// HTTP/2 only.
    Http2,
}

/// Settings of the upstream side.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Authorities that are pinned to an address, as `curl --resolve` does.
    pub resolve: BTreeMap<Authority, SocketAddr>,
    /// Networks that pass the address check.
    pub allow_private: Vec<IpNet>,
    /// Ports that are reached only where an authority is pinned: those of other protocols. A server of mail or a
    /// cache may take lines of a request for its commands. Default: [`OTHER_PROTOCOLS`].
    pub refused_ports: Vec<u16>,
    /// Which way leads out.
    pub egress: egress::Egress,
    /// The longest head with which a proxy on the way out may answer, in bytes. Default: 16 KiB.
    pub proxy_head_bytes: usize,
    /// The most interim replies (1xx) before a reply. Default: 100.
    pub interim: u32,
    /// How long a core asks for a reply again and again rather than sleep until it comes, because to be woken takes
    /// tens of microseconds, and more where an idle processor is lent to others. It does so over HTTP/1.1, for an
    /// exchange that began at least 4 ms, and eight times as long as this, after the last one on its core, where the
    /// place's replies come within this time; meanwhile it serves whatever else comes. 0: never. At most 10 ms.
    /// Default: 500 us, so that none but a near upstream is polled for time and again.
    pub busy_poll: Duration,
    /// Our own listeners, which are never dialled.
    pub own_addresses: Vec<SocketAddr>,
    /// How long each wait may take.
    pub deadlines: Deadlines,
    /// Bounds of the pools.
    pub pool: Pool,
}

/// FTP, SSH, Telnet, mail, DNS, LDAP, SMB, PostgreSQL, MySQL, Redis, IRC, memcached (as in "bad port" of the Fetch
/// Standard, and databases).
pub const OTHER_PROTOCOLS: [u16; 21] =
    [20, 21, 22, 23, 25, 53, 110, 119, 139, 143, 389, 445, 465, 587, 993, 995, 3306, 5432, 6379, 6667, 11211];

impl Default for Settings {
    fn default() -> Self {
        Self {
            resolve: BTreeMap::new(),
            allow_private: Vec::new(),
            refused_ports: OTHER_PROTOCOLS.to_vec(),
            egress: egress::Egress::default(),
            proxy_head_bytes: 16 * 1024,
            interim: 100,
            busy_poll: Duration::from_micros(500),
            own_addresses: Vec::new(),
            deadlines: Deadlines::default(),
            pool: Pool::default(),
        }
    }
}

/// How long each wait may take.
#[derive(Debug, Clone)]
pub struct Deadlines {
    /// Name resolution. Default: 5 s.
    pub resolve: Duration,
    /// One address's TCP handshake. Default: 5 s.
    pub connect: Duration,
    /// The TLS handshake. Default: 10 s.
    pub tls: Duration,
    /// How long a proxy on the way out may take to reach the upstream. Default: 30 s.
    pub proxy: Duration,
    /// From the sent head to the reply's head. Default: 300 s: models think long.
    pub headers: Duration,
    /// How long a body waits for the upstream to ask for it, if the agent waits for that. Default: 1 s.
    pub continued: Duration,
    /// Between two pieces of a reply's body. Default: 300 s.
    pub idle_body: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        let secs = Duration::from_secs;
        Self {
            resolve: secs(5),
            connect: secs(5),
            tls: secs(10),
            proxy: secs(30),
            headers: secs(300),
            continued: secs(1),
            idle_body: secs(300),
        }
    }
}

/// Bounds of a core's pools.
#[derive(Debug, Clone)]
pub struct Pool {
    /// The most idle connections to one authority. Default: 128.
    pub max_idle: usize,
    /// How long a connection may be idle. Default: 60 s.
    pub idle: Duration,
    /// How old a connection may get before it is used no more. Default: 600 s.
    pub lifetime: Duration,
    /// How many exchanges may share one HTTP/2 connection; more get another. Default: 64, since servers
    /// take 100 or more. Each may have 1 MiB of its reply unread.
    pub streams: u32,
}

impl Default for Pool {
    fn default() -> Self {
        Self { max_idle: 128, idle: Duration::from_secs(60), lifetime: Duration::from_secs(600), streams: 64 }
    }
}

/// What time was up for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Name resolution.
    Resolve,
    /// TCP.
    Connect,
    /// TLS.
    Tls,
    /// The proxy on the way out.
    Proxy,
    /// The reply's head.
    Headers,
    /// The reply's body.
    Body,
}

impl Stage {
    const fn words(self) -> &'static str {
        match self {
            Self::Resolve => "its name didn't resolve in time",
            Self::Connect => "it didn't accept the connection in time",
            Self::Tls => "the TLS handshake didn't end in time",
            Self::Proxy => "the proxy in `upstream.proxy` didn't reach it, or wasn't reached, in time",
            Self::Headers => "its reply didn't begin in time",
            Self::Body => "its reply stood still",
        }
    }
}

/// Why the upstream gave no reply. The words are for agents: names and reasons, nothing of the
/// request.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is not one that agents may reach.
    #[error("{authority} is at an address that agents may not reach: {}", .class.as_str())]
    Blocked {
        /// The class for which it is refused.
        class: address::Class,
        /// Whose address it is.
        authority: Authority,
    },
    /// The name has no address.
    #[error("the host's name doesn't resolve")]
    Resolve,
    /// No address answered.
    #[error("the host doesn't accept the connection: {0}")]
    Connect(io::ErrorKind),
    /// The proxy on the way out doesn't lead there.
    #[error("the proxy in `upstream.proxy` {0}")]
    Proxy(std::borrow::Cow<'static, str>),
    /// TLS failed.
    #[error("{0}")]
    Tls(String),
    /// The peer speaks none of the protocols that were offered.
    #[error("the upstream speaks neither HTTP/1.1 nor HTTP/2")]
    NoCommonProtocol,
    /// Time was up.
    #[error("the upstream took too long: {}", .0.words())]
    Timeout(Stage),
    /// The connection was closed.
    #[error("the upstream closed the connection")]
    Closed {
        /// Whether some of the request may have left.
        written: bool,
    },
    /// It reset the reply's stream. The source is what that means one hop further.
    #[error("the upstream broke off its reply")]
    Reset(#[source] h2::Error),
    /// It sent more interim replies (1xx) than it may.
    #[error("the upstream sent more interim replies (1xx) than `upstream.interim` before its reply")]
    Interim,
    /// The reply can't be read.
    #[error("the upstream's reply can't be read")]
    Http,
}
