//! Answers an agent's own call of a token endpoint with a proxy token.
//!
//! SDKs of Google, of GitHub Apps and of many identity providers ask a token endpoint for an access
//! token themselves. What they show there is a proxy token, in the place of the client's secret, of the
//! refresh token, or inside of an assertion (as its `kid`, for example). The call isn't forwarded: an
//! access token is minted as for any other request and stays here, and the agent gets a fresh proxy
//! token of its session, which it then sends to the API. So nothing real comes back, and an agent can't
//! get more at the endpoint than its key has.

use std::rc::Rc;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::account::Account;
use super::core::{Bound, Core};
use super::identify::strip_scheme;
use super::record::{Cause, Intended, Use};
use super::reject::{Code, Rejection};
use super::relay::Reply;
use super::target::Target;
use super::tunnel::Tunnel;
use super::upload::Upload;
use super::{bounds, mint};
use crate::credential::oauth::issued::{self, Asked};
use crate::credential::oauth::{FailureKind, jwt};
use crate::model::{ExchangeId, KeyKind, ProxyToken, Timestamp, TokenForm, TokenHash};
use crate::policy::{Decision, Permit};
use crate::session::live::{LiveSession, LiveToken};
use crate::session::registry::Moment;
use crate::vault::key::Key;

/// Whether the request asks the token endpoint of a key that is bound to its host.
pub fn concerns(bound: &Bound, method: &Method, target: &Target) -> bool {
    bound.is_minted() && method == Method::POST && bound.keys().iter().any(|key| is_at(key, target))
}

fn is_at(key: &Key, target: &Target) -> bool {
    key.token_endpoint.as_ref().is_some_and(|at| {
        at.scheme == target.scheme && at.authority == target.authority && at.path.path() == target.path()
    })
}

/// Answers the call.
///
/// # Errors
/// It is refused, or there is no access token.
#[expect(clippy::too_many_arguments, reason = "the step joins what all steps before it found")]
pub async fn serve(
    core: &Rc<Core>,
    tunnel: &Rc<Tunnel>,
    exchange: ExchangeId,
    request: Request<Upload>,
    target: &Target,
    bound: &Bound,
    session: Option<&Arc<LiveSession>>,
    account: &mut Account,
) -> Result<Response<Reply>, Rejection> {
    let (parts, body) = request.into_parts();
    let body = whole(core, body).await?;
    let kind = parts.headers.get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    let asked = Asked::read(kind, &body)
        .ok_or_else(|| Rejection::new(Code::BadRequest, "the call of the token endpoint is neither a form nor JSON"))?;
    if !asked.is_answered_here() {
        let why = "of a key's token endpoint, client_credentials, refresh_token and jwt-bearer are answered here";
        return Err(Rejection::new(Code::BadRequest, why));
    }
    let token = shown(core, &parts.headers, &asked)?;
    account.of_token(&token);
    bounds::check(core, &token.session, &tunnel.from)?;
    let key = permitted_key(core, &token, target, bound, session)?;
    let caused = || Cause {
        exchange,
        tunnel: Rc::clone(tunnel),
        session: Arc::clone(&token.session),
        token: Some(Arc::clone(&token)),
        slot: key.destination.slots.first().cloned().unwrap_or(crate::model::Slot::Bearer),
        method: Method::POST,
        target: target.clone(),
        upgrade: None,
    };
    let cause = caused();
    decided(core, &cause, &key)?;
    let run = core.running.enter([Arc::clone(&token)], None);
    let minting = Box::pin(mint::of_key(core, &key, caused));
    run.guard(minting).await.map_err(Rejection::from)??;
    let (permit, digest) = decided(core, &cause, &key)?;
    let usage = Use { session: &token.session, token: Some(token.id), key: &key, slot: &cause.slot };
    let now = core.shared.clock.now();
    let intended = Intended { tunnel, exchange, target, usage, policies: &digest, permit: &permit, at: now };
    let (receipt, draft) = intended.record(core)?;
    account.owe(token.session.id, Some(Arc::clone(permit.rule())), draft);
    // What the agent gets stands for an access token that is there; it isn't shown.
    drop(core.shared.mints.open(permit, receipt, &key).map_err(|why| mint::rejection(&why))?);
    let good_for = core.shared.mints.bounds(&key);
    if let Some(beyond) = asked.beyond(&good_for) {
        let why = format!("the key {} has no {beyond} that the call asks for", key.name);
        return Err(Rejection::new(Code::ScopeNotAllowed, why));
    }
    let (value, lasts) = fresh(core, &token, &key).await?;
    let (status, answer) = answer(&key, &value, lasts, &good_for, now);
    let mut response = Response::new(Reply::Own(Some(Bytes::from(answer.to_string()))));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    account.close(status.as_u16(), None);
    Ok(response)
}

async fn whole(core: &Core, body: Upload) -> Result<Zeroizing<Vec<u8>>, Rejection> {
    let deadline = core.shared.settings.deadlines.head;
    let most = core.shared.mints.settings().message_bytes;
    let collected = tokio::time::timeout(deadline, Limited::new(body, most).collect()).await;
    match collected {
        Ok(Ok(body)) => Ok(Zeroizing::new(body.to_bytes().to_vec())),
        Ok(Err(why)) if why.is::<LengthLimitError>() => {
            let why = format!("the call of the token endpoint is longer than {most} bytes");
            Err(Rejection::new(Code::TooLarge, why))
        }
        _ => Err(Rejection::new(Code::BadRequest, "the request's body can't be read to its end")),
    }
}

/// The one token that the call shows, wherever such calls have their secrets.
fn shown(core: &Core, headers: &HeaderMap, asked: &Asked) -> Result<Arc<LiveToken>, Rejection> {
    let mut hashes: Vec<TokenHash> = Vec::new();
    let mut look = |text: &[u8]| {
        if let Some((_, hash)) = TokenHash::find(text)
            && !hashes.contains(&hash)
        {
            hashes.push(hash);
        }
    };
    let mut look_into = |text: &str| match jwt::parts(text) {
        Some((header, claims)) => {
            look(&header);
            look(&claims);
        }
        None => look(text.as_bytes()),
    };
    for value in headers.get_all(AUTHORIZATION) {
        if let Some(pair) = strip_scheme(value.as_bytes(), b"basic ") {
            let pair = Zeroizing::new(BASE64.decode(pair.trim_ascii()).unwrap_or_default());
            look_into(std::str::from_utf8(&pair).unwrap_or_default());
        } else if let Some(bearer) = value.to_str().ok().and_then(|text| text.split_once(' ')) {
            look_into(bearer.1.trim());
        }
    }
    asked.secrets().for_each(look_into);
    let unregistered = "the call of a key's token endpoint shows no proxy token where its secret belongs";
    let mut found: Option<Arc<LiveToken>> = None;
    for hash in &hashes {
        let token = core.shared.registry.token(hash);
        let token =
            token.ok_or_else(|| Rejection::new(Code::TokenUnknown, "the call shows a token that is not known here"))?;
        let other = |one: &Arc<LiveToken>| one.session.id != token.session.id || one.key_id != token.key_id;
        if found.as_ref().is_some_and(other) {
            return Err(Rejection::new(Code::TokenMisplaced, "the call shows tokens of different sessions or keys"));
        }
        found = Some(token);
    }
    found.ok_or_else(|| Rejection::new(Code::CredentialUnregistered, unregistered))
}

/// The token's key, if this is its token endpoint and the token may be used.
fn permitted_key(
    core: &Core,
    token: &LiveToken,
    target: &Target,
    bound: &Bound,
    session: Option<&Arc<LiveSession>>,
) -> Result<Arc<Key>, Rejection> {
    if session.is_some_and(|session| session.id != token.session.id) {
        let why = "the token belongs to another session than the proxy credentials";
        return Err(Rejection::new(Code::TokenMisplaced, why));
    }
    if let Some(ended) = token.ended(core.shared.clock.now()) {
        return Err(ended.into());
    }
    if core.shared.registry.is_stale(Moment::now(&*core.shared.clock)) {
        return Err(Rejection::new(Code::StoreUnavailable, "the store has been out of reach for too long"));
    }
    let key = bound.keys().iter().find(|key| key.id == token.key_id && is_at(key, target));
    key.map(Arc::clone).ok_or_else(|| {
        let why = format!("this isn't the token endpoint of the token's key, at {}", target.authority);
        Rejection::new(Code::TokenMisplaced, why)
    })
}

fn decided(core: &Core, cause: &Cause, key: &Key) -> Result<(Permit, [u8; 32]), Rejection> {
    let policies = core.shared.policies.current();
    let decision = policies.decide(&cause.facts(key));
    match decision {
        Decision::Permit(permit) => Ok((permit, *policies.digest())),
        Decision::Deny(denial) => Err(super::authorize::denied(&denial)),
    }
}

/// A fresh proxy token of the session for the same key, and for how many seconds it holds.
async fn fresh(core: &Core, token: &LiveToken, key: &Key) -> Result<(ProxyToken, u64), Rejection> {
    let (shared, now) = (&core.shared, core.shared.clock.now());
    let session: &LiveSession = &token.session;
    // It is no better than the one that was shown.
    let until = now.plus(shared.mints.settings().issued_lifetime).min(token.ends_at());
    if !shared.mints.issue(session.id, until) {
        let most = shared.mints.settings().issued;
        let why =
            format!("the session holds {most} tokens from token endpoints already; the first ends within the hour");
        return Err(Rejection::new(Code::SessionLimit, why));
    }
    let value = ProxyToken::generate(TokenForm::Long, &key.shape)
        .map_err(|_| Rejection::new(Code::Internal, "the system's random source failed"))?;
    let grant = session.grant_of(key.id);
    let grant = grant.ok_or_else(|| Rejection::new(Code::TokenRevoked, "the session may no longer use the key"))?;
    let record = issued::record(token, grant, key, &value, now, until);
    shared.rotation.keep_token(record).await.map_err(|why| match why.kind {
        FailureKind::Internal => Rejection::new(Code::StoreUnavailable, why.detail),
        _ => mint::rejection(&why),
    })?;
    Ok((value, until.since(now).as_secs()))
}

/// As the endpoint itself would answer (RFC 6749 section 5.1; GitHub's REST API).
fn answer(key: &Key, value: &ProxyToken, lasts: u64, bounds: &issued::Bounds, now: Timestamp) -> (StatusCode, Value) {
    if key.kind == KeyKind::GithubApp {
        let at = Timestamp((now.millis() / 1000 + i64::try_from(lasts).unwrap_or(0)) * 1000);
        let at = at.to_string().replace(".000Z", "Z");
        let permissions = json!(bounds.permissions);
        let answer = json!({ "token": value.expose(), "expires_at": at, "permissions": permissions });
        return (StatusCode::CREATED, answer);
    }
    let mut answer = json!({ "access_token": value.expose(), "token_type": "Bearer", "expires_in": lasts });
    if !bounds.scopes.is_empty() {
        answer["scope"] = bounds.scopes.join(" ").into();
    }
    (StatusCode::OK, answer)
}
