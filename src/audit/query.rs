//! Reads records: the newest that fit, or those that come.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::Error;
use super::layout::{MAX_LINE, chains, segments};

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
        let is =
            |name: &str, wanted: &Option<String>| wanted.as_deref().is_none_or(|w| value[name].as_str() == Some(w));
        is("kind", &self.kind)
            && is("session", &self.session)
            && is("key", &self.key)
            && is("exchange", &self.exchange)
            && self.since.is_none_or(|since| value["time"].as_i64().is_some_and(|at| at >= since))
    }
}

/// The newest records that fit, oldest first. What doesn't end in a line break is no record.
///
/// # Errors
/// A file can't be read.
pub fn query(dir: &Path, filter: &Filter) -> Result<Vec<Value>, Error> {
    let mut found: Vec<Value> = Vec::new();
    for (_, chain) in chains(dir)? {
        let mut of_chain = 0;
        for (_, path) in segments(&chain)?.into_iter().rev() {
            let text = fs::read(&path).map_err(|e| Error::io(&path, e))?;
            let whole = memchr::memrchr(b'\n', &text).unwrap_or(0);
            for line in text[..whole].rsplit(|b| *b == b'\n') {
                if of_chain >= filter.limit {
                    break;
                }
                if let Some(value) = serde_json::from_slice(line).ok().filter(|value| filter.fits(value)) {
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
    /// How far each chain was read: the segment, and the bytes of it.
    read: BTreeMap<u32, (u64, u64)>,
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
                read.insert(slot, (number, whole));
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
            for (number, path) in segments(&chain)? {
                if number < at.0 {
                    continue;
                }
                if number > at.0 {
                    *at = (number, 0);
                }
                while let Some(piece) = piece(&path, at.1)? {
                    at.1 += piece.len() as u64;
                    let lines = piece.split(|b| *b == b'\n').filter_map(|line| serde_json::from_slice(line).ok());
                    found.extend(lines.filter(|value| self.filter.fits(value)));
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
