//! The world that tests act in: a real upstream, a real proxy, real clients, and a record of
//! everything that was emitted.

pub mod agent;
pub mod binary;
pub mod emitted;
pub mod upstream;
pub mod world;

pub use agent::{Agent, Answer};
pub use upstream::{Received, Reply};
pub use world::{HOST, World};
