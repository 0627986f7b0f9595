//! Appends the intent to use a key to the audit: only this makes a receipt.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use http::Method;

use super::authorize;
use super::core::Core;
use super::identify::Found;
use super::reject::{Code, Rejection};
use super::target::Target;
use super::tunnel::Tunnel;
use crate::audit::{self, Draft, Intent, Receipt};
use crate::model::{ExchangeId, Slot, Timestamp, TokenEndpoint, TokenHash, TokenId};
use crate::policy::{Facts, Permit};
use crate::session::live::{LiveSession, LiveToken};
use crate::vault::key::Key;

/// Who uses which key.
#[derive(Clone, Copy)]
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
    let Cause { exchange, tunnel, session, token, slot, target, .. } = cause;
    let (usage, at) =
        (Use { session, token: token.as_ref().map(|token| token.id), key, slot }, core.shared.clock.now());
    let intended = Intended { tunnel, exchange: *exchange, target, usage, policies, permit, at };
    let (method, scheme, authority) = (&Method::POST, endpoint.scheme, &endpoint.authority);
    write(core, &Intent { method, scheme, authority, mint: true, ..intended.intent(endpoint.path.path()) })
}

/// The path with proxy tokens masked: there they are only text, but a record isn't their place.
pub fn without_tokens(path: &str) -> Cow<'_, str> {
    let mut path = Cow::Borrowed(path);
    while let Some((range, _)) = TokenHash::find(path.as_bytes()) {
        path.to_mut().replace_range(range, "[token]");
    }
    path
}

/// A use of a key, and what it was decided on.
pub struct Intended<'a> {
    /// The connection that it is asked on.
    pub tunnel: &'a Tunnel,
    /// The exchange.
    pub exchange: ExchangeId,
    /// Where the request goes.
    pub target: &'a Target,
    /// Who uses which key.
    pub usage: Use<'a>,
    /// The digest of the policies that decided.
    pub policies: &'a [u8; 32],
    /// What they said.
    pub permit: &'a Permit,
    /// When.
    pub at: Timestamp,
}

impl Intended<'_> {
    /// Records that the key is about to be used. The record is with the operating system when this
    /// returns.
    ///
    /// # Errors
    /// The record can't be written; then the key may not be used.
    pub fn record(&self, core: &Core) -> Result<(Receipt, Draft), Rejection> {
        self.record_with(core, &without_tokens(self.target.path()))
    }

    /// The same with this path, which holds no proxy token.
    ///
    /// # Errors
    /// The record can't be written; then the key may not be used.
    pub fn record_with(&self, core: &Core, path: &str) -> Result<(Receipt, Draft), Rejection> {
        write(core, &self.intent(path))
    }

    /// The same with one call for all that are recorded in one turn of the core; it takes from `began` on. The record is
    /// with the operating system when what is returned is ready.
    ///
    /// # Errors
    /// The record can't be written; then the key may not be used.
    pub async fn record_among_others(
        &self,
        core: &Core,
        path: &str,
        began: Instant,
    ) -> Result<(Receipt, Draft), Rejection> {
        let queued = core.audit.queue(&self.intent(path));
        let recorded = match queued {
            Ok(queued) => queued.await,
            Err(why) => Err(why),
        };
        core.timed.appended_since(began);
        recorded.map_err(|why| unwritten(self.exchange, &why))
    }

    fn intent<'a>(&'a self, path: &'a str) -> Intent<'a> {
        let Use { session, token, key, slot } = self.usage;
        Intent {
            at: self.at,
            exchange: self.exchange,
            session: session.id,
            token,
            org: session.org,
            project: &session.project,
            key: key.id,
            key_name: &key.name,
            version: key.version,
            tool: session.tool.as_ref(),
            method: self.permit.method(),
            scheme: self.target.scheme,
            authority: &self.target.authority,
            path,
            slot,
            policy: self.permit.policy(),
            rule: self.permit.rule(),
            policy_digest: self.policies,
            client: self.tunnel.client.as_deref(),
            mint: false,
        }
    }
}

fn write(core: &Core, intent: &Intent<'_>) -> Result<(Receipt, Draft), Rejection> {
    core.timed.begin();
    let recorded = core.audit.intent(intent);
    core.timed.appended();
    recorded.map_err(|why| unwritten(intent.exchange, &why))
}

fn unwritten(exchange: ExchangeId, why: &audit::Error) -> Rejection {
    tracing::error!(request.id = %exchange, error = %why, "the audit record can't be written, so no key is used");
    Rejection::new(Code::AuditUnavailable, "the record that a key is about to be used can't be written")
}
