//! Metrics and logs.

mod metrics;
mod node;

pub use metrics::{Connection, Metrics};

use tracing_subscriber::EnvFilter;

/// Starts logging to standard error. `level` is a filter such as `info` or `sallyport=debug`.
pub fn init_logs(level: &str, json: bool) {
    let filter = EnvFilter::try_new(level).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    // A second start, as in tests, keeps the first.
    let _ = if json { builder.json().flatten_event(true).try_init() } else { builder.compact().try_init() };
}
