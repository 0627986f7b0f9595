//! Appends the intent to use a key to the audit: only this makes a receipt.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;

use http::Method;

use super::authorize;
use super::core::Core;
use super::identify::Found;
use super::reject::{Code, Rejection};
use super::target::Target;
use super::tunnel::Tunnel;
use crate::audit::{Draft, Intent, Receipt};
use crate::model::{ExchangeId, Name, OrgId, SessionId, Slot, Timestamp, TokenEndpoint, TokenHash, TokenId};
use crate::policy::{Facts, Permit};
use crate::session::live::{LiveSession, LiveToken};
use crate::vault::key::Key;

/// Who uses which key.
pub struct Use<'a> {
    /// The session.
    pub session: &'a LiveSession,
    /// The token, unless the key is injected without one.
    pub token: Option<TokenId>,
    /// The key.
    pub key: &'a Key,
    /// The slot.
    pub slot: &'a Slot,
}

impl<'a> Use<'a> {
    /// The use that a found token makes of its key.
    pub fn of(found: &'a Found) -> Self {
        Self { session: &found.token.session, token: Some(found.token.id), key: &found.key, slot: &found.slot }
    }
}

/// The request for which an access token is minted.
pub struct Cause {
    /// The exchange.
    pub exchange: ExchangeId,
    /// The connection that it came on.
    pub tunnel: Rc<Tunnel>,
    /// The session.
    pub session: Arc<LiveSession>,
    /// The token, unless the key is injected without one.
    pub token: Option<Arc<LiveToken>>,
    /// The slot that the access token is for.
    pub slot: Slot,
    /// The request's method.
    pub method: Method,
    /// Where the request goes.
    pub target: Target,
    /// What the request asks to switch to, if it does.
    pub upgrade: Option<String>,
}

impl Cause {
    /// What is decided on for this key.
    pub fn facts<'a>(&'a self, key: &'a Key) -> Facts<'a> {
        let facts = authorize::facts_of(self.exchange, &self.method, &self.target, &self.session, key, &self.slot);
        Facts { upgrade: self.upgrade.as_deref(), ..facts }
    }
}

/// Records that a key is about to be shown to its token endpoint.
///
/// # Errors
/// The record can't be written; then the key may not be used.
pub fn mint(
    core: &Core,
    cause: &Cause,
    key: &Key,
    endpoint: &TokenEndpoint,
    policies: &[u8; 32],
    permit: &Permit,
) -> Result<(Receipt, Draft), Rejection> {
    let session: &LiveSession = &cause.session;
    let intent = Intent {
        at: core.shared.clock.now(),
        exchange: cause.exchange,
        session: session.id,
        token: cause.token.as_ref().map(|token| token.id),
        org: session.org,
        project: &session.project,
        key: key.id,
        key_name: &key.name,
        version: key.version,
        tool: session.tool.as_ref(),
        method: &Method::POST,
        scheme: endpoint.scheme,
        authority: &endpoint.authority,
        path: endpoint.path.path(),
        slot: &cause.slot,
        policy: permit.policy(),
        rule: permit.rule(),
        policy_digest: policies,
        client: cause.tunnel.client.as_deref(),
        mint: true,
    };
    write(core, &intent)
}

/// The path with proxy tokens masked: there they are only text, but a record isn't their place.
fn without_tokens(path: &str) -> Cow<'_, str> {
    let mut path = Cow::Borrowed(path);
    while let Some((range, _)) = TokenHash::find(path.as_bytes()) {
        path.to_mut().replace_range(range, "[token]");
    }
    path
}

/// Records that a key is about to be used. The record is with the operating system when this
/// returns.
///
/// # Errors
/// The record can't be written; then the key may not be used.
#[expect(clippy::too_many_arguments, reason = "a record says everything that was decided on")]
pub fn intent(
    core: &Core,
    tunnel: &Tunnel,
    exchange: ExchangeId,
    target: &Target,
    usage: &Use<'_>,
    policies: &[u8; 32],
    permit: &Permit,
    at: Timestamp,
) -> Result<(Receipt, Draft), Rejection> {
    let session: &LiveSession = usage.session;
    let org: OrgId = session.org;
    let id: SessionId = session.id;
    let project: &Name = &session.project;
    let intent = Intent {
        at,
        exchange,
        session: id,
        token: usage.token,
        org,
        project,
        key: usage.key.id,
        key_name: &usage.key.name,
        version: usage.key.version,
        tool: session.tool.as_ref(),
        method: permit.method(),
        scheme: target.scheme,
        authority: &target.authority,
        path: &without_tokens(target.path()),
        slot: usage.slot,
        policy: permit.policy(),
        rule: permit.rule(),
        policy_digest: policies,
        client: tunnel.client.as_deref(),
        mint: false,
    };
    write(core, &intent)
}

fn write(core: &Core, intent: &Intent<'_>) -> Result<(Receipt, Draft), Rejection> {
    core.timed.begin();
    let recorded = core.audit.intent(intent);
    core.timed.appended();
    recorded.map_err(|why| {
        tracing::error!(request.id = %intent.exchange, error = %why, "the audit record can't be written, so no key is used");
        Rejection::new(Code::AuditUnavailable, "the record that a key is about to be used can't be written")
    })
}
