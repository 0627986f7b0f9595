//! Has an access token at hand before a key that is minted is used.
//!
//! A mint uses the key's secret, so it has a permit of its own, on the facts of the request that caused
//! it, and a record of its own, which names the token endpoint. It is a task of its own as well: an
//! agent that goes away doesn't cut it off, or a refresh token that its server has just replaced would
//! be lost.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use http::{Method, StatusCode};
use zeroize::Zeroizing;

use super::authorize::Authorized;
use super::core::Core;
use super::identify::Identified;
use super::record::{self, Cause};
use super::reject::{Code, Rejection};
use super::target::Target;
use super::tunnel::Tunnel;
use crate::audit::{Outcome, OutcomeWord};
use crate::credential::oauth::issued::Bounds;
use crate::credential::oauth::mints::{Lead, Standing};
use crate::credential::oauth::reply::{self, Granted};
use crate::credential::oauth::{Failure, FailureKind, Recipe, ask};
use crate::credential::{self, Credential};
use crate::model::{ExchangeId, Secret, Slot};
use crate::policy::Decision;
use crate::session::live::{LiveSession, LiveToken};
use crate::session::registry::Moment;
use crate::upstream::Word;
use crate::vault::key::Key;

/// Whether a key of the request is minted; without any, nothing here is paid for.
pub fn concerns(identified: &Identified, authorized: &Authorized) -> bool {
    match authorized {
        Authorized::Plain => false,
        Authorized::Swap(_) => identified.found.iter().any(|found| found.key.kind.is_minted()),
        Authorized::Fill(fill) => fill.0.kind.is_minted(),
    }
}

/// Waits until each minted key of the request has an access token.
///
/// # Errors
/// There is no access token, and why.
///
/// # Cancellation
/// A mint that was begun goes on.
pub async fn ready(
    core: &Rc<Core>,
    tunnel: &Rc<Tunnel>,
    exchange: ExchangeId,
    request: (&Method, &Target, Option<&str>),
    identified: &Identified,
    authorized: &Authorized,
    session: Option<&Arc<LiveSession>>,
) -> Result<(), Rejection> {
    let cause = |session: &Arc<LiveSession>, token: Option<Arc<LiveToken>>, slot: &Slot| Cause {
        exchange,
        tunnel: Rc::clone(tunnel),
        session: Arc::clone(session),
        token,
        slot: slot.clone(),
        method: request.0.clone(),
        target: request.1.clone(),
        upgrade: request.2.map(str::to_owned),
    };
    match (authorized, session) {
        (Authorized::Swap(_), _) => {
            for found in identified.found.iter().filter(|found| found.key.kind.is_minted()) {
                let cause = || cause(&found.token.session, Some(Arc::clone(&found.token)), &found.slot);
                of_key(core, &found.key, cause).await?;
            }
        }
        (Authorized::Fill(fill), Some(session)) => {
            of_key(core, &fill.0, || cause(session, None, &fill.1)).await?;
        }
        _ => {}
    }
    Ok(())
}

/// Waits until the key has an access token.
///
/// # Errors
/// There is none, and why.
pub async fn of_key(core: &Rc<Core>, key: &Arc<Key>, cause: impl Fn() -> Cause) -> Result<(), Rejection> {
    for _ in 0..OTHERS {
        let (awaited, own) = match core.shared.mints.standing(key) {
            Standing::Ready => return Ok(()),
            Standing::Ageing(lead) => {
                begin(core, key, cause(), lead);
                return Ok(());
            }
            Standing::Failed(why) => return Err(rejection(&why)),
            Standing::Awaited(awaited) => (awaited, false),
            Standing::Absent(lead) => {
                let awaited = lead.awaited();
                begin(core, key, cause(), lead);
                (awaited, true)
            }
        };
        match awaited.result().await {
            // What another request may not cause, this one may.
            Err(why) if why.kind == FailureKind::Denied && !own => {}
            ended => return ended.map_err(|why| rejection(&why)),
        }
    }
    Err(Rejection::new(Code::CredentialUnavailable, "requests that may not mint an access token came first; try again"))
}

/// For how many other requests' mints a request waits that were denied to those.
const OTHERS: usize = 8;

/// An upstream that doesn't take an access token gets another with the next request.
pub fn answered(core: &Core, identified: &Identified, status: StatusCode) {
    if status == StatusCode::UNAUTHORIZED {
        for found in identified.found.iter().filter(|found| found.key.kind.is_minted()) {
            core.shared.mints.doubt(&found.key);
        }
    }
}

fn begin(core: &Rc<Core>, key: &Arc<Key>, cause: Cause, lead: Lead) {
    let (core, key) = (Rc::clone(core), Arc::clone(key));
    let minting = core.minting.clone();
    minting.spawn_local(async move {
        let minted = mint(&core, &key, &cause).await;
        if let Err(why) = &minted {
            tracing::warn!(
                request.id = %cause.exchange,
                key.id = %key.id,
                upstream.authority = key.token_endpoint.as_ref().map(|at| tracing::field::display(&at.authority)),
                error = %why,
                "no access token could be minted"
            );
        }
        core.shared.metrics.minted(minted.is_ok());
        lead.done(minted);
    });
}

async fn mint(core: &Core, key: &Arc<Key>, cause: &Cause) -> Result<(), Failure> {
    let mints = &core.shared.mints;
    // Only one process uses up a refresh token, and only the one in force.
    let mut claim = match reply::rotates(key.kind) {
        true => Some(core.shared.rotation.claim(key).await?),
        false => None,
    };
    let key = claim.as_ref().map_or_else(|| Arc::clone(key), |claim| Arc::new(claim.key.clone()));
    let mut failures = 0;
    loop {
        match once(core, &key, cause).await {
            Ok(Minted { mut granted, fresh, bounds }) => {
                if let (Some(document), Some(claim)) = (fresh, claim.take()) {
                    core.shared.rotation.keep(claim, document).await?;
                }
                granted.refresh_token = None;
                mints.put(&key, granted, bounds);
                return Ok(());
            }
            Err(why) => {
                failures += 1;
                if !why.passes() || failures >= mints.settings().tries {
                    let lost = why.kind == FailureKind::Refused && core.shared.rotation.was_interrupted(&key);
                    return Err(if lost { Failure::new(why.kind, format!("{why}; {LOST}")) } else { why });
                }
                tokio::time::sleep(mints.pause(failures)).await;
            }
        }
    }
}

const LOST: &str = "a process of sallyport was killed while it exchanged the key's refresh token, so the one that the \
     server gave in its place is lost: connect the key again (`sallyport keys connect`), or give it another refresh \
     token with `sallyport keys rotate`";

/// What one try yields.
struct Minted {
    granted: Granted,
    /// The document with the refresh token that came in place of the one that was used.
    fresh: Option<Secret<Vec<u8>>>,
    bounds: Bounds,
}

/// One try: decide, record, open, ask.
async fn once(core: &Core, key: &Key, cause: &Cause) -> Result<Minted, Failure> {
    let mut settings = core.shared.mints.settings().clone();
    let endpoint = key.token_endpoint.as_ref();
    let outside = || Failure::new(FailureKind::Denied, "the key's token endpoint isn't among its destinations");
    let endpoint = endpoint.filter(|at| key.destination.covers(at.scheme, &at.authority)).ok_or_else(outside)?;
    let registry = &core.shared.registry;
    if registry.is_stale(Moment::now(&*core.shared.clock)) {
        let why = "the store has been out of reach for too long, so nothing is minted";
        return Err(Failure::new(FailureKind::Internal, why));
    }
    let now = core.shared.clock.now();
    let ended = match &cause.token {
        Some(token) => token.ended(now),
        None => registry.live_use(&cause.session, Some(key.id)).ended(now),
    };
    if let Some(ended) = ended {
        return Err(Failure::new(FailureKind::Denied, Rejection::from(ended).detail));
    }
    let policies = core.shared.policies.current();
    let decision = policies.decide(&cause.facts(key));
    let permit = match decision {
        Decision::Permit(permit) => permit,
        Decision::Deny(denial) => {
            return Err(Failure::new(FailureKind::Denied, super::authorize::denied(&denial).detail));
        }
    };
    let recorded = record::mint(core, cause, key, endpoint, policies.digest(), &permit);
    let (receipt, draft) = recorded.map_err(|why| Failure::new(FailureKind::Unrecorded, why.detail))?;
    let began = Instant::now();
    let internal = |why: &str| Failure::new(FailureKind::Internal, why);
    let opened = core.shared.vault.open(permit, receipt).map_err(|why| {
        tracing::error!(request.id = %cause.exchange, key.id = %key.id, error = %why, "the key can't be opened");
        internal("the key can't be opened")
    })?;
    let recipe = match credential::read(key.kind, opened) {
        Ok(Credential::Minted(recipe)) if recipe.endpoint() == endpoint => recipe,
        _ => return Err(internal("the key can't be read")),
    };
    let now = core.shared.clock.now();
    let request = recipe.request(now, &cause.exchange.to_string()).map_err(|why| internal(&why.to_string()))?;
    // One try doesn't outlast the longest wait for an upstream either.
    settings.deadline = settings.deadline.min(core.upstream.settings().deadlines.headers);
    let sent = request.body().len() as u64;
    let by = if key.destination.registers(endpoint.scheme, &endpoint.authority) { Word::Operator } else { Word::Check };
    let asking: Pin<Box<_>> = Box::pin(ask::ask(&core.upstream, (key.org, by), endpoint, request, &settings));
    let answered = asking.await;
    let (status, received) =
        answered.as_ref().map_or((None, 0), |answered| (Some(answered.status.as_u16()), answered.body.len() as u64));
    let granted = answered.and_then(|answered| {
        reply::read(endpoint, answered.status, &answered.body, &settings, core.shared.clock.now())
    });
    let outcome = match &granted {
        Ok(_) => OutcomeWord::Ok,
        Err(_) => OutcomeWord::UpstreamError,
    };
    let duration = began.elapsed();
    let at = core.shared.clock.now();
    draft.finish(Outcome { at, status, outcome, bytes_in: sent, bytes_out: received, duration, scrubbed: 0 });
    let granted = granted?;
    let fresh = fresh(key, &recipe, &granted);
    let bounds = bounds(&recipe, &granted);
    Ok(Minted { granted, fresh, bounds })
}

/// What the access token is good for: what the endpoint said, or else what it was asked for.
fn bounds(recipe: &Recipe, granted: &Granted) -> Bounds {
    let said: Vec<String> =
        granted.scope.as_deref().unwrap_or_default().split_whitespace().map(str::to_owned).collect();
    let asked = recipe.scopes().to_vec();
    let permissions = recipe.permissions().cloned().unwrap_or_default();
    Bounds { scopes: if asked.is_empty() { said } else { asked }, permissions }
}

fn fresh(key: &Key, recipe: &Recipe, granted: &Granted) -> Option<Secret<Vec<u8>>> {
    let token = granted.refresh_token.as_ref().filter(|_| reply::rotates(key.kind))?;
    let mut document: Zeroizing<Vec<u8>> = recipe.with_refresh_token(token.expose())?;
    Some(Secret::new(std::mem::take(&mut *document)))
}

/// What the failure means to the agent.
pub fn rejection(why: &Failure) -> Rejection {
    let code = match why.kind {
        FailureKind::Refused => Code::CredentialRefused,
        FailureKind::Unavailable => Code::CredentialUnavailable,
        FailureKind::Unreachable => Code::UpstreamUnreachable,
        FailureKind::Tls => Code::UpstreamTls,
        FailureKind::Timeout => Code::UpstreamTimeout,
        FailureKind::Blocked => Code::DestinationBlocked,
        FailureKind::Denied => Code::PolicyDenied,
        FailureKind::Unrecorded => Code::AuditUnavailable,
        FailureKind::Internal => Code::Internal,
    };
    Rejection::new(code, why.detail.clone())
}
