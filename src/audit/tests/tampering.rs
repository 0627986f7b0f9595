use std::fs;

use super::*;

/// Something that somebody does to the files, and what has to be found: the words of the first
/// trouble, its chain, segment and number.
struct Row {
    what: &'static str,
    hurt: fn(&Bench),
    why: &'static str,
    place: &'static str,
    seq: u64,
    /// Whether the public key alone shows it.
    public: bool,
}

const CHANGED: &str = "the record was changed, or belongs elsewhere";
const NOT_NEXT: &str = "the record's number is not the next: one is missing, moved or repeated";
const CUT: &str = "the chain ends before the head that was recorded for it: its end was cut off";
const UNREADABLE: &str = "the record can't be read";

fn change(bench: &Bench, line: usize, from: &str, to: &str) {
    let mut lines = bench.lines(0, 1);
    assert!(lines[line].contains(from), "{}", lines[line]);
    lines[line] = lines[line].replacen(from, to, 1);
    bench.put_lines(0, 1, &lines);
}

fn edit(bench: &Bench, edit: impl FnOnce(&mut Vec<String>)) {
    let mut lines = bench.lines(0, 1);
    edit(&mut lines);
    bench.put_lines(0, 1, &lines);
}

// Chain 0, segment 1: start, five exchanges of two records, stop. Segment 2: start and the same
// without a stop (killed). Segment 3: start, the same, stop. Chain 1: one segment.
const ROWS: &[Row] = &[
    Row {
        what: "a record changed",
        hurt: |b| change(b, 3, "/v1/charges", "/v1/refunds"),
        why: CHANGED,
        place: "0000/00000001.jsonl:4",
        seq: 4,
        public: true,
    },
    Row {
        what: "a signature cut off where it begins",
        hurt: |b| {
            edit(b, |l| {
                let (begins, mac) = (l[0].find("\"signature\":\"").unwrap() + 13, l[0].find(",\"mac\":").unwrap());
                l[0].replace_range(begins..mac, "");
            })
        },
        why: CHANGED,
        place: "0000/00000001.jsonl:1",
        seq: 1,
        public: true,
    },
    Row {
        what: "a field added behind the MAC",
        hurt: |b| change(b, 2, "\"}", "\",\"outcome\":\"denied\"}"),
        why: UNREADABLE,
        place: "0000/00000001.jsonl:3",
        seq: 3,
        public: true,
    },
    Row {
        what: "a record cut out",
        hurt: |b| edit(b, |l| drop(l.remove(4))),
        why: NOT_NEXT,
        place: "0000/00000001.jsonl:5",
        seq: 5,
        public: true,
    },
    Row {
        what: "two records exchanged",
        hurt: |b| edit(b, |l| l.swap(3, 5)),
        why: NOT_NEXT,
        place: "0000/00000001.jsonl:4",
        seq: 4,
        public: true,
    },
    Row {
        what: "a record repeated",
        hurt: |b| edit(b, |l| l.insert(4, l[3].clone())),
        why: NOT_NEXT,
        place: "0000/00000001.jsonl:5",
        seq: 5,
        public: true,
    },
    Row {
        what: "a line put in",
        hurt: |b| edit(b, |l| l.insert(4, "{\"seq\":5,\"kind\":\"admin\"}".to_owned())),
        why: UNREADABLE,
        place: "0000/00000001.jsonl:5",
        seq: 5,
        public: true,
    },
    Row {
        what: "an inner segment truncated at its end",
        hurt: |b| edit(b, |l| l.truncate(l.len() - 1)),
        why: NOT_NEXT,
        place: "0000/00000002.jsonl:1",
        seq: 12,
        public: true,
    },
    Row {
        what: "the last segment truncated at its end",
        hurt: |b| {
            let lines = b.lines(0, 3);
            b.put_lines(0, 3, &lines[..4]);
        },
        why: CUT,
        place: "0000/00000003.jsonl:0",
        seq: 28,
        public: true,
    },
    Row {
        what: "the last segment truncated and its head removed",
        hurt: |b| {
            let lines = b.lines(0, 3);
            b.put_lines(0, 3, &lines[..4]);
            fs::remove_file(b.chain(0).join("head")).unwrap();
        },
        why: "the chain's head is gone, so its end may have been cut off",
        place: "0000/head:0",
        seq: 27,
        public: true,
    },
    Row {
        what: "the last segment truncated and its head forged from what is left",
        hurt: |b| {
            let lines = b.lines(0, 3);
            b.put_lines(0, 3, &lines[..4]);
            let last: serde_json::Value = serde_json::from_str(&lines[3]).unwrap();
            let mac = last["mac"].as_str().unwrap();
            fs::write(b.chain(0).join("head"), format!("{} {mac} {mac}{mac}\n", last["seq"])).unwrap();
        },
        why: "the chain's head was changed",
        place: "0000/head:0",
        seq: 27,
        public: false,
    },
    Row {
        what: "garbage behind an inner segment",
        hurt: |b| {
            let text = fs::read_to_string(b.segment(0, 1)).unwrap();
            fs::write(b.segment(0, 1), text + "{\"seq\":13,").unwrap();
        },
        why: "bytes before this start are torn and it doesn't say so",
        place: "0000/00000002.jsonl:1",
        seq: 13,
        public: true,
    },
    Row {
        what: "the first segment removed",
        hurt: |b| fs::remove_file(b.segment(0, 1)).unwrap(),
        why: "a segment before this one is missing",
        place: "0000/00000002.jsonl:0",
        seq: 1,
        public: true,
    },
    Row {
        what: "an inner segment removed",
        hurt: |b| fs::remove_file(b.segment(0, 2)).unwrap(),
        why: "a segment before this one is missing",
        place: "0000/00000003.jsonl:0",
        seq: 13,
        public: true,
    },
    Row {
        what: "the last segment removed",
        hurt: |b| fs::remove_file(b.segment(0, 3)).unwrap(),
        why: CUT,
        place: "0000/00000002.jsonl:0",
        seq: 24,
        public: true,
    },
    Row {
        what: "all segments removed",
        hurt: |b| (1..=3).for_each(|n| fs::remove_file(b.segment(0, n)).unwrap()),
        why: "the chain's segments are gone",
        place: "0000:0",
        seq: 1,
        public: true,
    },
    Row {
        what: "a whole chain removed",
        hurt: |b| fs::remove_dir_all(b.chain(1)).unwrap(),
        why: "the whole chain is gone",
        place: "0001:0",
        seq: 1,
        public: true,
    },
    Row {
        what: "a whole chain and the register removed",
        hurt: |b| {
            fs::remove_dir_all(b.chain(1)).unwrap();
            fs::remove_file(b.at().join("register")).unwrap();
        },
        why: "the register of chains is gone, so a chain may be missing",
        place: "register:0",
        seq: 0,
        public: true,
    },
    Row {
        what: "the register changed",
        hurt: |b| {
            let text = fs::read_to_string(b.at().join("register")).unwrap();
            fs::write(b.at().join("register"), text.replacen("0 1", "0", 1)).unwrap();
        },
        why: "the register of chains was changed",
        place: "register:0",
        seq: 0,
        public: false,
    },
    Row {
        what: "a signed record replaced by an earlier one",
        hurt: |b| {
            edit(b, |l| {
                let mac = l[11][l[11].len() - 34..].to_owned();
                let body = l[0][..l[0].len() - 34].replacen("\"seq\":1,", "\"seq\":12,", 1);
                l[11] = body + &mac;
            });
        },
        why: CHANGED,
        place: "0000/00000001.jsonl:12",
        seq: 12,
        public: true,
    },
    Row {
        what: "a signature changed",
        hurt: |b| change(b, 0, "\"signature\":\"", "\"signature\":\"00"),
        why: CHANGED,
        place: "0000/00000001.jsonl:1",
        seq: 1,
        public: true,
    },
    Row {
        what: "a chain put in the place of another",
        hurt: |b| {
            fs::remove_dir_all(b.chain(1)).unwrap();
            copy_dir(&b.chain(0), &b.chain(1));
        },
        why: CHANGED,
        place: "0001/00000001.jsonl:1",
        seq: 1,
        public: true,
    },
    Row {
        what: "a record of another chain put in",
        hurt: |b| {
            let other = b.lines(1, 1)[3].clone();
            edit(b, |l| l[3] = other);
        },
        why: CHANGED,
        place: "0000/00000001.jsonl:4",
        seq: 4,
        public: true,
    },
];

#[test]
fn what_was_done_to_the_files_is_found_and_its_first_record_named() {
    for row in ROWS {
        let bench = Bench::new();
        bench.filled();
        (row.hurt)(&bench);
        let found = bench.verify().troubles;
        let first = found.first().unwrap_or_else(|| panic!("{}: not found", row.what));
        assert_eq!(first.why, row.why, "{}", row.what);
        let place = first.file.strip_prefix(bench.at()).unwrap();
        assert_eq!(format!("{}:{}", place.display(), first.line), row.place, "{}", row.what);
        assert_eq!(first.seq, row.seq, "{}", row.what);
        let public = bench.verify_signatures().troubles;
        assert_eq!(!public.is_empty(), row.public, "{} with the public key alone: {public:?}", row.what);
    }
}

#[test]
fn last_line_that_a_kill_tore_is_closed_off_by_the_next_start() {
    let bench = Bench::new();
    let writer = bench.journal().writer().unwrap();
    bench.exchanges(&writer, 2);
    writer.intent(&bench.intent()).unwrap();
    kill(writer);
    // The start of a record that never was acknowledged.
    let mut text = fs::read(bench.segment(0, 1)).unwrap();
    text.extend_from_slice(b"{\"seq\":7,\"time\":17");
    fs::write(bench.segment(0, 1), text).unwrap();
    assert_eq!(bench.verify().troubles, []);
    let writer = bench.journal().writer().unwrap();
    bench.exchanges(&writer, 1);
    drop(writer);
    assert_eq!(bench.verify().troubles, []);
    assert_eq!(bench.verify_signatures().troubles, []);
    assert_eq!(bench.of_kind("start").last().unwrap()["torn"], 18);
}

#[test]
fn cut_of_acknowledged_records_is_found_after_a_restart_too() {
    let bench = Bench::new();
    let writer = bench.journal().writer().unwrap();
    bench.exchanges(&writer, 3);
    kill(writer);
    let text = fs::read(bench.segment(0, 1)).unwrap();
    fs::write(bench.segment(0, 1), &text[..text.len() - 400]).unwrap();
    assert_eq!(bench.verify().troubles[0].why, CUT);
    for _ in 0..2 {
        let writer = bench.journal().writer().unwrap();
        bench.exchanges(&writer, 3);
        drop(writer);
        for report in [bench.verify(), bench.verify_signatures()] {
            assert_eq!(report.troubles.len(), 1);
            assert_eq!(report.troubles[0].why, "the end of the chain was cut off before this start took it up");
            assert_eq!(report.troubles[0].file, bench.segment(0, 2));
        }
    }
}

#[test]
fn chain_that_was_put_back_to_an_earlier_state_is_found_by_what_another_saw() {
    let bench = Bench::new();
    let (a, b) = (bench.journal().writer().unwrap(), bench.journal().writer().unwrap());
    bench.exchanges(&a, 2);
    let kept = tempfile::tempdir().unwrap();
    copy_dir(&bench.chain(0), kept.path());
    bench.exchanges(&a, 2);
    drop(b);
    kill(a);
    assert_eq!(bench.verify().troubles, []);
    fs::remove_dir_all(bench.chain(0)).unwrap();
    copy_dir(kept.path(), &bench.chain(0));
    for report in [bench.verify(), bench.verify_signatures()] {
        let why = "the chain ends before a record that a signed record of another chain saw: its end was cut off";
        assert_eq!(report.troubles[0].why, why);
        assert_eq!((report.troubles[0].seq, &report.troubles[0].file), (9, &bench.segment(0, 1)));
    }
    // The chain goes on in another way: now the same number is another record.
    let a = bench.journal().writer().unwrap();
    bench.exchanges(&a, 5);
    drop(a);
    let why = "the record is another than the one that a signed record of another chain saw";
    assert_eq!(bench.verify().troubles[0].why, why);
}

#[test]
fn chain_that_was_removed_is_missed_after_a_restart_too() {
    let bench = Bench::new();
    bench.filled();
    fs::remove_dir_all(bench.chain(0)).unwrap();
    fs::remove_file(bench.at().join("register")).unwrap();
    drop(bench.journal().writer().unwrap());
    assert!(!bench.verify().troubles.is_empty());
    assert!(!bench.verify_signatures().troubles.is_empty());
}

#[test]
fn another_key_is_no_key_of_these_chains() {
    let bench = Bench::new();
    bench.filled();
    let keys = AuditKeys { mac: Secret::new([7; 32]), sign: Secret::new([8; 32]) };
    assert_eq!(verify(&bench.at(), &keys).unwrap().troubles[0].why, "the record's signature doesn't hold");
    let other = verify_signatures(&bench.at(), public_key(&keys).unwrap()).unwrap();
    assert_eq!((other.troubles.len(), other.records), (2, 0));
}

#[test]
fn what_no_signature_follows_is_counted() {
    let bench = Bench::new();
    let writer = bench.journal().writer().unwrap();
    bench.exchanges(&writer, 2);
    assert_eq!(bench.verify_signatures().unsigned, 4);
    drop(writer);
    assert_eq!(bench.verify_signatures().unsigned, 0);
}

#[test]
fn forged_record_without_a_line_break_is_not_shown() {
    let bench = Bench::new();
    bench.filled();
    let mut text = fs::read_to_string(bench.segment(0, 3)).unwrap();
    text.push_str("{\"seq\":99,\"time\":1,\"kind\":\"admin\"}");
    fs::write(bench.segment(0, 3), text).unwrap();
    assert_eq!(bench.of_kind("admin").len(), 0);
}
