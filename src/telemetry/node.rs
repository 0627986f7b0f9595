//! The metrics of what stands around the data path: store, policies, admin API, caches, process.

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
};

use super::Metrics;

/// Latency buckets of short work, in seconds: from ten microseconds to ten seconds.
const SHORT: &[f64] =
    &[0.000_01, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0];

/// Lifetime buckets of sessions, in seconds: from a minute to a month.
const LIFETIMES: &[f64] = &[60.0, 300.0, 900.0, 3600.0, 14_400.0, 28_800.0, 86_400.0, 604_800.0, 2_592_000.0];

pub(super) struct NodeMetrics {
    store_query: HistogramVec,
    store_lag: Gauge,
    security_events: IntCounterVec,
    policy_reload: IntCounterVec,
    admin_request: HistogramVec,
    session_duration: Histogram,
    leaf_mint: Histogram,
    leaf_hits: IntCounter,
    leaf_misses: IntCounter,
    upstream_connections: IntGaugeVec,
    upstream_errors: IntCounterVec,
    upstream_interim: IntCounter,
    holds: IntGauge,
    pub(super) vault_open: Histogram,
    pub(super) overhead: HistogramVec,
    pub(super) token_lookup: Histogram,
    audit_records: IntCounterVec,
    audit_lag: IntGauge,
}

impl NodeMetrics {
    pub(super) fn new() -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str, labels: &[&str]| IntCounterVec::new(Opts::new(name, help), labels);
        let short = |name: &str, help: &str| HistogramOpts::new(name, help).buckets(SHORT.to_vec());
        Ok(Self {
            store_query: HistogramVec::new(
                short("sallyport_store_query_seconds", "Time of a statement of the store, by table."),
                &["query"],
            )?,
            store_lag: Gauge::new(
                "sallyport_store_change_lag_seconds",
                "How long ago the store last answered the change feed; 0 while it answers.",
            )?,
            security_events: counter(
                "sallyport_security_events_total",
                "Things that someone should look at, by kind.",
                &["kind"],
            )?,
            policy_reload: counter(
                "sallyport_policy_reload_total",
                "Reloads of the policies: ok, or refused with the old ones kept.",
                &["result"],
            )?,
            admin_request: HistogramVec::new(
                short("sallyport_admin_request_seconds", "Time of a request of the admin API."),
                &["method", "status"],
            )?,
            session_duration: Histogram::with_opts(
                HistogramOpts::new("sallyport_session_duration_seconds", "How long sessions lasted that ended.")
                    .buckets(LIFETIMES.to_vec()),
            )?,
            leaf_mint: Histogram::with_opts(short("sallyport_leaf_mint_seconds", "Time to mint a leaf certificate."))?,
            leaf_hits: IntCounter::new("sallyport_leaf_cache_hits_total", "Leaf certificates that were held already.")?,
            leaf_misses: IntCounter::new("sallyport_leaf_cache_misses_total", "Leaf certificates that were minted.")?,
            upstream_connections: IntGaugeVec::new(
                Opts::new("sallyport_upstream_connections", "Connections to upstreams by state."),
                &["state"],
            )?,
            upstream_errors: counter(
                "sallyport_upstream_errors_total",
                "Requests that failed on the upstream's side, by code.",
                &["code"],
            )?,
            upstream_interim: IntCounter::new(
                "sallyport_upstream_interim_total",
                "Interim replies (1xx) of upstreams, none of which is passed on.",
            )?,
            holds: IntGauge::new("sallyport_holds", "Exchanges that wait for a person's approval.")?,
            vault_open: Histogram::with_opts(short(
                "sallyport_vault_open_seconds",
                "Time to open a key for one exchange.",
            ))?,
            overhead: HistogramVec::new(
                short(
                    "sallyport_overhead_seconds",
                    "Time until a request is handed to its upstream, without dialling.",
                ),
                &["mode"],
            )?,
            token_lookup: Histogram::with_opts(short(
                "sallyport_token_lookup_seconds",
                "Time to find a request's tokens and what they lead to.",
            ))?,
            audit_records: counter("sallyport_audit_records_total", "Audit records written, by kind.", &["kind"])?,
            audit_lag: IntGauge::new(
                "sallyport_audit_lag_records",
                "Audit records that are not yet in the store for searching; 0 where none are copied there.",
            )?,
        })
    }

    pub(super) fn collectors(&self) -> Vec<Box<dyn Collector>> {
        vec![
            Box::new(self.store_query.clone()),
            Box::new(self.store_lag.clone()),
            Box::new(self.security_events.clone()),
            Box::new(self.policy_reload.clone()),
            Box::new(self.admin_request.clone()),
            Box::new(self.session_duration.clone()),
            Box::new(self.leaf_mint.clone()),
            Box::new(self.leaf_hits.clone()),
            Box::new(self.leaf_misses.clone()),
            Box::new(self.upstream_connections.clone()),
            Box::new(self.upstream_errors.clone()),
            Box::new(self.upstream_interim.clone()),
            Box::new(self.holds.clone()),
            Box::new(self.vault_open.clone()),
            Box::new(self.overhead.clone()),
            Box::new(self.token_lookup.clone()),
            Box::new(self.audit_records.clone()),
            Box::new(self.audit_lag.clone()),
        ]
    }
}

impl Metrics {
    /// A statement of the store ended.
    pub fn store_query(&self, query: &'static str, took: Duration) {
        self.node.store_query.with_label_values(&[query]).observe(took.as_secs_f64());
    }

    /// How long ago the store answered.
    pub fn store_lag(&self, lag: Duration) {
        self.node.store_lag.set(lag.as_secs_f64());
    }

    /// Something happened that someone should look at.
    pub fn security_event(&self, kind: &'static str) {
        self.node.security_events.with_label_values(&[kind]).inc();
    }

    /// The policies were reloaded, or not.
    pub fn policy_reloaded(&self, ok: bool) {
        self.node.policy_reload.with_label_values(&[if ok { "ok" } else { "refused" }]).inc();
    }

    /// A request of the admin API ended.
    pub fn admin_request(&self, method: &'static str, status: u16, took: Duration) {
        let status = match status {
            ..300 => "2xx",
            300..400 => "3xx",
            400..500 => "4xx",
            _ => "5xx",
        };
        self.node.admin_request.with_label_values(&[method, status]).observe(took.as_secs_f64());
    }

    /// A session ended after this long.
    pub fn session_ended(&self, lasted: Duration) {
        self.node.session_duration.observe(lasted.as_secs_f64());
    }

    /// A leaf certificate was minted.
    pub fn leaf_minted(&self, took: Duration) {
        self.node.leaf_misses.inc();
        self.node.leaf_mint.observe(took.as_secs_f64());
    }

    /// A leaf certificate was held already.
    pub fn leaf_hit(&self) {
        self.node.leaf_hits.inc();
    }

    /// The gauges of upstream connections, idle and active, which all cores share.
    #[must_use]
    pub fn upstream_connections(&self) -> (IntGauge, IntGauge) {
        let of = |state| self.node.upstream_connections.with_label_values(&[state]);
        (of("idle"), of("active"))
    }

    /// The counter of upstreams' interim replies, which all cores share.
    #[must_use]
    pub fn upstream_interim(&self) -> IntCounter {
        self.node.upstream_interim.clone()
    }

    /// So many records of a kind were written since the start.
    pub fn audit_records(&self, kind: &'static str, all: u64) {
        let counter = self.node.audit_records.with_label_values(&[kind]);
        counter.inc_by(all.saturating_sub(counter.get()));
    }

    /// A request failed on the upstream's side.
    pub fn upstream_error(&self, code: &'static str) {
        self.node.upstream_errors.with_label_values(&[code]).inc();
    }
}
