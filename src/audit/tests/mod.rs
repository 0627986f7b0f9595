mod faults;
mod parts;
mod tampering;
mod together;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::Method;

use super::layout::{segment_path, segments, slot_name};
use super::*;
use crate::model::{
    Authority, ExchangeId, KeyId, ManualClock, Name, OrgId, Scheme, Secret, SessionId, Slot, Timestamp,
};

/// A directory of chains, and what an intent names.
struct Bench {
    dir: tempfile::TempDir,
    clock: Arc<ManualClock>,
    name: Name,
    authority: Authority,
    path: String,
    key: KeyId,
    exchange: ExchangeId,
    session: SessionId,
}

impl Bench {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            clock: Arc::new(ManualClock::at(Timestamp(1_700_000_000_000))),
            name: "payments".parse().unwrap(),
            authority: Authority::parse("api.example.com", 443).unwrap(),
            path: "/v1/charges".to_owned(),
            key: KeyId::generate(),
            exchange: ExchangeId::generate(),
            session: SessionId::generate(),
        }
    }

    fn keys() -> AuditKeys {
        AuditKeys { mac: Secret::new([7; 32]), sign: Secret::new([9; 32]) }
    }

    fn at(&self) -> PathBuf {
        self.dir.path().join("audit")
    }

    fn journal_with(&self, settings: Settings) -> Journal {
        let clock: Arc<dyn crate::model::Clock> = Arc::<ManualClock>::clone(&self.clock);
        Journal::open(&self.at(), Self::keys(), settings, clock).unwrap()
    }

    fn journal(&self) -> Journal {
        self.journal_with(Settings::default())
    }

    fn intent(&self) -> Intent<'_> {
        Intent {
            at: crate::model::Timestamp(1),
            exchange: self.exchange,
            session: self.session,
            token: None,
            org: OrgId::DEFAULT,
            project: &self.name,
            key: self.key,
            key_name: &self.name,
            version: 1,
            tool: None,
            method: &Method::POST,
            scheme: Scheme::Https,
            authority: &self.authority,
            path: &self.path,
            slot: &Slot::Bearer,
            policy: &self.name,
            rule: "charge",
            policy_digest: &[3; 32],
            client: None,
            mint: false,
        }
    }

    /// So many exchanges, each with its outcome.
    fn exchanges(&self, writer: &Writer, count: usize) {
        for _ in 0..count {
            writer.intent(&self.intent()).unwrap().1.finish(outcome());
        }
        writer.flush().unwrap();
    }

    /// Two chains, one of which was taken up three times: once after a kill.
    fn filled(&self) {
        let (a, b) = (self.journal().writer().unwrap(), self.journal().writer().unwrap());
        self.exchanges(&a, 5);
        self.exchanges(&b, 5);
        drop((a, b));
        let a = self.journal().writer().unwrap();
        self.exchanges(&a, 5);
        kill(a);
        let a = self.journal().writer().unwrap();
        self.exchanges(&a, 5);
    }

    fn verify(&self) -> Report {
        verify(&self.at(), &Self::keys()).unwrap()
    }

    /// What the public key alone finds.
    fn verify_signatures(&self) -> Report {
        verify_signatures(&self.at(), public_key(&Self::keys()).unwrap()).unwrap()
    }

    fn chain(&self, slot: u32) -> PathBuf {
        self.at().join(slot_name(slot))
    }

    fn segment(&self, slot: u32, number: u64) -> PathBuf {
        segment_path(&self.chain(slot), number)
    }

    fn lines(&self, slot: u32, number: u64) -> Vec<String> {
        let text = fs::read_to_string(self.segment(slot, number)).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    fn put_lines(&self, slot: u32, number: u64, lines: &[String]) {
        fs::write(self.segment(slot, number), lines.join("\n") + "\n").unwrap();
    }

    fn records(&self) -> Vec<serde_json::Value> {
        query(&self.at(), &Filter { limit: 10_000, ..Filter::default() }).unwrap()
    }

    fn of_kind(&self, kind: &str) -> Vec<serde_json::Value> {
        self.records().into_iter().filter(|r| r["kind"] == kind).collect()
    }
}

fn outcome() -> Outcome {
    Outcome {
        at: crate::model::Timestamp(2),
        status: Some(200),
        outcome: OutcomeWord::Ok,
        bytes_in: 1,
        bytes_out: 2,
        duration: Duration::from_millis(3),
        scrubbed: 0,
    }
}

/// Lets go of a chain as a killed process does: its lock is free, and no stop record is written.
fn kill(writer: Writer) {
    writer.abandon();
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() { copy_dir(&path, &to) } else { fs::copy(&path, to).map(drop).unwrap() }
    }
}

#[test]
fn several_chains_and_restarts_verify_whole() {
    let bench = Bench::new();
    bench.filled();
    let report = bench.verify();
    assert_eq!(report.troubles, []);
    assert_eq!((report.chains, report.signatures), (2, 7));
    let public = bench.verify_signatures();
    assert_eq!(public, report);
}

#[test]
fn receipt_names_what_was_recorded_and_the_record_is_written_before_it_exists() {
    let bench = Bench::new();
    let writer = bench.journal().writer().unwrap();
    let (receipt, draft) = writer.intent(&bench.intent()).unwrap();
    assert_eq!((receipt.exchange(), receipt.key(), receipt.version()), (bench.exchange, bench.key, 1));
    let last = bench.lines(0, 1).pop().unwrap();
    let record: serde_json::Value = serde_json::from_str(&last).unwrap();
    assert_eq!((record["kind"].as_str(), record["seq"].as_u64()), (Some("intent"), Some(receipt.seq())));
    draft.finish(outcome());
    assert_eq!(bench.of_kind("outcome").len(), 0, "the outcome rides on the next append");
    writer.flush().unwrap();
    assert_eq!(bench.of_kind("outcome")[0]["intent"], receipt.seq());
}

#[test]
fn draft_that_is_dropped_unfinished_becomes_an_aborted_outcome() {
    let bench = Bench::new();
    let writer = bench.journal().writer().unwrap();
    drop(writer.intent(&bench.intent()).unwrap());
    writer.flush().unwrap();
    assert_eq!(bench.of_kind("outcome")[0]["outcome"], "aborted");
    assert_eq!(bench.verify().troubles, []);
}

#[test]
fn text_of_an_agent_can_not_break_a_line_or_forge_a_record() {
    let bench = Bench::new();
    let forged = "\"}\n{\"seq\":9,\"kind\":\"admin\",\"mac\":\"00\"}\n";
    let rows = [
        "/plain",
        forged,
        "/a\",\"kind\":\"admin\",\"rule\":\"x",
        "/\u{0}\u{1}\u{1b}[2J\u{7f}\u{85}\u{9b}1m\r\n",
        "/back\\slash\\",
        "/\u{2028}\u{2029}\u{202e}",
        &"\u{1}".repeat(1 << 20),
        &String::from_utf8_lossy(b"/\xff\xfe\xc3"),
    ];
    let writer = bench.journal().writer().unwrap();
    for row in rows {
        let intent = Intent { path: row, rule: row, ..bench.intent() };
        writer.intent(&intent).unwrap();
        writer.denied(bench.exchange, row, row, Some(row), None, &Asker::default());
    }
    drop(writer);
    assert_eq!(bench.verify().troubles, []);
    assert_eq!(bench.verify_signatures().troubles, []);
    let intents = bench.of_kind("intent");
    assert_eq!(intents.len(), rows.len());
    for (record, row) in intents.iter().zip(rows) {
        let path = record["path"].as_str().unwrap();
        assert!(row.starts_with(path) && (path == row || path.len() == 2048), "{row:?} became {path:?}");
    }
    for line in bench.lines(0, 1) {
        assert!(line.len() < super::layout::MAX_LINE, "a line has {} bytes", line.len());
        assert!(!line.chars().any(acts_on_display));
    }
}

#[test]
fn segments_roll_at_their_size_and_only_their_owner_may_read_them() {
    use std::os::unix::fs::PermissionsExt as _;
    let bench = Bench::new();
    let journal = bench.journal_with(Settings { segment_bytes: 8 << 10, checkpoint_every: 7, ..Settings::default() });
    let writer = journal.writer().unwrap();
    for _ in 0..20 {
        bench.exchanges(&writer, 3);
    }
    drop(writer);
    let all = segments(&bench.chain(0)).unwrap();
    assert!(all.len() >= 3, "{all:?}");
    for (_, path) in &all[..all.len() - 1] {
        let len = fs::metadata(path).unwrap().len();
        assert!((8 << 10..16 << 10).contains(&len), "{} has {len} bytes", path.display());
    }
    assert_eq!(bench.verify().troubles, []);
    assert_eq!(bench.verify_signatures().troubles, []);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&bench.at()), mode(&bench.chain(0))), (0o700, 0o700));
    for file in fs::read_dir(bench.chain(0)).unwrap().chain(fs::read_dir(bench.at()).unwrap()) {
        let path = file.unwrap().path();
        assert!(path.is_dir() || mode(&path) == 0o600, "{} has mode {:o}", path.display(), mode(&path));
    }
}

#[test]
fn writers_claim_chains_of_their_own_up_to_a_bound() {
    let bench = Bench::new();
    let journal = bench.journal_with(Settings { chains: 2, ..Settings::default() });
    let first = journal.writer().unwrap();
    let _second = bench.journal_with(Settings { chains: 2, ..Settings::default() }).shared_writer().unwrap();
    assert!(matches!(journal.writer(), Err(Error::NoChain(2))));
    drop(first);
    let _third = journal.writer().unwrap();
    assert_eq!(bench.verify().chains, 2);
}

#[test]
fn follower_gives_each_record_once_and_nothing_from_before() {
    let bench = Bench::new();
    let writer = bench.journal().writer().unwrap();
    bench.exchanges(&writer, 2);
    let mut follow = Follow::from_now(&bench.at(), Filter::default()).unwrap();
    assert_eq!(follow.poll().unwrap(), Vec::<serde_json::Value>::new());
    bench.exchanges(&writer, 2);
    assert_eq!(follow.poll().unwrap().len(), 4);
    let other = bench.journal().writer().unwrap();
    drop(writer);
    let kinds: Vec<_> = follow.poll().unwrap().into_iter().map(|r| r["kind"].clone()).collect();
    assert_eq!(kinds.len(), 2, "the start of another chain and the stop of this one: {kinds:?}");
    drop(other);
    assert_eq!(follow.poll().unwrap().len(), 1);
}
