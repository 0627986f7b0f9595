//! Facts -> policy -> a permit for each key, or a rejection.

use std::sync::Arc;

use http::{HeaderMap, Method};

use super::Mode;
use super::identify::{Found, Identified};
use super::reject::{Code, Rejection};
use super::settings::Unbound;
use super::target::Target;
use super::upgrade;
use crate::model::{ExchangeId, SessionId, Slot};
use crate::policy::{Decision, Denial, Facts, Permit, PolicySet, WithoutToken};
use crate::session::live::LiveSession;
use crate::session::registry::Registry;
use crate::vault::key::Key;

/// What may be done with the request.
pub enum Authorized {
    /// One permit for each token that was found, in the same order.
    Swap(Vec<Permit>),
    /// A key is put into an empty slot.
    Fill(Box<(Arc<Key>, Slot, Permit)>),
    /// It goes on as it is, without a key.
    Plain,
}

/// What the decision is about.
pub struct Question<'a> {
    /// The exchange.
    pub exchange: ExchangeId,
    /// How the agent reached us.
    pub mode: Mode,
    /// Whose proxy credentials came with the request, if any.
    pub session: Option<&'a Arc<LiveSession>>,
    /// The method.
    pub method: &'a Method,
    /// Whether a page in a browser may have caused the request.
    pub from_browser: bool,
    /// Where it goes.
    pub target: &'a Target,
    /// What it asks to switch to, if it does.
    pub upgrade: Option<&'a str>,
    /// The keys bound to that host.
    pub bound: &'a [Arc<Key>],
    /// What happens to hosts without keys.
    pub unbound: Unbound,
    /// The live view.
    pub registry: &'a Registry,
}

/// Decides.
///
/// # Errors
/// The request is refused, by a rule or because nothing allows it.
pub fn authorize(policies: &PolicySet, ask: &Question<'_>, identified: &Identified) -> Result<Authorized, Rejection> {
    if !identified.found.is_empty() {
        if identified.foreign {
            return Err(Rejection::new(
                Code::CredentialUnregistered,
                "beside a proxy token, the request holds a credential that is none",
            ));
        }
        let permits = identified.found.iter().map(|found| permit(policies, ask, identified, found));
        return Ok(Authorized::Swap(permits.collect::<Result<_, _>>()?));
    }
    if ask.bound.is_empty() {
        if ask.upgrade.is_some_and(|asked| asked != upgrade::WEBSOCKET) {
            let why = "upgrades to other protocols than WebSocket are forwarded only where a key's policy names them in a \
                       rule's `upgrades`, and this host has no key";
            return Err(Rejection::new(Code::BadRequest, why));
        }
        return match ask.unbound {
            Unbound::Forward | Unbound::Tunnel => Ok(Authorized::Plain),
            Unbound::Deny => {
                let why = format!("no key is bound to {} and `proxy.unbound` is `deny`", ask.target.authority);
                Err(Rejection::new(Code::HostNotAllowed, why))
            }
        };
    }
    match identified.foreign || identified.alike {
        true => foreign(policies, ask, identified),
        false => empty(policies, ask, identified),
    }
}

/// What a decision about this use of a key may look at.
pub(super) fn facts_of<'a>(
    exchange: ExchangeId,
    method: &'a Method,
    target: &'a Target,
    session: &'a LiveSession,
    key: &'a Key,
    slot: &'a Slot,
) -> Facts<'a> {
    Facts {
        exchange,
        session: session.id,
        org: session.org,
        project: &session.project,
        environment: session.environment,
        tool: session.tool.as_ref(),
        key: key.id,
        key_name: &key.name,
        key_version: key.version,
        scheme: target.scheme,
        authority: &target.authority,
        method,
        path: target.path(),
        slot,
        upgrade: None,
    }
}

fn facts<'a>(ask: &'a Question<'_>, session: &'a LiveSession, key: &'a Key, slot: &'a Slot) -> Facts<'a> {
    Facts { upgrade: ask.upgrade, ..facts_of(ask.exchange, ask.method, ask.target, session, key, slot) }
}

fn permit(
    policies: &PolicySet,
    ask: &Question<'_>,
    identified: &Identified,
    found: &Found,
) -> Result<Permit, Rejection> {
    let facts = facts(ask, &found.token.session, &found.key, &found.slot);
    also_instead(policies, &facts, identified)?;
    match policies.decide(&facts) {
        Decision::Permit(permit) => Ok(permit),
        Decision::Deny(denial) => Err(denied(&denial)),
    }
}

/// A request that is to be taken for one with another method has to be permitted as that one too.
fn also_instead(policies: &PolicySet, facts: &Facts<'_>, identified: &Identified) -> Result<(), Rejection> {
    for method in &identified.instead {
        if let Decision::Deny(denial) = policies.decide(&Facts { method, ..*facts }) {
            return Err(denied(&denial));
        }
    }
    Ok(())
}

/// The rejection that a denial means.
pub fn denied(denial: &Denial) -> Rejection {
    let by = match (&denial.policy, &denial.rule) {
        (Some(policy), Some(rule)) => format!("{policy}/{rule}: "),
        (Some(policy), None) => format!("{policy}: "),
        _ => String::new(),
    };
    Rejection::new(Code::PolicyDenied, format!("{by}{}", denial.reason))
}

/// The keys of the request's own session that are bound to the host, each with its slot.
fn granted<'a>(ask: &'a Question<'_>) -> impl Iterator<Item = (&'a LiveSession, &'a Arc<Key>, &'a Slot)> {
    ask.session.into_iter().flat_map(|session| {
        ask.bound
            .iter()
            .filter(move |key| key.org == session.org && session.may_use(key.id))
            .filter_map(move |key| Some((session.as_ref(), key, slot_to_fill(key)?)))
    })
}

/// The first slot that can be filled where no token stands; else the first.
fn slot_to_fill(key: &Key) -> Option<&Slot> {
    let slots = &key.destination.slots;
    slots.iter().find(|slot| slot.can_be_filled()).or_else(|| slots.first())
}

/// A request to a bound host with nothing in any slot, as git sends it first. It goes on without a
/// key if a key of its session could go there; a rule may also inject.
fn empty(policies: &PolicySet, ask: &Question<'_>, identified: &Identified) -> Result<Authorized, Rejection> {
    let mut last = None;
    if ask.session.is_none() {
        match anonymous(policies, ask) {
            Some(Decision::Permit(_)) => return Ok(Authorized::Plain),
            Some(Decision::Deny(denial)) => last = Some(denied(&denial)),
            None => {}
        }
    }
    for (session, key, slot) in granted(ask) {
        let facts = facts(ask, session, key, slot);
        if let Some(filled) = fill(policies, ask, identified, &facts, key, slot)? {
            return Ok(filled);
        }
        match policies.decide(&facts) {
            Decision::Permit(_) => return Ok(Authorized::Plain),
            Decision::Deny(denial) => last = Some(denied(&denial)),
        }
    }
    Err(last.unwrap_or_else(|| {
        let why = format!("{} has keys bound to it and the request holds no proxy token for one", ask.target.authority);
        Rejection::new(Code::CredentialUnregistered, why)
    }))
}

/// What policy says of a request for which nobody stands: it holds no token and came without proxy
/// credentials. It goes on, without a key, if some key's policies would let a request like it pass.
fn anonymous(policies: &PolicySet, ask: &Question<'_>) -> Option<Decision> {
    let mut last = None;
    for key in ask.bound {
        let (Some(project), Some(slot)) = (ask.registry.project_name(key.project), key.destination.slots.first())
        else {
            continue;
        };
        let decision = policies.decide(&Facts {
            exchange: ask.exchange,
            session: SessionId::from_bytes([0; 16]),
            org: key.org,
            project: &project,
            environment: key.environment,
            tool: None,
            key: key.id,
            key_name: &key.name,
            key_version: key.version,
            scheme: ask.target.scheme,
            authority: &ask.target.authority,
            method: ask.method,
            path: ask.target.path(),
            slot,
            upgrade: ask.upgrade,
        });
        if matches!(decision, Decision::Permit(_)) {
            return Some(decision);
        }
        last = Some(decision);
    }
    last
}

/// A credential that is no token of ours, for a bound host.
fn foreign(policies: &PolicySet, ask: &Question<'_>, identified: &Identified) -> Result<Authorized, Rejection> {
    for (session, key, slot) in granted(ask) {
        let facts = facts(ask, session, key, slot);
        if ask.mode == Mode::Forward
            && ask.upgrade.is_none_or(|asked| asked == upgrade::WEBSOCKET)
            && matches!(policies.decide_without_token(&facts, ask.from_browser), WithoutToken::Forward)
        {
            return Ok(Authorized::Plain);
        }
        if let Some(filled) = fill(policies, ask, identified, &facts, key, slot)? {
            return Ok(filled);
        }
    }
    let why =
        format!("{} has keys bound to it, and the credential in the request is no proxy token", ask.target.authority);
    Err(Rejection::new(Code::CredentialUnregistered, why))
}

fn fill(
    policies: &PolicySet,
    ask: &Question<'_>,
    identified: &Identified,
    facts: &Facts<'_>,
    key: &Arc<Key>,
    slot: &Slot,
) -> Result<Option<Authorized>, Rejection> {
    if ask.mode == Mode::Gateway {
        return Ok(None);
    }
    match policies.decide_without_token(facts, ask.from_browser) {
        WithoutToken::Inject(_) if !slot.can_be_filled() => Err(Rejection::new(
            Code::CredentialUnregistered,
            format!("a policy injects key {} where no token stands, and its slot {slot} can't be filled", key.name),
        )),
        WithoutToken::Inject(permit) => {
            also_instead(policies, facts, identified)?;
            Ok(Some(Authorized::Fill(Box::new((Arc::clone(key), slot.clone(), permit)))))
        }
        _ => Ok(None),
    }
}

/// Whether a page in a browser may have caused the request (Fetch, section 3.1 and Fetch Metadata).
#[must_use]
pub fn from_browser(headers: &HeaderMap) -> bool {
    headers.contains_key(http::header::ORIGIN) || headers.keys().any(|name| name.as_str().starts_with("sec-fetch-"))
}
