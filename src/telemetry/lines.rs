//! Log lines on their way to standard error.
//!
//! A write for each line is a large part of what an exchange costs, so lines of level info and
//! below wait up to 20 ms for others. Warnings and errors go out at once, with what waits before
//! them. Nothing here is the audit: what must not be lost is written there.

use std::io::{self, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

/// How long a line may wait.
const WAIT: Duration = Duration::from_millis(20);
/// How many bytes may wait.
const MOST: usize = 64 * 1024;

static WAITING: Mutex<Vec<u8>> = Mutex::new(Vec::new());
/// What is being written. Whoever writes holds it, so that lines keep their order; whoever only adds a line
/// doesn't wait for it.
static WRITING: Mutex<Vec<u8>> = Mutex::new(Vec::new());
static FILLED: Condvar = Condvar::new();
/// Whether a thread writes out what waits.
static WRITER: OnceLock<bool> = OnceLock::new();

/// Whether this process logs plain text, so that a line may be written without tracing.
static PLAIN: AtomicBool = AtomicBool::new(false);

/// Lines are plain text from here on.
pub(super) fn set_plain() {
    PLAIN.store(true, Ordering::Relaxed);
}

/// Whether a line may be written without tracing.
pub(super) fn are_plain() -> bool {
    PLAIN.load(Ordering::Relaxed)
}

/// Writes out what waits; to be called before the process ends.
pub fn flush() {
    let mut writing = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
    std::mem::swap(&mut *writing, &mut *WAITING.lock().unwrap_or_else(PoisonError::into_inner));
    if !writing.is_empty() {
        // There is nowhere else to say that standard error can't be written.
        let _ = io::stderr().write_all(&writing);
        writing.clear();
    }
}

fn write_now_and_then() {
    loop {
        let waiting = WAITING.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = FILLED.wait_while(waiting, |waiting| waiting.is_empty()).unwrap_or_else(PoisonError::into_inner);
        drop(waiting);
        std::thread::sleep(WAIT);
        flush();
    }
}

/// Makes a writer for each line.
pub(super) struct Lines;

/// One line.
pub(super) struct Line {
    urgent: bool,
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line { urgent: true }
    }

    fn make_writer_for(&'a self, about: &Metadata<'_>) -> Line {
        Line { urgent: *about.level() <= Level::WARN }
    }
}

/// Adds a whole line; an urgent one goes out at once.
pub(super) fn append(line: &[u8], urgent: bool) {
    let mut waiting = WAITING.lock().unwrap_or_else(PoisonError::into_inner);
    let first = waiting.is_empty();
    waiting.extend_from_slice(line);
    let full = waiting.len() >= MOST;
    drop(waiting);
    if urgent || full {
        flush();
    } else if first {
        let start = || std::thread::Builder::new().name("log".to_owned()).spawn(write_now_and_then).is_ok();
        match WRITER.get_or_init(start) {
            true => FILLED.notify_one(),
            false => flush(),
        }
    }
}

impl io::Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        append(line, self.urgent);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
