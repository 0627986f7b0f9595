//! `/api/v1/mcp/tools`

use std::collections::HashMap;

use axum::Json;
use axum::extract::{Path, State as Shared};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::auth::Caller;
use super::body::{Body, Paging, Query, name, text};
use super::{Action, Admin, Problem, State};
use crate::model::{Environment, Name, OrgId, ToolId};
use crate::session::records::{Session, Standing, Tool};
use crate::store::Find;

/// A registered agent program.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Tool)]
pub(super) struct View {
    id: String,
    name: String,
    project: String,
    description: String,
    /// The names of the keys that it may ask for; `*` stands for every key of the project.
    keys: Vec<String>,
    environments: Vec<String>,
    /// The longest session that it may ask for.
    max_session_seconds: u32,
    enabled: bool,
    #[schema(format = DateTime)]
    created_at: String,
}

impl View {
    fn of(tool: &Tool, projects: &HashMap<String, String>) -> Self {
        let project = tool.project.to_string();
        Self {
            id: tool.id.to_string(),
            name: tool.name.to_string(),
            project: projects.get(&project).cloned().unwrap_or(project),
            description: tool.description.clone(),
            keys: tool.keys.clone(),
            environments: tool.environments.iter().map(ToString::to_string).collect(),
            max_session_seconds: tool.max_session_secs,
            enabled: tool.enabled,
            created_at: tool.created_at.to_string(),
        }
    }
}

/// A page of tools.
#[derive(Serialize, ToSchema)]
#[schema(as = ToolList)]
pub(super) struct List {
    items: Vec<View>,
    /// Where the next page begins; null at the end.
    next: Option<String>,
}

/// A tool to be registered.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schema(as = NewTool)]
pub(super) struct New {
    /// 1 to 64 of a-z, 0-9, '_', '-' and '.'
    #[schema(pattern = "^[a-z0-9][a-z0-9_.-]{0,63}$")]
    name: String,
    /// Id or name; `default` if absent.
    project: Option<String>,
    #[serde(default)]
    #[schema(max_length = 1000)]
    description: String,
    /// The names of the keys that it may ask for; `*` alone stands for every key of the project.
    #[schema(max_items = 100)]
    keys: Vec<String>,
    /// `development` alone if absent.
    #[schema(max_items = 3)]
    environments: Option<Vec<String>>,
    /// The longest session that it may ask for; an hour if absent.
    #[schema(minimum = 60, maximum = 2592000)]
    max_session_seconds: Option<u32>,
}

/// What is changed about a tool; what is absent stays. A disabled tool's sessions end at once.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schema(as = ToolEdit)]
pub(super) struct Edit {
    #[schema(max_length = 1000)]
    description: Option<String>,
    #[schema(max_items = 100)]
    keys: Option<Vec<String>>,
    #[schema(max_items = 3)]
    environments: Option<Vec<String>>,
    #[schema(minimum = 60, maximum = 2592000)]
    max_session_seconds: Option<u32>,
    enabled: Option<bool>,
}

fn keys(texts: &[String]) -> Result<Vec<String>, Problem> {
    if texts.len() > 100 {
        return Err(Problem::invalid("keys", "name at most 100 keys, or `*` for all"));
    }
    if texts == ["*"] {
        return Ok(texts.to_vec());
    }
    texts.iter().map(|t| Ok(name("keys", t)?.to_string())).collect()
}

fn environments(texts: &[String]) -> Result<Vec<Environment>, Problem> {
    if texts.is_empty() || texts.len() > 3 {
        return Err(Problem::invalid("environments", "give between 1 and 3 environments"));
    }
    texts.iter().map(|t| super::body::environment(Some(t))).collect()
}

fn lasting(secs: u32) -> Result<u32, Problem> {
    match secs {
        60..=2_592_000 => Ok(secs),
        _ => Err(Problem::invalid("maxSessionSeconds", "a session lasts between 60 seconds and 30 days")),
    }
}

async fn find(admin: &Admin, org: OrgId, wanted: &str) -> Result<Tool, Problem> {
    admin.by_id_or_name(org, wanted, "tool").await
}

/// List tools
#[utoipa::path(get, operation_id = "tools_list", path = "/api/v1/mcp/tools", tag = "tools", params(Paging),
    responses((status = 200, description = "Done", body = List), (status = "4XX", description = "Refused, and why", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn list(
    Shared(admin): Shared<State>,
    caller: Caller,
    Query(paging): Query<Paging>,
) -> Result<Json<List>, Problem> {
    let limit = paging.limit()?;
    let all: Vec<Tool> = admin.store.find(caller.org(), Find::all().after(paging.after()?).limit(limit)).await?;
    let next = (all.len() == limit as usize).then(|| all.last().map(|t| t.id.to_string())).flatten();
    let projects = admin.project_names(caller.org()).await?;
    Ok(Json(List { items: all.iter().map(|t| View::of(t, &projects)).collect(), next }))
}

/// Register a tool
#[utoipa::path(post, operation_id = "tools_register", path = "/api/v1/mcp/tools", tag = "tools", request_body = New,
    responses((status = 201, description = "Made", body = View), (status = "4XX", description = "Refused, and why", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn register(
    Shared(admin): Shared<State>,
    caller: Caller,
    Body(new): Body<New>,
) -> Result<(StatusCode, Json<View>), Problem> {
    let tool = Tool {
        id: ToolId::generate(),
        org: caller.org(),
        project: admin.project(caller.org(), new.project.as_deref()).await?.id,
        name: name("name", &new.name)?,
        description: text("description", &new.description)?,
        keys: keys(&new.keys)?,
        environments: new.environments.as_deref().map_or(Ok(vec![Environment::Development]), environments)?,
        max_session_secs: lasting(new.max_session_seconds.unwrap_or(3600))?,
        enabled: true,
        created_at: admin.clock.now(),
    };
    let what = Action { action: "tool_register", subject: &tool.id.to_string(), detail: tool.name.as_str() };
    let batch = admin.store.batch(caller.org()).insert(&tool);
    admin.commit(&caller, what, batch).await.map_err(|problem| {
        problem.taken(format!("a tool {} is there already; `sallyport tools show {0}` shows it", tool.name))
    })?;
    Ok((StatusCode::CREATED, Json(View::of(&tool, &admin.project_names(caller.org()).await?))))
}

/// Show a tool
#[utoipa::path(get, operation_id = "tools_show", path = "/api/v1/mcp/tools/{id}", tag = "tools", params(("id" = String, Path, description = "id or name")),
    responses((status = 200, description = "Done", body = View), (status = "4XX", description = "Refused, and why", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn show(
    Shared(admin): Shared<State>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<View>, Problem> {
    let tool = find(&admin, caller.org(), &id).await?;
    Ok(Json(View::of(&tool, &admin.project_names(caller.org()).await?)))
}

/// Change a tool
#[utoipa::path(put, operation_id = "tools_edit", path = "/api/v1/mcp/tools/{id}", tag = "tools", params(("id" = String, Path, description = "id or name")),
    request_body = Edit,
    responses((status = 200, description = "Done", body = View), (status = "4XX", description = "Refused, and why", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn edit(
    Shared(admin): Shared<State>,
    caller: Caller,
    Path(id): Path<String>,
    Body(edit): Body<Edit>,
) -> Result<Json<View>, Problem> {
    let before = find(&admin, caller.org(), &id).await?;
    let mut after = before.clone();
    if let Some(new) = &edit.description {
        after.description = text("description", new)?;
    }
    if let Some(new) = &edit.keys {
        after.keys = keys(new)?;
    }
    if let Some(new) = &edit.environments {
        after.environments = environments(new)?;
    }
    if let Some(secs) = edit.max_session_seconds {
        after.max_session_secs = lasting(secs)?;
    }
    after.enabled = edit.enabled.unwrap_or(before.enabled);
    let mut batch = admin.store.batch(caller.org()).update(&before, &after);
    if before.enabled && !after.enabled {
        let now = admin.clock.now();
        let sessions: Vec<Session> = admin.every(caller.org(), || Find::all().with("tool_id", before.id)).await?;
        for session in sessions.iter().filter(|s| s.standing == Standing::Active && s.expires_at > now) {
            let standing = Standing::Revoked { at: now, by: caller.name().to_owned() };
            batch = batch.update(session, &Session { standing, ..session.clone() });
        }
    }
    let detail = format!("{} enabled={}", after.name, after.enabled);
    let what = Action { action: "tool_edit", subject: &before.id.to_string(), detail: &detail };
    admin.commit(&caller, what, batch).await?;
    Ok(Json(View::of(&after, &admin.project_names(caller.org()).await?)))
}

/// Delete a tool that never had a session
///
/// One that had is kept for the record: disable it.
#[utoipa::path(delete, operation_id = "tools_delete", path = "/api/v1/mcp/tools/{id}", tag = "tools", params(("id" = String, Path, description = "id or name")),
    responses((status = 204, description = "Gone"), (status = "4XX", description = "Refused, and why", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn delete(
    Shared(admin): Shared<State>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    let tool = find(&admin, caller.org(), &id).await?;
    let what = Action { action: "tool_delete", subject: &tool.id.to_string(), detail: tool.name.as_str() };
    admin.commit(&caller, what, admin.store.batch(caller.org()).delete(&tool)).await?;
    Ok(StatusCode::NO_CONTENT)
}

impl Tool {
    /// Why the tool may never ask for this, if it may not.
    pub(super) fn refuses(&self, keys: &[Name], environment: Environment, secs: u32) -> Option<String> {
        if !self.enabled {
            return Some("the tool is disabled".to_owned());
        }
        if !self.environments.contains(&environment) {
            return Some(format!("the tool may not ask for {environment}"));
        }
        if secs > self.max_session_secs {
            return Some(format!("the tool may ask for {} seconds at most", self.max_session_secs));
        }
        let all = self.keys == ["*"];
        let strange = keys.iter().find(|key| !all && !self.keys.iter().any(|k| k == key.as_str()));
        strange.map(|key| format!("the tool may not ask for the key {key}"))
    }
}
