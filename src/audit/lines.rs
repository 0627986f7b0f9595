//! Lines of a chain by the numbers of their records, which ascend: a few short reads find one in whatever segment.

use std::cmp::Ordering;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use super::layout::MAX_LINE;
use super::link::number_of;

/// How much is read at a time, in bytes: a few records.
const PIECE: usize = 1024;

/// The line of this record in the text of a segment, or in a part of it that begins with a line.
pub(super) fn within(text: &[u8], number: u64) -> Option<Vec<u8>> {
    find(&text_reader(text), text.len() as u64, number)
}

/// The line of this record in one of the segments, the first of which comes first.
pub(super) fn among(segments: &[(u64, PathBuf)], number: u64) -> Option<Vec<u8>> {
    let open = |path: &PathBuf| {
        let file = File::open(path).ok()?;
        let len = file.metadata().ok()?.len();
        Some((file, len))
    };
    let begins = |path: &PathBuf| {
        let (file, _) = open(path)?;
        number_of(&line_at(&reader(&file), 0)?)
    };
    // One that was begun and has no record yet is behind all others.
    let behind = segments.partition_point(|(_, path)| begins(path).is_some_and(|first| first <= number));
    let (file, len) = open(&segments[..behind].last()?.1)?;
    find(&reader(&file), len, number)
}

/// Reads from a place on, as much as fits or is there.
type Read<'a> = dyn Fn(u64, &mut [u8]) -> Option<usize> + 'a;

fn reader(file: &File) -> impl Fn(u64, &mut [u8]) -> Option<usize> {
    |at, into| file.read_at(into, at).ok()
}

fn text_reader(text: &[u8]) -> impl Fn(u64, &mut [u8]) -> Option<usize> {
    |at, into| {
        let there = text.get(usize::try_from(at).ok()?..)?;
        let read = there.len().min(into.len());
        into[..read].copy_from_slice(&there[..read]);
        Some(read)
    }
}

/// The line that begins here, without its line break.
fn line_at(read: &Read<'_>, at: u64) -> Option<Vec<u8>> {
    let mut line = Vec::new();
    let mut piece = [0; PIECE];
    while line.len() <= MAX_LINE {
        let there = read(at + line.len() as u64, &mut piece).filter(|there| *there > 0)?;
        let piece = &piece[..there];
        match memchr::memchr(b'\n', piece) {
            Some(end) => {
                line.extend_from_slice(&piece[..end]);
                return Some(line);
            }
            None => line.extend_from_slice(piece),
        }
    }
    None
}

/// Halves what is left until the line is found.
fn find(read: &Read<'_>, len: u64, number: u64) -> Option<Vec<u8>> {
    // The line, if it is there, begins in here; one does at `from`.
    let (mut from, mut to) = (0, len);
    while from < to {
        let middle = from + (to - from) / 2;
        // The first line that begins behind the middle, if one does.
        let rest = if middle > from { line_at(read, middle) } else { None };
        let behind = rest.map(|rest| middle + rest.len() as u64 + 1).filter(|start| *start < to);
        let start = behind.unwrap_or(from);
        let Some(line) = line_at(read, start) else {
            // What a crash tore stands behind all lines.
            behind?;
            to = middle + 1;
            continue;
        };
        match number_of(&line)?.cmp(&number) {
            Ordering::Equal => return Some(line),
            Ordering::Less => from = start + line.len() as u64 + 1,
            Ordering::Greater if behind.is_none() => return None,
            Ordering::Greater => to = middle + 1,
        }
        if behind.is_none() {
            to = middle + 1;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn every_line_is_found_and_none_that_is_not_there() {
        let line = |number: u64, length: usize| format!("{{\"seq\":{number},{}\n", "x".repeat(length));
        let lengths: &[&[usize]] =
            &[&[], &[0], &[0; 7], &[5000, 0, 0, 1, 9000], &[0, 0, 0, 60_000], &[1023, 1024, 1025, 2048]];
        for lengths in lengths {
            for torn in ["", "{\"seq\":9"] {
                let lines: Vec<_> = (3..).zip(*lengths).map(|(number, length)| line(number, *length)).collect();
                let text = lines.concat() + torn;
                let directory = tempfile::tempdir().expect("a directory");
                let path = directory.path().join("segment");
                std::fs::write(&path, &text).expect("written");
                let segments = [(1, path)];
                for (number, wanted) in (0..).zip([None; 3].into_iter().chain(lines.iter().map(Some)).chain([None; 9]))
                {
                    let wanted = wanted.map(|line| line.trim_end().as_bytes().to_vec());
                    assert_eq!(within(text.as_bytes(), number), wanted, "{number} in {lengths:?}");
                    assert_eq!(among(&segments, number), wanted, "{number} in {lengths:?}");
                }
            }
        }
    }

    #[test]
    fn few_short_reads_find_a_line_among_very_many() {
        let text: String = (1..=200_000).map(|number| format!("{{\"seq\":{number},\"time\":0}}\n")).collect();
        for number in [0, 1, 77_777, 200_000, 200_001] {
            let (reads, read) = (Cell::new(0), text_reader(text.as_bytes()));
            let read = |at: u64, into: &mut [u8]| {
                reads.set(reads.get() + 1);
                read(at, into)
            };
            assert_eq!(find(&read, text.len() as u64, number).is_some(), (1..=200_000).contains(&number));
            assert!(reads.get() < 60, "{} reads for {number}", reads.get());
        }
    }
}
