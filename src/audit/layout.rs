//! What lies where in the directory of chains.
//!
//! `register` lists the chains that were ever begun, so that a chain that is removed is missed.
//! `<slot>/head` says how far a chain had come, so that one that ends earlier is found cut.
//! `<slot>/00000001.jsonl` and so on are its segments. Register and head carry a MAC.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::Error;
use super::link::{Digest, Mac, Parts, keyed, of_hex};

/// The longest record, in bytes, its line break among them.
pub(super) const MAX_LINE: usize = 64 * 1024;
/// The highest that `audit.chains` counts: signed records name every chain, and have to fit a line.
pub(super) const MAX_CHAINS: u32 = 512;
const _: () = assert!(MAX_CHAINS as usize * 96 + 2048 < MAX_LINE, "the heads of all chains have to fit a line");

/// Options for a file that only its owner may read.
pub(super) fn open_options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600);
    options
}

/// Makes a directory that only its owner may enter, unless it is there.
pub(super) fn make_dir(dir: &Path) -> Result<(), Error> {
    match fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(why) if why.kind() != std::io::ErrorKind::AlreadyExists => Err(Error::io(dir, why)),
        _ => Ok(()),
    }
}

/// Opens a lock file and takes its lock; `None` if somebody has it.
pub(super) fn lock(path: &Path, how: FlockOperation) -> Result<Option<File>, Error> {
    let file = open_options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path)
        .map_err(|e| Error::io(path, e))?;
    Ok(flock(&file, how).is_ok().then_some(file))
}

/// Replaces a file whole.
fn put(path: &Path, text: &str) -> Result<(), Error> {
    let fresh = path.with_extension("new");
    let mut file =
        open_options().create(true).truncate(true).write(true).open(&fresh).map_err(|e| Error::io(&fresh, e))?;
    file.write_all(text.as_bytes()).map_err(|e| Error::io(&fresh, e))?;
    fs::rename(&fresh, path).map_err(|e| Error::io(path, e))
}

fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    match fs::read(path) {
        Ok(text) => Ok(Some(text)),
        Err(why) if why.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(why) => Err(Error::io(path, why)),
    }
}

/// The name of a chain's directory.
pub(super) fn slot_name(slot: u32) -> String {
    format!("{slot:04}")
}

pub(super) fn slot_of(dir: &Path) -> Option<u32> {
    let name = dir.file_name()?.to_str()?;
    name.parse().ok().filter(|slot| slot_name(*slot) == name)
}

/// The directories of chains, by slot.
pub(super) fn chains(dir: &Path) -> Result<Vec<(u32, PathBuf)>, Error> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).map_err(|e| Error::io(dir, e))? {
        let path = entry.map_err(|e| Error::io(dir, e))?.path();
        if let Some(slot) = slot_of(&path).filter(|_| path.is_dir()) {
            all.push((slot, path));
        }
    }
    all.sort();
    Ok(all)
}

pub(super) fn segment_path(dir: &Path, segment: u64) -> PathBuf {
    dir.join(format!("{segment:08}.jsonl"))
}

/// A chain's segments, by number.
pub(super) fn segments(dir: &Path) -> Result<Vec<(u64, PathBuf)>, Error> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).map_err(|e| Error::io(dir, e))? {
        let path = entry.map_err(|e| Error::io(dir, e))?.path();
        let number = path
            .file_name()
            .and_then(|n| n.to_str())
            .and_then(|n| n.strip_suffix(".jsonl"))
            .and_then(|n| n.parse().ok());
        if let Some(number) = number.filter(|n| segment_path(dir, *n) == path) {
            all.push((number, path));
        }
    }
    all.sort();
    Ok(all)
}

/// How far a chain had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub seq: u64,
    pub mac: Mac,
}

/// A small file with a MAC, as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found<T> {
    Absent,
    Changed,
    Whole(T),
}

impl Head {
    fn proof(self, key: &[u8; 32], slot: u32) -> [u8; 32] {
        keyed(key, &[b"head", &slot.to_be_bytes(), &self.seq.to_be_bytes(), &self.mac])
    }

    pub fn write(self, dir: &Path, key: &[u8; 32], slot: u32) -> Result<(), Error> {
        let proof = hex::encode(self.proof(key, slot));
        put(&dir.join("head"), &format!("{} {} {proof}\n", self.seq, hex::encode(self.mac)))
    }

    /// Reads a chain's head; without the key its MAC isn't looked at.
    pub fn read(dir: &Path, key: Option<&[u8; 32]>, slot: u32) -> Result<Found<Self>, Error> {
        let Some(text) = read_if_there(&dir.join("head"))? else { return Ok(Found::Absent) };
        let parse = || {
            let mut words = std::str::from_utf8(&text).ok()?.split_whitespace();
            let head = Self { seq: words.next()?.parse().ok()?, mac: of_hex(words.next()?)? };
            let proof = of_hex(words.next()?)?;
            key.is_none_or(|key| head.proof(key, slot) == proof).then_some(head)
        };
        Ok(parse().map_or(Found::Changed, Found::Whole))
    }
}

/// Which chains were ever begun.
pub(super) struct Register;

impl Register {
    fn proof(key: &[u8; 32], slots: &str) -> String {
        hex::encode(keyed(key, &[b"register", slots.as_bytes()]))
    }

    /// The register's file, for reports.
    pub fn path(dir: &Path) -> PathBuf {
        dir.join("register")
    }

    /// Reads the register; without the key its MAC isn't looked at.
    pub fn read(dir: &Path, key: Option<&[u8; 32]>) -> Result<Found<BTreeSet<u32>>, Error> {
        let Some(text) = read_if_there(&Self::path(dir))? else { return Ok(Found::Absent) };
        let parse = || {
            let (slots, proof) = std::str::from_utf8(&text).ok()?.trim_end().rsplit_once(' ')?;
            let holds = key.is_none_or(|key| Self::proof(key, slots) == proof);
            let slots = slots.split(' ').map(|s| s.parse().ok()).collect::<Option<BTreeSet<u32>>>();
            slots.filter(|_| holds)
        };
        Ok(parse().map_or(Found::Changed, Found::Whole))
    }

    /// Adds a chain. A register that was changed stays as it is, for `verify` to find.
    pub fn add(dir: &Path, key: &[u8; 32], slot: u32) -> Result<(), Error> {
        let _lock = lock(&dir.join("register.lock"), FlockOperation::LockExclusive)?;
        let mut slots = match Self::read(dir, Some(key))? {
            Found::Changed => return Ok(()),
            Found::Absent => BTreeSet::new(),
            Found::Whole(slots) => slots,
        };
        if !slots.insert(slot) {
            return Ok(());
        }
        let slots: Vec<_> = slots.iter().map(ToString::to_string).collect();
        let slots = slots.join(" ");
        put(&Self::path(dir), &format!("{slots} {}\n", Self::proof(key, &slots)))
    }
}

/// Where a chain ends.
pub(super) struct Tail {
    /// The number of the last segment.
    pub segment: u64,
    /// The last whole record, or the genesis.
    pub head: Head,
    /// How many bytes of a torn record follow it.
    pub torn: u64,
    /// The digest of the last segment that isn't empty.
    pub digest: [u8; 32],
}

impl Tail {
    pub fn read(dir: &Path, genesis: Mac) -> Result<Self, Error> {
        let all = segments(dir)?;
        let mut tail = Self {
            segment: all.last().map_or(0, |(n, _)| *n),
            head: Head { seq: 0, mac: genesis },
            torn: 0,
            digest: Digest::of(b""),
        };
        let mut digested = false;
        for (_, path) in all.iter().rev() {
            let mut text = Vec::new();
            File::open(path).and_then(|mut f| f.read_to_end(&mut text)).map_err(|e| Error::io(path, e))?;
            if !text.is_empty() && !std::mem::replace(&mut digested, true) {
                tail.digest = Digest::of(&text);
            }
            let whole = memchr::memrchr(b'\n', &text).map_or(0, |at| at + 1);
            tail.torn += (text.len() - whole) as u64;
            if whole > 0 {
                let from = memchr::memrchr(b'\n', &text[..whole - 1]).map_or(0, |at| at + 1);
                if let Some(parts) = Parts::of(&text[from..whole - 1]) {
                    tail.head = Head { seq: parts.seq, mac: parts.mac };
                }
                return Ok(tail);
            }
        }
        Ok(tail)
    }
}
