//! WebSockets that may not go on, and peers that break the rules.

use std::time::{Duration, Instant};

use sallyport::app::NodeSettings;
use sallyport::vault::key::KeyState;

use super::{build, outcomes, pair};
use crate::support::websocket::{BINARY, CLOSE, COMPRESSED, FIN, PING, Peer, TEXT};
use crate::support::{World, soon};

#[tokio::test]
async fn revoked_means_1008_within_a_second() {
    for (how, code) in [("token", "token_revoked"), ("session", "session_revoked"), ("key", "key_disabled")] {
        let (build, mut accepted) = build("");
        let world = build.start().await;
        let (mut agent, mut upstream) = pair(&world, &mut accepted).await;
        upstream.send(TEXT, "first").await;
        assert_eq!(agent.text().await, "first");
        match how {
            "token" => world.node.revoke_token(&world.token, "test"),
            "session" => world.node.revoke_session(&world.started.session, "test"),
            _ => world.node.set_key_state(&world.key, KeyState::Disabled),
        }
        let revoked = Instant::now();
        let (said, why) = agent.close_code().await.expect("a close frame");
        assert!(revoked.elapsed() < Duration::from_secs(1), "{:?}", revoked.elapsed());
        assert_eq!(said, 1008);
        assert!(why.starts_with(code), "{why}");
        assert_eq!(upstream.close_code().await, Some((1001, String::new())));
        agent.send(TEXT, "too late").await;
        upstream.send(TEXT, "too late").await;
        assert_eq!((agent.frame_back().await, upstream.frame_back().await), (None, None));
        assert_eq!(outcomes(&world, 1).await[0]["outcome"], "aborted");
        world.nothing_leaked(&[]).await;
    }
}

#[tokio::test]
async fn revoked_session_ends_a_websocket_that_nobody_reads() {
    let (build, mut accepted) = build("");
    let world = build.settings(|s: &mut NodeSettings| s.proxy.deadlines.websocket_close = Duration::from_millis(200));
    let world = world.start().await;
    let (agent, mut upstream) = pair(&world, &mut accepted).await;
    let frame = upstream.frame(BINARY, &vec![0; 1 << 20]);
    let flood = tokio::spawn(async move { while upstream.raw.try_send(&frame).await.is_ok() {} });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!flood.is_finished(), "an agent that reads nothing holds up its upstream");
    world.node.revoke_session(&world.started.session, "test");
    soon("the upstream is let go", flood).await.expect("it ends");
    drop(agent);
}

const ONLY_REALTIME: &str = "
version: 1
name: only
rules:
  - name: realtime
    allow: { methods: [GET], paths: [\"/v1/realtime\"] }
";

#[tokio::test]
async fn changed_policy_is_asked_again_about_open_websockets() {
    let (build, mut accepted) = build("");
    let world = build.policy(ONLY_REALTIME).start().await;
    let (mut agent, mut upstream) = pair(&world, &mut accepted).await;
    let policy = world.home.policy_dir().join("only.yaml");
    // A change that still allows it cuts nothing.
    std::fs::write(&policy, format!("{ONLY_REALTIME}  - name: more\n    allow: {{ methods: [POST] }}\n"))
        .expect("written");
    world.node.policies().reload().expect("good policies");
    tokio::time::sleep(Duration::from_millis(400)).await;
    agent.send(TEXT, "still here").await;
    assert_eq!(upstream.text().await, "still here");
    std::fs::write(&policy, ONLY_REALTIME.replace("realtime\"", "chat\"")).expect("written");
    world.node.policies().reload().expect("good policies");
    let changed = Instant::now();
    let (code, why) = agent.close_code().await.expect("a close frame");
    assert!(changed.elapsed() < Duration::from_secs(1), "{:?}", changed.elapsed());
    assert!(code == 1008 && why.starts_with("policy_denied"), "{code} {why}");
    assert_eq!(upstream.close_code().await, Some((1001, String::new())));
    assert_eq!(outcomes(&world, 1).await[0]["outcome"], "aborted");
    assert_eq!(world.records_of("denied").len(), 1, "{:?}", world.records_of("denied"));
}

#[tokio::test]
async fn silence_ends_a_websocket_and_a_ping_keeps_it() {
    let (build, mut accepted) = build("");
    let idle = Duration::from_millis(600);
    let world = build.settings(move |s: &mut NodeSettings| s.proxy.deadlines.websocket_idle = idle).start().await;
    let (mut agent, mut upstream) = pair(&world, &mut accepted).await;
    let began = Instant::now();
    for _ in 0..4 {
        tokio::time::sleep(idle / 2).await;
        agent.send(PING, "").await;
        assert_eq!(upstream.frame_back().await, Some((PING, vec![])));
    }
    assert_eq!(agent.close_code().await.map(|(code, _)| code), Some(1001));
    assert_eq!(upstream.close_code().await.map(|(code, _)| code), Some(1001));
    assert!(began.elapsed() > idle * 3, "{:?}", began.elapsed());
}

#[tokio::test]
async fn side_that_never_answers_a_close_frame_is_not_waited_for() {
    let (build, mut accepted) = build("");
    let close = Duration::from_millis(300);
    let world = build.settings(move |s: &mut NodeSettings| s.proxy.deadlines.websocket_close = close).start().await;
    let (mut agent, mut upstream) = pair(&world, &mut accepted).await;
    agent.send(CLOSE, b"\x03\xe8").await;
    assert_eq!(upstream.close_code().await, Some((1000, String::new())));
    upstream.send(TEXT, "more").await;
    assert_eq!(agent.text().await, "more", "the other side may finish what it says");
    assert_eq!((agent.frame_back().await, upstream.frame_back().await), (None, None));
    assert_eq!(outcomes(&world, 1).await[0]["outcome"], "ok");
}

/// Frames that break the rules, and what their sender is told. They are a client's or a server's.
fn violations(peer: &Peer) -> Vec<(&'static str, Vec<u8>, u16)> {
    let frame = |first: u8, payload: &[u8]| peer.frame(first, payload);
    let other_masking = {
        let mut bytes = frame(TEXT, b"hello");
        bytes[1] ^= 0x80;
        bytes
    };
    let masked = frame(TEXT, b"x")[1] & 0x80;
    let endless = [&[BINARY, masked | 127, 0x80][..], &[0; 7 + 4]].concat();
    vec![
        ("masked like the other side's", other_masking, 1002),
        ("a reserved bit", frame(TEXT | 0x20, b"x"), 1002),
        ("compressed, and nobody agreed to it", frame(TEXT | COMPRESSED, b"\xf2\x48\xcd\xc9\xc9\x07\x00"), 1002),
        ("an opcode that nobody knows", frame(0x83, b"x"), 1002),
        ("a length of 2^63", endless, 1002),
        ("a control frame in pieces", frame(PING & !FIN, b"x"), 1002),
        ("a long control frame", frame(PING, &[0; 126]), 1002),
        ("a continuation of nothing", frame(FIN, b"x"), 1002),
        ("a message inside of a message", [frame(TEXT & !FIN, b"x"), frame(TEXT, b"y")].concat(), 1002),
        ("half a close code", frame(CLOSE, b"\x03"), 1002),
        ("a close code that means nothing was said", frame(CLOSE, b"\x03\xed"), 1002),
        ("a reason that is no text", frame(CLOSE, b"\x03\xe8\xff"), 1007),
        ("text that is no text", frame(TEXT, b"\xff"), 1007),
        ("text that ends inside of a character", frame(TEXT, b"\xe2\x82"), 1007),
        ("text that breaks at its second frame", [frame(1, b"\xe2\x82"), frame(FIN, b"x")].concat(), 1007),
    ]
}

#[tokio::test]
async fn peer_that_breaks_the_rules_is_told_so_and_let_go() {
    for from_agent in [true, false] {
        for at in 0..15 {
            let (build, mut accepted) = build("");
            let world = build.start().await;
            let (mut agent, mut upstream) = pair(&world, &mut accepted).await;
            let (bad, good) = if from_agent { (&mut agent, &mut upstream) } else { (&mut upstream, &mut agent) };
            let (what, bytes, code) = violations(bad).remove(at);
            bad.send(TEXT, "well formed").await;
            assert_eq!(good.text().await, "well formed");
            bad.raw.send(bytes).await;
            assert_eq!(bad.close_code().await.map(|(code, _)| code), Some(code), "{what}");
            let other = if from_agent { 1001 } else { 1014 };
            assert_eq!(good.close_code().await.map(|(code, _)| code), Some(other), "{what}");
            assert_eq!((bad.frame_back().await, good.frame_back().await), (None, None), "{what}");
            let outcome = outcomes(&world, 1).await.remove(0);
            assert_eq!(outcome["outcome"], if from_agent { "denied" } else { "upstream_error" }, "{what}");
        }
    }
}

#[tokio::test]
async fn node_that_stops_says_that_it_goes_away() {
    let (build, mut accepted) = build("");
    let world = build.start().await;
    let (mut agent, mut upstream) = pair(&world, &mut accepted).await;
    let World { node, .. } = world;
    let stopped = tokio::spawn(async move { node.stop(Duration::from_secs(20)).await });
    assert_eq!(agent.close_code().await.map(|(code, _)| code), Some(1001));
    assert_eq!(upstream.close_code().await.map(|(code, _)| code), Some(1001));
    drop(agent);
    soon("the node stops", stopped).await.expect("it stops");
}
