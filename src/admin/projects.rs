//! `/api/v1/projects`

use axum::Json;
use axum::extract::{Path, State as Shared};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::auth::Caller;
use super::body::{Body, Paging, Query, name, text};
use super::{Action, Problem, State};
use crate::model::ProjectId;
use crate::session::records::Project;
use crate::store::Find;

/// A project.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Project)]
pub(super) struct View {
    id: String,
    name: String,
    description: String,
    #[schema(format = DateTime)]
    created_at: String,
}

impl From<Project> for View {
    fn from(p: Project) -> Self {
        Self {
            id: p.id.to_string(),
            name: p.name.to_string(),
            description: p.description,
            created_at: p.created_at.to_string(),
        }
    }
}

/// A page of projects.
#[derive(Serialize, ToSchema)]
#[schema(as = ProjectList)]
pub(super) struct List {
    items: Vec<View>,
    /// Where the next page begins; null at the end.
    next: Option<String>,
}

/// A project to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewProject)]
pub(super) struct New {
    /// 1 to 64 of a-z, 0-9, '_', '-' and '.'
    #[schema(pattern = "^[a-z0-9][a-z0-9_.-]{0,63}$")]
    name: String,
    /// What it is for; at most 1000 characters.
    #[serde(default)]
    #[schema(max_length = 1000)]
    description: String,
}

/// What is changed about a project; what is absent stays.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ProjectEdit)]
pub(super) struct Edit {
    #[schema(pattern = "^[a-z0-9][a-z0-9_.-]{0,63}$")]
    name: Option<String>,
    #[schema(max_length = 1000)]
    description: Option<String>,
}

/// List projects
#[utoipa::path(get, operation_id = "projects_list", path = "/api/v1/projects", tag = "projects", params(Paging),
    responses((status = 200, description = "Done", body = List), (status = "4XX", description = "Refused, and why", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn list(
    Shared(admin): Shared<State>,
    caller: Caller,
    Query(paging): Query<Paging>,
) -> Result<Json<List>, Problem> {
    let limit = paging.limit()?;
    let all: Vec<Project> = admin.store.find(caller.org(), Find::all().after(paging.after()?).limit(limit)).await?;
    let next = (all.len() == limit as usize).then(|| all.last().map(|p| p.id.to_string())).flatten();
    Ok(Json(List { items: all.into_iter().map(View::from).collect(), next }))
}

/// Make a project
#[utoipa::path(post, operation_id = "projects_create", path = "/api/v1/projects", tag = "projects", request_body = New,
    responses((status = 201, description = "Made", body = View), (status = "4XX", description = "Refused, and why", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn create(
    Shared(admin): Shared<State>,
    caller: Caller,
    Body(new): Body<New>,
) -> Result<(StatusCode, Json<View>), Problem> {
    let project = Project {
        id: ProjectId::generate(),
        org: caller.org(),
        name: name("name", &new.name)?,
        description: text("description", &new.description)?,
        created_at: admin.clock.now(),
    };
    let what = Action { action: "project_create", subject: &project.id.to_string(), detail: project.name.as_str() };
    let batch = admin.store.batch(caller.org()).insert(&project);
    admin.commit(&caller, what, batch).await.map_err(|problem| problem.taken(taken(&project)))?;
    Ok((StatusCode::CREATED, Json(project.into())))
}

/// Show a project
#[utoipa::path(get, operation_id = "projects_show", path = "/api/v1/projects/{id}", tag = "projects", params(("id" = String, Path, description = "id or name")),
    responses((status = 200, description = "Done", body = View), (status = "4XX", description = "Refused, and why", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn show(
    Shared(admin): Shared<State>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<View>, Problem> {
    Ok(Json(admin.project(caller.org(), Some(&id)).await?.into()))
}

/// Change a project
#[utoipa::path(put, operation_id = "projects_edit", path = "/api/v1/projects/{id}", tag = "projects", params(("id" = String, Path, description = "id or name")),
    request_body = Edit,
    responses((status = 200, description = "Done", body = View), (status = "4XX", description = "Refused, and why", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn edit(
    Shared(admin): Shared<State>,
    caller: Caller,
    Path(id): Path<String>,
    Body(edit): Body<Edit>,
) -> Result<Json<View>, Problem> {
    let before = admin.project(caller.org(), Some(&id)).await?;
    let mut after = before.clone();
    if let Some(new) = &edit.name {
        after.name = name("name", new)?;
    }
    if let Some(new) = &edit.description {
        after.description = text("description", new)?;
    }
    let what = Action { action: "project_edit", subject: &before.id.to_string(), detail: after.name.as_str() };
    let batch = admin.store.batch(caller.org()).update(&before, &after);
    admin.commit(&caller, what, batch).await.map_err(|problem| problem.taken(taken(&after)))?;
    Ok(Json(after.into()))
}

/// Delete a project that holds nothing
#[utoipa::path(delete, operation_id = "projects_delete", path = "/api/v1/projects/{id}", tag = "projects", params(("id" = String, Path, description = "id or name")),
    responses((status = 204, description = "Gone"), (status = "4XX", description = "Refused, and why", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn delete(
    Shared(admin): Shared<State>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    let project = admin.project(caller.org(), Some(&id)).await?;
    let what = Action { action: "project_delete", subject: &project.id.to_string(), detail: project.name.as_str() };
    admin.commit(&caller, what, admin.store.batch(caller.org()).delete(&project)).await.map_err(|problem| {
        problem
            .referred(format!("the project {} holds keys, tools or sessions; delete what it holds first", project.name))
    })?;
    Ok(StatusCode::NO_CONTENT)
}

fn taken(project: &Project) -> String {
    format!("a project {} is there already", project.name)
}
