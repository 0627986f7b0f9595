//! 5. No record, no service.

use std::io::Write as _;

use crate::support::World;
use crate::support::apart;
use crate::support::world::HOST;

#[tokio::test]
async fn every_use_of_a_key_is_recorded_before_and_after() {
    let world = World::start().await;
    for _ in 0..3 {
        world.agent().ask(HOST, world.get("/v1/x")).await;
    }
    let upstream = world.upstream.received().len();
    assert_eq!(world.records_of("intent").len(), upstream);
    assert_eq!(upstream, 3);
    let (dir, keys) = (world.home.audit_dir(), world.home.audit_keys());
    world.node.stop(std::time::Duration::from_secs(2)).await;
    let filter = sallyport::audit::Filter { kind: Some("outcome".into()), limit: 100, ..Default::default() };
    let outcomes = sallyport::audit::query(&dir, &filter).expect("readable");
    assert_eq!(outcomes.len(), 3);
    assert!(outcomes.iter().all(|o| o["status"] == 200 && o["outcome"] == "ok"), "{outcomes:?}");
    assert!(sallyport::audit::verify(&dir, &keys).expect("readable").troubles.is_empty());
}

/// The full disk is real: the data directory lies on a small file system in a mount namespace of the
/// test's own.
/// The intents of which something came. One that couldn't be written at its time is written later, with what
/// says that nothing did.
fn used(world: &World) -> usize {
    let aborted = world.records_of("outcome").iter().filter(|record| record["outcome"] == "aborted").count();
    world.records_of("intent").len() - aborted
}

#[test]
fn full_disk_refuses_and_recovers_and_loses_nothing() {
    const NAME: &str = "promises::p05_no_record_no_service::full_disk_refuses_and_recovers_and_loses_nothing";
    let disk = "mount -t tmpfs -o size=4m none \"$0\"; ip link set lo up; export TMPDIR=\"$0\"";
    if !apart::inside(NAME, disk) {
        return;
    }
    apart::run(async {
        let world = World::start().await;
        let mut agent = world.agent().http1(HOST).await;
        assert_eq!(agent.ask(world.get("/before")).await.status, 200);
        let filler = std::env::temp_dir().join("filler");
        let mut file = std::fs::File::create(&filler).expect("made");
        for size in [65_536, 4096] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
        // What is left of the last page takes a few more records.
        let mut refused = 0;
        for _ in 0..100 {
            let answer = agent.ask(world.get("/during")).await;
            if answer.status != 200 {
                assert_eq!((answer.status.as_u16(), answer.code()), (503, "audit_unavailable"), "{}", answer.text());
                refused += 1;
            }
            assert_eq!(world.upstream.received().len(), used(&world), "no key without a record");
        }
        assert!(refused > 50, "{refused}");
        std::fs::remove_file(&filler).expect("removed");
        drop(file);
        assert_eq!(world.agent().ask(HOST, world.get("/after")).await.status, 200);
        assert_eq!(used(&world), world.upstream.received().len());
        world.nothing_leaked(&[]).await;
    });
}
