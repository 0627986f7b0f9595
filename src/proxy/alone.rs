//! Whether an exchange is alone on its core.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// How long no other may have begun.
const QUIET: Duration = Duration::from_millis(4);

/// Polling takes one part in so many of a core's time at most.
const POLLED_SHARE: u32 = 8;

/// When exchanges began on a core.
///
/// One that is alone gains nothing from waiting for others, so that one call writes the records of all or their
/// replies go out in a row; and nobody misses what time its core spends on it.
pub struct Alone {
    last: Cell<Option<Instant>>,
    quiet: Duration,
}

impl Alone {
    /// None began yet. The reply to one that is alone may be polled for so long
    /// ([`busy_poll`](crate::upstream::Settings::busy_poll)).
    #[must_use]
    pub fn new(busy_poll: Duration) -> Self {
        Self { last: Cell::default(), quiet: QUIET.max(busy_poll.saturating_mul(POLLED_SHARE)) }
    }

    /// One begins: whether it is alone.
    pub fn begins(&self, now: Instant) -> bool {
        self.last.replace(Some(now)).is_none_or(|last| now.saturating_duration_since(last) >= self.quiet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which of those that begin so many microseconds after one another are alone.
    fn alone(busy_poll: Duration, gaps: [u64; 4]) -> [bool; 4] {
        let (alone, mut now) = (Alone::new(busy_poll), Instant::now());
        gaps.map(|gap| {
            now += Duration::from_micros(gap);
            alone.begins(now)
        })
    }

    #[test]
    fn exchange_is_alone_if_none_began_for_eight_times_what_it_may_be_polled_for() {
        assert_eq!(alone(Duration::from_millis(1), [0, 7999, 8000, 8001]), [true, false, true, true]);
    }

    #[test]
    fn exchanges_that_come_close_together_are_not_alone_though_nothing_is_polled_for() {
        for busy_poll in [Duration::ZERO, Duration::from_micros(1)] {
            assert_eq!(alone(busy_poll, [0, 0, 3999, 4000]), [true, false, false, true]);
        }
    }

    #[test]
    fn no_length_is_too_long() {
        assert_eq!(alone(Duration::MAX, [0, 4000, 8000, 1 << 40]), [true, false, false, false]);
    }
}
