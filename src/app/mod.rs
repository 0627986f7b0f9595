//! The one place that joins parts: the data directory ([`Home`]), the copy of the store that a node
//! works from ([`live`]), and a running node ([`Node`]).

mod home;
mod listen;
pub mod live;
mod node;
mod probe;
pub mod server;

pub use home::{Home, KekChoice, ask_passphrase};
pub use node::{NewKey, Node, NodeSettings, Started, default_project};
