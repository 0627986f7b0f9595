//! The way of a request, one file a step: [`listener`] accepts, [`tunnel`] reads which authority is
//! meant and who asks, [`intercept`] ends the agent's TLS, and [`exchange`] is the spine that calls
//! [`identify`], [`authorize`], [`forward`], [`put`] (which has [`record`] note the use,
//! opens the key and has [`inject`] swap it in) and [`relay`] in this order.
//! Most exchanges take the same steps a shorter way ([`plain`]).
//! Of keys that are minted, [`mint`] has an access token at hand before, and `issue` answers agents that
//! ask a token endpoint themselves. A key that belongs to a connection goes its way in `certificate`.
//! [`scrub`] takes keys out of replies and [`reject`] is the one table of refusals.
//!
//! Nothing here reads a file or a database: what the data path needs is in memory
//! ([`core::Shared`]), and each core has its own upstream connections and audit chain
//! ([`core::Core`]), so that no lock is shared on the way of an exchange.

pub mod account;
pub mod alone;
pub mod authorize;
mod balanced;
mod blind;
mod bounds;
mod certificate;
pub mod coding;
pub mod core;
pub mod exchange;
pub mod forward;
pub mod held;
pub mod identify;
pub mod inject;
pub mod intercept;
mod issue;
mod kept;
pub mod listener;
pub mod mint;
mod plain;
mod put;
pub mod record;
pub mod reject;
pub mod relay;
pub mod running;
pub mod scrub;
mod search;
pub mod settings;
mod signed;
mod slots;
mod socks;
mod splice;
mod step;
pub mod target;
pub mod tunnel;
mod unread;
mod upgrade;
pub mod upload;
pub mod websocket;
pub mod whole;
pub mod wire;
mod worded;

/// How an agent reaches us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Through a proxy setting: CONNECT or absolute form.
    Forward,
    /// Through a base URL.
    Gateway,
}

impl Mode {
    /// The label of metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Gateway => "gateway",
        }
    }
}
