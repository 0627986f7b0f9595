//! `/api/v1/mcp/sessions`

use std::net::IpAddr;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State as Shared};
use axum::http::StatusCode;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::auth::Caller;
use super::body::{Body, Paging, Query, environment, limit, name};
use super::{Action, Admin, Problem, State};
use crate::model::{
    Bounds, Environment, FingerprintError, GrantId, KeyId, Name, OrgId, ProjectId, SessionId, SessionSecret, Timestamp,
    ToolId,
};
use crate::session::records::{Grant, Session, Standing, Tool};
use crate::store::Find;
use crate::vault::key::Key;

/// A session.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Session)]
pub(super) struct View {
    id: String,
    environment: String,
    /// The id of the tool that it was bought for, if it was.
    tool: Option<String>,
    /// The networks from which it may be used; none stands for all.
    sources: Vec<String>,
    /// The SHA-256 of the client certificate that has to be shown to use it, in hexadecimal digits.
    client_certificate: Option<String>,
    /// `active`, `expired` or `revoked`.
    state: &'static str,
    #[schema(format = DateTime)]
    revoked_at: Option<String>,
    revoked_by: Option<String>,
    #[schema(format = DateTime)]
    created_at: String,
    #[schema(format = DateTime)]
    expires_at: String,
}

impl View {
    pub fn of(session: &Session, now: Timestamp) -> Self {
        let (revoked_at, revoked_by) = match &session.standing {
            Standing::Active => (None, None),
            Standing::Revoked { at, by } => (Some(at.to_string()), Some(by.clone())),
        };
        Self {
            id: session.id.to_string(),
            environment: session.environment.to_string(),
            tool: session.tool.map(|id| id.to_string()),
            sources: session.bounds.sources.iter().map(ToString::to_string).collect(),
            client_certificate: session.bounds.certificate.map(|fingerprint| fingerprint.to_string()),
            state: state(&session.standing, session.expires_at, now),
            revoked_at,
            revoked_by,
            created_at: session.created_at.to_string(),
            expires_at: session.expires_at.to_string(),
        }
    }
}

/// A word for how something stands.
pub(super) fn state(standing: &Standing, expires_at: Timestamp, now: Timestamp) -> &'static str {
    match standing {
        Standing::Revoked { .. } => "revoked",
        Standing::Active if now >= expires_at => "expired",
        Standing::Active => "active",
    }
}

/// A page of sessions.
#[derive(Serialize, ToSchema)]
#[schema(as = SessionList)]
pub(super) struct List {
    items: Vec<View>,
    /// Where the next page begins; null at the end.
    next: Option<String>,
}

/// A session with what is shown only once.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = StartedSession)]
pub(super) struct StartedView {
    #[serde(flatten)]
    session: View,
    /// The names of the keys that it may use.
    keys: Vec<String>,
    /// The user name of its proxy credentials.
    proxy_user: String,
    /// The password of its proxy credentials. It is shown only here.
    proxy_password: String,
}

/// A session to be started.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schema(as = NewSession)]
pub(super) struct New {
    /// The names of the keys that it may use.
    #[schema(min_items = 1, max_items = 50)]
    keys: Vec<String>,
    /// The tool that it is for, by id or name; its bounds hold.
    tool: Option<String>,
    /// Id or name; the tool's, or `default`, if absent.
    project: Option<String>,
    /// `development` if absent.
    #[schema(pattern = "^(development|staging|production)$")]
    environment: Option<String>,
    /// How long it lasts; an hour if absent.
    #[schema(minimum = 60, maximum = 2592000)]
    duration_seconds: Option<u32>,
    /// The networks from which it may be used, such as `10.0.0.0/8` or `192.0.2.7`; all if absent.
    #[schema(max_items = 50)]
    #[serde(default)]
    sources: Vec<String>,
    /// The SHA-256 of the client certificate without which it may not be used, in hexadecimal digits.
    client_certificate: Option<String>,
}

/// Which sessions.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    /// Only this tool's, by id or name.
    tool: Option<String>,
    /// Only what comes behind this id.
    after: Option<String>,
    /// At most so many.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u32>,
}

/// The most keys in a session.
const MAX_KEYS: usize = 50;

/// Names of keys, each once.
pub(super) fn key_names(texts: &[String]) -> Result<Vec<Name>, Problem> {
    if texts.is_empty() || texts.len() > MAX_KEYS {
        return Err(Problem::invalid("keys", format!("name between 1 and {MAX_KEYS} keys")));
    }
    let mut names = texts.iter().map(|t| name("keys", t)).collect::<Result<Vec<_>, _>>()?;
    names.sort();
    names.dedup();
    Ok(names)
}

/// A duration within its bounds.
pub(super) fn lasting(secs: Option<u32>) -> Result<u32, Problem> {
    match secs.unwrap_or(3600) {
        secs @ 60..=2_592_000 => Ok(secs),
        _ => Err(Problem::invalid("durationSeconds", "a session lasts between 60 seconds and 30 days")),
    }
}

/// The most networks of a session.
const MAX_SOURCES: usize = 50;

/// From where a session may be used.
fn bounds(sources: &[String], certificate: Option<&str>) -> Result<Bounds, Problem> {
    if sources.len() > MAX_SOURCES {
        return Err(Problem::invalid("sources", format!("name at most {MAX_SOURCES} networks")));
    }
    let network = |text: &String| {
        let one = || text.parse::<IpAddr>().map(|ip| IpNet::from(ip.to_canonical()));
        text.parse()
            .or_else(|_| one())
            .map_err(|_| Problem::invalid("sources", "it is a network such as 10.0.0.0/8, or an address".to_owned()))
    };
    let sources = sources.iter().map(network).collect::<Result<_, _>>()?;
    let certificate = certificate.map(str::parse).transpose();
    let certificate =
        certificate.map_err(|why: FingerprintError| Problem::invalid("clientCertificate", why.to_string()))?;
    Ok(Bounds { sources, certificate })
}

/// What a session is to be.
pub(super) struct Wanted<'a> {
    pub org: OrgId,
    pub project: ProjectId,
    pub tool: Option<ToolId>,
    pub environment: Environment,
    pub keys: &'a [Name],
    pub secs: u32,
    pub bounds: Bounds,
}

/// A session on its way into the store.
pub(super) struct Fresh {
    pub session: Session,
    pub grants: Vec<Grant>,
    secret: SessionSecret,
}

impl Fresh {
    /// What is shown of it once.
    pub fn shown(&self, keys: &[Name], now: Timestamp) -> StartedView {
        StartedView {
            session: View::of(&self.session, now),
            keys: keys.iter().map(ToString::to_string).collect(),
            proxy_user: self.session.id.to_string(),
            proxy_password: self.secret.expose().to_owned(),
        }
    }

    /// Adds it to a batch.
    pub fn added_to(&self, batch: crate::store::Batch) -> crate::store::Batch {
        self.grants.iter().fold(batch.insert(&self.session), |batch, grant| batch.insert(grant))
    }
}

/// Looks the keys up and makes session and grants.
pub(super) async fn prepare(admin: &Admin, wanted: &Wanted<'_>) -> Result<Fresh, Problem> {
    let now = admin.clock.now();
    let mut keys: Vec<KeyId> = Vec::new();
    for name in wanted.keys {
        let find = Find::all().with("project_id", wanted.project).with("environment", wanted.environment);
        let key: Option<Key> = admin.store.find(wanted.org, find.with("name", name).limit(1)).await?.pop();
        match key {
            None => {
                let why =
                    format!("there is no key {name} in this project and environment; `sallyport keys list` shows them");
                return Err(Problem::invalid("keys", why));
            }
            Some(key) => match key.out_of_use(now) {
                Some(why) => return Err(Problem::conflict(why)),
                None => keys.push(key.id),
            },
        }
    }
    let secret = SessionSecret::generate().map_err(|_| Problem::internal())?;
    let session = Session {
        id: SessionId::generate(),
        org: wanted.org,
        project: wanted.project,
        environment: wanted.environment,
        tool: wanted.tool,
        secret: secret.hash(),
        bounds: wanted.bounds.clone(),
        standing: Standing::Active,
        created_at: now,
        expires_at: now.plus(Duration::from_secs(wanted.secs.into())),
    };
    let grant = |key| Grant { id: GrantId::generate(), org: wanted.org, session: session.id, key, created_at: now };
    Ok(Fresh { grants: keys.into_iter().map(grant).collect(), session, secret })
}

pub(super) async fn find(admin: &Admin, org: OrgId, id: &str) -> Result<Session, Problem> {
    let id: SessionId = id.parse().map_err(|_| Problem::missing("session"))?;
    admin.store.get(org, id).await?.ok_or_else(|| Problem::missing("session"))
}

/// List sessions
#[utoipa::path(get, operation_id = "sessions_list", path = "/api/v1/mcp/sessions", tag = "sessions", params(Which),
    responses((status = 200, description = "Done", body = List), (status = "4XX", description = "Refused, and why", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn list(
    Shared(admin): Shared<State>,
    caller: Caller,
    Query(which): Query<Which>,
) -> Result<Json<List>, Problem> {
    let most = limit(which.limit)?;
    let mut wanted = Find::all().after(Paging { after: which.after, limit: None }.after()?).limit(most);
    if let Some(tool) = &which.tool {
        let tool: Tool = admin.by_id_or_name(caller.org(), tool, "tool").await?;
        wanted = wanted.with("tool_id", tool.id);
    }
    let all: Vec<Session> = admin.store.find(caller.org(), wanted).await?;
    let next = (all.len() == most as usize).then(|| all.last().map(|s| s.id.to_string())).flatten();
    let now = admin.clock.now();
    Ok(Json(List { items: all.iter().map(|s| View::of(s, now)).collect(), next }))
}

/// Start a session
#[utoipa::path(post, operation_id = "sessions_start", path = "/api/v1/mcp/sessions", tag = "sessions", request_body = New,
    responses((status = 201, description = "Made", body = StartedView), (status = "4XX", description = "Refused, and why", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn start(
    Shared(admin): Shared<State>,
    caller: Caller,
    Body(new): Body<New>,
) -> Result<(StatusCode, Json<StartedView>), Problem> {
    let org = caller.org();
    let keys = key_names(&new.keys)?;
    let environment = environment(new.environment.as_deref())?;
    let secs = lasting(new.duration_seconds)?;
    let bounds = bounds(&new.sources, new.client_certificate.as_deref())?;
    let tool: Option<Tool> = match &new.tool {
        Some(tool) => Some(admin.by_id_or_name(org, tool, "tool").await?),
        None => None,
    };
    let project = match (&new.project, &tool) {
        (None, Some(tool)) => tool.project,
        (wanted, _) => admin.project(org, wanted.as_deref()).await?.id,
    };
    if let Some(tool) = &tool {
        if tool.project != project {
            return Err(Problem::invalid("tool", "it belongs to another project"));
        }
        if let Some(why) = tool.refuses(&keys, environment, secs) {
            return Err(Problem::conflict(why));
        }
    }
    let tool = tool.map(|t| t.id);
    let fresh = prepare(&admin, &Wanted { org, project, tool, environment, keys: &keys, secs, bounds }).await?;
    let mut detail = format!("keys={} seconds={secs}", keys.iter().map(Name::as_str).collect::<Vec<_>>().join(","));
    let Bounds { sources, certificate } = &fresh.session.bounds;
    if !sources.is_empty() {
        let all: Vec<_> = sources.iter().map(ToString::to_string).collect();
        detail.push_str(&format!(" sources={}", all.join(",")));
    }
    if let Some(certificate) = certificate {
        detail.push_str(&format!(" client_certificate={certificate}"));
    }
    let what = Action { action: "session_start", subject: &fresh.session.id.to_string(), detail: &detail };
    admin.commit(&caller, what, fresh.added_to(admin.store.batch(org))).await?;
    Ok((StatusCode::CREATED, Json(fresh.shown(&keys, admin.clock.now()))))
}

/// Show a session
#[utoipa::path(get, operation_id = "sessions_show", path = "/api/v1/mcp/sessions/{id}", tag = "sessions", params(("id" = String, Path, description = "id")),
    responses((status = 200, description = "Done", body = View), (status = "4XX", description = "Refused, and why", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn show(
    Shared(admin): Shared<State>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<View>, Problem> {
    Ok(Json(View::of(&find(&admin, caller.org(), &id).await?, admin.clock.now())))
}

/// Revoke a session and everything in it
///
/// Exchanges that run are aborted.
#[utoipa::path(delete, operation_id = "sessions_revoke", path = "/api/v1/mcp/sessions/{id}", tag = "sessions", params(("id" = String, Path, description = "id")),
    responses((status = 200, description = "Done", body = View), (status = "4XX", description = "Refused, and why", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn revoke(
    Shared(admin): Shared<State>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<View>, Problem> {
    let before = find(&admin, caller.org(), &id).await?;
    let now = admin.clock.now();
    if before.standing != Standing::Active {
        return Ok(Json(View::of(&before, now)));
    }
    let after = Session { standing: Standing::Revoked { at: now, by: caller.name().to_owned() }, ..before.clone() };
    let what = Action { action: "session_revoke", subject: &before.id.to_string(), detail: "" };
    admin.commit(&caller, what, admin.store.batch(caller.org()).update(&before, &after)).await?;
    Ok(Json(View::of(&after, now)))
}
