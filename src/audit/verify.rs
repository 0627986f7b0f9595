//! Checks chains and reads records.

use std::fs;
use std::path::{Path, PathBuf};

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use serde_json::Value;

use super::Error;
use super::journal::{AuditKeys, head_mac, link, segments, seq_and_mac, signed_bytes};
use super::record::RecordKind;

/// What a check of all chains found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// How many chains there are.
    pub chains: usize,
    /// How many records verified.
    pub records: u64,
    /// How many signed records verified.
    pub signatures: u64,
    /// The first bad record of each bad chain; empty means that everything is whole.
    pub troubles: Vec<Trouble>,
}

/// The first bad record of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// The segment.
    pub file: PathBuf,
    /// The line in it, from 1.
    pub line: u64,
    /// The number that the record has, or should have.
    pub seq: u64,
    /// What is wrong.
    pub why: &'static str,
}

/// Checks every chain below `dir`.
///
/// # Errors
/// A file can't be read.
pub fn verify(dir: &Path, keys: &AuditKeys) -> Result<Report, Error> {
    let signer = Ed25519KeyPair::from_seed_unchecked(keys.sign.expose()).map_err(|_| Error::Key)?;
    let mut report = Report::default();
    for chain in chains(dir)? {
        report.chains += 1;
        if let Err(trouble) = verify_chain(&chain, keys, signer.public_key().as_ref(), &mut report)? {
            report.troubles.push(trouble);
        }
    }
    Ok(report)
}

fn chains(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).map_err(|e| Error::io(dir, e))? {
        let path = entry.map_err(|e| Error::io(dir, e))?.path();
        if path.is_dir() {
            all.push(path);
        }
    }
    all.sort();
    Ok(all)
}

fn verify_chain(
    dir: &Path,
    keys: &AuditKeys,
    signer: &[u8],
    report: &mut Report,
) -> Result<Result<(), Trouble>, Error> {
    let head = fs::read_to_string(dir.join("head")).ok();
    let (mut seq, mut mac, mut last_segment) = (0u64, [0u8; 32], 0u64);
    let mut torn_before = 0u64;
    let mut seen_head = head.is_none();
    let all = segments(dir)?;
    let Some((_, last_path)) = all.last().cloned() else {
        let why = "the chain's segments are gone";
        return Ok(if head.is_none() { Ok(()) } else { Err(Trouble { file: dir.to_owned(), line: 0, seq: 1, why }) });
    };
    for (number, path) in &all {
        let bad = |line: u64, seq: u64, why| Ok(Err(Trouble { file: path.clone(), line, seq, why }));
        if *number != last_segment + 1 {
            return bad(0, seq + 1, "a segment before this one is missing");
        }
        last_segment = *number;
        let text = fs::read(path).map_err(|e| Error::io(path, e))?;
        let mut at = 0;
        let mut line_number = 0;
        while at < text.len() {
            line_number += 1;
            let Some(end) = memchr::memchr(b'\n', &text[at..]) else {
                // What a crash tore is accepted only if the next start record owns up to it.
                torn_before += (text.len() - at) as u64;
                break;
            };
            let line = &text[at..at + end];
            at += end + 1;
            let Some((of, claimed)) = seq_and_mac(line) else {
                return bad(line_number, seq + 1, "the record can't be read");
            };
            if of != seq + 1 {
                return bad(
                    line_number,
                    seq + 1,
                    "the record's number is not the next: one is missing, moved or repeated",
                );
            }
            let body = memchr::memmem::rfind(line, b",\"mac\":\"").map_or(line, |cut| &line[..cut]);
            if link(keys.mac.expose(), &mac, body) != claimed {
                return bad(line_number, of, "the record was changed");
            }
            let value: Value = match serde_json::from_slice(line) {
                Ok(value) => value,
                Err(_) => return bad(line_number, of, "the record can't be read"),
            };
            let kind = match value["kind"].as_str() {
                Some("start") => Some(RecordKind::Start),
                Some("stop") => Some(RecordKind::Stop),
                Some("checkpoint") => Some(RecordKind::Checkpoint),
                _ => None,
            };
            if let Some(kind) = kind {
                if !signature_holds(&value, kind, of, &mac, signer) {
                    return bad(line_number, of, "the record's signature doesn't hold");
                }
                report.signatures += 1;
                if kind == RecordKind::Start {
                    if value["torn"].as_u64().unwrap_or(0) != torn_before {
                        return bad(line_number, of, "bytes before this start are torn and it doesn't say so");
                    }
                    torn_before = 0;
                }
            }
            (seq, mac) = (of, claimed);
            report.records += 1;
            seen_head |= head.as_deref().is_some_and(|h| names_head(h, keys, seq, &mac));
        }
    }
    if !seen_head {
        let why = "the chain ends before the head that was recorded for it: its end was cut off";
        return Ok(Err(Trouble { file: last_path, line: 0, seq: seq + 1, why }));
    }
    Ok(Ok(()))
}

fn names_head(head: &str, keys: &AuditKeys, seq: u64, mac: &[u8; 32]) -> bool {
    let mut words = head.split_whitespace().skip(1);
    words.next().and_then(|s| s.parse().ok()) == Some(seq)
        && words.next() == Some(hex::encode(head_mac(keys.mac.expose(), seq, mac)).as_str())
}

fn signature_holds(value: &Value, kind: RecordKind, seq: u64, previous: &[u8; 32], signer: &[u8]) -> bool {
    let hex_of = |name: &str| value[name].as_str().and_then(|t| hex::decode(t).ok()).unwrap_or_default();
    hex_of("previous") == previous
        && hex_of("signer") == signer
        && UnparsedPublicKey::new(&ED25519, signer)
            .verify(&signed_bytes(kind, seq, previous), &hex_of("signature"))
            .is_ok()
}

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

/// The newest records that fit, oldest first.
///
/// # Errors
/// A file can't be read.
pub fn query(dir: &Path, filter: &Filter) -> Result<Vec<Value>, Error> {
    let mut found: Vec<Value> = Vec::new();
    for chain in chains(dir)? {
        for (_, path) in segments(&chain)?.into_iter().rev() {
            let text = fs::read(&path).map_err(|e| Error::io(&path, e))?;
            let mut of_segment = 0;
            for line in text.rsplit(|b| *b == b'\n').filter(|l| !l.is_empty()) {
                let Ok(value) = serde_json::from_slice::<Value>(line) else { continue };
                if fits(&value, filter) {
                    found.push(value);
                    of_segment += 1;
                    if of_segment >= filter.limit {
                        break;
                    }
                }
            }
            if of_segment >= filter.limit {
                break;
            }
        }
    }
    found.sort_by_key(|v| std::cmp::Reverse(v["time"].as_i64()));
    found.truncate(filter.limit);
    found.reverse();
    Ok(found)
}

fn fits(value: &Value, filter: &Filter) -> bool {
    let is = |name: &str, wanted: &Option<String>| wanted.as_deref().is_none_or(|w| value[name].as_str() == Some(w));
    is("kind", &filter.kind)
        && is("session", &filter.session)
        && is("key", &filter.key)
        && is("exchange", &filter.exchange)
        && filter.since.is_none_or(|since| value["time"].as_i64().is_some_and(|at| at >= since))
}
