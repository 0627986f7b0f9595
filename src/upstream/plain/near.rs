//! Whether a reply is worth polling for, rather than to sleep until it comes.

/// The most quick replies that are awaited asleep, as a power of two, before one is polled for again.
const LONGEST_PAUSE: u32 = 10;

/// What the replies of a place taught of how near it is.
///
/// One that was polled for in vain costs the time that it was polled for, and if the upstream lacked just that
/// processor it was the polling that made it late. So each time it takes twice as many quick replies as the last
/// time until one is polled for again. The first one is.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Near {
    /// How many in a row were polled for in vain.
    missed: u32,
    /// How many quick replies it takes until one is polled for again.
    pause: u32,
}

impl Near {
    /// Whether the next reply is worth it.
    pub fn is_worth_polling(&self) -> bool {
        self.pause == 0
    }

    /// A reply came: whether that was within the time for which one is polled for.
    pub fn replied(&mut self, in_time: bool) {
        match (self.is_worth_polling(), in_time) {
            (true, true) => self.missed = 0,
            (true, false) => {
                self.missed = LONGEST_PAUSE.min(self.missed + 1);
                self.pause = 1 << self.missed;
            }
            (false, true) => self.pause -= 1,
            (false, false) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many quick replies it takes until the next one is polled for.
    fn pause(near: &mut Near) -> u32 {
        let mut quick = 0;
        while !near.is_worth_polling() {
            near.replied(true);
            quick += 1;
        }
        quick
    }

    #[test]
    fn each_reply_that_is_polled_for_in_vain_doubles_the_pause_up_to_a_bound() {
        let mut near = Near::default();
        let pauses: Vec<_> = (0..12)
            .map(|_| {
                near.replied(false);
                pause(&mut near)
            })
            .collect();
        assert_eq!(pauses, [2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 1024, 1024]);
    }

    #[test]
    fn slow_replies_do_not_shorten_the_pause_and_one_in_time_forgives() {
        let mut near = Near::default();
        (0..2).for_each(|_| near.replied(false));
        assert_eq!(pause(&mut near), 2, "the second wasn't polled for");
        near.replied(true);
        near.replied(false);
        assert_eq!(pause(&mut near), 2);
    }
}
