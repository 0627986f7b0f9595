//! The two parts of a line: its own, and the rest from its kind on, whose text and key are kept.

use super::*;
use crate::audit::link::{Digest, Parts, rest_hash};

const CHANGED: &str = "the record was changed, or belongs elsewhere";
const UNREADABLE: &str = "the record can't be read";

/// A line's own part, its rest and its MAC.
fn apart(line: &str) -> (&str, &str, &str) {
    let (own, rest) = line.split_at(line.find(",\"kind\":").unwrap());
    let (rest, mac) = rest.split_at(rest.rfind(",\"mac\":").unwrap());
    (own, rest, mac)
}

/// Intents under two rules in turn, each with its outcome. Line 1 and 5 are under one rule, 3 and 7 under
/// the other.
fn two_rules() -> Bench {
    let bench = Bench::new();
    let writer = bench.journal().writer().unwrap();
    for rule in ["read", "charge", "read", "charge"] {
        let intent = Intent { rule, exchange: ExchangeId::generate(), ..bench.intent() };
        writer.intent(&intent).unwrap().1.finish(outcome());
    }
    drop(writer);
    assert_eq!(bench.verify().troubles, []);
    bench
}

#[test]
fn byte_that_crosses_from_one_part_to_the_other_is_found() {
    type Hurt = fn(&[String]) -> String;
    // What is done to the intent in line 3, with what the other lines offer.
    let rows: &[(&str, Hurt, &str)] = &[
        ("the rest of another intent", |l| with(&l[3], |_| apart(&l[1]).1.to_owned()), CHANGED),
        ("the rest of an outcome", |l| with(&l[3], |_| apart(&l[2]).1.to_owned()), CHANGED),
        (
            "the rest and the MAC of another intent",
            |l| [apart(&l[3]).0, apart(&l[1]).1, apart(&l[1]).2].concat(),
            CHANGED,
        ),
        (
            "the MAC of another intent under the same rule",
            |l| [&l[3][..mac_at(&l[3])], apart(&l[7]).2].concat(),
            CHANGED,
        ),
        (
            "the own part of another intent under the same rule",
            |l| {
                let own = apart(&l[7]).0.replacen("\"seq\":8", "\"seq\":4", 1);
                [&own, apart(&l[3]).1, apart(&l[3]).2].concat()
            },
            CHANGED,
        ),
        (
            "the path behind the kind",
            |l| {
                let path = ",\"path\":\"/v1/charges\"";
                assert!(apart(&l[3]).0.ends_with(path));
                let line = l[3].replacen(path, "", 1);
                line.replacen(",\"kind\":\"intent\"", &format!(",\"kind\":\"intent\"{path}"), 1)
            },
            CHANGED,
        ),
        (
            "the session before the kind",
            |l| {
                let kind = ",\"kind\":\"intent\"";
                let (own, rest, mac) = apart(&l[3]);
                let behind = rest.strip_prefix(kind).unwrap();
                let (session, behind) = behind.split_at(behind[1..].find(",\"").unwrap() + 1);
                [own, session, kind, behind, mac].concat()
            },
            CHANGED,
        ),
        ("a second kind in front", |l| with_own(&l[3], |own| format!("{own},\"kind\":\"intent\"")), CHANGED),
        ("a second kind behind", |l| with(&l[3], |rest| format!("{rest},\"kind\":\"outcome\"")), CHANGED),
        ("the rest twice", |l| with(&l[3], |rest| rest.repeat(2)), CHANGED),
        ("the own part twice", |l| with_own(&l[3], |own| format!("{own}{}", &own["{\"seq\":4".len()..])), CHANGED),
        ("a byte more in the own part", |l| l[3].replacen(",\"kind\"", " ,\"kind\"", 1), CHANGED),
        ("a byte more in the rest", |l| with(&l[3], |rest| format!("{rest} ")), CHANGED),
        ("a byte less in the rest", |l| l[3].replacen("\"rule\":\"charge\"", "\"rule\":\"charg\"", 1), CHANGED),
        ("no kind", |l| l[3].replacen(",\"kind\":\"intent\"", "", 1), UNREADABLE),
        ("no rest", |l| with(&l[3], |_| String::new()), UNREADABLE),
        ("a kind with a space", |l| l[3].replacen(",\"kind\":", ",\"kind\": ", 1), UNREADABLE),
        ("another key's name", |l| with(&l[3], |r| r.replacen("\"key\":\"pay", "\"key\":\"pax", 1)), CHANGED),
        ("nothing", |l| l[3].clone(), ""),
    ];
    for (what, hurt, why) in rows {
        let bench = two_rules();
        let mut lines = bench.lines(0, 1);
        lines[3] = hurt(&lines);
        bench.put_lines(0, 1, &lines);
        let troubles = bench.verify().troubles;
        let first = troubles.first().map(|t| (t.why, t.line, t.seq));
        assert_eq!(first, (!why.is_empty()).then_some((*why, 4, 4)), "{what}");
        assert_eq!(bench.verify_signatures().troubles.is_empty(), why.is_empty(), "{what}, with the public key alone");
    }
}

fn with(line: &str, rest: impl FnOnce(&str) -> String) -> String {
    let (own, old, mac) = apart(line);
    [own, &rest(old), mac].concat()
}

fn with_own(line: &str, own: impl FnOnce(&str) -> String) -> String {
    let (old, rest, mac) = apart(line);
    [&own(old), rest, mac].concat()
}

fn mac_at(line: &str) -> usize {
    line.rfind(",\"mac\":").unwrap()
}

#[test]
fn two_chains_spliced_are_found_at_the_seam() {
    let bench = Bench::new();
    let (a, b) = (bench.journal().writer().unwrap(), bench.journal().writer().unwrap());
    for _ in 0..2 {
        bench.exchanges(&a, 3);
        bench.exchanges(&b, 3);
    }
    drop((a, b));
    let (ours, theirs) = (bench.lines(0, 1), bench.lines(1, 1));
    // Their rests are the same, and so are the keys that they give.
    assert_eq!(apart(&ours[3]).1, apart(&theirs[3]).1);
    let seam = [&ours[..5], &theirs[5..]].concat();
    bench.put_lines(0, 1, &seam);
    let first = bench.verify().troubles.remove(0);
    assert_eq!((first.why, first.file, first.line), (CHANGED, bench.segment(0, 1), 6));
    assert!(!bench.verify_signatures().troubles.is_empty());
}

#[test]
fn kept_text_is_never_that_of_another_use() {
    let bench = Bench::new();
    let (name, other): (Name, Name) = ("payments".parse().unwrap(), "orders".parse().unwrap());
    let authority = Authority::parse("api.example.com:8443", 443).unwrap();
    let slot = Slot::BasicUser;
    let base = Intent { tool: Some(&name), token: Some(crate::model::TokenId::generate()), ..bench.intent() };
    // Each differs from the first in one field.
    let uses = [
        ("", base),
        ("session", Intent { session: SessionId::generate(), ..base }),
        ("token", Intent { token: Some(crate::model::TokenId::generate()), ..base }),
        ("token", Intent { token: None, ..base }),
        ("org", Intent { org: OrgId::generate(), ..base }),
        ("project", Intent { project: &other, ..base }),
        ("keyId", Intent { key: KeyId::generate(), ..base }),
        ("key", Intent { key_name: &other, ..base }),
        ("version", Intent { version: 2, ..base }),
        ("tool", Intent { tool: Some(&other), ..base }),
        ("tool", Intent { tool: None, ..base }),
        ("method", Intent { method: &Method::GET, ..base }),
        ("scheme", Intent { scheme: Scheme::Http, ..base }),
        ("authority", Intent { authority: &authority, ..base }),
        ("slot", Intent { slot: &slot, ..base }),
        ("policy", Intent { policy: &other, ..base }),
        ("rule", Intent { rule: "charge2", ..base }),
        ("policies", Intent { policy_digest: &[4; 32], ..base }),
        ("path", Intent { path: "/v1/refunds", ..base }),
        ("client", Intent { client: Some("127.0.0.1:1"), ..base }),
        ("mint", Intent { mint: true, ..base }),
    ];
    // One place for all, and places enough.
    for places in [0, 1, 1024] {
        let bench = Bench::new();
        let writer = bench.journal_with(Settings { uses: places, ..Settings::default() }).writer().unwrap();
        for (_, intent) in uses.iter().flat_map(|other| [&uses[0], other, &uses[0], other]) {
            writer.intent(intent).unwrap();
        }
        drop(writer);
        assert_eq!(bench.verify().troubles, []);
        assert_eq!(bench.verify_signatures().troubles, []);
        let records = bench.of_kind("intent");
        let first = &records[0];
        for (four, (field, _)) in records.chunks(4).zip(&uses) {
            for (record, changed) in four.iter().zip([false, true, false, true]) {
                let (record, first) = (record.as_object().unwrap(), first.as_object().unwrap());
                let fields = record.keys().chain(first.keys()).filter(|f| !["seq", "mac"].contains(&f.as_str()));
                let unlike: std::collections::BTreeSet<_> =
                    fields.filter(|f| record.get(*f) != first.get(*f)).collect();
                let wanted: Vec<_> = changed.then_some(*field).into_iter().filter(|f| !f.is_empty()).collect();
                assert_eq!(unlike.into_iter().collect::<Vec<_>>(), wanted, "{places} places");
            }
        }
    }
}

#[test]
fn outcomes_say_their_own_word_and_status() {
    let bench = Bench::new();
    let writer = bench.journal().writer().unwrap();
    let words = [OutcomeWord::Ok, OutcomeWord::Denied, OutcomeWord::Aborted];
    let statuses = || (0..900u16).step_by(7).map(|s| s.checked_sub(1));
    for status in statuses() {
        for outcome_word in words {
            let ended = Outcome { status, outcome: outcome_word, ..outcome() };
            writer.intent(&bench.intent()).unwrap().1.finish(ended);
        }
    }
    drop(writer);
    assert_eq!(bench.verify().troubles, []);
    let wanted: Vec<_> =
        statuses().flat_map(|status| words.map(|word| (word.as_str(), status.map(u64::from)))).collect();
    let ended = bench.of_kind("outcome");
    let said: Vec<_> = ended.iter().map(|r| (r["outcome"].as_str().unwrap(), r["status"].as_u64())).collect();
    assert_eq!(said, wanted);
}

#[test]
fn no_two_texts_have_one_digest() {
    let bench = two_rules();
    let lines = bench.lines(0, 1);
    let whole = lines.join("\n") + "\n";
    let (own, rest, mac) = apart(&lines[3]);
    let (number, behind) = own.split_at(own.find(",\"path\"").unwrap());
    let other = |line: &str| [&lines[..3], &[line.to_owned()], &lines[4..]].concat().join("\n") + "\n";
    let texts = [
        String::new(),
        "\n".to_owned(),
        "\n\n".to_owned(),
        "x".to_owned(),
        "x\n".to_owned(),
        "xy".to_owned(),
        "x\ny".to_owned(),
        whole.clone(),
        whole[..whole.len() - 1].to_owned(),
        format!("{whole}\n"),
        format!("\n{whole}"),
        format!("{whole}x"),
        format!("{whole}{}", lines[3]),
        format!("{whole}{}\n", lines[3]),
        lines[1..].join("\n") + "\n",
        other(&format!("{}\n{own}", lines[3])),
        // What one part loses the other has.
        other(&[number, rest, behind, mac].concat()),
        other(&[own, rest, behind, mac].concat()),
        other(&[own, rest, rest, mac].concat()),
        other(&[own, ",\"kind\":\"intent\"", rest, mac].concat()),
        other(&[own, rest, apart(&lines[7]).2].concat()),
        other(&[own, apart(&lines[1]).1, mac].concat()),
        // No record any more, with the same bytes but for one.
        other(&lines[3].replacen("\"}", "\" }", 1)),
        other(&lines[3].replacen("{\"seq\":", "{\"seq\":0", 1)),
        // The line break elsewhere.
        lines.join("\n").replacen('\n', "", 1) + "\n",
    ];
    let digests: std::collections::HashSet<_> = texts.iter().map(|t| Digest::of(t.as_bytes())).collect();
    assert_eq!(digests.len(), texts.len());
    // However it comes to it: in one piece, or record by record as the writer takes them.
    let mut digest = Digest::default();
    for line in &lines {
        let parts = Parts::of(line.as_bytes()).unwrap();
        let mut folded = Vec::new();
        Digest::fold(&mut folded, parts.own, &rest_hash(parts.rest), &parts.mac);
        digest.take(&folded);
        digest.value();
    }
    assert_eq!(digest.value(), Digest::of(whole.as_bytes()));
}
