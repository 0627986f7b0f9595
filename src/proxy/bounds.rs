//! Whether a session is used from where it may be: a token that leaked from its network, or without
//! its client's certificate, is of no use.

use super::core::Core;
use super::reject::{Code, Rejection};
use crate::model::Origin;
use crate::session::live::LiveSession;

/// Checks a session's bounds; most have none.
///
/// # Errors
/// The session may not be used from there. That is a security event: somebody has what isn't theirs.
pub fn check(core: &Core, session: &LiveSession, from: &Origin) -> Result<(), Rejection> {
    let Some(Err(why)) = session.bounds().map(|bounds| bounds.admit(from)) else { return Ok(()) };
    core.shared.metrics.security_event(EVENT);
    core.audit.event(&from.address.to_string(), EVENT, &session.id.to_string(), why);
    Err(Rejection::new(Code::TokenMisplaced, why))
}

const EVENT: &str = "session_misplaced";
