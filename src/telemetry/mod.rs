//! Metrics and logs.

mod exchange;
mod fields;
mod lines;
mod metrics;
mod node;
mod time;
mod timed;

pub use exchange::{Exchange, Severity};
pub use lines::flush;
pub use metrics::{Connection, Metrics};
pub use timed::Timed;

use std::sync::OnceLock;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

type SetFilter = Box<dyn Fn(EnvFilter) + Send + Sync>;

/// Changes the filter of the logs that this process started, if it did.
static SET_FILTER: OnceLock<SetFilter> = OnceLock::new();

/// Starts logging to standard error. `level` is a filter such as `info` or `sallyport=debug`.
pub fn init_logs(level: &str, json: bool) {
    let filter = filter(level).unwrap_or_else(|_| EnvFilter::new("info"));
    let (filter, handle) = tracing_subscriber::reload::Layer::new(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(lines::Lines).with_target(false).with_timer(time::Utc);
    let registry = tracing_subscriber::registry().with(filter);
    // Colours are for terminals; in a file they are noise.
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    // A second start, as in tests, keeps the first.
    let started = match json {
        true => registry.with(lines.json().flatten_event(true)).try_init(),
        false if colours => registry.with(lines.compact().with_ansi(true)).try_init(),
        false => registry.with(lines.compact().with_ansi(false).fmt_fields(fields::Fields)).try_init(),
    };
    if started.is_ok() {
        if !json && !colours {
            lines::set_plain();
        }
        let _ = SET_FILTER.set(Box::new(move |filter| {
            let _ = handle.reload(filter);
        }));
    }
}

/// The filter of a setting. A plain level leaves out what the database driver says of each statement:
/// the store is asked for changes ten times a second, and nothing else could be found among that.
fn filter(level: &str) -> Result<EnvFilter, tracing_subscriber::filter::ParseError> {
    match level.trim().to_ascii_lowercase().as_str() {
        level @ ("debug" | "trace") => EnvFilter::try_new(format!("{level},sqlx=info")),
        _ => EnvFilter::try_new(level),
    }
}

/// Changes the filter of the logs.
pub fn set_filter(level: &str) {
    if let (Some(set), Ok(filter)) = (SET_FILTER.get(), filter(level)) {
        set(filter);
    }
}

/// Whether a filter can be read.
///
/// # Errors
/// It can't.
pub fn check_filter(level: &str) -> Result<(), String> {
    let how = "it is error, warn, info, debug, trace, off, or a filter such as sallyport::proxy=debug";
    EnvFilter::try_new(level).map(|_| ()).map_err(|_| how.to_owned())
}
