//! The durations that a core measures on the way of each exchange.
//!
//! A core adds them up by itself and hands them over at its tick, so that cores share no counter
//! there. `/metrics` is behind by a tick, 100 ms, at most.

use std::cell::Cell;
use std::time::{Duration, Instant};

use prometheus::Histogram;
use prometheus::local::LocalHistogram;

use super::Metrics;
use super::metrics::MODES;

/// The durations of one core's exchanges.
pub struct Timed {
    exchanges: [LocalHistogram; MODES.len()],
    overheads: [LocalHistogram; MODES.len()],
    lookups: LocalHistogram,
    opens: LocalHistogram,
    appends: LocalHistogram,
    /// When the last step began or ended: what follows at once begins there. A reading of the clock is
    /// dear enough to be shared.
    mark: Cell<Instant>,
}

impl Timed {
    /// Nothing measured yet.
    #[must_use]
    pub fn new(metrics: &Metrics) -> Self {
        let local = |histogram: &Histogram| histogram.local();
        Self {
            exchanges: MODES.map(|mode| metrics.duration.with_label_values(&[mode]).local()),
            overheads: MODES.map(|mode| metrics.node.overhead.with_label_values(&[mode]).local()),
            lookups: local(&metrics.node.token_lookup),
            opens: local(&metrics.node.vault_open),
            appends: local(&metrics.audit_append),
            mark: Cell::new(Instant::now()),
        }
    }

    /// An exchange ended at this moment, which just was.
    pub fn exchange(&self, mode: &'static str, took: Duration, now: Instant) {
        observe(&self.exchanges, mode, took);
        self.mark.set(now);
    }

    /// A request was handed to its upstream, and so much of the time until then was ours: dialling
    /// isn't.
    pub fn overhead(&self, mode: &'static str, took: Duration) {
        observe(&self.overheads, mode, took);
    }

    /// A step begins. Its end comes before anything is awaited.
    pub fn begin(&self) {
        self.begin_at(Instant::now());
    }

    /// A step begins at this moment, which just was.
    pub fn begin_at(&self, now: Instant) {
        self.mark.set(now);
    }

    /// When the last step began or ended: at most a tick ago.
    pub fn mark(&self) -> Instant {
        self.mark.get()
    }

    fn end(&self, of: &LocalHistogram) {
        let now = Instant::now();
        of.observe(now.saturating_duration_since(self.mark.replace(now)).as_secs_f64());
    }

    /// A request was searched for tokens.
    pub fn looked_up(&self) {
        self.end(&self.lookups);
    }

    /// A key was opened.
    pub fn opened(&self) {
        self.end(&self.opens);
    }

    /// The record of an intent was appended.
    pub fn appended(&self) {
        self.end(&self.appends);
    }

    /// The record of an intent was appended with others; it began to be then.
    pub fn appended_since(&self, began: Instant) {
        let now = Instant::now();
        self.appends.observe(now.saturating_duration_since(began).as_secs_f64());
        self.mark.set(now);
    }

    /// Hands over what was measured. From one hand-over to the next the mark is never older than a tick.
    pub fn flush(&self) {
        self.begin();
        let of_modes = self.exchanges.iter().chain(&self.overheads);
        of_modes.chain([&self.lookups, &self.opens, &self.appends]).for_each(LocalHistogram::flush);
    }
}

fn observe(of_modes: &[LocalHistogram; MODES.len()], mode: &'static str, took: Duration) {
    if let Some(at) = MODES.iter().position(|m| *m == mode) {
        of_modes[at].observe(took.as_secs_f64());
    }
}
