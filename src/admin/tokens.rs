//! Proxy tokens: minted in a session for one of its keys, shown once.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State as Shared};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::auth::Caller;
use super::body::{Paging, Query, limit};
use super::sessions::{find as find_session, state};
use super::{Action, Admin, Problem, State};
use crate::model::{Name, OrgId, ProxyToken, Timestamp, TokenId};
use crate::session::records::{Grant, Session, Standing, Token, Tool};
use crate::store::Find;
use crate::vault::key::Key;

/// A proxy token, without its value.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ProxyToken)]
pub(super) struct View {
    id: String,
    /// The id of its session.
    session: String,
    /// The name of the key that it stands for; null once that is deleted.
    key: Option<String>,
    /// The id of the token with which it ends, if it answered an agent's call of a token endpoint.
    root: Option<String>,
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
    /// The view of a token; a token is no better than its session.
    fn within(token: &Token, of: &Behind, now: Timestamp) -> Self {
        let mut view = Self::of(token, of.key.as_ref(), now);
        if view.state == "active" {
            view.state = of.session.as_ref().map_or("revoked", |s| state(&s.standing, s.expires_at, now));
        }
        if view.state == "active" && token.root.is_some() {
            view.state = of.root.as_ref().map_or("revoked", |t| state(&t.standing, t.expires_at, now));
        }
        view
    }

    fn of(token: &Token, key: Option<&Name>, now: Timestamp) -> Self {
        let (revoked_at, revoked_by) = match &token.standing {
            Standing::Active => (None, None),
            Standing::Revoked { at, by } => (Some(at.to_string()), Some(by.clone())),
        };
        Self {
            id: token.id.to_string(),
            session: token.session.to_string(),
            key: key.map(Name::to_string),
            root: token.root.map(|root| root.to_string()),
            state: state(&token.standing, token.expires_at, now),
            revoked_at,
            revoked_by,
            created_at: token.created_at.to_string(),
            expires_at: token.expires_at.to_string(),
        }
    }
}

/// What stands behind a token.
struct Behind {
    session: Option<Session>,
    key: Option<Name>,
    root: Option<Token>,
}

impl Behind {
    async fn of(admin: &Admin, token: &Token) -> Result<Self, Problem> {
        let session = admin.store.get(token.org, token.session).await?;
        let grant: Option<Grant> = admin.store.get(token.org, token.grant).await?;
        let key: Option<Key> = match grant {
            Some(grant) => admin.store.get(token.org, grant.key).await?,
            None => None,
        };
        let root = match token.root {
            Some(root) => admin.store.get(token.org, root).await?,
            None => None,
        };
        Ok(Self { session, key: key.map(|key| key.name), root })
    }
}

/// A proxy token with its value.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = MintedProxyToken)]
pub(super) struct Minted {
    #[serde(flatten)]
    token: View,
    /// What the agent puts where the key would stand. It is shown only here.
    value: String,
    /// For a key of kind `aws`, whose requests the agent signs: what it has as secret access key, beside
    /// `value` as access key id. It is shown only here.
    #[serde(skip_serializing_if = "Option::is_none")]
    signing_secret: Option<String>,
}

/// A page of proxy tokens.
#[derive(Serialize, ToSchema)]
#[schema(as = ProxyTokenList)]
pub(super) struct List {
    items: Vec<View>,
    /// Where the next page begins; null at the end.
    next: Option<String>,
}

/// How long a token lives.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Life {
    /// How long it lives; as long as its session if absent.
    #[param(minimum = 1, maximum = 2592000)]
    duration_seconds: Option<u32>,
}

/// Which tokens.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    /// Only this session's.
    session: Option<String>,
    /// Only what comes behind this id.
    after: Option<String>,
    /// At most so many.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u32>,
}

/// Mint a proxy token
#[utoipa::path(post, operation_id = "tokens_mint", path = "/api/v1/mcp/sessions/{id}/keys/{name}/proxy-token", tag = "proxy tokens",
    params(("id" = String, Path, description = "the session's id"), ("name" = String, Path, description = "the key's name"), Life),
    responses((status = 201, description = "Made", body = Minted), (status = "4XX", description = "Refused, and why", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn mint(
    Shared(admin): Shared<State>,
    caller: Caller,
    Path((id, name)): Path<(String, String)>,
    Query(life): Query<Life>,
) -> Result<(StatusCode, Json<Minted>), Problem> {
    let org = caller.org();
    let session = find_session(&admin, org, &id).await?;
    let now = admin.clock.now();
    let standing = state(&session.standing, session.expires_at, now);
    if standing != "active" {
        return Err(Problem::conflict(format!("the session is {standing}")));
    }
    if let Some(tool) = session.tool
        && !admin.store.get::<Tool>(org, tool).await?.is_some_and(|tool| tool.enabled)
    {
        return Err(Problem::conflict("the session's tool is disabled"));
    }
    let (key, grant) = granted(&admin, org, &session, &name).await?;
    if let Some(why) = key.out_of_use(now) {
        return Err(Problem::conflict(why));
    }
    let expires_at = match life.duration_seconds {
        None => session.expires_at,
        Some(secs @ 1..=2_592_000) => now.plus(Duration::from_secs(secs.into())).min(session.expires_at),
        Some(_) => return Err(Problem::invalid("durationSeconds", "it is between 1 second and 30 days")),
    };
    let value = ProxyToken::generate(key.kind.token_form(), &key.shape).map_err(|_| Problem::internal())?;
    let token = Token {
        id: TokenId::generate(),
        org,
        session: session.id,
        grant: grant.id,
        root: None,
        hash: value.hash(),
        shape: key.shape.clone(),
        standing: Standing::Active,
        created_at: now,
        expires_at,
    };
    let detail = format!("key={} session={}", key.name, session.id);
    let what = Action { action: "token_mint", subject: &token.id.to_string(), detail: &detail };
    admin.commit(&caller, what, admin.store.batch(org).insert(&token)).await?;
    let signing_secret = key.kind.is_signed_with().then(|| admin.vault.stand_in(&token.hash).expose().clone());
    let view = View::of(&token, Some(&key.name), now);
    let minted = Minted { token: view, value: value.expose().to_owned(), signing_secret };
    Ok((StatusCode::CREATED, Json(minted)))
}

/// The key of this name among those that the session was granted.
async fn granted(admin: &Admin, org: OrgId, session: &Session, name: &str) -> Result<(Key, Grant), Problem> {
    let name: Name = name.parse().map_err(|_| Problem::missing("key"))?;
    let what =
        format!("the session was started without a key {name}; `sallyport sessions start --key` starts one with it");
    let none = || Problem::not_found(what.clone());
    let wanted = Find::all().with("project_id", session.project).with("environment", session.environment);
    let key: Key = admin.store.find(org, wanted.with("name", &name).limit(1)).await?.pop().ok_or_else(none)?;
    let wanted = Find::all().with("session_id", session.id).with("key_id", key.id).limit(1);
    let grant: Grant = admin.store.find(org, wanted).await?.pop().ok_or_else(none)?;
    Ok((key, grant))
}

/// List proxy tokens
#[utoipa::path(get, operation_id = "tokens_list", path = "/api/v1/mcp/proxy-tokens", tag = "proxy tokens", params(Which),
    responses((status = 200, description = "Done", body = List), (status = "4XX", description = "Refused, and why", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn list(
    Shared(admin): Shared<State>,
    caller: Caller,
    Query(which): Query<Which>,
) -> Result<Json<List>, Problem> {
    let most = limit(which.limit)?;
    let mut wanted = Find::all().after(Paging { after: which.after, limit: None }.after()?).limit(most);
    if let Some(session) = &which.session {
        wanted = wanted.with("session_id", find_session(&admin, caller.org(), session).await?.id);
    }
    let all: Vec<Token> = admin.store.find(caller.org(), wanted).await?;
    let next = (all.len() == most as usize).then(|| all.last().map(|t| t.id.to_string())).flatten();
    let (mut items, mut behind) = (Vec::with_capacity(all.len()), HashMap::new());
    for token in &all {
        let of = match behind.entry((token.grant, token.root)) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => place.insert(Behind::of(&admin, token).await?),
        };
        items.push(View::within(token, of, admin.clock.now()));
    }
    Ok(Json(List { items, next }))
}

async fn find(admin: &Admin, org: OrgId, id: &str) -> Result<Token, Problem> {
    let id: TokenId = id.parse().map_err(|_| Problem::missing("proxy token"))?;
    admin.store.get(org, id).await?.ok_or_else(|| Problem::missing("proxy token"))
}

/// Show a proxy token
#[utoipa::path(get, operation_id = "tokens_show", path = "/api/v1/mcp/proxy-tokens/{id}", tag = "proxy tokens", params(("id" = String, Path, description = "id")),
    responses((status = 200, description = "Done", body = View), (status = "4XX", description = "Refused, and why", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn show(
    Shared(admin): Shared<State>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<View>, Problem> {
    let token = find(&admin, caller.org(), &id).await?;
    Ok(Json(View::within(&token, &Behind::of(&admin, &token).await?, admin.clock.now())))
}

/// Revoke a proxy token
///
/// Exchanges that run with it are aborted. What an agent got for it at a token endpoint ends with it.
#[utoipa::path(delete, operation_id = "tokens_revoke", path = "/api/v1/mcp/proxy-tokens/{id}", tag = "proxy tokens", params(("id" = String, Path, description = "id")),
    responses((status = 200, description = "Done", body = View), (status = "4XX", description = "Refused, and why", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn revoke(
    Shared(admin): Shared<State>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<View>, Problem> {
    let before = find(&admin, caller.org(), &id).await?;
    let (key, now) = (Behind::of(&admin, &before).await?.key, admin.clock.now());
    if before.standing != Standing::Active {
        return Ok(Json(View::of(&before, key.as_ref(), now)));
    }
    let after = Token { standing: Standing::Revoked { at: now, by: caller.name().to_owned() }, ..before.clone() };
    let what = Action { action: "token_revoke", subject: &before.id.to_string(), detail: "" };
    admin.commit(&caller, what, admin.store.batch(caller.org()).update(&before, &after)).await?;
    Ok(Json(View::of(&after, key.as_ref(), now)))
}
