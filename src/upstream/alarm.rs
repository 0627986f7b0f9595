//! A deadline that is set anew for each wait.
//!
//! Arming a timer takes a lock and a place in the timer wheel, moving it an atomic operation, and asking
//! for it two more. So each connection keeps its timer, which is moved only when it rings too early: a
//! deadline that is set later and later, exchange by exchange, costs a comparison.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::task::coop::has_budget_remaining;
use tokio::time::{Instant, Sleep, sleep_until};

/// The timer of one connection, armed at its first wait.
#[derive(Default)]
pub struct Alarm(Option<Box<Armed>>);

struct Armed {
    timer: Pin<Box<Sleep>>,
    /// When it is to ring; the timer may be set to earlier.
    at: Instant,
    /// Whom the timer wakes.
    wakes: Option<Waker>,
}

impl Alarm {
    /// Rings after this time, and not before.
    pub fn set(&mut self, after: Duration) {
        self.set_since(std::time::Instant::now(), after);
    }

    /// Rings so long after this moment, which just was.
    pub fn set_since(&mut self, now: std::time::Instant, after: Duration) {
        let at = Instant::from_std(now) + after;
        match &mut self.0 {
            Some(armed) => {
                armed.at = at;
                if armed.timer.deadline() > at {
                    armed.move_timer();
                }
            }
            None => self.0 = Some(Box::new(Armed { timer: Box::pin(sleep_until(at)), at, wakes: None })),
        }
    }

    /// Ready once it rings; never before it is set.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().map_or(Poll::Pending, |armed| armed.poll(cx))
    }

    /// The future's result, or `None` if it takes longer than this.
    pub async fn limit<F: Future>(&mut self, after: Duration, mut future: Pin<&mut F>) -> Option<F::Output> {
        self.set(after);
        poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(out) => Poll::Ready(Some(out)),
            Poll::Pending => self.poll(cx).map(|()| None),
        })
        .await
    }
}

impl Armed {
    fn move_timer(&mut self) {
        self.timer.as_mut().reset(self.at);
        self.wakes = None;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.timer.is_elapsed() {
            if self.timer.deadline() >= self.at {
                return Poll::Ready(());
            }
            self.move_timer();
        } else if self.wakes.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            return Poll::Pending;
        }
        // A task whose turn is used up isn't taken note of by the timer: it has to ask again.
        self.wakes = has_budget_remaining().then(|| cx.waker().clone());
        self.timer.as_mut().poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use tokio::time::sleep;

    use super::*;

    const SOON: Duration = Duration::from_millis(5);
    const LATE: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn alarm_rings_at_the_last_time_it_was_set_to() {
        let mut alarm = Alarm::default();
        assert_eq!(alarm.limit(LATE, pin!(std::future::ready(()))).await, Some(()));
        assert_eq!(alarm.limit(SOON, pin!(std::future::pending::<()>())).await, None);
        // Past the time at which it would have rung, had it not been moved.
        assert_eq!(alarm.limit(LATE, pin!(sleep(2 * SOON))).await, Some(()));
        assert_eq!(alarm.limit(SOON, pin!(std::future::pending::<()>())).await, None);
    }
    #[tokio::test]
    async fn alarm_rings_that_was_first_asked_by_a_task_whose_turn_was_used_up() {
        for moved in [false, true] {
            let mut alarm = Alarm::default();
            if moved {
                assert_eq!(alarm.limit(LATE, pin!(std::future::ready(()))).await, Some(()));
            }
            alarm.set(SOON);
            let mut used_up = false;
            let rings = poll_fn(|cx| {
                if !std::mem::replace(&mut used_up, true) {
                    while pin!(tokio::task::consume_budget()).poll(cx).is_ready() {}
                }
                alarm.poll(cx)
            });
            assert!(tokio::time::timeout(200 * SOON, rings).await.is_ok(), "{moved}");
        }
    }
}
