//! Access tokens that are minted: asked for at a token endpoint with what the key holds, and put into
//! requests instead of it.
//!
//! The stored secret of such a key ([`KeyKind::is_minted`](crate::model::KeyKind::is_minted)) is a document: a client's
//! secret, a refresh token or a private key. It goes to the key's token endpoint and nowhere else.
//! [`recipe`] is what the document says and makes the request, [`ask`] sends it over the verified upstream
//! client, [`reply`] judges the answer, and [`mints`] holds what was minted: in memory only, bounded,
//! wiped, one mint at a time for a key.
//!
//! A refresh token that its server replaces (RFC 6749 section 6) is sealed as the key's next version
//! before the access token that came with it is used; [`rotation`] does that, and lets one node at a
//! time do it.

pub mod ask;
mod client;
pub mod connect;
mod documents;
pub mod issued;
pub mod jwt;
pub mod mints;
pub mod recipe;
pub mod reply;
pub mod rotation;
pub mod standin;

use std::time::Duration;

pub use mints::Mints;
pub use recipe::Recipe;

/// Bounds of minting.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How long one try at a token endpoint may take, from connecting to the end of its answer. Default:
    /// 10 s.
    pub deadline: Duration,
    /// How often a token endpoint that fails is tried for one mint. Default: 3.
    pub tries: u32,
    /// How long after a failed try the next one waits; doubled for each further failure. Default: 200 ms.
    pub backoff: Duration,
    /// The longest of these waits, also between mints that failed. Default: 30 s.
    pub longest_backoff: Duration,
    /// The longest answer of a token endpoint, and the longest call of one by an agent, in bytes. Default:
    /// 64 KiB.
    pub message_bytes: usize,
    /// So long before its end a token is replaced while it is still used; at most a fifth of its
    /// lifetime. Default: 5 min.
    pub ahead: Duration,
    /// How long a token counts as good if its endpoint didn't say. Default: 5 min.
    pub assumed_lifetime: Duration,
    /// The longest that a token is used, whatever its endpoint says. Default: 12 h.
    pub longest_lifetime: Duration,
    /// For how many keys tokens are held at once. Default: 10,000.
    pub held: usize,
    /// How long an answer to an agent's own call of a token endpoint holds. Default: 1 h.
    pub issued_lifetime: Duration,
    /// How many of these one session may hold at once. Default: 256.
    pub issued: u32,
    /// For how long a process has the right to a key's refresh token: longer than a mint takes, with room for
    /// clocks that differ. Default: 60 s.
    pub lease: Duration,
    /// How often a mint looks whether another process still has that right. Default: 100 ms.
    pub lease_look: Duration,
    /// How long it waits for that. Default: 30 s.
    pub lease_wait: Duration,
    /// How long a mint, and the node's end, wait until a fresh refresh token is stored; storing goes on in the
    /// background. Default: 5 s.
    pub storing_wait: Duration,
    /// How long after a failure storing it is tried again. Default: 500 ms.
    pub storing_retry: Duration,
    /// For how long that is tried. Default: 10 min.
    pub storing: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        let secs = Duration::from_secs;
        Self {
            deadline: secs(10),
            tries: 3,
            backoff: Duration::from_millis(200),
            longest_backoff: secs(30),
            message_bytes: 64 * 1024,
            ahead: secs(300),
            assumed_lifetime: secs(300),
            longest_lifetime: secs(12 * 3600),
            held: 10_000,
            issued_lifetime: secs(3600),
            issued: 256,
            lease: secs(60),
            lease_look: Duration::from_millis(100),
            lease_wait: secs(30),
            storing_wait: secs(5),
            storing_retry: Duration::from_millis(500),
            storing: secs(600),
        }
    }
}

/// Why there is no access token. The words are for agents: they name the token endpoint and the reason
/// in our own words, and hold nothing that was sent or came back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Failure {
    /// What kind of failure it is.
    pub kind: FailureKind,
    /// In words.
    pub detail: String,
}

/// What kind of failure there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// The token endpoint doesn't take what the key holds: somebody has to change the key.
    Refused,
    /// The token endpoint failed, or its answer can't be used.
    Unavailable,
    /// It can't be reached.
    Unreachable,
    /// TLS with it failed.
    Tls,
    /// It took too long.
    Timeout,
    /// Its address may not be reached.
    Blocked,
    /// Policy or the key's own bounds forbid it.
    Denied,
    /// The intent can't be recorded.
    Unrecorded,
    /// We failed.
    Internal,
}

impl Failure {
    /// A failure of this kind.
    pub fn new(kind: FailureKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into() }
    }

    /// Whether the same request may succeed a moment later.
    #[must_use]
    pub fn passes(&self) -> bool {
        matches!(self.kind, FailureKind::Unavailable | FailureKind::Unreachable | FailureKind::Timeout)
    }
}
