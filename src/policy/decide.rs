//! Facts -> a decision, with the rule and the reason.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use http::Method;
use serde::Serialize;

use super::compile::{Policy, PolicySet, Rule, WEBSOCKET};
use super::document::WithoutTokenWord;
use super::path::{self, Front, PathError, Read};
use crate::model::{Authority, Environment, ExchangeId, KeyId, Name, OrgId, Scheme, SessionId, Slot};

/// Everything that a decision may look at.
#[derive(Clone, Copy)]
#[expect(missing_docs, reason = "each field is named by its type")]
pub struct Facts<'a> {
    pub exchange: ExchangeId,
    pub session: SessionId,
    pub org: OrgId,
    pub project: &'a Name,
    pub environment: Environment,
    pub tool: Option<&'a Name>,
    pub key: KeyId,
    pub key_name: &'a Name,
    pub key_version: u32,
    pub scheme: Scheme,
    pub authority: &'a Authority,
    pub method: &'a Method,
    /// As it came, without the query.
    pub path: &'a str,
    pub slot: &'a Slot,
    /// What the request asks to switch to, if it does: a protocol's name as it came, `websocket` in lower case.
    pub upgrade: Option<&'a str>,
}

/// Proof that a rule allows one use of one key. Only a decision makes one, and it can't be copied.
///
/// ```compile_fail
/// fn twice(permit: sallyport::policy::Permit) -> (sallyport::policy::Permit, sallyport::policy::Permit) {
///     (permit, permit)
/// }
/// ```
#[derive(Debug)]
pub struct Permit {
    exchange: ExchangeId,
    session: SessionId,
    key: KeyId,
    version: u32,
    authority: Authority,
    method: Method,
    slot: Slot,
    policy: Name,
    rule: Arc<str>,
}

#[expect(missing_docs, reason = "each getter is named by what it gives")]
impl Permit {
    /// For a use that this rule allows.
    pub(super) fn new(facts: &Facts<'_>, policy: &Name, rule: &Arc<str>) -> Self {
        Self {
            exchange: facts.exchange,
            session: facts.session,
            key: facts.key,
            version: facts.key_version,
            authority: facts.authority.clone(),
            method: facts.method.clone(),
            slot: facts.slot.clone(),
            policy: policy.clone(),
            rule: Arc::clone(rule),
        }
    }
    pub fn exchange(&self) -> ExchangeId {
        self.exchange
    }
    pub fn session(&self) -> SessionId {
        self.session
    }
    pub fn key(&self) -> KeyId {
        self.key
    }
    pub fn version(&self) -> u32 {
        self.version
    }
    pub fn authority(&self) -> &Authority {
        &self.authority
    }
    pub fn method(&self) -> &Method {
        &self.method
    }
    pub fn slot(&self) -> &Slot {
        &self.slot
    }
    pub fn policy(&self) -> &Name {
        &self.policy
    }
    pub fn rule(&self) -> &Arc<str> {
        &self.rule
    }
}

/// Allows building scrub patterns of a key for replies of one host: the only opening without an
/// exchange.
#[derive(Debug)]
pub struct ScrubPermit {
    org: OrgId,
}

impl ScrubPermit {
    /// A permit for the keys of this organisation that are bound to the host.
    #[must_use]
    pub fn for_reply(org: OrgId, _authority: &Authority) -> Self {
        Self { org }
    }

    /// The organisation whose keys may be looked at.
    #[must_use]
    pub fn org(&self) -> OrgId {
        self.org
    }
}

/// What was decided.
#[derive(Debug)]
pub enum Decision {
    /// A rule allows it.
    Permit(Permit),
    /// A rule denies it, or none allows it.
    Deny(Denial),
}

/// Why not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// The document of the rule that decided.
    pub policy: Option<Name>,
    /// The rule that decided.
    pub rule: Option<Arc<str>>,
    /// In words.
    pub reason: Reason,
}

/// Why a request is denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// A rule denies it.
    Rule,
    /// No document applies to the key.
    NoPolicy,
    /// Documents apply, and none of their rules allows it.
    NoRule,
    /// Documents apply, and none of their rules allows to switch to the protocol that is asked for.
    NoUpgrade,
    /// A path rule applies and the path can't be put in normal form.
    Path(PathError),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule => f.write_str("the rule denies it"),
            Self::NoPolicy => f.write_str("no policy applies to the key"),
            Self::NoRule => f.write_str("policies apply to the key, and no rule of theirs allows this request"),
            Self::NoUpgrade => f.write_str(
                "no rule allows to switch to the protocol that the request asks for, by naming it in `upgrades`",
            ),
            Self::Path(why) => write!(f, "{why}, so path rules can't be decided"),
        }
    }
}

/// What happens to a request to a bound host that holds no token.
#[derive(Debug)]
pub enum WithoutToken {
    /// It is refused.
    Deny,
    /// It goes on as it is.
    Forward,
    /// A key is put in.
    Inject(Permit),
}

/// How a decision came about, rule by rule.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// `allow` or `deny`.
    pub decision: &'static str,
    /// The rule that decided, as `policy/rule`.
    pub decided_by: Option<String>,
    /// Why, in words.
    pub reason: String,
    /// Every rule that was looked at, as `policy/rule: outcome`.
    pub rules: Vec<String>,
}

impl PolicySet {
    /// Decides one use of one key. A denial beats every allowance; nothing said is a denial. Nothing but the facts and
    /// the set may be looked at here: what they decide is kept ([`Ruling`](super::Ruling)).
    #[must_use]
    pub fn decide(&self, facts: &Facts<'_>) -> Decision {
        let path = normal(facts.path);
        let read = path.as_deref().ok().map(Read::of);
        let mut allowed: Option<(&Policy, &Rule)> = None;
        let (mut any, mut names_paths) = (false, false);
        for policy in self.applying(facts.key_name, facts.environment, facts.tool, facts.project) {
            any = true;
            names_paths |= policy.names_paths;
            let may_fit = |front: &Front| read.as_ref().is_none_or(|path| front.may_fit(path));
            let rules = policy.rules.iter().zip(&policy.fronts).filter(|(_, front)| may_fit(front));
            for (rule, _) in rules.filter(|(rule, _)| !rule.report) {
                if !rule.matches(facts, read.as_ref()) {
                    continue;
                }
                if rule.deny {
                    let reason = match &path {
                        Err(why) if rule.names_paths() => Reason::Path(*why),
                        _ => Reason::Rule,
                    };
                    return Decision::Deny(Denial {
                        policy: Some(policy.name.clone()),
                        rule: Some(Arc::clone(&rule.name)),
                        reason,
                    });
                }
                allowed.get_or_insert((policy, rule));
            }
        }
        match (allowed, &path) {
            (Some(_), Err(why)) if names_paths => {
                Decision::Deny(Denial { policy: None, rule: None, reason: Reason::Path(*why) })
            }
            (Some((policy, rule)), _) => Decision::Permit(Permit::new(facts, &policy.name, &rule.name)),
            (None, Err(why)) if names_paths => {
                Decision::Deny(Denial { policy: None, rule: None, reason: Reason::Path(*why) })
            }
            (None, _) => {
                let reason = match facts.upgrade {
                    _ if !any => Reason::NoPolicy,
                    Some(asked) if asked != WEBSOCKET => Reason::NoUpgrade,
                    _ => Reason::NoRule,
                };
                Decision::Deny(Denial { policy: None, rule: None, reason })
            }
        }
    }

    /// What the applying documents say of a request without a token. `deny` beats the others, and a
    /// key is injected only by a rule that names method and path, and never for a page's request.
    #[must_use]
    pub fn decide_without_token(&self, facts: &Facts<'_>, from_browser: bool) -> WithoutToken {
        let mut word = None;
        for policy in self.applying(facts.key_name, facts.environment, facts.tool, facts.project) {
            match (policy.without_token, word) {
                (Some(WithoutTokenWord::Deny), _) => return WithoutToken::Deny,
                (Some(new), None) => word = Some(new),
                (Some(WithoutTokenWord::Forward), Some(_)) => word = Some(WithoutTokenWord::Forward),
                _ => {}
            }
        }
        match word {
            Some(WithoutTokenWord::Forward) => WithoutToken::Forward,
            Some(WithoutTokenWord::Inject) if !from_browser => match self.decide(facts) {
                Decision::Permit(permit) if self.narrow(facts, &permit) => WithoutToken::Inject(permit),
                _ => WithoutToken::Deny,
            },
            _ => WithoutToken::Deny,
        }
    }

    fn narrow(&self, facts: &Facts<'_>, permit: &Permit) -> bool {
        self.applying(facts.key_name, facts.environment, facts.tool, facts.project)
            .filter(|policy| policy.name == permit.policy && policy.without_token == Some(WithoutTokenWord::Inject))
            .any(|policy| policy.rules.iter().any(|r| r.name == permit.rule && r.names_method_and_path()))
    }

    /// How a decision comes about.
    #[must_use]
    pub fn explain(&self, facts: &Facts<'_>) -> Explanation {
        let path = normal(facts.path);
        let read = path.as_deref().ok().map(Read::of);
        let mut rules = Vec::new();
        for policy in self.applying(facts.key_name, facts.environment, facts.tool, facts.project) {
            for rule in &policy.rules {
                let verb = if rule.deny { "denies" } else { "allows" };
                let says = match rule.matches(facts, read.as_ref()) {
                    true if rule.report => format!("{verb} it, in report mode only"),
                    true => format!("{verb} it"),
                    false => "doesn't match".to_owned(),
                };
                rules.push(format!("{}/{}: {says}", policy.name, rule.name));
            }
        }
        match self.decide(facts) {
            Decision::Permit(p) => Explanation {
                decision: "allow",
                decided_by: Some(format!("{}/{}", p.policy, p.rule)),
                reason: "the rule allows it and none denies it".to_owned(),
                rules,
            },
            Decision::Deny(d) => Explanation {
                decision: "deny",
                decided_by: d.policy.zip(d.rule).map(|(p, r)| format!("{p}/{r}")),
                reason: d.reason.to_string(),
                rules,
            },
        }
    }
}

/// The path to match on. Most paths have nothing to decode, so they aren't copied.
fn normal(raw: &str) -> Result<Cow<'_, str>, PathError> {
    let plain =
        |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'-' | b'_' | b':' | b'@' | b'~' | b',' | b'=' | b'+');
    let mut before = 0;
    let simple = |b: u8| plain(b) && !(std::mem::replace(&mut before, b) == b'/' && b == b'/');
    if raw.starts_with('/') && raw.bytes().all(simple) {
        return Ok(Cow::Borrowed(raw));
    }
    path::normal(raw).map(Cow::Owned)
}
