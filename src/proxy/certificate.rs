//! The way of a key that belongs to a connection: a client certificate (`mtls`).
//!
//! The agent's token stands in the key's slot, or a rule fills it without one; what stood there is taken
//! out, and the request goes on a connection that showed the certificate. Each request has a permit and a
//! record of its own. The key is opened for them only if a connection has to be made: one from the pool
//! showed the same version of the same key before, and no request without that key is ever sent on it.

use std::sync::Arc;

use http::Request;

use super::account::Account;
use super::authorize::Authorized;
use super::core::Core;
use super::identify::{Found, Identified};
use super::put;
use super::record::{Intended, Use};
use super::reject::{Code, Rejection};
use super::target::Target;
use super::tunnel::Tunnel;
use crate::audit::Receipt;
use crate::credential::Credential;
use crate::model::{ExchangeId, Scheme};
use crate::policy::Permit;
use crate::session::live::LiveSession;
use crate::session::registry::Moment;
use crate::upstream::{Checkout, Place, Protocol, Shown};
use crate::vault::key::Key;

/// A certificate that the request's connection shows: permitted and recorded.
pub struct Owed {
    exchange: ExchangeId,
    key: Arc<Key>,
    permit: Permit,
    receipt: Receipt,
}

/// Whether a key of the request belongs to its connection; without any, nothing here is paid for.
pub fn concerns(identified: &Identified, authorized: &Authorized) -> bool {
    match authorized {
        Authorized::Plain => false,
        Authorized::Swap(_) => identified.found.iter().any(of_connection),
        Authorized::Fill(fill) => fill.0.kind.is_of_connection(),
    }
}

/// Whether the token's key is put into the connection, and not into the request.
pub fn of_connection(found: &Found) -> bool {
    found.key.kind.is_of_connection()
}

/// Records that the certificate is about to be shown, and takes out of the request what stands for it.
/// What is left of `authorized` is what is put into the request.
///
/// # Errors
/// The request can't have a certificate, or the use can't be recorded.
#[expect(clippy::too_many_arguments, reason = "the step joins what all steps before it found")]
pub fn owe<B>(
    core: &Core,
    tunnel: &Tunnel,
    exchange: ExchangeId,
    target: &Target,
    identified: &Identified,
    policies: &[u8; 32],
    moment: Moment,
    authorized: &mut Authorized,
    session: Option<&Arc<LiveSession>>,
    request: &mut Request<B>,
    account: &mut Account,
) -> Result<Owed, Rejection> {
    let lost = || Rejection::new(Code::Internal, "the permit of the client certificate is gone");
    let (key, slot, permit, session, token) = match std::mem::replace(authorized, Authorized::Swap(Vec::new())) {
        Authorized::Plain => return Err(lost()),
        Authorized::Swap(mut permits) => {
            let mut at = identified.found.iter().enumerate().filter(|(_, found)| of_connection(found));
            let (Some((at, found)), None) = (at.next(), at.next()) else {
                let why = "the request names two client certificates, and a connection shows one";
                return Err(Rejection::new(Code::BadRequest, why));
            };
            if at >= permits.len() {
                return Err(lost());
            }
            let permit = permits.remove(at);
            *authorized = Authorized::Swap(permits);
            (Arc::clone(&found.key), found.slot.clone(), permit, &found.token.session, Some(found.token.id))
        }
        Authorized::Fill(fill) => {
            let (key, slot, permit) = *fill;
            (key, slot, permit, session.ok_or_else(lost)?, None)
        }
    };
    if target.scheme != Scheme::Https {
        let why = format!("the client certificate {} is shown over TLS only, and this is http://", key.name);
        return Err(Rejection::new(Code::HostNotAllowed, why));
    }
    let usage = Use { session, token, key: &key, slot: &slot };
    let intended = Intended { tunnel, exchange, target, usage, policies, permit: &permit, at: moment.time() };
    let (receipt, draft) = intended.record(core)?;
    account.owe(session.id, Some(Arc::clone(permit.rule())), draft);
    if let Some(header) = slot.header() {
        request.headers_mut().remove(header);
    }
    core.shared.metrics.injected(key.provider.as_str(), "certificate");
    Ok(Owed { exchange, key, permit, receipt })
}

impl Owed {
    /// A connection that showed the certificate, or what makes one. Without a protocol the connection is
    /// for a request that asks to switch it.
    ///
    /// # Errors
    /// The key can't be opened.
    pub fn checkout<'a>(
        self,
        core: &'a Core,
        place: Place,
        want: Option<Protocol>,
        moment: Moment,
    ) -> Result<Checkout<'a>, Rejection> {
        let Self { exchange, key, permit, receipt } = self;
        let whose = (key.id, key.version);
        if let Some(want) = want
            && let Some(pooled) = core.upstream.shown(place.clone(), whose, want, moment.instant())
        {
            return Ok(Checkout::Pooled(pooled));
        }
        match put::opened(core, exchange, &key, permit, receipt)? {
            Credential::Certificate(identity) => {
                let shown = Shown::new(identity.certified());
                Ok(core.upstream.showing(place, (whose, shown), want))
            }
            _ => Err(Rejection::new(Code::Internal, "the key holds no client certificate")),
        }
    }
}
