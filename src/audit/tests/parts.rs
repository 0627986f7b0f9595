//! What a line is made of: what it says itself, what it says by naming another one, and its MAC.

use super::*;
use crate::audit::link::Digest;

const CHANGED: &str = "the record was changed, or belongs elsewhere";
const UNREADABLE: &str = "the record can't be read";

/// A line up to its MAC, and the rest of it.
fn apart(line: &str) -> (&str, &str) {
    line.split_at(line.rfind(",\"mac\":").unwrap())
}

/// Intents under two rules in turn, each with its outcome: 1 and 5 are under one rule, 3 and 7 under the other.
/// Those in lines 5 and 7 name the first of theirs.
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
fn whatever_is_changed_in_a_line_is_found() {
    type Hurt = fn(&[String]) -> String;
    // What is done to the intent in line 7, with what the other lines offer.
    let rows: &[(&str, Hurt, &str)] = &[
        ("the MAC of another intent", |l| [apart(&l[7]).0, apart(&l[5]).1].concat(), CHANGED),
        (
            "the body of another intent",
            |l| with(&l[7], |_| apart(&l[5]).0.replacen("\"seq\":6", "\"seq\":8", 1)),
            CHANGED,
        ),
        ("the use of another intent", |l| l[7].replacen("\"like\":4", "\"like\":2", 1), CHANGED),
        (
            "all of a use in place of its number",
            |l| {
                let said = &apart(&l[3]).0[l[3].find(",\"session\"").unwrap()..];
                l[7].replacen(",\"like\":4", said, 1)
            },
            CHANGED,
        ),
        ("a use beside its number", |l| with(&l[7], |body| format!("{body},\"rule\":\"read\"")), CHANGED),
        ("no use", |l| l[7].replacen(",\"like\":4", "", 1), CHANGED),
        ("a second kind", |l| with(&l[7], |body| format!("{body},\"kind\":\"outcome\"")), CHANGED),
        ("another kind", |l| l[7].replacen("\"kind\":\"intent\"", "\"kind\":\"denied\"", 1), CHANGED),
        ("another time", |l| l[7].replacen("\"time\":1", "\"time\":2", 1), CHANGED),
        ("a byte more", |l| with(&l[7], |body| format!("{body} ")), CHANGED),
        ("a byte less", |l| l[7].replacen("/v1/charges", "/v1/charge", 1), CHANGED),
        ("a line break in the MAC's place", |l| with(&l[7], |body| format!("{body}\r")), CHANGED),
        ("no kind", |l| l[7].replacen(",\"kind\":\"intent\"", "", 1), UNREADABLE),
        ("no time", |l| l[7].replacen(",\"time\":1", "", 1), UNREADABLE),
        (
            "the time behind the kind",
            |l| l[7].replacen(",\"time\":1,\"kind\":\"intent\"", ",\"kind\":\"intent\",\"time\":1", 1),
            UNREADABLE,
        ),
        ("a kind with a space", |l| l[7].replacen(",\"kind\":", ",\"kind\": ", 1), UNREADABLE),
        ("a number that isn't the shortest", |l| l[7].replacen("{\"seq\":8", "{\"seq\":08", 1), UNREADABLE),
        ("a longer MAC", |l| l[7].replacen("\"}", "00\"}", 1), UNREADABLE),
        ("a shorter MAC", |l| format!("{}\"}}", &l[7][..l[7].len() - 4]), UNREADABLE),
        ("a MAC in capitals", |l| [apart(&l[7]).0, ",\"mac\":\"", &"A".repeat(32), "\"}"].concat(), UNREADABLE),
        ("nothing", |l| l[7].clone(), ""),
    ];
    for (what, hurt, why) in rows {
        let bench = two_rules();
        let mut lines = bench.lines(0, 1);
        let before = lines[7].clone();
        lines[7] = hurt(&lines);
        assert_eq!(lines[7] == before, why.is_empty(), "{what}: {before}");
        bench.put_lines(0, 1, &lines);
        let troubles = bench.verify().troubles;
        let first = troubles.first().map(|t| (t.why, t.line, t.seq));
        assert_eq!(first, (!why.is_empty()).then_some((*why, 8, 8)), "{what}");
        assert_eq!(bench.verify_signatures().troubles.is_empty(), why.is_empty(), "{what}, with the public key alone");
    }
}

fn with(line: &str, body: impl FnOnce(&str) -> String) -> String {
    let (old, mac) = apart(line);
    [&body(old), mac].concat()
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
    // They say the same.
    assert_eq!(apart(&ours[3]).0, apart(&theirs[3]).0);
    let seam = [&ours[..5], &theirs[5..]].concat();
    bench.put_lines(0, 1, &seam);
    let first = bench.verify().troubles.remove(0);
    assert_eq!((first.why, first.file, first.line), (CHANGED, bench.segment(0, 1), 6));
    assert!(!bench.verify_signatures().troubles.is_empty());
}

#[test]
fn use_that_another_record_says_is_never_another_use() {
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
    // One place for all, and places enough; one segment, and many.
    for (places, segment_bytes) in [(0, 64 << 20), (1, 64 << 20), (1024, 64 << 20), (1024, 4096)] {
        let bench = Bench::new();
        let settings = Settings { uses: places, segment_bytes, ..Settings::default() };
        let writer = bench.journal_with(settings).writer().unwrap();
        let mut follow = Follow::from_now(&bench.at(), Filter::default()).unwrap();
        let mut followed = Vec::new();
        for (n, (_, intent)) in uses.iter().flat_map(|other| [&uses[0], other, &uses[0], other]).enumerate() {
            writer.intent(intent).unwrap();
            writer.flush().unwrap();
            if n % 3 == 0 {
                followed.extend(follow.poll().unwrap());
            }
        }
        followed.extend(follow.poll().unwrap());
        followed.retain(|record| record["kind"] == "intent");
        drop(writer);
        assert_eq!(bench.verify().troubles, []);
        assert_eq!(bench.verify_signatures().troubles, []);
        let records = bench.of_kind("intent");
        assert_eq!(followed, records);
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
fn first_intent_of_a_use_in_a_segment_says_it_all_and_the_others_name_that_one() {
    let bench = Bench::new();
    let journal = bench.journal_with(Settings { segment_bytes: 4096, ..Settings::default() });
    let writer = journal.writer().unwrap();
    (0..20).for_each(|_| bench.exchanges(&writer, 5));
    drop(writer);
    let all = segments(&bench.chain(0)).unwrap();
    assert!(all.len() > 3, "{all:?}");
    for (number, _) in all {
        let mut said = None;
        for line in bench.lines(0, number).iter().filter(|line| line.contains("\"kind\":\"intent\"")) {
            let record: serde_json::Value = serde_json::from_str(line).unwrap();
            match said {
                None => {
                    assert_eq!(record["rule"], "charge", "segment {number}: {line}");
                    said = record["seq"].as_u64();
                }
                Some(said) => assert!(record["like"] == said && record.get("rule").is_none(), "{line}"),
            }
        }
    }
    let intents = bench.of_kind("intent");
    assert!(intents.len() == 100 && intents.iter().all(|r| r["rule"] == "charge" && r.get("like").is_none()));
    let filter = Filter { session: Some(bench.session.to_string()), limit: 1000, ..Filter::default() };
    let of_session = query(&bench.at(), &filter).unwrap();
    assert_eq!(of_session.len(), 200, "also what says its session by naming another");
}

#[test]
fn outcome_is_shown_with_what_its_intent_says_of_the_exchange_in_whatever_segment_that_is() {
    let bench = Bench::new();
    let journal = bench.journal_with(Settings { segment_bytes: 2048, ..Settings::default() });
    let writer = journal.writer().unwrap();
    let mut follow = Follow::from_now(&bench.at(), Filter::default()).unwrap();
    let exchanges: Vec<_> = (0..9).map(|_| ExchangeId::generate()).collect();
    let begin = |exchange: &ExchangeId| {
        let (_, draft) = writer.intent(&Intent { exchange: *exchange, ..bench.intent() }).unwrap();
        bench.exchanges(&writer, 4);
        draft
    };
    let open: Vec<_> = exchanges.iter().map(begin).collect();
    assert!(segments(&bench.chain(0)).unwrap().len() > 3);
    open.into_iter().rev().for_each(|draft| draft.finish(Outcome { status: Some(418), ..outcome() }));
    writer.flush().unwrap();
    let wanted: Vec<_> = exchanges.iter().rev().map(ToString::to_string).collect();
    let all = bench.of_kind("outcome");
    let followed: Vec<_> = follow.poll().unwrap().into_iter().filter(|r| r["kind"] == "outcome").collect();
    for outcomes in [&all, &followed] {
        let late: Vec<_> = outcomes.iter().filter(|r| r["status"] == 418).collect();
        let shown: Vec<_> = late.iter().map(|r| r["exchange"].as_str().unwrap()).collect();
        assert_eq!(shown, wanted);
        assert!(late.iter().all(|r| r["session"] == bench.session.to_string() && r["key"] == "payments"));
    }
    let filter = Filter { exchange: Some(exchanges[0].to_string()), limit: 100, ..Filter::default() };
    let kinds: Vec<_> = query(&bench.at(), &filter).unwrap().iter().map(|r| r["kind"].clone()).collect();
    assert_eq!(kinds, ["intent", "outcome"]);
}

#[test]
fn record_that_names_what_is_no_intent_of_its_segment_is_shown_as_it_is() {
    for like in ["1", "3", "6", "99", "0", "18446744073709551615", "\"2\"", "-1", "null"] {
        let bench = two_rules();
        let mut lines = bench.lines(0, 1);
        lines[5] = lines[5].replacen("\"like\":2", &format!("\"like\":{like}"), 1);
        bench.put_lines(0, 1, &lines);
        let shown = bench.of_kind("intent").remove(2);
        assert_eq!(shown, serde_json::from_str::<serde_json::Value>(&lines[5]).unwrap(), "{like}");
        // It may be whoever's.
        for session in [bench.session, SessionId::generate()] {
            let filter = Filter {
                kind: Some("intent".into()),
                session: Some(session.to_string()),
                limit: 9,
                ..Filter::default()
            };
            let found = query(&bench.at(), &filter).unwrap();
            assert_eq!(found.len(), if session == bench.session { 4 } else { 1 }, "{like}");
            assert_eq!(found.iter().filter(|record| names_another(record)).count(), 1);
        }
        assert_eq!(bench.verify().troubles[0].why, CHANGED);
    }
}

#[test]
fn outcomes_say_their_own_word_and_status() {
    let bench = Bench::new();
    let writer = bench.journal().writer().unwrap();
    let words = [OutcomeWord::Ok, OutcomeWord::Denied, OutcomeWord::Aborted];
    let statuses = || (0..900u16).step_by(3).map(|s| s.checked_sub(1));
    assert!(statuses().any(|status| status == Some(200)));
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
fn digest_is_the_same_in_one_piece_and_in_many() {
    let bench = two_rules();
    let text = fs::read(bench.segment(0, 1)).unwrap().repeat(40);
    let mut digest = Digest::default();
    for piece in text.chunks(997) {
        digest.take(piece);
        digest.value();
    }
    assert_eq!(digest.value(), Digest::of(&text));
}
