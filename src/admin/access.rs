//! `/api/v1/mcp/access-requests`

use axum::Json;
use axum::extract::{Path, State as Shared};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::auth::Caller;
use super::body::{Body, Paging, Query, environment, text};
use super::sessions::{StartedView, Wanted, key_names, lasting, prepare};
use super::{Action, Problem, State};
use crate::model::{Bounds, Name, RequestId};
use crate::session::records::{AccessRequest, Project, RequestState, Tool};
use crate::store::Find;

/// An access request.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = AccessRequest)]
pub(super) struct View {
    id: String,
    /// The id of the tool that asks.
    tool: String,
    environment: String,
    keys: Vec<String>,
    justification: String,
    duration_seconds: u32,
    /// `pending`, `approved`, `denied` or `expired`.
    state: &'static str,
    /// Who or what decided, and why; empty while it waits.
    decided_by: String,
    /// The id of the session that it bought.
    session: Option<String>,
    #[schema(format = DateTime)]
    created_at: String,
    #[schema(format = DateTime)]
    decided_at: Option<String>,
}

impl From<&AccessRequest> for View {
    fn from(request: &AccessRequest) -> Self {
        Self {
            id: request.id.to_string(),
            tool: request.tool.to_string(),
            environment: request.environment.to_string(),
            keys: request.keys.iter().map(ToString::to_string).collect(),
            justification: request.justification.clone(),
            duration_seconds: request.duration_secs,
            state: match request.state {
                RequestState::Pending => "pending",
                RequestState::Approved => "approved",
                RequestState::Denied => "denied",
                RequestState::Expired => "expired",
            },
            decided_by: request.decided_by.clone(),
            session: request.session.map(|id| id.to_string()),
            created_at: request.created_at.to_string(),
            decided_at: request.decided_at.map(|at| at.to_string()),
        }
    }
}

/// A page of access requests.
#[derive(Serialize, ToSchema)]
#[schema(as = AccessRequestList)]
pub(super) struct List {
    items: Vec<View>,
    /// Where the next page begins; null at the end.
    next: Option<String>,
}

/// An access request, and the session if policy approved it by itself.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = AccessAnswer)]
pub(super) struct Answer {
    request: View,
    /// What the request bought, with the password that is shown only here.
    started: Option<StartedView>,
}

/// A tool asks for keys for a while.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schema(as = NewAccessRequest)]
pub(super) struct New {
    /// The tool, by id or name.
    tool: String,
    /// The names of the keys.
    #[schema(min_items = 1, max_items = 50)]
    keys: Vec<String>,
    /// `development` if absent.
    #[schema(pattern = "^(development|staging|production)$")]
    environment: Option<String>,
    /// Why.
    #[schema(min_length = 1, max_length = 1000)]
    justification: String,
    /// For how long; an hour if absent.
    #[schema(minimum = 60, maximum = 2592000)]
    duration_seconds: Option<u32>,
}

/// List access requests
#[utoipa::path(get, operation_id = "access_list", path = "/api/v1/mcp/access-requests", tag = "access requests", params(Paging),
    responses((status = 200, description = "Done", body = List), (status = "4XX", description = "Refused, and why", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn list(
    Shared(admin): Shared<State>,
    caller: Caller,
    Query(paging): Query<Paging>,
) -> Result<Json<List>, Problem> {
    let limit = paging.limit()?;
    let wanted = Find::all().after(paging.after()?).limit(limit);
    let all: Vec<AccessRequest> = admin.store.find(caller.org(), wanted).await?;
    let next = (all.len() == limit as usize).then(|| all.last().map(|r| r.id.to_string())).flatten();
    Ok(Json(List { items: all.iter().map(View::from).collect(), next }))
}

/// Ask for keys
///
/// The tool's own bounds and the policies decide. What they approve becomes a session at once; what
/// needs a person stays pending.
#[utoipa::path(post, operation_id = "access_request", path = "/api/v1/mcp/access-requests", tag = "access requests", request_body = New,
    responses((status = 201, description = "Made", body = Answer), (status = "4XX", description = "Refused, and why", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn request(
    Shared(admin): Shared<State>,
    caller: Caller,
    Body(new): Body<New>,
) -> Result<(StatusCode, Json<Answer>), Problem> {
    let org = caller.org();
    let tool: Tool = admin.by_id_or_name(org, &new.tool, "tool").await?;
    let project: Project = admin.project(org, Some(&tool.project.to_string())).await?;
    let keys = key_names(&new.keys)?;
    let environment = environment(new.environment.as_deref())?;
    let secs = lasting(new.duration_seconds)?;
    let justification = text("justification", &new.justification)?;
    if justification.trim().is_empty() {
        return Err(Problem::invalid("justification", "say why the keys are needed"));
    }
    let now = admin.clock.now();
    let mut request = AccessRequest {
        id: RequestId::generate(),
        org,
        project: tool.project,
        tool: tool.id,
        environment,
        keys: keys.clone(),
        justification,
        duration_secs: secs,
        state: RequestState::Pending,
        decided_by: String::new(),
        session: None,
        created_at: now,
        decided_at: None,
    };
    let mut batch = admin.store.batch(org);
    let mut fresh = None;
    if let Some(why) = tool.refuses(&keys, environment, secs) {
        request.state = RequestState::Denied;
        request.decided_by = format!("policy: {why}");
        request.decided_at = Some(now);
    } else if admin.policies.current().approves(&keys, environment, &tool.name, &project.name) {
        let wanted = Wanted {
            org,
            project: tool.project,
            tool: Some(tool.id),
            environment,
            keys: &keys,
            secs,
            bounds: Bounds::default(),
        };
        let made = prepare(&admin, &wanted).await?;
        request.state = RequestState::Approved;
        request.decided_by = "policy".to_owned();
        request.decided_at = Some(now);
        request.session = Some(made.session.id);
        batch = made.added_to(batch);
        fresh = Some(made);
    }
    let view = View::from(&request);
    let detail = format!(
        "{} tool={} keys={} seconds={secs}",
        view.state,
        tool.name,
        keys.iter().map(Name::as_str).collect::<Vec<_>>().join(",")
    );
    let what = Action { action: "access_request", subject: &request.id.to_string(), detail: &detail };
    admin.commit(&caller, what, batch.insert(&request)).await?;
    let started = fresh.map(|made| made.shown(&keys, now));
    Ok((StatusCode::CREATED, Json(Answer { request: view, started })))
}

/// Show an access request
#[utoipa::path(get, operation_id = "access_show", path = "/api/v1/mcp/access-requests/{id}", tag = "access requests",
    params(("id" = String, Path, description = "id")),
    responses((status = 200, description = "Done", body = View), (status = "4XX", description = "Refused, and why", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn show(
    Shared(admin): Shared<State>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<View>, Problem> {
    let id: RequestId = id.parse().map_err(|_| Problem::missing("access request"))?;
    let found: Option<AccessRequest> = admin.store.get(caller.org(), id).await?;
    found.as_ref().map(|r| Json(View::from(r))).ok_or_else(|| Problem::missing("access request"))
}
