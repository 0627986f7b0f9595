//! Reads records: the newest that fit, or those that come.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::Error;
use super::layout::{MAX_LINE, chains, segments};
use super::lines::{among, within};
use super::record::LIKE;
use super::uses::Spoken;

/// Which records are wanted.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only this kind.
    pub kind: Option<String>,
    /// Only this session.
    pub session: Option<String>,
    /// Only this key, by name.
    pub key: Option<String>,
    /// Only this exchange.
    pub exchange: Option<String>,
    /// From this time on, in milliseconds since the epoch.
    pub since: Option<i64>,
    /// At most so many, the newest.
    pub limit: usize,
}

impl Filter {
    fn fits(&self, value: &Value) -> bool {
        // What can't be told may be what is wanted: a record that is gone must not hide those that name it.
        let untold = names_another(value);
        let is = |name: &str, wanted: &Option<String>| {
            wanted.as_deref().is_none_or(|w| value.get(name).map_or(untold, |said| said.as_str() == Some(w)))
        };
        is("kind", &self.kind)
            && is("session", &self.session)
            && is("key", &self.key)
            && is("exchange", &self.exchange)
            && self.since.is_none_or(|since| value["time"].as_i64().is_some_and(|at| at >= since))
    }
}

/// Whether the record still names another one, in place of who uses which key or of what exchange it is: the other
/// is gone, or isn't what it was.
#[must_use]
pub fn names_another(record: &Value) -> bool {
    record.get(LIKE).is_some() || record["kind"] == "outcome" && record.get("exchange").is_none()
}

/// The newest records that fit, oldest first. A record that names another one, as intents and outcomes do, is
/// given with what that one says; where it is gone, the record fits whatever it can't tell. What doesn't end in a line break is no record.
///
/// # Errors
/// A file can't be read.
pub fn query(dir: &Path, filter: &Filter) -> Result<Vec<Value>, Error> {
    let mut found: Vec<Value> = Vec::new();
    for (_, chain) in chains(dir)? {
        let mut of_chain = 0;
        let mut spoken = Spoken::default();
        let all = segments(&chain)?;
        for (at, (_, path)) in all.iter().enumerate().rev() {
            let text = fs::read(path).map_err(|e| Error::io(path, e))?;
            let whole = &text[..memchr::memrchr(b'\n', &text).map_or(0, |at| at + 1)];
            for line in whole.rsplit(|b| *b == b'\n') {
                if of_chain >= filter.limit {
                    break;
                }
                let line_of = |number| within(whole, number).or_else(|| among(&all[..at], number));
                let record = spoken.record(line, &line_of);
                if let Some(value) = record.filter(|record| filter.fits(record)) {
                    found.push(value);
                    of_chain += 1;
                }
            }
            if of_chain >= filter.limit {
                break;
            }
        }
    }
    found.sort_by_key(|v| std::cmp::Reverse(v["time"].as_i64()));
    found.truncate(filter.limit);
    found.reverse();
    Ok(found)
}

/// Follows the chains: each call gives the records that came since the one before.
pub struct Follow {
    dir: PathBuf,
    filter: Filter,
    /// How far each chain was read.
    read: BTreeMap<u32, Read>,
}

/// How far a chain was read.
#[derive(Default)]
struct Read {
    segment: u64,
    /// The bytes of it.
    bytes: u64,
    spoken: Spoken,
}

/// How much of a segment is read at a time, in bytes: several of the longest records.
const PIECE: u64 = 16 * MAX_LINE as u64;

impl Follow {
    /// Follows from here on.
    ///
    /// # Errors
    /// A file can't be read.
    pub fn from_now(dir: &Path, filter: Filter) -> Result<Self, Error> {
        let mut read = BTreeMap::new();
        for (slot, chain) in chains(dir)? {
            if let Some((number, path)) = segments(&chain)?.pop() {
                let text = fs::read(&path).map_err(|e| Error::io(&path, e))?;
                let whole = memchr::memrchr(b'\n', &text).map_or(0, |at| at as u64 + 1);
                read.insert(slot, Read { segment: number, bytes: whole, spoken: Spoken::default() });
            }
        }
        Ok(Self { dir: dir.to_owned(), filter, read })
    }

    /// The records that came, in the order of their times. The filter's limit doesn't count.
    ///
    /// # Errors
    /// A file can't be read.
    pub fn poll(&mut self) -> Result<Vec<Value>, Error> {
        let mut found = Vec::new();
        for (slot, chain) in chains(&self.dir)? {
            let at = self.read.entry(slot).or_default();
            let all = segments(&chain)?;
            for (place, (number, path)) in all.iter().enumerate() {
                if *number < at.segment {
                    continue;
                }
                if *number > at.segment {
                    (at.segment, at.bytes) = (*number, 0);
                }
                while let Some(piece) = piece(path, at.bytes)? {
                    at.bytes += piece.len() as u64;
                    for line in piece.split(|b| *b == b'\n') {
                        let line_of = |number| within(&piece, number).or_else(|| among(&all[..=place], number));
                        found.extend(at.spoken.record(line, &line_of).filter(|record| self.filter.fits(record)));
                    }
                }
            }
        }
        found.sort_by_key(|v| v["time"].as_i64());
        Ok(found)
    }
}

/// The whole lines that come next, up to a bound; `None` if there is none.
fn piece(path: &Path, from: u64) -> Result<Option<Vec<u8>>, Error> {
    let mut file = File::open(path).map_err(|e| Error::io(path, e))?;
    let mut text = Vec::new();
    file.seek(SeekFrom::Start(from)).map_err(|e| Error::io(path, e))?;
    file.take(PIECE).read_to_end(&mut text).map_err(|e| Error::io(path, e))?;
    let Some(end) = memchr::memrchr(b'\n', &text) else { return Ok(None) };
    text.truncate(end + 1);
    Ok(Some(text))
}
