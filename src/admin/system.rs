//! The node itself: health, metrics, status, providers.

use axum::Json;
use axum::extract::State as Shared;
use axum::http::{HeaderName, StatusCode, header};
use serde::Serialize;
use utoipa::ToSchema;

use super::auth::Caller;
use super::{Problem, State};
use crate::providers::Provider;

/// A service that sallyport knows.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Provider)]
pub struct ProviderView {
    name: String,
    title: String,
    /// Where its key may go; empty if it is at an address of one's own.
    hosts: Vec<String>,
    /// In which places of a request; empty if it needs no key.
    slots: Vec<String>,
    /// The environment variables in which people keep its key.
    variables: Vec<String>,
    /// The environment variables in which people keep the address of their own installation.
    address_variables: Vec<String>,
    /// What such an address looks like, if there is no other.
    example: Option<String>,
    /// What stands before its proxy tokens.
    token_prefix: String,
    /// Where its gateway route leads, if it has one.
    base: Option<String>,
    /// Its gateway route.
    route: Option<String>,
    /// Whether `validate` can tell if a key of it is valid.
    checked: bool,
    /// Whether it is described in a file of the user's.
    own: bool,
}

impl From<&Provider> for ProviderView {
    fn from(p: &Provider) -> Self {
        let base = p.base.as_ref();
        Self {
            name: p.name.to_string(),
            title: p.title.clone(),
            hosts: p.hosts.iter().map(ToString::to_string).collect(),
            slots: p.slots.iter().map(ToString::to_string).collect(),
            variables: p.env.clone(),
            address_variables: p.address_env.clone(),
            example: p.example.clone(),
            token_prefix: p.shape.prefix.clone(),
            base: base.map(ToString::to_string),
            route: base.map(|_| format!("/{}", p.name)),
            checked: p.check.is_some(),
            own: p.own,
        }
    }
}

/// Every service that sallyport knows.
#[derive(Serialize, ToSchema)]
#[schema(as = ProviderList)]
pub(super) struct Providers {
    items: Vec<ProviderView>,
}

/// List providers
#[utoipa::path(get, operation_id = "providers", path = "/api/v1/providers", tag = "providers", responses((status = 200, description = "Done", body = Providers), (status = "4XX", description = "Refused, and why", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn providers(Shared(admin): Shared<State>) -> Json<Providers> {
    Json(Providers { items: admin.providers.current().iter().map(ProviderView::from).collect() })
}

/// How the node stands.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Status)]
pub(super) struct Status {
    version: &'static str,
    /// Whether a node runs in the process that answers.
    serving: bool,
    /// Why it can't serve at the moment, if it can't.
    unready: Option<String>,
    /// Where the node listens for agents, by kind: proxy, proxy_tls, gateway, gateway_tls.
    listens: std::collections::BTreeMap<&'static str, String>,
    /// Where the store is, without credentials.
    store: String,
    /// Digest of the policies in force.
    policies: String,
    /// Where the audit chains are.
    audit: String,
}

/// Show how the node stands
#[utoipa::path(get, operation_id = "status", path = "/api/v1/status", tag = "system", responses((status = 200, description = "Done", body = Status), (status = "4XX", description = "Refused, and why", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn status(Shared(admin): Shared<State>) -> Json<Status> {
    Json(Status {
        version: env!("CARGO_PKG_VERSION"),
        serving: admin.node.is_some(),
        unready: admin.node.as_ref().and_then(|node| (node.unready)()),
        listens: admin.node.iter().flat_map(|n| &n.listens).map(|(what, at)| (*what, at.to_string())).collect(),
        store: admin.store.place().to_owned(),
        policies: hex::encode(admin.policies.current().digest()),
        audit: admin.audit_dir.display().to_string(),
    })
}

/// Take over changed policies and settings
///
/// The same as SIGHUP. If anything is wrong, the old ones stay in force.
#[utoipa::path(post, operation_id = "reload", path = "/api/v1/reload", tag = "system",
    responses((status = 200, description = "Done", body = Status), (status = "4XX", description = "Refused, and why", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn reload(Shared(admin): Shared<State>, caller: Caller) -> Result<Json<Status>, Problem> {
    let Some(node) = &admin.node else {
        return Err(Problem::conflict("no node runs here; what starts reads the files as they are"));
    };
    (admin.audit)()?.admin(caller.name(), "reload", "node", "")?;
    (node.reload)().map_err(|problems| Problem::conflict(problems.join("; ")))?;
    Ok(status(Shared(admin)).await)
}

/// Whether the process lives
#[utoipa::path(get, operation_id = "healthz", path = "/healthz", tag = "system", security(()), responses((status = 200, description = "Done", body = String, content_type = "text/plain")))]
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// Whether the node can use keys
#[utoipa::path(get, operation_id = "readyz", path = "/readyz", tag = "system", security(()),
    responses((status = 200, description = "Done", body = String, content_type = "text/plain"), (status = 503, description = "Not ready, and why", body = String, content_type = "text/plain")))]
pub(super) async fn readyz(Shared(admin): Shared<State>) -> (StatusCode, String) {
    match admin.node.as_ref().and_then(|node| (node.unready)()) {
        None => (StatusCode::OK, "ready\n".to_owned()),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

/// Metrics in the text format of Prometheus
#[utoipa::path(get, operation_id = "metrics", path = "/metrics", tag = "system",
    responses((status = 200, description = "Done", body = String, content_type = "text/plain"), (status = "4XX", description = "Refused, and why", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn metrics(Shared(admin): Shared<State>) -> ([(HeaderName, &'static str); 1], String) {
    let text = match &admin.node {
        Some(node) => (node.metrics)(),
        None => admin.metrics.text(),
    };
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}

pub(super) async fn description(text: String) -> ([(HeaderName, &'static str); 1], String) {
    ([(header::CONTENT_TYPE, "application/json")], text)
}
