//! Checks chains: each by itself, then each against what the others saw of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use serde_json::Value;

use super::Error;
use super::journal::AuditKeys;
use super::layout::{Found, Head, Register, chains, segments, slot_name};
use super::link::{Digest, Mac, Parts, genesis, link, link_key, of_hex, signed_bytes};
use crate::model::Secret;

/// What a check of all chains found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// How many chains there are.
    pub chains: usize,
    /// How many records verified.
    pub records: u64,
    /// How many signed records verified.
    pub signatures: u64,
    /// How many records come after the last signature of their chain: only the key-encryption key
    /// shows a change of these.
    pub unsigned: u64,
    /// The first bad record of each bad chain, and cut ends that later starts own up to; empty means
    /// that everything is whole.
    pub troubles: Vec<Trouble>,
}

/// A bad record, or the place of one that is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// The segment, or what is missing.
    pub file: PathBuf,
    /// The line in it, from 1; 0 if the file as a whole is meant.
    pub line: u64,
    /// The number that the record has, or should have.
    pub seq: u64,
    /// What is wrong.
    pub why: &'static str,
}

/// The public half of the key that signs checkpoints.
///
/// # Errors
/// The key can't be used.
pub fn public_key(keys: &AuditKeys) -> Result<[u8; 32], Error> {
    let signer = Ed25519KeyPair::from_seed_unchecked(keys.sign.expose()).map_err(|_| Error::Key)?;
    signer.public_key().as_ref().try_into().map_err(|_| Error::Key)
}

/// Checks every chain below `dir`.
///
/// # Errors
/// A file can't be read.
pub fn verify(dir: &Path, keys: &AuditKeys) -> Result<Report, Error> {
    Check { dir, mac_key: Some(keys.mac.expose()), signer: public_key(keys)? }.run()
}

/// Checks every chain below `dir` with the public key alone. A change of any record that a signature
/// follows is found, and so is a chain that ends before another saw it; a change behind a chain's
/// last signature, of the register and of a head is not.
///
/// # Errors
/// A file can't be read.
pub fn verify_signatures(dir: &Path, public_key: [u8; 32]) -> Result<Report, Error> {
    Check { dir, mac_key: None, signer: public_key }.run()
}

struct Check<'a> {
    dir: &'a Path,
    mac_key: Option<&'a [u8; 32]>,
    signer: [u8; 32],
}

/// What signed records say about other chains: the furthest head, by the chain that it is of.
type Joins = BTreeMap<u32, Head>;

impl Check<'_> {
    fn run(&self) -> Result<Report, Error> {
        let mut report = Report::default();
        let registered = self.register(&mut report)?;
        let mut joins = Joins::new();
        let mut ends = BTreeMap::new();
        for (slot, dir) in chains(self.dir)? {
            report.chains += 1;
            let walk = Walk { check: self, slot, dir: &dir, report: &mut report, joins: &mut joins };
            match walk.run(registered.contains(&slot))? {
                Ok(()) => drop(ends.insert(slot, dir)),
                Err(trouble) => report.troubles.push(trouble),
            }
        }
        let there: BTreeSet<u32> = chains(self.dir)?.into_iter().map(|(slot, _)| slot).collect();
        let known = registered.iter().chain(joins.keys()).copied().collect::<BTreeSet<_>>();
        for slot in known.difference(&there) {
            let file = self.dir.join(slot_name(*slot));
            report.troubles.push(Trouble { file, line: 0, seq: 1, why: "the whole chain is gone" });
        }
        for (slot, head) in &joins {
            // A chain that is bad by itself is named already.
            if let Some(dir) = ends.get(slot) {
                report.troubles.extend(joined(dir, *head)?);
            }
        }
        Ok(report)
    }

    fn register(&self, report: &mut Report) -> Result<BTreeSet<u32>, Error> {
        let file = Register::path(self.dir);
        let why = match Register::read(self.dir, self.mac_key)? {
            Found::Whole(slots) => return Ok(slots),
            Found::Absent if chains(self.dir)?.iter().all(|(_, dir)| !dir.join("head").exists()) => None,
            Found::Absent => Some("the register of chains is gone, so a chain may be missing"),
            Found::Changed => Some("the register of chains was changed"),
        };
        report.troubles.extend(why.map(|why| Trouble { file, line: 0, seq: 0, why }));
        Ok(BTreeSet::new())
    }
}

/// Looks up what another chain saw of this one.
fn joined(dir: &Path, wanted: Head) -> Result<Option<Trouble>, Error> {
    let mut last = dir.to_owned();
    for (_, path) in segments(dir)?.into_iter().rev() {
        let text = fs::read(&path).map_err(|e| Error::io(&path, e))?;
        let first = text.split(|b| *b == b'\n').next().and_then(Parts::of);
        if first.is_none_or(|first| first.seq > wanted.seq) {
            last = path;
            continue;
        }
        for (number, line) in (1..).zip(text.split(|b| *b == b'\n')) {
            let Some(parts) = Parts::of(line).filter(|p| p.seq == wanted.seq) else { continue };
            let why = "the record is another than the one that a signed record of another chain saw";
            let same = parts.mac == wanted.mac;
            return Ok((!same).then(|| Trouble { file: path.clone(), line: number, seq: parts.seq, why }));
        }
        last = path;
        break;
    }
    let why = "the chain ends before a record that a signed record of another chain saw: its end was cut off";
    Ok(Some(Trouble { file: last, line: 0, seq: wanted.seq, why }))
}

/// The way through one chain.
struct Walk<'a> {
    check: &'a Check<'a>,
    slot: u32,
    dir: &'a Path,
    report: &'a mut Report,
    joins: &'a mut Joins,
}

/// How far the way has come.
struct At {
    /// Absent before the first record when only the public key is there.
    mac: Option<Mac>,
    seq: u64,
    torn: u64,
    /// The digest of the last segment that isn't empty.
    before: [u8; 32],
    /// Over the lines of this segment that were checked.
    digest: Digest,
    unsigned: u64,
    key: Option<Secret<[u8; 32]>>,
    /// What a MAC is made over.
    room: Vec<u8>,
}

impl Walk<'_> {
    fn run(mut self, registered: bool) -> Result<Result<(), Trouble>, Error> {
        let head = Head::read(self.dir, self.check.mac_key, self.slot)?;
        let all = segments(self.dir)?;
        let whole = |file: &Path, seq, why| Ok(Err(Trouble { file: file.to_owned(), line: 0, seq, why }));
        let Some((_, last)) = all.last() else {
            let begun = registered || head != Found::Absent;
            return if begun { whole(self.dir, 1, "the chain's segments are gone") } else { Ok(Ok(())) };
        };
        let key = self.check.mac_key;
        let mut at = At {
            mac: key.map(|key| genesis(key, self.slot)),
            seq: 0,
            torn: 0,
            before: Digest::of(b""),
            digest: Digest::default(),
            unsigned: 0,
            key: key.map(link_key),
            room: Vec::new(),
        };
        let mut seen_head = false;
        for (expected, (number, path)) in (1..).zip(&all) {
            if *number != expected {
                return whole(path, at.seq + 1, "a segment before this one is missing");
            }
            let text = fs::read(path).map_err(|e| Error::io(path, e))?;
            let mut from = 0;
            for (number, end) in (1..).zip(memchr::memchr_iter(b'\n', &text)) {
                if let Err((seq, why)) = self.record(&text[from..end], path, number, &mut at) {
                    return Ok(Err(Trouble { file: path.clone(), line: number, seq, why }));
                }
                at.digest.take(&text[from..=end]);
                from = end + 1;
                seen_head |= matches!(&head, Found::Whole(h) if at.seq == h.seq && at.mac == Some(h.mac));
            }
            // What a crash tore is accepted only if the next start record owns up to it.
            at.torn += (text.len() - from) as u64;
            at.digest.take(&text[from..]);
            let digest = std::mem::take(&mut at.digest).value();
            if !text.is_empty() {
                at.before = digest;
            }
        }
        self.report.unsigned += at.unsigned;
        match head {
            Found::Changed => whole(&self.dir.join("head"), at.seq, "the chain's head was changed"),
            Found::Absent if registered => {
                whole(&self.dir.join("head"), at.seq, "the chain's head is gone, so its end may have been cut off")
            }
            Found::Whole(head) if !seen_head => {
                let why = "the chain ends before the head that was recorded for it: its end was cut off";
                whole(last, head.seq.min(at.seq + 1), why)
            }
            _ => Ok(Ok(())),
        }
    }

    /// Checks a record, the line of this number in its segment.
    fn record(&mut self, line: &[u8], path: &Path, number: u64, at: &mut At) -> Result<(), (u64, &'static str)> {
        let Some(parts) = Parts::of(line) else { return Err((at.seq + 1, "the record can't be read")) };
        if parts.seq != at.seq + 1 {
            return Err((at.seq + 1, "the record's number is not the next: one is missing, moved or repeated"));
        }
        if let (Some(key), Some(previous)) = (&at.key, &at.mac) {
            at.room.clear();
            at.room.extend_from_slice(parts.body);
            if link(key.expose(), previous, 0, &mut at.room) != parts.mac {
                return Err((parts.seq, "the record was changed, or belongs elsewhere"));
            }
        }
        let kind = parts.kind;
        if matches!(kind, b"start" | b"stop" | b"checkpoint") {
            let digest = if number == 1 { at.before } else { at.digest.value() };
            let signed = self.signature(&parts, at).map_err(|why| (parts.seq, why))?;
            if kind == b"start" {
                if signed["lost"].as_u64().is_some() {
                    let why = "the end of the chain was cut off before this start took it up";
                    let file = path.to_owned();
                    self.report.troubles.push(Trouble { file, line: number, seq: at.seq + 1, why });
                }
                if signed["torn"].as_u64().unwrap_or(0) != at.torn {
                    return Err((parts.seq, "bytes before this start are torn and it doesn't say so"));
                }
                at.torn = 0;
            }
            if signed["digest"].as_str().and_then(of_hex) != Some(digest) {
                return Err((parts.seq, "a record between this signed one and the one before it was changed"));
            }
            self.report.signatures += 1;
            at.unsigned = 0;
        } else {
            at.unsigned += 1;
            if at.mac.is_none() {
                return Err((parts.seq, "the chain doesn't begin with a signed start"));
            }
        }
        if at.torn > 0 {
            return Err((parts.seq, "bytes before this record are torn and no start says so"));
        }
        (at.seq, at.mac) = (parts.seq, Some(parts.mac));
        self.report.records += 1;
        Ok(())
    }

    /// Checks a signed record and takes over what it says about other chains.
    fn signature(&mut self, parts: &Parts<'_>, at: &At) -> Result<Value, &'static str> {
        const BAD: &str = "the record's signature doesn't hold";
        let (text, signature) = signature_of(parts.body).ok_or(BAD)?;
        UnparsedPublicKey::new(&ED25519, self.check.signer)
            .verify(&signed_bytes(self.slot, text), &signature)
            .map_err(|_| BAD)?;
        let value: Value = serde_json::from_slice(&[text, b"}"].concat()).map_err(|_| BAD)?;
        if at.mac.is_some_and(|mac| value["previous"].as_str().and_then(of_hex) != Some(mac)) {
            return Err("the record before this signed one was changed or replaced");
        }
        for join in value["joins"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            let mut words = join.split(' ');
            let mut next = || words.next();
            let slot = next().and_then(|s| s.parse().ok());
            let seq = next().and_then(|s| s.parse().ok());
            let mac = next().and_then(of_hex);
            let (Some(slot), Some(seq), Some(mac)) = (slot, seq, mac) else { return Err(BAD) };
            if self.joins.get(&slot).is_none_or(|known| known.seq < seq) {
                self.joins.insert(slot, Head { seq, mac });
            }
        }
        Ok(value)
    }
}

/// A signed record up to its signature, and the signature.
fn signature_of(body: &[u8]) -> Option<(&[u8], Vec<u8>)> {
    const FIELD: &[u8] = b",\"signature\":\"";
    let (text, field) = body.split_at_checked(memchr::memmem::rfind(body, FIELD)?)?;
    let hex = field.strip_prefix(FIELD)?.strip_suffix(b"\"")?;
    Some((text, hex::decode(hex).ok()?))
}
