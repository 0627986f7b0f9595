//! sallyport: an outbound HTTPS forwarding proxy that substitutes credentials.
//!
//! # The life of one request
//!
//! An agent holds a proxy token, never a key. Its connection arrives at [`proxy::listener`];
//! [`proxy::tunnel`] reads which authority is meant; [`proxy::intercept`] ends its TLS with a leaf
//! that [`tls::ca`] minted. [`proxy::exchange`] is the spine: it finds tokens
//! ([`proxy::identify`]) in the live view ([`session::registry`]), asks [`policy`] for a
//! [`policy::Permit`], takes a connection from [`upstream`], has [`audit`] record the intent, which
//! gives an [`audit::Receipt`], and with both opens the key ([`vault::Vault::open`]), makes of it what
//! the request needs ([`credential`]) and puts that in. The reply streams back through [`proxy::scrub`].
//!
//! # The floors
//!
//! Imports point down: `model` (0); `policy`, `session`, `vault`, `audit` (1 and 2); `tls`,
//! `upstream`, `credential`, `telemetry` (2); `proxy` (3). Only `app` joins parts.

pub mod admin;
pub mod app;
pub mod audit;
pub mod cli;
pub mod config;
pub mod credential;
pub mod demo;
pub mod model;
pub mod policy;
pub mod providers;
pub mod proxy;
pub mod run;
pub mod session;
pub mod shutdown;
pub mod store;
pub mod telemetry;
pub mod tls;
pub mod upstream;
pub mod vault;
