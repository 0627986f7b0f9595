//! Record, open, compute, put in: for each key in this order, and all records before the first key.
//!
//! The request is already as it will be sent, so what is computed from it holds when it arrives. Of a
//! key that is pasted nothing is computed; see [`crate::credential`] for the others.

use std::sync::Arc;
use std::time::Instant;

use http::Request;
use http::header::AUTHORIZATION;

use super::account::Account;
use super::authorize::Authorized;
use super::core::Core;
use super::identify::{Found, Identified};
use super::record::{Intended, Use, without_tokens};
use super::reject::{Code, Rejection};
use super::signed::{self, ToSign};
use super::target::Target;
use super::tunnel::Tunnel;
use super::whole::Whole;
use super::{certificate, inject, mint};
use crate::audit::Receipt;
use crate::credential::{self, Credential};
use crate::model::{ExchangeId, Slot, Timestamp};
use crate::policy::Permit;
use crate::session::live::LiveSession;
use crate::vault::key::Key;

/// Where in the request the credential goes.
#[derive(Clone, Copy)]
enum Place<'a> {
    /// Where this token stands.
    Of(&'a Found),
    /// Into this slot, which is empty.
    Empty(&'a Slot),
}

/// Records that the keys that were permitted are about to be used, together with what other exchanges record
/// now: one receipt for each that is put in, in the order of the permits. What may have ended meanwhile has to
/// be looked at again.
///
/// # Errors
/// The use can't be recorded.
#[expect(clippy::too_many_arguments, reason = "the step joins what all steps before it found")]
pub async fn record(
    core: &Core,
    tunnel: &Tunnel,
    exchange: ExchangeId,
    target: &Target,
    identified: &Identified,
    policies: &[u8; 32],
    at: Timestamp,
    authorized: &Authorized,
    session: Option<&Arc<LiveSession>>,
    account: &mut Account,
) -> Result<Vec<Receipt>, Rejection> {
    let mut receipts = Vec::new();
    match authorized {
        Authorized::Plain => {}
        Authorized::Swap(permits) => {
            receipts.reserve_exact(permits.len());
            let path = &without_tokens(target.path());
            for (found, permit) in in_request(identified).zip(permits) {
                let usage = Use::of(found);
                let intended = Intended { tunnel, exchange, target, usage, policies, permit, at };
                let (receipt, draft) = intended.record_among_others(core, path, Instant::now()).await?;
                account.owe(found.token.session.id, Some(Arc::clone(permit.rule())), draft);
                receipts.push(receipt);
            }
        }
        Authorized::Fill(fill) => {
            let (key, slot, permit) = &**fill;
            let session =
                session.ok_or_else(|| Rejection::new(Code::Internal, "a key is injected only for a session"))?;
            let usage = Use { session, token: None, key, slot };
            let intended = Intended { tunnel, exchange, target, usage, policies, permit, at };
            let (receipt, draft) =
                intended.record_among_others(core, &without_tokens(target.path()), Instant::now()).await?;
            account.owe(session.id, Some(Arc::clone(permit.rule())), draft);
            receipts.push(receipt);
        }
    }
    Ok(receipts)
}

/// What is found for keys that are put into the request: that of a key which its connection showed is used up.
fn in_request(identified: &Identified) -> impl Iterator<Item = &Found> {
    identified.found.iter().filter(|found| !certificate::of_connection(found))
}

/// Uses the keys that were permitted, and whose use was recorded.
///
/// # Errors
/// A key can't be opened, or what it holds can't be put into this request.
#[expect(clippy::too_many_arguments, reason = "the step joins what all steps before it found")]
pub fn put<B>(
    core: &Core,
    exchange: ExchangeId,
    identified: &Identified,
    at: Timestamp,
    authorized: Authorized,
    receipts: Vec<Receipt>,
    signed: Option<&ToSign>,
    request: &mut Request<B>,
    mut body: Option<&mut Whole>,
) -> Result<(), Rejection> {
    match authorized {
        Authorized::Plain => {}
        Authorized::Swap(permits) => {
            for ((found, permit), receipt) in in_request(identified).zip(permits).zip(receipts) {
                let credential = opened(core, exchange, &found.key, permit, receipt)?;
                let place = Place::Of(found);
                enter(request, body.as_deref_mut(), &credential, place, signed, at)?;
                core.shared.metrics.injected(found.key.provider.as_str(), found.slot.label());
            }
        }
        Authorized::Fill(fill) => {
            let (key, slot, permit) = *fill;
            let unrecorded = || Rejection::new(Code::Internal, "the use of the key isn't recorded");
            let receipt = receipts.into_iter().next().ok_or_else(unrecorded)?;
            let credential = opened(core, exchange, &key, permit, receipt)?;
            enter(request, body, &credential, Place::Empty(&slot), None, at)?;
            core.shared.metrics.injected(key.provider.as_str(), slot.label());
        }
    }
    Ok(())
}

pub(super) fn opened(
    core: &Core,
    exchange: ExchangeId,
    key: &Key,
    permit: Permit,
    receipt: Receipt,
) -> Result<Credential, Rejection> {
    if key.kind.is_minted() {
        let token = core.shared.mints.open(permit, receipt, key).map_err(|why| mint::rejection(&why))?;
        return Ok(Credential::Pasted(token));
    }
    let opened = core.shared.vault.open(permit, receipt);
    core.timed.opened();
    let secret = opened.map_err(|why| {
        tracing::error!(request.id = %exchange, key.id = %key.id, error = %why, "the key can't be opened");
        Rejection::new(Code::Internal, "the key can't be opened")
    })?;
    credential::read(key.kind, secret).map_err(|why| {
        tracing::error!(request.id = %exchange, key.id = %key.id, error = %why, "the key can't be read");
        Rejection::new(Code::Internal, "the key can't be read")
    })
}

/// Puts one credential into the request.
fn enter<B>(
    request: &mut Request<B>,
    body: Option<&mut Whole>,
    credential: &Credential,
    place: Place<'_>,
    signed: Option<&ToSign>,
    now: Timestamp,
) -> Result<(), Rejection> {
    match (credential, place) {
        (Credential::Pasted(secret), Place::Of(found)) => inject::inject(request, body, found, secret),
        (Credential::Pasted(secret), Place::Empty(slot)) => inject::fill(request, slot, secret),
        (Credential::Minted(_), _) => {
            Err(Rejection::new(Code::Internal, "what access tokens are asked for with isn't put into requests"))
        }
        (Credential::Certificate(_), _) => {
            Err(Rejection::new(Code::Internal, "a client certificate isn't put into requests"))
        }
        (Credential::Basic(pair), _) => inject::replace(request, AUTHORIZATION, pair.authorization()),
        (Credential::Aws(pair), Place::Of(_)) if let Some(ToSign::Aws(signed)) = signed => signed.sign(request, pair),
        (Credential::Hmac(form), Place::Of(found)) if let Some(ToSign::Hmac(signed)) = signed => {
            inject::inject(request, body, found, form.key())?;
            signed::by_form(request, form, signed.bytes(), now)
        }
        (Credential::Aws(_) | Credential::Hmac(_), _) => {
            let why = "a key that signs is used only where the agent's token stands, and only once in a request";
            Err(Rejection::new(Code::CredentialUnregistered, why))
        }
    }
}
