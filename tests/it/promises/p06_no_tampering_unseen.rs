//! 6. No tampering unseen.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crate::support::World;
use crate::support::world::HOST;

/// The segment that holds the exchanges' records.
fn segment(world: &World) -> PathBuf {
    let mut found = Vec::new();
    for chain in fs::read_dir(world.home.audit_dir()).expect("readable").map(|e| e.expect("readable").path()) {
        if !chain.is_dir() {
            continue;
        }
        for file in fs::read_dir(chain).expect("readable").map(|e| e.expect("readable").path()) {
            let text = fs::read_to_string(&file).unwrap_or_default();
            if text.contains("\"kind\":\"intent\"") {
                found.push(file);
            }
        }
    }
    assert_eq!(found.len(), 1, "one core, one chain");
    found.remove(0)
}

/// A change to a chain: it gets the lines and where the first intent stands.
type Change = fn(&mut Vec<String>, usize);

#[tokio::test]
async fn every_change_to_the_chain_is_found_and_named() {
    let changes: &[(&str, Change)] = &[
        ("a path changed", |lines, at| lines[at] = lines[at].replace("/v1/pay", "/v1/get")),
        ("a record cut out", |lines, at| {
            lines.remove(at);
        }),
        ("two records swapped", |lines, at| lines.swap(at, at + 1)),
        ("a record repeated", |lines, at| {
            let again = lines[at].clone();
            lines.insert(at, again);
        }),
        ("the end cut off", |lines, at| lines.truncate(at)),
        ("a field added", |lines, at| lines[at] = lines[at].replacen('{', "{\"key\":\"other\",", 1)),
        ("all records gone", |lines, _| lines.clear()),
    ];
    for (name, change) in changes {
        let world = World::start().await;
        for _ in 0..3 {
            assert_eq!(world.agent().ask(HOST, world.get("/v1/pay")).await.status, 200);
        }
        let (dir, keys) = (world.home.audit_dir(), world.home.audit_keys());
        let file = segment(&world);
        world.node.stop(Duration::from_secs(2)).await;
        let whole = fs::read_to_string(&file).expect("readable");
        let mut lines: Vec<String> = whole.lines().map(str::to_owned).collect();
        assert!(sallyport::audit::verify(&dir, &keys).expect("readable").troubles.is_empty(), "whole before");
        let at = lines.iter().position(|l| l.contains("\"kind\":\"intent\"")).expect("an intent");
        change(&mut lines, at);
        let text = if lines.is_empty() { String::new() } else { lines.join("\n") + "\n" };
        fs::write(&file, text).expect("written");
        let report = sallyport::audit::verify(&dir, &keys).expect("readable");
        let trouble = report.troubles.first().unwrap_or_else(|| panic!("{name} is unseen"));
        assert!(!trouble.why.to_string().is_empty() && trouble.file.starts_with(&dir), "{name}: {trouble:?}");
    }
}

#[tokio::test]
async fn whole_chain_that_is_gone_is_missed() {
    let world = World::start().await;
    assert_eq!(world.agent().ask(HOST, world.get("/")).await.status, 200);
    let (dir, keys) = (world.home.audit_dir(), world.home.audit_keys());
    let file = segment(&world);
    world.node.stop(Duration::from_secs(2)).await;
    fs::remove_dir_all(file.parent().expect("a chain")).expect("removed");
    let report = sallyport::audit::verify(&dir, &keys).expect("readable");
    assert!(!report.troubles.is_empty(), "the chain is missed");
}
