//! Every metric, with its help text. Labels are closed sets: no hosts, no identifiers.

use prometheus::{
    Encoder as _, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

/// The metrics of one node.
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    /// The counters of exchanges, looked up once: mode, outcome, counter.
    exchanges: Vec<(&'static str, &'static str, IntCounter)>,
    denials: IntCounterVec,
    pub(super) duration: HistogramVec,
    injections: IntCounterVec,
    connections: IntGaugeVec,
    sessions: IntGauge,
    tokens: IntGauge,
    scrubbed: IntCounterVec,
    mints: IntCounterVec,
    pub(super) audit_append: Histogram,
    pub(super) node: super::node::NodeMetrics,
}

/// Latency buckets, in seconds: from a tenth of a millisecond to five minutes.
const SECONDS: &[f64] =
    &[0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];

/// The labels of exchanges.
pub(super) const MODES: [&str; 2] = ["forward", "gateway"];
const OUTCOMES: [&str; 5] = ["ok", "upstream_error", "denied", "aborted", "internal"];

impl Metrics {
    /// A fresh set.
    ///
    /// # Errors
    /// Two metrics have one name, which is a mistake of ours.
    pub fn new() -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str, labels: &[&str]| IntCounterVec::new(Opts::new(name, help), labels);
        let mut metrics = Self {
            registry: Registry::new(),
            requests: counter("sallyport_requests_total", "Exchanges by mode and outcome.", &["mode", "outcome"])?,
            exchanges: Vec::new(),
            denials: counter("sallyport_denials_total", "Refused requests by code.", &["code"])?,
            duration: HistogramVec::new(
                HistogramOpts::new("sallyport_request_duration_seconds", "From a request's head to its reply's end.")
                    .buckets(SECONDS.to_vec()),
                &["mode"],
            )?,
            injections: counter("sallyport_injections_total", "Keys put into requests.", &["provider", "slot"])?,
            connections: IntGaugeVec::new(Opts::new("sallyport_connections", "Open connections by side."), &["side"])?,
            sessions: IntGauge::new("sallyport_sessions", "Sessions in memory.")?,
            tokens: IntGauge::new("sallyport_tokens", "Proxy tokens in memory.")?,
            scrubbed: counter(
                "sallyport_scrubbed_total",
                "Keys masked in replies, by how they were encoded.",
                &["encoding"],
            )?,
            mints: counter("sallyport_mints_total", "Access tokens asked for: ok or failed.", &["result"])?,
            audit_append: Histogram::with_opts(
                HistogramOpts::new("sallyport_audit_append_seconds", "Time to append the record of an intent.")
                    .buckets(SECONDS.to_vec()),
            )?,
            node: super::node::NodeMetrics::new()?,
        };
        for mode in MODES {
            for outcome in OUTCOMES {
                metrics.exchanges.push((mode, outcome, metrics.requests.with_label_values(&[mode, outcome])));
            }
        }
        let all: [Box<dyn prometheus::core::Collector>; 10] = [
            Box::new(metrics.requests.clone()),
            Box::new(metrics.denials.clone()),
            Box::new(metrics.duration.clone()),
            Box::new(metrics.injections.clone()),
            Box::new(metrics.connections.clone()),
            Box::new(metrics.sessions.clone()),
            Box::new(metrics.tokens.clone()),
            Box::new(metrics.scrubbed.clone()),
            Box::new(metrics.mints.clone()),
            Box::new(metrics.audit_append.clone()),
        ];
        for one in all {
            metrics.registry.register(one)?;
        }
        for one in metrics.node.collectors() {
            metrics.registry.register(one)?;
        }
        let build = Opts::new("sallyport_build_info", "Always 1; the labels say which build runs.");
        let build = IntGauge::with_opts(build.const_label("version", env!("CARGO_PKG_VERSION")))?;
        build.set(1);
        metrics.registry.register(Box::new(build))?;
        let process = prometheus::process_collector::ProcessCollector::for_self();
        metrics.registry.register(Box::new(process))?;
        Ok(metrics)
    }

    /// An exchange ended.
    pub fn exchange(&self, mode: &'static str, outcome: &'static str) {
        match self.exchanges.iter().find(|(m, o, _)| *m == mode && *o == outcome) {
            Some((_, _, counter)) => counter.inc(),
            None => self.requests.with_label_values(&[mode, outcome]).inc(),
        }
    }

    /// A request was refused.
    pub fn denied(&self, code: &'static str) {
        self.denials.with_label_values(&[code]).inc();
    }

    /// A key was put into a request.
    pub fn injected(&self, provider: &str, slot: &'static str) {
        self.injections(provider, slot).inc();
    }

    /// What counts keys of this provider that are put into such slots.
    pub fn injections(&self, provider: &str, slot: &'static str) -> IntCounter {
        self.injections.with_label_values(&[provider, slot])
    }

    /// Keys were masked in a reply.
    pub fn scrubbed(&self, encoding: &'static str, count: u32) {
        self.scrubbed.with_label_values(&[encoding]).inc_by(count.into());
    }

    /// An access token was minted, or couldn't be.
    pub fn minted(&self, good: bool) {
        self.mints.with_label_values(&[if good { "ok" } else { "failed" }]).inc();
    }

    /// How many sessions and tokens are in memory.
    pub fn live(&self, tokens: usize, sessions: usize) {
        self.tokens.set(i64::try_from(tokens).unwrap_or(i64::MAX));
        self.sessions.set(i64::try_from(sessions).unwrap_or(i64::MAX));
    }

    /// An agent connected; it counts until the value is dropped.
    #[must_use]
    pub fn agent_connection(&self) -> Connection {
        let gauge = self.connections.with_label_values(&["agent"]);
        gauge.inc();
        Connection(gauge)
    }

    /// Everything in the text format of Prometheus, version 0.0.4.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = Vec::new();
        if TextEncoder::new().encode(&self.registry.gather(), &mut out).is_err() {
            out.clear();
        }
        String::from_utf8(out).unwrap_or_default()
    }
}

/// An open connection.
pub struct Connection(IntGauge);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.dec();
    }
}
