//! The one place that joins parts: the data directory ([`Home`]), the copy of the store that a node
//! works from ([`live`]), and a running node ([`Node`]).

mod home;
mod listen;
pub mod live;
mod node;
mod probe;
pub mod server;
mod settings;
mod unstored;

pub use home::{Home, KekChoice, ask_passphrase};
pub use node::{Node, default_project};
pub use settings::NodeSettings;
pub use unstored::{NewKey, Started};
