//! The fields of a log line, written without the detours of `fmt` where their type allows it.
//!
//! The text is that of tracing's own formatter: `name=value`, strings in quotes. Whatever an agent
//! or an upstream may have had a hand in is written without control characters, so that a line
//! can't move a terminal's cursor or pretend to be two.

use std::fmt::{self, Write as _};

use tracing::field::{Field, Visit};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::Writer;

/// Writes the fields of a line.
pub(super) struct Fields;

impl<'w> FormatFields<'w> for Fields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut visitor = Visitor { writer, first: true, result: Ok(()) };
        fields.record(&mut visitor);
        visitor.result
    }
}

struct Visitor<'w> {
    writer: Writer<'w>,
    first: bool,
    result: fmt::Result,
}

impl Visitor<'_> {
    fn put(&mut self, field: &Field, value: impl FnOnce(&mut Writer<'_>) -> fmt::Result) {
        if self.result.is_ok() {
            self.result = self.name(field).and_then(|()| value(&mut self.writer));
        }
    }

    fn name(&mut self, field: &Field) -> fmt::Result {
        if !std::mem::replace(&mut self.first, false) {
            self.writer.write_char(' ')?;
        }
        if field.name() != "message" {
            self.writer.write_str(field.name())?;
            self.writer.write_char('=')?;
        }
        Ok(())
    }
}

impl Visit for Visitor<'_> {
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, |writer| writer.write_str(itoa::Buffer::new().format(value)));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, |writer| writer.write_str(itoa::Buffer::new().format(value)));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, |writer| match () {
            () if field.name() == "message" => Clean(writer).write_str(value),
            () if value.bytes().all(|b| plain(b) && b != b'"' && b != b'\\') => {
                writer.write_char('"')?;
                writer.write_str(value)?;
                writer.write_char('"')
            }
            () => write!(Clean(writer), "{value:?}"),
        });
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, |writer| write!(Clean(writer), "{value:?}"));
    }
}

/// A number, as [`Fields`] writes it.
pub(super) fn push_number(line: &mut Vec<u8>, value: u64) {
    line.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// A text, as [`Fields`] writes it.
pub(super) fn push_text(line: &mut Vec<u8>, value: &str) {
    // Every byte is looked at, because many are looked at at once.
    if value.bytes().fold(true, |all, b| all & plain(b) & (b != b'"') & (b != b'\\')) {
        line.push(b'"');
        line.extend_from_slice(value.as_bytes());
        line.push(b'"');
    } else {
        let mut text = String::new();
        // A string takes everything.
        let _ = write!(Clean(&mut Writer::new(&mut text)), "{value:?}");
        line.extend_from_slice(text.as_bytes());
    }
}

fn plain(byte: u8) -> bool {
    (0x20..0x7f).contains(&byte)
}

/// Passes on text without control characters.
struct Clean<'a, 'w>(&'a mut Writer<'w>);

impl fmt::Write for Clean<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if text.bytes().all(plain) {
            return self.0.write_str(text);
        }
        text.chars().try_for_each(|c| match c.is_control() {
            true => write!(self.0, "\\u{{{:x}}}", u32::from(c)),
            false => self.0.write_char(c),
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    pub struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Kept {
        pub fn text(&self) -> String {
            String::from_utf8(self.0.lock().expect("not poisoned").clone()).expect("text")
        }
    }

    impl std::io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("not poisoned").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn line_reads_like_tracings_own_and_holds_no_control_character() {
        let kept = Kept::default();
        let writer = kept.clone();
        let lines = tracing_subscriber::fmt()
            .fmt_fields(Fields)
            .compact()
            .with_ansi(false)
            .with_target(false)
            .without_time()
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(lines, || {
            let detail = "a\u{1b}[2Jb\nc\u{9b}d";
            tracing::info!(mode = "forward", bytes = 7u64, id = %"x-1", none = None::<&str>, "exchange");
            tracing::warn!(quoted = "say \"a\\b\"", %detail, text = detail, "{detail}");
        });
        let text = kept.text();
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some(" INFO exchange mode=\"forward\" bytes=7 id=x-1"));
        let last = lines.next().expect("a second line");
        assert!(last.contains(r#"quoted="say \"a\\b\"""#), "{last}");
        assert!(!last.chars().any(char::is_control), "{last:?}");
        assert_eq!(lines.next(), None, "a value made a line of its own");
    }
}
