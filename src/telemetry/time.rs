//! The time in front of each log line, in UTC (RFC 3339 section 5.6): `2026-01-31T12:00:00.000Z`.

use std::cell::RefCell;
use std::fmt;

use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

use crate::model::{Clock as _, SystemClock, Timestamp};

/// Writes the time. What stays the same for a second is kept from line to line.
pub(super) struct Utc;

thread_local! {
    /// A second since 1970, and its text with the point behind it.
    static SECOND: RefCell<(i64, String)> = const { RefCell::new((i64::MIN, String::new())) };
}

impl FormatTime for Utc {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        text(SystemClock.now(), |second, millis| {
            writer.write_str(second)?;
            writer.write_str(millis)?;
            writer.write_char('Z')
        })
    }
}

/// Puts the time in front of a line that is written without tracing.
pub(super) fn push(line: &mut Vec<u8>, at: Timestamp) {
    text(at, |second, millis| {
        line.extend_from_slice(second.as_bytes());
        line.extend_from_slice(millis.as_bytes());
        line.push(b'Z');
    });
}

/// The text of the second with its point, and the digits behind it.
fn text<T>(at: Timestamp, write: impl FnOnce(&str, &str) -> T) -> T {
    let (second, millis) = (at.millis().div_euclid(1000), at.millis().rem_euclid(1000));
    SECOND.with_borrow_mut(|(of, text)| {
        if *of != second {
            *text = text_of(second);
            text.push('.');
            *of = second;
        }
        // Three digits with their zeros in front: the first of four is cut off.
        write(text, &itoa::Buffer::new().format(1000 + millis)[1..])
    })
}

fn text_of(second: i64) -> String {
    let at = jiff::Timestamp::from_second(second);
    at.map_or_else(|_| String::new(), |at| at.strftime("%Y-%m-%dT%H:%M:%S").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_that_of_the_clock_with_three_digits_behind_the_point() {
        let before = SystemClock.now().millis();
        let mut text = String::new();
        Utc.format_time(&mut Writer::new(&mut text)).expect("a string takes everything");
        let shown: jiff::Timestamp = text.parse().expect("RFC 3339");
        assert!((before..=SystemClock.now().millis()).contains(&shown.as_millisecond()), "{text}");
        assert_eq!(text.len(), "2026-01-31T12:00:00.000Z".len());
    }
}
