//! The admin API: what is registered, who may use what, and what happened.
//!
//! One router serves three ways in: the network listener (bearer token), `admin.sock` (the data
//! directory's own user) and the command line in its own process. Every change is recorded in the
//! audit before it is made, and has taken effect on this node when it is acknowledged.

mod access;
mod audit;
mod auth;
mod body;
mod explain;
mod keys;
mod problem;
mod projects;
pub mod server;
mod sessions;
mod system;
mod tokens;
mod tools;
mod validate;

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware;
use tokio::sync::watch;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use auth::Scheme;
pub use auth::{Caller, Peer};
pub use problem::Problem;
pub use system::ProviderView;
pub use validate::{Probe, Probed, Probing};

use crate::audit::{AuditKeys, SharedWriter};
use crate::model::{Clock, Name, OrgId};
use crate::policy::Library;
use crate::providers;
use crate::session::records::Project;
use crate::store::{Batch, Find, Store};
use crate::telemetry::Metrics;
use crate::vault::Vault;

/// Bounds of the admin API.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The longest body of a request, in bytes. Default: 256 KiB.
    pub body_bytes: usize,
    /// The most requests in a second of one principal, and of public ones from one address. Default:
    /// 100.
    pub requests_per_second: NonZeroU32,
    /// The most failed authentications in a minute from one address. Default: 10.
    pub failures_per_minute: NonZeroU32,
    /// How long a request may take. Default: 30 s.
    pub deadline: Duration,
    /// From accept, or the end of the last request, to the end of a request's head; and the TLS
    /// handshake. Default: 10 s.
    pub head: Duration,
    /// How old a connection gets; a client simply makes a new one. Default: 60 s.
    pub age: Duration,
    /// The most connections at once. Default: 256.
    pub connections: usize,
    /// The most of them that one address beyond loopback has. Default: 64.
    pub connections_of_one: usize,
    /// How often it is looked whether the data directory's socket is still there. Default: 500 ms.
    pub socket_look: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        const PER_SECOND: NonZeroU32 = NonZeroU32::new(100).expect("not zero");
        const PER_MINUTE: NonZeroU32 = NonZeroU32::new(10).expect("not zero");
        Self {
            body_bytes: 256 * 1024,
            requests_per_second: PER_SECOND,
            failures_per_minute: PER_MINUTE,
            deadline: Duration::from_secs(30),
            head: Duration::from_secs(10),
            age: Duration::from_secs(60),
            connections: 256,
            connections_of_one: 64,
            socket_look: Duration::from_millis(500),
        }
    }
}

/// A running node, as the admin API sees it.
pub struct NodeView {
    /// The number of the last change of the store that its memory holds.
    pub reached: watch::Receiver<i64>,
    /// Why the node can't serve at the moment, if it can't.
    pub unready: Box<dyn Fn() -> Option<String> + Send + Sync>,
    /// Takes over changed policies and settings; the problems if it kept the old ones.
    pub reload: Box<dyn Fn() -> Result<(), Vec<String>> + Send + Sync>,
    /// Where it listens: `proxy`, `gateway` and so on, each with an address.
    pub listens: Vec<(&'static str, std::net::SocketAddr)>,
    /// The metrics as text.
    pub metrics: Box<dyn Fn() -> String + Send + Sync>,
}

/// Opens the audit chain of the admin side, or returns the one that is open.
pub type OpenAudit = Box<dyn Fn() -> Result<SharedWriter, crate::audit::Error> + Send + Sync>;

/// What the admin API works on.
pub struct Admin {
    /// The store.
    pub store: Store,
    /// Seals secrets.
    pub vault: Arc<Vault>,
    /// The policies in force.
    pub policies: Arc<Library>,
    /// Where changes are recorded; opened when the first one is.
    pub audit: OpenAudit,
    /// Where the audit chains are.
    pub audit_dir: PathBuf,
    /// The keys that verify them.
    pub audit_keys: AuditKeys,
    /// The CA certificate, in PEM.
    pub ca_pem: String,
    /// The services that are known.
    pub providers: Arc<providers::Library>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Makes a call with a key through the data path.
    pub probe: Probe,
    /// The node that runs in this process, if one does.
    pub node: Option<NodeView>,
    /// Bounds.
    pub settings: Settings,
}

/// The state of every route.
pub type State = Arc<Admin>;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "sallyport admin API",
        description = "Registers keys and agents, starts sessions, mints proxy tokens, and reads the audit.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    servers((url = "/", description = "the node's admin listener")),
    modifiers(&Scheme),
    security(("bearer" = []))
)]
struct Api;

/// The API's description.
#[must_use]
pub fn openapi() -> utoipa::openapi::OpenApi {
    routes().split_for_parts().1
}

fn routes() -> OpenApiRouter<State> {
    OpenApiRouter::with_openapi(Api::openapi())
        .routes(routes!(projects::list, projects::create))
        .routes(routes!(projects::show, projects::edit, projects::delete))
        .routes(routes!(keys::list, keys::create))
        .routes(routes!(keys::show, keys::edit, keys::delete))
        .routes(routes!(keys::rotate))
        .routes(routes!(validate::validate))
        .routes(routes!(tools::list, tools::register))
        .routes(routes!(tools::show, tools::edit, tools::delete))
        .routes(routes!(access::list, access::request))
        .routes(routes!(access::show))
        .routes(routes!(sessions::list, sessions::start))
        .routes(routes!(sessions::show, sessions::revoke))
        .routes(routes!(tokens::mint))
        .routes(routes!(tokens::list))
        .routes(routes!(tokens::show, tokens::revoke))
        .routes(routes!(audit::query))
        .routes(routes!(audit::verify))
        .routes(routes!(system::providers))
        .routes(routes!(explain::explain))
        .routes(routes!(system::status))
        .routes(routes!(system::reload))
        .routes(routes!(system::healthz))
        .routes(routes!(system::readyz))
        .routes(routes!(system::metrics))
}

/// The whole API. Who calls is told by a [`Peer`] among the request's extensions; without one the
/// request is refused.
pub fn router(admin: Admin) -> Router {
    let state = Arc::new(admin);
    let (router, description) = routes().split_for_parts();
    let description = description.to_json().unwrap_or_default();
    router
        .route("/openapi.json", axum::routing::get(move || system::description(description.clone())))
        .fallback(problem::not_found)
        .method_not_allowed_fallback(problem::method_not_allowed)
        .layer(DefaultBodyLimit::max(state.settings.body_bytes))
        .layer(middleware::from_fn_with_state(auth::Guard::new(Arc::clone(&state)), auth::guard))
        .with_state(state)
}

/// How long a change may take to reach this node's own memory before it is acknowledged all the
/// same.
const REACH: Duration = Duration::from_secs(2);

impl Admin {
    /// Records what is about to be done, does it, and waits until this node's memory has it.
    async fn commit(&self, caller: &Caller, what: Action<'_>, batch: Batch) -> Result<(), Problem> {
        let Action { action, subject, detail } = what;
        let audit = (self.audit)()?;
        audit.admin(caller.name(), action, subject, detail)?;
        let number = match self.store.commit(batch.at(self.clock.now())).await {
            Ok(number) => number,
            Err(why) => {
                let failed = format!("{action}_failed");
                if let Err(why) = audit.admin(caller.name(), &failed, subject, detail) {
                    tracing::error!(error = %why, "the failure can't be recorded");
                }
                return Err(why.into());
            }
        };
        if let Some(node) = &self.node {
            let mut reached = node.reached.clone();
            let there = reached.wait_for(|at| *at >= number);
            if tokio::time::timeout(REACH, there).await.is_err() {
                tracing::warn!(number, "a change was stored and hasn't reached this node's memory yet");
            }
        }
        Ok(())
    }

    /// A project by id or name; the default one if none is named.
    async fn project(&self, org: OrgId, wanted: Option<&str>) -> Result<Project, Problem> {
        let wanted = wanted.unwrap_or("default");
        self.by_id_or_name(org, wanted, "project").await
    }

    /// A record by id or, where names are unique in the organisation, by name.
    async fn by_id_or_name<R: crate::store::Record>(
        &self,
        org: OrgId,
        wanted: &str,
        what: &'static str,
    ) -> Result<R, Problem> {
        let mut found = if uuid::Uuid::try_parse(wanted).is_ok() {
            self.store.find(org, Find::all().with("id", wanted.to_ascii_lowercase()).limit(1)).await?
        } else if let Ok(name) = wanted.parse::<Name>() {
            self.store.find(org, Find::all().with("name", name).limit(2)).await?
        } else {
            Vec::new()
        };
        if found.len() > 1 {
            return Err(Problem::conflict(format!("more than one {what} has this name; give its id")));
        }
        found.pop().ok_or_else(|| Problem::unnamed(what, wanted))
    }

    /// Every record that is wanted, page after page.
    async fn every<R: crate::store::Record>(&self, org: OrgId, wanted: impl Fn() -> Find) -> Result<Vec<R>, Problem> {
        let mut all: Vec<R> = Vec::new();
        loop {
            let after = all.last().map(crate::store::Record::row_id);
            let page: Vec<R> = self.store.find(org, wanted().after(after)).await?;
            if page.is_empty() {
                return Ok(all);
            }
            all.extend(page);
        }
    }

    /// The names of the organisation's projects.
    async fn project_names(&self, org: OrgId) -> Result<std::collections::HashMap<String, String>, Problem> {
        let projects: Vec<Project> = self.store.find(org, Find::all()).await?;
        Ok(projects.into_iter().map(|p| (p.id.to_string(), p.name.to_string())).collect())
    }
}

/// What is done, for the audit.
struct Action<'a> {
    action: &'a str,
    subject: &'a str,
    detail: &'a str,
}
