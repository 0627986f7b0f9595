use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use rustix::process::{Resource, Rlimit, setrlimit};

use super::*;

/// Runs a test of this module in a process of its own, with this set.
fn again(test: &str, dir: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &format!("audit::tests::faults::{test}"), "--nocapture", "--test-threads=1"]);
    command.env("SALLYPORT_TEST_AUDIT_DIR", dir);
    command
}

/// The directory, in the process that [`again`] started.
fn child() -> Option<PathBuf> {
    std::env::var_os("SALLYPORT_TEST_AUDIT_DIR").map(PathBuf::from)
}

fn journal_at(dir: &Path, settings: Settings) -> Journal {
    Journal::open(dir, Bench::keys(), settings, Arc::new(crate::model::SystemClock)).unwrap()
}

/// Runs a test in a process of its own that may lower its limit on the size of files. A write over it
/// fails in its middle, as on a full disk; the signal that comes with it is ignored.
fn in_a_small_disk(test: &str, dir: &Path) {
    let inner = again(test, dir);
    // A shell hands on which signals it ignores.
    let mut sh = Command::new("sh");
    sh.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""]).arg(inner.get_program()).args(inner.get_args());
    let out = sh.env("SALLYPORT_TEST_AUDIT_DIR", dir).output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success() && said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn every_acknowledged_record_outlives_a_kill() {
    let bench = Bench::new();
    if let Some(dir) = child() {
        let journal =
            journal_at(&dir, Settings { segment_bytes: 64 << 10, checkpoint_every: 50, ..Settings::default() });
        let writer = journal.writer().unwrap();
        loop {
            let (receipt, draft) = writer.intent(&bench.intent()).unwrap();
            println!("acknowledged {}", receipt.seq());
            draft.finish(outcome());
            if receipt.seq() % 10 == 0 {
                writer.flush().unwrap();
            }
        }
    }
    for round in 1..=3 {
        let mut process =
            again("every_acknowledged_record_outlives_a_kill", &bench.at()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        // Fewer come if the process ends before it is killed.
        let number = |line: std::io::Result<String>| line.unwrap().split_once("acknowledged ")?.1.parse::<u64>().ok();
        let mut acknowledged: Vec<u64> = lines.by_ref().filter_map(number).take(500).collect();
        assert_eq!(acknowledged.len(), 500);
        process.kill().unwrap();
        process.wait().unwrap();
        acknowledged.extend(lines.filter_map(number));
        let written: std::collections::HashSet<u64> =
            bench.of_kind("intent").iter().filter_map(|r| r["seq"].as_u64()).collect();
        let missing: Vec<_> = acknowledged.iter().filter(|seq| !written.contains(seq)).collect();
        assert!(missing.is_empty(), "{missing:?} of {}", acknowledged.len());
        assert_eq!(bench.verify().troubles, []);
        assert_eq!(bench.verify_signatures().troubles, []);
        assert_eq!(bench.of_kind("start").len(), round);
    }
}

#[test]
fn full_disk_refuses_receipts_and_loses_nothing() {
    let bench = Bench::new();
    let Some(dir) = child() else {
        return in_a_small_disk("full_disk_refuses_receipts_and_loses_nothing", &bench.at());
    };
    let limit = |bytes| setrlimit(Resource::Fsize, Rlimit { current: bytes, maximum: None });
    let settings = Settings { held_bytes: 4096, ..Settings::default() };
    let writer = journal_at(&dir, settings).writer().unwrap();
    let (_, owed) = writer.intent(&bench.intent()).unwrap();
    bench.exchanges(&writer, 3);
    let full = fs::metadata(segment_path(&dir.join("0000"), 1)).unwrap().len();
    // Of a use that no record says yet, and for a part of which there is space.
    let refund = Intent { rule: "refund", ..bench.intent() };
    limit(Some(full + 100)).unwrap();
    for _ in 0..3 {
        assert!(matches!(writer.intent(&refund), Err(Error::Io { .. })));
        assert_eq!(fs::metadata(segment_path(&dir.join("0000"), 1)).unwrap().len(), full, "nothing torn is left");
    }
    owed.finish(outcome());
    for _ in 0..200 {
        writer.denied(bench.exchange, "policy_denied", "the rule denies it", None, None, &Asker::default());
    }
    assert!(writer.flush().is_err());
    assert!(writer.waiting() < 3 * 4096, "{} bytes wait", writer.waiting());
    limit(None).unwrap();
    let (receipt, draft) = writer.intent(&refund).unwrap();
    draft.finish(outcome());
    drop(writer);

    let report = verify(&dir, &Bench::keys()).unwrap();
    assert_eq!(report.troubles, []);
    let all = query(&dir, &Filter { limit: 10_000, ..Filter::default() }).unwrap();
    let of = |kind: &str| all.iter().filter(|r| r["kind"] == kind).collect::<Vec<_>>();
    assert_eq!(of("intent").len(), 5, "what was refused left no record, what was acknowledged did");
    assert_eq!(of("intent")[4]["seq"], receipt.seq());
    assert_eq!(of("intent")[4]["rule"], "refund", "what was taken back says nothing for another");
    assert_eq!(of("outcome").len(), 5);
    let dropped = of("security")[0]["dropped"].as_u64().unwrap();
    assert!(dropped > 0);
    assert_eq!(of("denied").len() as u64 + dropped, 200);
}

#[test]
fn segment_that_can_not_be_begun_leaves_the_chain_where_it_is() {
    let bench = Bench::new();
    let journal = bench.journal_with(Settings { segment_bytes: 1024, ..Settings::default() });
    let writer = journal.writer().unwrap();
    // A directory stands where the next segment has to be.
    fs::create_dir(bench.segment(0, 2)).unwrap();
    for _ in 0..3 {
        for _ in 0..3 {
            writer.intent(&bench.intent()).unwrap();
        }
        assert!(writer.flush().is_err());
    }
    fs::remove_dir(bench.segment(0, 2)).unwrap();
    bench.exchanges(&writer, 3);
    drop(writer);
    assert_eq!(bench.of_kind("intent").len(), 12);
    assert_eq!(segments(&bench.chain(0)).unwrap().len(), 2);
    assert_eq!(bench.verify().troubles, []);
    assert_eq!(bench.verify_signatures().troubles, []);
}

#[test]
fn refusals_are_not_dropped_while_they_can_be_written() {
    let bench = Bench::new();
    let journal = bench.journal_with(Settings { held_bytes: 1024, ..Settings::default() });
    let writer = journal.writer().unwrap();
    for _ in 0..100 {
        writer.denied(
            bench.exchange,
            "policy_denied",
            "the rule denies it",
            Some("api.example.com"),
            None,
            &Asker::default(),
        );
        assert!(writer.waiting() < 2048);
    }
    writer.flush().unwrap();
    assert_eq!(bench.of_kind("denied").len(), 100);
}

#[test]
fn head_follows_every_tick_so_that_little_can_be_cut_unseen() {
    let bench = Bench::new();
    let writer = bench.journal().writer().unwrap();
    let (_, _open) = writer.intent(&bench.intent()).unwrap();
    writer.flush().unwrap();
    let head = fs::read_to_string(bench.chain(0).join("head")).unwrap();
    assert!(head.starts_with("2 "), "{head}");
}

#[test]
fn admin_record_that_can_not_be_written_is_taken_back() {
    let bench = Bench::new();
    let Some(dir) = child() else {
        return in_a_small_disk("admin_record_that_can_not_be_written_is_taken_back", &bench.at());
    };
    let limit = |bytes| setrlimit(Resource::Fsize, Rlimit { current: bytes, maximum: None });
    let writer = journal_at(&dir, Settings::default()).shared_writer().unwrap();
    writer.admin("ann", "key.create", "stripe", "").unwrap();
    limit(Some(16)).unwrap();
    assert!(writer.admin("ann", "key.delete", "stripe", "").is_err());
    assert!(writer.security("node", "tampered_row", "store", "").is_err());
    limit(None).unwrap();
    writer.admin("ann", "key.rotate", "stripe", "").unwrap();
    drop(writer);
    assert_eq!(verify(&dir, &Bench::keys()).unwrap().troubles, []);
    let all = query(&dir, &Filter { limit: 100, ..Filter::default() }).unwrap();
    let actions: Vec<_> = all.iter().filter_map(|r| r["action"].as_str()).collect();
    assert_eq!(actions, ["key.create", "tampered_row", "key.rotate"]);
}
