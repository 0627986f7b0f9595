//! The world that tests act in: a real upstream, a real proxy, real clients, and a record of
//! everything that was emitted.

pub mod agent;
pub mod apart;
pub mod binary;
pub mod coded;
pub mod door;
pub mod emitted;
pub mod forwarder;
pub mod frames;
pub mod names;
pub mod postgres;
pub mod raw;
pub mod upstream;
pub mod websocket;
pub mod world;

use std::time::Duration;

pub use agent::{Agent, Answer};
pub use raw::Raw;
pub use upstream::{Received, Reply};
pub use world::{HOST, World};

/// How long a test waits for what has to come; reached only by a failure.
const PATIENCE: Duration = Duration::from_secs(10);

/// The future's result, or a failed test that says what didn't come.
pub async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(out) => out,
        Err(_) => panic!("waited {PATIENCE:?} in vain: {what}"),
    }
}
