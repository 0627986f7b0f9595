//! `/api/v1/api-keys`

mod check;
mod shapes;

use std::collections::HashMap;

use axum::Json;
use axum::extract::{Path, State as Shared};
use axum::http::StatusCode;

use self::check::{check_endpoint, check_slots, cleartext, doubts, hosts, placed, slots, token_endpoint};
use self::shapes::{Edit, List, New, Rotation, View, Which};
use super::auth::Caller;
use super::body::{Body, Query, environment, limit, name, still_to_come};
use super::{Action, Admin, Problem, State};
use crate::credential;
use crate::model::{HostPattern, KeyId, OrgId};
use crate::store::Find;
use crate::vault::key::{Key, KeyState, SealedVersion};

pub(super) async fn find(admin: &Admin, org: OrgId, wanted: &str) -> Result<Key, Problem> {
    admin.by_id_or_name(org, wanted, "key").await
}

/// List keys
#[utoipa::path(get, operation_id = "keys_list", path = "/api/v1/api-keys", tag = "keys", params(Which),
    responses((status = 200, description = "Done", body = List), (status = "4XX", description = "Refused, and why", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn list(
    Shared(admin): Shared<State>,
    caller: Caller,
    Query(which): Query<Which>,
) -> Result<Json<List>, Problem> {
    let most = limit(which.limit)?;
    let after = super::body::Paging { after: which.after, limit: None }.after()?;
    let mut wanted = Find::all().after(after).limit(most);
    if let Some(project) = &which.project {
        wanted = wanted.with("project_id", admin.project(caller.org(), Some(project)).await?.id);
    }
    if let Some(text) = &which.environment {
        wanted = wanted.with("environment", environment(Some(text))?);
    }
    let all: Vec<Key> = admin.store.find(caller.org(), wanted).await?;
    let next = (all.len() == most as usize).then(|| all.last().map(|k| k.id.to_string())).flatten();
    let projects = admin.project_names(caller.org()).await?;
    Ok(Json(List { items: all.iter().map(|key| View::of(key, &projects)).collect(), next }))
}

/// Store a key
#[utoipa::path(post, operation_id = "keys_create", path = "/api/v1/api-keys", tag = "keys", request_body = New,
    responses((status = 201, description = "Made", body = View), (status = "4XX", description = "Refused, and why", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn create(
    Shared(admin): Shared<State>,
    caller: Caller,
    Body(new): Body<New>,
) -> Result<(StatusCode, Json<View>), Problem> {
    let (provider, kind, destination, shape) = placed(&admin, &new)?;
    let secret = credential::document(kind, new.value.take()).map_err(|why| Problem::invalid("value", why))?;
    let token_endpoint = token_endpoint(kind, &secret, &destination)?;
    let now = admin.clock.now();
    let warnings = doubts(kind, &secret, &destination, now)?;
    let key = Key {
        id: KeyId::generate(),
        org: caller.org(),
        project: admin.project(caller.org(), new.project.as_deref()).await?.id,
        environment: environment(new.environment.as_deref())?,
        name: name("name", &new.name)?,
        provider,
        kind,
        token_endpoint,
        destination,
        shape,
        state: KeyState::Enabled,
        version: 1,
        given: 1,
        created_at: now,
        updated_at: now,
        expires_at: new.expires_at.as_deref().map(|at| still_to_come("expiresAt", at, now)).transpose()?,
    };
    let sealed = admin.vault.seal(&key, 1, &secret).map_err(|why| Problem::invalid("value", why))?;
    let what = Action { action: "key_create", subject: &key.id.to_string(), detail: key.name.as_str() };
    let batch = admin.store.batch(caller.org()).insert(&key).insert(&sealed);
    admin.commit(&caller, what, batch).await.map_err(|problem| {
        let name = &key.name;
        problem.taken(format!("a key {name} is there already; `sallyport keys rotate {name}` gives it a new value"))
    })?;
    let projects = admin.project_names(caller.org()).await?;
    Ok((StatusCode::CREATED, Json(View::of(&key, &projects).warned(warnings))))
}

/// Show a key
#[utoipa::path(get, operation_id = "keys_show", path = "/api/v1/api-keys/{id}", tag = "keys", params(("id" = String, Path, description = "id or name")),
    responses((status = 200, description = "Done", body = View), (status = "4XX", description = "Refused, and why", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn show(
    Shared(admin): Shared<State>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<View>, Problem> {
    let key = find(&admin, caller.org(), &id).await?;
    Ok(Json(View::of(&key, &admin.project_names(caller.org()).await?)))
}

/// Change a key
///
/// A changed destination is bound into the sealed secret anew.
#[utoipa::path(put, operation_id = "keys_edit", path = "/api/v1/api-keys/{id}", tag = "keys", params(("id" = String, Path, description = "id or name")),
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
    if let Some(new) = &edit.name {
        after.name = name("name", new)?;
    }
    if let Some(new) = &edit.hosts {
        after.destination.hosts = hosts(new)?;
    }
    if let Some(new) = &edit.slots {
        after.destination.slots = slots(new)?;
    }
    if let Some(new) = &edit.cleartext {
        after.destination.cleartext = cleartext(new)?;
    }
    check_slots(after.kind, &after.destination)?;
    check_endpoint(after.token_endpoint.as_ref(), &after.destination)?;
    match edit.state.as_deref() {
        None => {}
        Some("enabled") => after.state = KeyState::Enabled,
        Some("disabled") => after.state = KeyState::Disabled,
        Some(_) => return Err(Problem::invalid("state", "it is enabled or disabled")),
    }
    match edit.expires_at.as_deref() {
        None => {}
        Some("") => after.expires_at = None,
        Some(at) => after.expires_at = Some(still_to_come("expiresAt", at, admin.clock.now())?),
    }
    after.updated_at = admin.clock.now();
    let mut batch = admin.store.batch(caller.org());
    if after.destination != before.destination {
        let versions: Vec<SealedVersion> = admin.every(caller.org(), || Find::all().with("key_id", before.id)).await?;
        if !versions.iter().any(|version| version.version == before.version) {
            return Err(Problem::conflict("the key's version in force is missing; nothing was changed"));
        }
        for version in versions {
            let again = admin.vault.reseal(&before, &version, &after).map_err(|why| {
                tracing::error!(key.id = %before.id, error = %why, "a key can't be sealed anew");
                Problem::conflict(why.to_string())
            })?;
            batch = batch.update(&version, &again);
        }
    }
    let detail = format!(
        "{} state={} hosts={}",
        after.name,
        View::of(&after, &HashMap::new()).state,
        listed(&after.destination.hosts)
    );
    let what = Action { action: "key_edit", subject: &before.id.to_string(), detail: &detail };
    let taken = format!("a key {} is there already", after.name);
    admin.commit(&caller, what, batch.update(&before, &after)).await.map_err(|problem| problem.taken(taken))?;
    Ok(Json(View::of(&after, &admin.project_names(caller.org()).await?)))
}

fn listed(hosts: &[HostPattern]) -> String {
    hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// Delete a key, its versions and its tokens
#[utoipa::path(delete, operation_id = "keys_delete", path = "/api/v1/api-keys/{id}", tag = "keys", params(("id" = String, Path, description = "id or name")),
    responses((status = 204, description = "Gone"), (status = "4XX", description = "Refused, and why", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn delete(
    Shared(admin): Shared<State>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    let key = find(&admin, caller.org(), &id).await?;
    let what = Action { action: "key_delete", subject: &key.id.to_string(), detail: key.name.as_str() };
    admin.commit(&caller, what, admin.store.batch(caller.org()).delete(&key)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Give a key a new value; tokens and sessions stay
#[utoipa::path(post, operation_id = "keys_rotate", path = "/api/v1/api-keys/{id}/rotate", tag = "keys",
    params(("id" = String, Path, description = "id or name")), request_body = Rotation,
    responses((status = 200, description = "Done", body = View), (status = "4XX", description = "Refused, and why", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn rotate(
    Shared(admin): Shared<State>,
    caller: Caller,
    Path(id): Path<String>,
    Body(rotation): Body<Rotation>,
) -> Result<Json<View>, Problem> {
    let before = find(&admin, caller.org(), &id).await?;
    let secret = credential::document(before.kind, rotation.value.take());
    let secret = secret.map_err(|why| Problem::invalid("value", why))?;
    let warnings = doubts(before.kind, &secret, &before.destination, admin.clock.now())?;
    let version = before.version.saturating_add(1);
    let after = Key {
        version,
        given: version,
        token_endpoint: token_endpoint(before.kind, &secret, &before.destination)?,
        updated_at: admin.clock.now(),
        ..before.clone()
    };
    let sealed = admin.vault.seal(&after, after.version, &secret);
    let sealed = sealed.map_err(|why| Problem::invalid("value", why))?;
    let detail = format!("{} version {}", after.name, after.version);
    let what = Action { action: "key_rotate", subject: &before.id.to_string(), detail: &detail };
    admin.commit(&caller, what, admin.store.batch(caller.org()).insert(&sealed).update(&before, &after)).await?;
    Ok(Json(View::of(&after, &admin.project_names(caller.org()).await?).warned(warnings)))
}
