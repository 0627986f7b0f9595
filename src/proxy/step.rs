//! What a connection becomes: the steps of its life, one after the other.
//!
//! A forward connection is read for its CONNECT, then for what comes through the tunnel, then for TLS,
//! then for HTTP. Were each step awaited by the one before, all of them would be there as long as the
//! connection is, and each wake-up would go down through them. So a step ends with what comes next, and
//! the connection's task goes on from there.

use std::pin::Pin;

/// What comes next, if anything does.
pub type Next = Option<Step>;

/// A step that is about to be taken.
pub struct Step(Pin<Box<dyn Future<Output = Next>>>);

/// The next step.
pub fn then(step: impl Future<Output = Next> + 'static) -> Next {
    Some(Step(Box::pin(step)))
}

/// Takes a step and those that follow from it.
pub async fn take(mut next: Next) {
    while let Some(step) = next {
        next = step.0.await;
    }
}
