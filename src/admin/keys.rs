//! `/api/v1/api-keys`

use std::collections::HashMap;

use axum::Json;
use axum::extract::{Path, State as Shared};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::auth::Caller;
use super::body::{Body, Query, environment, limit, name, still_to_come};
use super::{Action, Admin, Problem, State};
use crate::credential;
use crate::model::{
    BaseUrl, Cleartext, Destination, HostPattern, KeyId, KeyKind, Name, OrgId, Secret, Slot, Timestamp, TokenEndpoint,
    TokenShape, nearest,
};
use crate::providers::{self, Provider};
use crate::store::Find;
use crate::vault::key::{Key, KeyState, SealedVersion};

/// A key, without its secret.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Key)]
pub(super) struct View {
    id: String,
    name: String,
    project: String,
    #[schema(pattern = "^(development|staging|production)$")]
    environment: String,
    /// The provider template, or `custom`.
    provider: String,
    /// What its secret is: `secret`, or a document from which something is computed for each request.
    kind: &'static str,
    /// Where its access tokens are asked for, if it is of a kind that is minted.
    token_endpoint: Option<String>,
    /// Where it may go.
    hosts: Vec<String>,
    /// In which places of a request it may be put.
    slots: Vec<String>,
    /// `never`, or `loopback` if it may go to this machine without TLS.
    cleartext: &'static str,
    /// `enabled` or `disabled`.
    state: &'static str,
    /// The number of the version in force.
    version: u32,
    #[schema(format = DateTime)]
    created_at: String,
    #[schema(format = DateTime)]
    updated_at: String,
    #[schema(format = DateTime)]
    expires_at: Option<String>,
    /// What is doubtful about a value that was taken all the same; absent where nothing is.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    warnings: Vec<String>,
}

impl View {
    fn of(key: &Key, projects: &HashMap<String, String>) -> Self {
        let project = key.project.to_string();
        Self {
            id: key.id.to_string(),
            name: key.name.to_string(),
            project: projects.get(&project).cloned().unwrap_or(project),
            environment: key.environment.to_string(),
            provider: key.provider.to_string(),
            kind: key.kind.as_str(),
            token_endpoint: key.token_endpoint.as_ref().map(ToString::to_string),
            hosts: key.destination.hosts.iter().map(ToString::to_string).collect(),
            slots: key.destination.slots.iter().map(ToString::to_string).collect(),
            cleartext: match key.destination.cleartext {
                Cleartext::Never => "never",
                Cleartext::Loopback => "loopback",
            },
            state: match key.state {
                KeyState::Enabled => "enabled",
                KeyState::Disabled => "disabled",
            },
            version: key.version,
            created_at: key.created_at.to_string(),
            updated_at: key.updated_at.to_string(),
            expires_at: key.expires_at.map(|at| at.to_string()),
            warnings: Vec::new(),
        }
    }

    fn warned(self, warnings: Vec<String>) -> Self {
        Self { warnings, ..self }
    }
}

/// A page of keys.
#[derive(Serialize, ToSchema)]
#[schema(as = KeyList)]
pub(super) struct List {
    items: Vec<View>,
    /// Where the next page begins; null at the end.
    next: Option<String>,
}

/// A key to be stored.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schema(as = NewKey)]
pub(super) struct New {
    /// 1 to 64 of a-z, 0-9, '_', '-' and '.'; unique in project and environment
    #[schema(pattern = "^[a-z0-9][a-z0-9_.-]{0,63}$")]
    name: String,
    /// The secret: 8 bytes to 64 KiB, no control characters. For other kinds than `secret` a JSON document, and PEM for `mtls`.
    #[schema(min_length = 8, max_length = 65536, value_type = String, format = Password)]
    value: SecretText,
    /// What the secret is; what the provider's keys are if absent, else `secret`, which is put in as it is. The others are documents from
    /// which something is computed for each request: `basic` is `{"user": ..., "password": ...}`, `aws` is
    /// `{"access_key_id": ..., "secret_access_key": ...}`, `hmac` is
    /// `{"key": ..., "secret": ..., "template": ..., "signature": ...}`; `mtls` is PEM instead: a client certificate, those
    /// of its authorities if the service needs them, and the private key. It is shown in the TLS handshake, on
    /// requests that have a token in the key's slot, `header:x-client-certificate` if none is named; the token is taken out.
    /// `client_credentials`, `refresh_token`, `jwt_bearer`, `service_account` and `github_app` are documents for
    /// which access tokens are minted; an error tells the form.
    #[schema(pattern = "^[a-z][a-z_]*$")]
    kind: Option<String>,
    /// A provider template, which says where the key may go; see /api/v1/providers.
    provider: Option<String>,
    /// Id or name; `default` if absent.
    project: Option<String>,
    /// `development` if absent.
    #[schema(pattern = "^(development|staging|production)$")]
    environment: Option<String>,
    /// Host patterns such as `api.example.com` or `*.example.com:8443`; instead of the provider's.
    #[schema(max_items = 100)]
    hosts: Option<Vec<String>>,
    /// `bearer`; `header:NAME`, or `header:NAME=TEXT {}` with other text around it; `basic:user`,
    /// `basic:password`, or `basic={}` for the whole pair; `query:NAME`; `path:/START{}`; `cookie:NAME`;
    /// `form:NAME`, `json:/POINTER`, `multipart:NAME` in a body. `{}` stands for the key, `*` in a header for any text and in a path for one segment. Instead of
    /// the provider's.
    #[schema(max_items = 20)]
    slots: Option<Vec<String>>,
    /// The address of an installation of one's own, such as `https://gitlab.example.com`: the key goes
    /// there alone, instead of to the provider's hosts. It may be an address of sallyport's own machine, which is reached for this key alone.
    base_url: Option<String>,
    /// `loopback` lets the key go to this machine without TLS.
    #[schema(pattern = "^(never|loopback)$")]
    cleartext: Option<String>,
    /// What stands before its proxy tokens; instead of the provider's.
    #[schema(max_length = 64)]
    token_prefix: Option<String>,
    /// When it ends by itself, RFC 3339.
    #[schema(format = DateTime)]
    expires_at: Option<String>,
}

/// A secret in a body: never shown.
#[derive(Deserialize)]
#[serde(transparent)]
pub(super) struct SecretText(String);

impl SecretText {
    fn take(self) -> Secret<Vec<u8>> {
        Secret::new(self.0.into_bytes())
    }
}

/// What is changed about a key; what is absent stays.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schema(as = KeyEdit)]
pub(super) struct Edit {
    #[schema(pattern = "^[a-z0-9][a-z0-9_.-]{0,63}$")]
    name: Option<String>,
    #[schema(max_items = 100)]
    hosts: Option<Vec<String>>,
    #[schema(max_items = 20)]
    slots: Option<Vec<String>>,
    #[schema(pattern = "^(never|loopback)$")]
    cleartext: Option<String>,
    #[schema(pattern = "^(enabled|disabled)$")]
    state: Option<String>,
    /// RFC 3339; an empty text means never.
    expires_at: Option<String>,
}

/// A new value.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Rotation)]
pub(super) struct Rotation {
    /// The new secret: 8 bytes to 64 KiB, no control characters; a document of the key's kind, or PEM, if it has one.
    #[schema(min_length = 8, max_length = 65536, value_type = String, format = Password)]
    value: SecretText,
}

/// Which keys.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    /// Only this project's, by id or name.
    project: Option<String>,
    /// Only this environment's.
    #[param(pattern = "^(development|staging|production)$")]
    environment: Option<String>,
    /// Only what comes behind this id.
    after: Option<String>,
    /// At most so many.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u32>,
}

fn hosts(texts: &[String]) -> Result<Vec<HostPattern>, Problem> {
    if texts.is_empty() || texts.len() > 100 {
        return Err(Problem::invalid("hosts", "give between 1 and 100 host patterns"));
    }
    let read = |text: &String| {
        if text.contains("://") || text.contains('/') {
            return Err(Problem::invalid("hosts", "leave out the scheme and the path: api.example.com"));
        }
        HostPattern::parse(text).map_err(|why| Problem::invalid("hosts", why))
    };
    texts.iter().map(read).collect()
}

fn slots(texts: &[String]) -> Result<Vec<Slot>, Problem> {
    if texts.is_empty() || texts.len() > 20 {
        return Err(Problem::invalid("slots", "give between 1 and 20 slots"));
    }
    texts.iter().map(|t| t.parse().map_err(|why| Problem::invalid("slots", why))).collect()
}

/// Whether what the kind yields can stand in each of the slots, and go without TLS if it is to.
fn check_slots(kind: KeyKind, destination: &Destination) -> Result<(), Problem> {
    if kind.is_of_connection() && destination.cleartext != Cleartext::Never {
        return Err(Problem::invalid("cleartext", "a client certificate is shown over TLS only"));
    }
    match destination.slots.iter().find(|slot| !kind.fits(slot)) {
        Some(slot) => Err(Problem::invalid("slots", format!("a key of kind {kind} can't be put into {slot}"))),
        None => Ok(()),
    }
}

/// What is doubtful about a value: slots of the key in which it can't stand, and what its kind says of it.
fn doubts(
    kind: KeyKind,
    secret: &Secret<Vec<u8>>,
    destination: &Destination,
    now: Timestamp,
) -> Result<Vec<String>, Problem> {
    let mut said = credential::warnings(kind, secret, now).map_err(|why| Problem::invalid("value", why))?;
    if kind.is_computed() {
        return Ok(said);
    }
    let unfit = |slot: &Slot| slot.suits(secret.expose()).err().map(|why| (slot.to_string(), why));
    let unfit: Vec<_> = destination.slots.iter().filter_map(unfit).collect();
    if let Some((slot, why)) = unfit.first().filter(|_| unfit.len() == destination.slots.len()) {
        return Err(Problem::invalid("value", format!("it {why}, so it can't be put into {slot}")));
    }
    said.extend(unfit.iter().map(|(slot, why)| format!("the value {why}, so it can't be put into {slot}")));
    Ok(said)
}

/// Where access tokens are asked for, by the document of a kind that is minted.
fn token_endpoint(
    kind: KeyKind,
    document: &Secret<Vec<u8>>,
    destination: &Destination,
) -> Result<Option<TokenEndpoint>, Problem> {
    let found = credential::token_endpoint(kind, document).map_err(|why| Problem::invalid("value", why))?;
    check_endpoint(found.as_ref(), destination)?;
    Ok(found)
}

/// Whether the key may go where its access tokens are asked for.
fn check_endpoint(endpoint: Option<&TokenEndpoint>, destination: &Destination) -> Result<(), Problem> {
    match endpoint.filter(|at| !destination.covers(at.scheme, &at.authority)) {
        Some(at) => {
            let at = &at.authority;
            Err(Problem::invalid(
                "hosts",
                format!("the key's token endpoint is at {at}, which isn't among them; add it"),
            ))
        }
        None => Ok(()),
    }
}

fn cleartext(text: &str) -> Result<Cleartext, Problem> {
    match text {
        "never" => Ok(Cleartext::Never),
        "loopback" => Ok(Cleartext::Loopback),
        _ => Err(Problem::invalid("cleartext", "it is never or loopback")),
    }
}

fn prefix(text: &str) -> Result<String, Problem> {
    let fits = text.len() <= 64 && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    if fits {
        Ok(text.to_owned())
    } else {
        Err(Problem::invalid("tokenPrefix", "use at most 64 of A-Z, a-z, 0-9, '-', '_' and '.'"))
    }
}

/// The provider's name, kind, destination and token shape, with what the request puts in their place.
fn placed(admin: &Admin, new: &New) -> Result<(Name, KeyKind, Destination, TokenShape), Problem> {
    let known = admin.providers.current();
    let template = match &new.provider {
        Some(wanted) if wanted != "custom" => {
            let found = known.iter().find(|p| p.name.as_str() == wanted && !p.env.is_empty());
            Some(found.ok_or_else(|| strange(&known, wanted))?)
        }
        _ => None,
    };
    let kind = new.kind.as_deref().map(str::parse).transpose().map_err(|why| Problem::invalid("kind", why))?;
    let kind = kind.or(template.map(|t| t.kind)).unwrap_or_default();
    if new.base_url.is_some() && new.hosts.is_some() {
        return Err(Problem::invalid("baseUrl", "give an address or hosts, not both"));
    }
    let own = new.base_url.as_deref().map(BaseUrl::parse_bare).transpose();
    let own = own.map_err(|why| Problem::invalid("baseUrl", why))?;
    let given = new.slots.as_deref().map(slots).transpose()?;
    let mut destination = match (&new.hosts, template, &own) {
        (Some(given), ..) => {
            let slots = template.map_or_else(|| kind.usual_slots(), |t| t.slots.clone());
            Destination { hosts: hosts(given)?, slots, cleartext: Cleartext::Never }
        }
        (None, Some(template), own) => {
            template.destination(own.as_ref()).map_err(|why| Problem::invalid("baseUrl", why))?
        }
        (None, None, Some(own)) => {
            providers::at(own, &kind.usual_slots()).map_err(|why| Problem::invalid("baseUrl", why))?
        }
        (None, None, None) => return Err(Problem::invalid("hosts", "name a provider, or hosts and slots")),
    };
    match given {
        Some(given) => destination.slots = given,
        // Another kind than the template's keys have may not fit all of its slots.
        None => destination.slots.retain(|slot| kind.fits(slot)),
    }
    if destination.slots.is_empty() {
        destination.slots = kind.usual_slots();
    }
    if let Some(text) = &new.cleartext {
        destination.cleartext = cleartext(text)?;
    }
    check_slots(kind, &destination)?;
    let shape = match (&new.token_prefix, template) {
        (Some(given), _) => TokenShape { prefix: prefix(given)?, suffix: String::new() },
        (None, Some(template)) => template.shape.clone(),
        (None, None) => TokenShape::default(),
    };
    let provider = template.map_or_else(|| name("provider", "custom"), |t| Ok(t.name.clone()))?;
    Ok((provider, kind, destination, shape))
}

fn strange(known: &[Provider], provider: &str) -> Problem {
    let keyed = known.iter().filter(|p| !p.env.is_empty()).map(|p| p.name.as_str());
    let near = nearest(&provider.to_ascii_lowercase(), keyed);
    let meant = near.map(|name| format!(" (is {name} meant?)")).unwrap_or_default();
    let what = if known.iter().any(|p| p.name.as_str() == provider) { "it needs no key" } else { "it isn't known" };
    Problem::invalid("provider", format!("{what}{meant}; see `sallyport providers list`"))
}

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
