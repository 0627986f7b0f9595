//! What `sallyport audit` tells of chains that are whole, and of those that aren't.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use sallyport::app::Home;
use sallyport::audit::{Intent, Journal, Outcome, OutcomeWord, Settings, Writer};
use sallyport::model::{Authority, Clock, ExchangeId, KeyId, Name, OrgId, Scheme, SessionId, Slot, SystemClock};

use crate::support::binary::Place;

/// Writes the records of so many exchanges of one session, all by the same use of a key. Their chain is closed by the
/// writer's end.
fn exchanges(place: &Place, session: SessionId, count: usize) -> Writer {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let home = Home::open(&place.data, Arc::clone(&clock)).expect("a data directory");
    let journal = Journal::open(&home.audit_dir(), home.audit_keys(), Settings::default(), Arc::clone(&clock));
    let writer = journal.expect("a journal").writer().expect("a chain");
    let name: Name = "payments".parse().expect("a name");
    let authority = Authority::parse("api.payments.test", 443).expect("an authority");
    let key = KeyId::generate();
    for _ in 0..count {
        let intent = Intent {
            at: clock.now(),
            exchange: ExchangeId::generate(),
            session,
            token: None,
            org: OrgId::DEFAULT,
            project: &name,
            key,
            key_name: &name,
            version: 1,
            tool: None,
            method: &Method::GET,
            scheme: Scheme::Https,
            authority: &authority,
            path: "/v1/charges",
            slot: &Slot::BasicUser,
            policy: &name,
            rule: "all",
            policy_digest: &[7; 32],
            client: None,
            mint: false,
        };
        let outcome = Outcome {
            at: clock.now(),
            status: Some(200),
            outcome: OutcomeWord::Ok,
            bytes_in: 1,
            bytes_out: 2,
            duration: Duration::from_millis(3),
            scrubbed: 0,
        };
        writer.intent(&intent).expect("recorded").1.finish(outcome);
    }
    writer
}

/// The segments of all chains.
fn segments(audit: &Path) -> Vec<PathBuf> {
    let entries = |dir: &Path| {
        let entries = std::fs::read_dir(dir).expect("a directory");
        entries.map(|entry| entry.expect("an entry").path()).collect::<Vec<_>>()
    };
    let chains = entries(audit).into_iter().filter(|path| path.is_dir());
    let files = chains.flat_map(|chain| entries(&chain));
    files.filter(|file| file.extension().is_some_and(|ending| ending == "jsonl")).collect()
}

#[test]
fn verification_with_the_public_key_says_what_it_can_not_check() {
    let place = Place::new();
    place.ok(&["init"]);
    // As a node that is killed leaves it.
    std::mem::forget(exchanges(&place, SessionId::generate(), 3));
    assert!(place.ok(&["audit", "verify"]).contains("all whole"));
    let public_key = place.data.with_extension("pub");
    std::fs::write(&public_key, place.ok(&["audit", "public-key"])).expect("written");
    let said = place.ok(&["audit", "verify", "--public-key", public_key.to_str().expect("text")]);
    assert!(said.contains("whole up to the last signature") && said.contains("not checked"), "{said}");
}

#[test]
fn uses_are_shown_also_where_the_record_is_gone_that_says_whose_they_are() {
    let place = Place::new();
    place.ok(&["init"]);
    let session = SessionId::generate();
    drop(exchanges(&place, session, 9));
    let session = session.to_string();
    let query = ["audit", "query", "--session", &session, "--kind", "intent"];
    assert_eq!(place.ok(&query).lines().count(), 9);
    let says = |line: &&str| line.contains("\"kind\":\"intent\"") && !line.contains("\"like\":");
    let mut taken = 0;
    for segment in segments(&place.data.join("audit")) {
        let text = std::fs::read_to_string(&segment).expect("readable");
        taken += text.lines().filter(says).count();
        let left: String = text.lines().filter(|line| !says(line)).flat_map(|line| [line, "\n"]).collect();
        std::fs::write(&segment, left).expect("written");
    }
    assert_eq!(taken, 1, "nine uses are said once");
    let said = place.fails(&query);
    assert!(said.contains("can't be told whole") && said.contains("sallyport audit verify"), "{said}");
    assert_eq!(said.lines().filter(|line| line.contains("  intent ")).count(), 8, "{said}");
    place.fails(&["audit", "verify"]);
}
