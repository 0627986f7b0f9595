//! What can be set about the data path, with defaults.

use std::time::Duration;

use ipnet::IpNet;

use crate::model::HostPattern;

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
    /// Balancers, whose connections begin with a header of the PROXY protocol. Default: none.
    pub balancers: Vec<IpNet>,
    /// What happens to hosts that no key is bound to. Default: forward.
    pub unbound: Unbound,
    /// Hosts whose tunnels are copied without a look inside, whatever happens to others; never those
    /// with a key. Default: none.
    pub tunnel: Vec<HostPattern>,
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
    /// The longest body of a request that is awaited whole, in bytes: longer ones are sent on in pieces.
    /// Default: 64 KiB.
    pub whole_body: usize,
    /// The most agent connections at once on this node. Default: 10,000.
    pub connections: usize,
    /// The most tunnels at once on this node whose bytes the kernel moves; they have four file descriptors
    /// more than others. Beyond it, bytes are copied. Default: 1,000.
    pub spliced: usize,
    /// The most concurrent streams on an HTTP/2 connection of an agent. Default: 100.
    pub streams: u32,
    /// The longest header of the PROXY protocol, in bytes. Default: 2 KiB.
    pub proxy_header_bytes: usize,
    /// The most tries at proxy credentials on one connection before it is closed. Default: 3.
    pub auth_tries: u32,
    /// The most patterns that the replies of one host are searched for; a key has about a dozen. A host
    /// with more is refused. Default: 10,000.
    pub scrub_patterns: usize,
    /// The longest body that is searched for a slot, in bytes. Default: 1 MiB.
    pub body_slot_bytes: usize,
    /// How much of such bodies each core holds at once, in bytes. Default: 64 MiB.
    pub body_slots_bytes: usize,
    /// The most content codings of one reply, one within the other. Default: 3.
    pub codings: usize,
    /// The largest window that one coding of a reply may use, in bytes. Default: 16 MiB.
    pub window_bytes: usize,
    /// The most memory of all replies that are decoded at once on this node, in bytes. Default: 1 GiB.
    pub windows_bytes: usize,
    /// How many times longer a reply may become by decoding it. Default: 200.
    pub expansion: u32,
    /// What may come out of however little before [`Limits::expansion`] counts, in bytes. Default: 4 MiB.
    pub expanded_bytes: usize,
    /// The most matches that are masked in replies to one session in a minute, before its replies end
    /// and its requests to hosts of keys are refused. Default: 1,000.
    pub masked: u32,
    /// How much of a WebSocket waits in each direction, in bytes: a frame up to this length stays one,
    /// and a longer one goes on in pieces. Default: 64 KiB.
    pub websocket_buffer: usize,
    /// The most of a body that is held so that it can be signed, in bytes: a chunk of one that is signed in
    /// chunks, or all of one whose hash wasn't declared. Default: 16 MiB, the longest request of DynamoDB.
    pub signed_body: usize,
    /// How much of such bodies each core holds at once, in bytes. Default: 256 MiB.
    pub signed_bodies: usize,
    /// The longest message of a WebSocket in which keys are put, in bytes; in a longer one tokens stay as
    /// they are. Default: 64 KiB.
    pub frame_slot: usize,
    /// The most keys that are put into the frames of one WebSocket in a minute. Default: 60.
    pub frame_keys: u32,
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
    /// How long the rest of a short request may take before it is sent on in pieces. Default: 20 ms.
    pub whole_body: Duration,
    /// For the whole of a body that is read for the slots in it: nothing is decided meanwhile. Default:
    /// 30 s.
    pub body_slot: Duration,
    /// How long an agent may leave a reply unread. Default: 60 s.
    pub unread: Duration,
    /// How long after the end of a connection what its agent still sends is read. Default: 2 s.
    pub linger: Duration,
    /// How long a WebSocket on which nothing moves stays open. Default: 300 s.
    pub websocket_idle: Duration,
    /// How long the end of a WebSocket may take, once it has begun. Default: 5 s.
    pub websocket_close: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            require_auth: false,
            balancers: Vec::new(),
            unbound: Unbound::default(),
            tunnel: Vec::new(),
            limits: Limits {
                head_bytes: 64 * 1024,
                headers: 100,
                whole_body: 64 * 1024,
                connections: 10_000,
                streams: 100,
                spliced: 1000,
                auth_tries: 3,
                scrub_patterns: 10_000,
                body_slot_bytes: 1 << 20,
                body_slots_bytes: 64 << 20,
                codings: 3,
                window_bytes: 16 << 20,
                windows_bytes: 1 << 30,
                expansion: 200,
                expanded_bytes: 4 << 20,
                masked: 1000,
                websocket_buffer: 64 * 1024,
                proxy_header_bytes: 2048,
                signed_body: 16 * 1024 * 1024,
                signed_bodies: 256 << 20,
                frame_slot: 64 * 1024,
                frame_keys: 60,
            },
            deadlines: Deadlines {
                head: Duration::from_secs(30),
                tls: Duration::from_secs(10),
                idle_body: Duration::from_secs(30),
                whole_body: Duration::from_millis(20),
                body_slot: Duration::from_secs(30),
                unread: Duration::from_secs(60),
                linger: Duration::from_secs(2),
                websocket_idle: Duration::from_secs(300),
                websocket_close: Duration::from_secs(5),
            },
        }
    }
}
