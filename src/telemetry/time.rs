//! The time in front of each log line, in UTC (RFC 3339 section 5.6): `2026-01-31T12:00:00.000000Z`.

use std::cell::RefCell;
use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

/// Writes the time. What stays the same for a second is kept from line to line.
pub(super) struct Utc;

thread_local! {
    /// A second since 1970, and its text up to the point.
    static SECOND: RefCell<(u64, String)> = const { RefCell::new((u64::MAX, String::new())) };
}

impl FormatTime for Utc {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        SECOND.with_borrow_mut(|(second, text)| {
            if *second != now.as_secs() {
                *text = text_of(now.as_secs());
                *second = now.as_secs();
            }
            writer.write_str(text)
        })?;
        // Six digits with their zeros in front: the first of seven is cut off.
        let mut digits = itoa::Buffer::new();
        writer.write_char('.')?;
        writer.write_str(&digits.format(1_000_000 + now.subsec_micros())[1..])?;
        writer.write_char('Z')
    }
}

fn text_of(second: u64) -> String {
    let at = i64::try_from(second).ok().and_then(|second| jiff::Timestamp::from_second(second).ok());
    at.map_or_else(String::new, |at| at.strftime("%Y-%m-%dT%H:%M:%S").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_that_of_the_clock_with_six_digits_behind_the_point() {
        let mut text = String::new();
        Utc.format_time(&mut Writer::new(&mut text)).expect("a string takes everything");
        let parsed: jiff::Timestamp = text.parse().expect("RFC 3339");
        assert!(jiff::Timestamp::now().duration_since(parsed).as_secs() < 60, "{text}");
        assert_eq!(text.len(), "2026-01-31T12:00:00.000000Z".len());
    }
}
