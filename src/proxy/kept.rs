//! A timer for hyper that keeps its deadline armed from one request head to the next.
//!
//! hyper makes a deadline for each head that it waits for and drops it when the head is there. To arm
//! one takes a lock and a place in the timer wheel; to move an armed one to a later time is one atomic
//! operation.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::time::{Sleep, sleep_until};

type Armed = Pin<Box<Sleep>>;

/// The timer of one connection, which waits for one thing at a time.
#[derive(Clone, Default)]
pub struct KeptTimer(Arc<Mutex<Option<Armed>>>);

impl KeptTimer {
    fn slot(&self) -> std::sync::MutexGuard<'_, Option<Armed>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl hyper::rt::Timer for KeptTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn hyper::rt::Sleep>> {
        self.sleep_until(Instant::now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn hyper::rt::Sleep>> {
        let armed = match self.slot().take() {
            Some(mut armed) => {
                armed.as_mut().reset(deadline.into());
                armed
            }
            None => Box::pin(sleep_until(deadline.into())),
        };
        Box::pin(Lent { armed: Some(armed), home: self.clone() })
    }
}

/// An armed deadline, which goes back to its timer when it is dropped.
struct Lent {
    armed: Option<Armed>,
    home: KeptTimer,
}

impl Future for Lent {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.armed.as_mut().map_or(Poll::Pending, |armed| armed.as_mut().poll(cx))
    }
}

impl hyper::rt::Sleep for Lent {}

impl Drop for Lent {
    fn drop(&mut self) {
        *self.home.slot() = self.armed.take();
    }
}

#[cfg(test)]
mod tests {
    use hyper::rt::Timer as _;

    use super::*;

    const SOON: Duration = Duration::from_millis(5);
    const LATE: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn kept_deadline_is_that_of_the_last_wait() {
        let timer = KeptTimer::default();
        drop(timer.sleep(LATE));
        timer.sleep(SOON).await;
        let late = timer.sleep(LATE);
        assert!(tokio::time::timeout(2 * SOON, late).await.is_err());
        timer.sleep(SOON).await;
    }
}
