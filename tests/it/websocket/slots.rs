//! Keys in subprotocols, queries and messages, and a conversation as voice agents have it.

use std::time::Duration;

use base64::Engine as _;
use sallyport::app::NodeSettings;
use sallyport::model::{Bounds, GrantId, ProxyToken, SessionId, SessionSecret, TokenId};
use sallyport::session::records::{Grant, Session, Standing, Token};
use serde_json::{Value, json};

use super::{Accepted, build, outcomes};
use crate::support::World;
use crate::support::websocket::{COMPRESSED, Deflate, FIN, PING, Peer, TEXT, field};
use crate::support::world::{Build, HOST};

/// An agent that is known by its proxy credentials asks, with these headers.
async fn ask(world: &World, more: &str) -> Peer {
    Peer::ask(world.known_agent().inside(HOST, b"http/1.1").await, HOST, "/v1/realtime", more).await.expect("accepted")
}

fn framed(more: &'static str) -> (Build, Accepted) {
    let (build, accepted) = build(more);
    (build.slots(&["bearer", "frame:/auth/token"]), accepted)
}

fn hello(token: &str) -> String {
    format!("{{\"type\":\"auth\", \"auth\":{{\"token\":\"{token}\"}}, \"n\":1.50}}")
}

#[tokio::test]
async fn token_in_a_message_is_swapped_where_the_destination_says_so() {
    const DEFLATE: &str = "Sec-WebSocket-Extensions: permessage-deflate\r\n";
    let (build, mut accepted) = framed(DEFLATE);
    let world = build.start().await;
    let mut agent = ask(&world, DEFLATE).await;
    let mut upstream = accepted.next().await;
    assert_eq!(field(&upstream.head, "authorization"), "");
    let sent = hello(world.token());
    let arrives = hello(&world.secret.replace('\\', "\\\\").replace('"', "\\\""));
    agent.send(TEXT, &sent).await;
    assert_eq!(upstream.text().await, arrives, "the rest byte for byte as it was");
    agent.send(TEXT & !FIN, &sent[..40]).await;
    agent.send(PING, "between").await;
    agent.send(FIN, &sent[40..]).await;
    assert_eq!(upstream.message().await, Some((TEXT, arrives.clone().into_bytes())));
    let mut deflate = Deflate::new();
    for _ in 0..2 {
        agent.send(TEXT | COMPRESSED, deflate.message(sent.as_bytes())).await;
        assert_eq!(upstream.text().await, arrives);
        agent.send(TEXT | COMPRESSED, deflate.message(b"{\"audio\":\"AAAA\"}")).await;
        assert_eq!(upstream.text().await, "{\"audio\":\"AAAA\"}");
    }
    let parsed: Value = serde_json::from_str(&arrives).expect("JSON");
    assert_eq!(parsed["auth"]["token"], world.secret.as_str());
    upstream.send(TEXT, &arrives).await;
    assert!(!agent.text().await.contains(&world.secret));
    let intents = world.records_of("intent");
    assert_eq!(intents.len(), 4, "a record for each use");
    assert!(intents.iter().all(|intent| intent["slot"] == "frame:/auth/token" && intent["method"] == "GET"));
    assert_eq!(outcomes(&world, 4).await[0]["outcome"], "ok");
    // The token's end is the WebSocket's from now on.
    world.node.revoke_token(&world.token, "test");
    assert_eq!(agent.close_code().await.map(|(code, _)| code), Some(1008));
    world.nothing_leaked(&[]).await;
}

#[tokio::test]
async fn token_elsewhere_in_a_message_stays_text() {
    let (build, mut accepted) = framed("");
    let world = build.settings(|s: &mut NodeSettings| s.proxy.limits.frame_slot = 1000).start().await;
    let mut agent = ask(&world, "").await;
    let mut upstream = accepted.next().await;
    let token = world.token().to_owned();
    for text in [
        json!({ "text": token }).to_string(),
        json!({ "auth": { "other": token } }).to_string(),
        format!("not JSON: {token}"),
        format!("{{\"auth\":{{\"token\":\"{token}\"}},\"auth\":{{}}}}"),
        json!({ "auth": { "token": token, "more": "x".repeat(1000) } }).to_string(),
    ] {
        agent.send(TEXT, &text).await;
        assert_eq!(upstream.text().await, text);
    }
    agent.send(0x82, hello(&token)).await;
    assert_eq!(upstream.message().await, Some((0x82, hello(&token).into_bytes())), "bytes have no slots");
    assert!(world.records_of("intent").is_empty());
}

#[tokio::test]
async fn token_that_may_not_be_used_ends_the_websocket() {
    let strange = sallyport::model::ProxyToken::generate(Default::default(), &Default::default()).expect("random");
    for (case, code) in [("unknown", "token_unknown"), ("part", "token_misplaced"), ("revoked", "token_revoked")] {
        let (build, mut accepted) = framed("");
        let world = build.start().await;
        let mut agent = ask(&world, "").await;
        let mut upstream = accepted.next().await;
        let text = match case {
            "unknown" => hello(strange.expose()),
            "part" => hello(&format!("Bearer {}", world.token())),
            _ => {
                world.node.revoke_token(&world.token, "test");
                hello(world.token())
            }
        };
        agent.send(TEXT, text).await;
        let (said, why) = agent.close_code().await.expect("a close frame");
        assert!(said == 1008 && why.starts_with(code), "{case}: {said} {why}");
        assert_eq!(upstream.frame_back().await.map(|(first, _)| first), Some(0x88), "the message stays here");
        outcomes_or_denied(&world).await;
        assert_eq!(world.records_of("denied")[0]["code"], code);
        world.nothing_leaked(&[]).await;
    }
}

#[tokio::test]
async fn token_of_a_session_that_is_bound_elsewhere_is_of_no_use_in_a_message() {
    let (build, mut accepted) = framed("");
    let world = build.start().await;
    let registry = &world.node.shared().registry;
    let (id, now) = (SessionId::generate(), world.node.shared().clock.now());
    let expires_at = now.plus(Duration::from_secs(60));
    let bounds = Bounds { sources: vec!["10.0.0.0/8".parse().expect("a network")], ..Bounds::default() };
    registry.put_session(&Session {
        id,
        org: world.key.org,
        project: world.key.project,
        environment: world.key.environment,
        tool: None,
        secret: SessionSecret::generate().expect("random").hash(),
        bounds,
        standing: Standing::Active,
        created_at: now,
        expires_at,
    });
    let grant = Grant { id: GrantId::generate(), org: world.key.org, session: id, key: world.key.id, created_at: now };
    registry.put_grant(&grant);
    let stolen = ProxyToken::generate(Default::default(), &world.key.shape).expect("random");
    registry.put_token(&Token {
        id: TokenId::generate(),
        org: world.key.org,
        session: id,
        grant: grant.id,
        root: None,
        hash: stolen.hash(),
        shape: world.key.shape.clone(),
        standing: Standing::Active,
        created_at: now,
        expires_at,
    });
    // Nobody stands behind the handshake, so the message alone says who asks.
    let raw = world.agent().inside(HOST, b"http/1.1").await;
    let mut agent = Peer::ask(raw, HOST, "/v1/realtime", "").await.expect("accepted");
    let mut upstream = accepted.next().await;
    agent.send(TEXT, hello(stolen.expose())).await;
    let (said, why) = agent.close_code().await.expect("a close frame");
    assert!(said == 1008 && why.starts_with("token_misplaced"), "{said} {why}");
    assert_eq!(upstream.frame_back().await.map(|(first, _)| first), Some(0x88), "the message stays here");
    assert!(world.records_of("intent").is_empty());
    world.nothing_leaked(&[]).await;
}

async fn outcomes_or_denied(world: &World) {
    while world.records_of("denied").is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn keys_in_messages_are_bounded_in_a_minute() {
    let (build, mut accepted) = framed("");
    let world = build.settings(|s: &mut NodeSettings| s.proxy.limits.frame_keys = 2).start().await;
    let mut agent = ask(&world, "").await;
    let mut upstream = accepted.next().await;
    for _ in 0..2 {
        agent.send(TEXT, hello(world.token())).await;
        upstream.text().await;
    }
    agent.send(TEXT, hello(world.token())).await;
    let (code, why) = agent.close_code().await.expect("a close frame");
    assert!(code == 1008 && why.starts_with("rate_limited"), "{code} {why}");
    assert_eq!(world.records_of("intent").len(), 2);
}

#[tokio::test]
async fn key_goes_into_a_query() {
    let (build, mut accepted) = build("");
    let world = build.slots(&["query:key"]).start().await;
    let raw = world.agent().inside(HOST, b"http/1.1").await;
    let path = format!("/v1/realtime?model=m&key={}&x=%7E", world.token());
    let _agent = Peer::ask(raw, HOST, &path, "").await.expect("accepted");
    let upstream = accepted.next().await;
    let line = upstream.head.lines().next().expect("a line");
    assert!(line.starts_with("GET /v1/realtime?model=m&key=sk-live%2F") && line.ends_with("&x=%7E HTTP/1.1"), "{line}");
}

#[tokio::test]
async fn voice_agent_talks_with_the_key_in_its_subprotocol() {
    for with_key in [false, true] {
        let (build, mut accepted) = {
            let (send, receive) = tokio::sync::mpsc::unbounded_channel();
            let build = World::build().script(move |mut raw, _| {
                let send = send.clone();
                async move {
                    let head = raw.head().await;
                    let accept = crate::support::websocket::accept_of(field(&head, "sec-websocket-key"));
                    let offered = field(&head, "sec-websocket-protocol");
                    let chosen = offered.split(", ").nth(usize::from(with_key)).unwrap_or_default();
                    raw.send(format!(
                        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                         Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: {chosen}\r\n\r\n"
                    ))
                    .await;
                    let _ = send.send(Peer::server(raw, head));
                }
            });
            (build, Accepted(receive))
        };
        let world = build.slots(&["header:sec-websocket-protocol=*openai-insecure-api-key.{}*"]).start().await;
        let world_secret = world.secret.clone();
        let raw = world.agent().inside(HOST, b"http/1.1").await;
        let offered = format!("realtime, openai-insecure-api-key.{}, openai-beta.realtime-v1", world.token());
        let more = format!("Sec-WebSocket-Protocol: {offered}\r\n");
        let mut agent = Peer::ask(raw, HOST, "/v1/realtime?model=gpt-realtime", &more).await.expect("accepted");
        let mut upstream = accepted.next().await;
        let seen = field(&upstream.head, "sec-websocket-protocol").to_owned();
        assert_eq!(seen, format!("realtime, openai-insecure-api-key.{world_secret}, openai-beta.realtime-v1"));
        let chosen = field(&agent.head, "sec-websocket-protocol");
        let own = format!("openai-insecure-api-key.{}", world.token());
        assert_eq!(chosen, if with_key { own.as_str() } else { "realtime" }, "what the agent offered");

        let event = |kind: &str, more: Value| {
            let mut event = json!({ "type": kind, "event_id": "e" });
            event.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
            event.to_string()
        };
        upstream.send(TEXT, event("session.created", json!({ "session": { "id": "s" } }))).await;
        assert!(agent.text().await.contains("session.created"));
        let update =
            event("session.update", json!({ "session": { "voice": "alloy", "modalities": ["audio", "text"] } }));
        agent.send(TEXT, &update).await;
        assert_eq!(upstream.text().await, update);
        // Sound goes up while sound comes down, neither waiting for the other.
        let sound = base64::engine::general_purpose::STANDARD.encode(vec![7_u8; 24_000]);
        for n in 0..20 {
            let up = event("input_audio_buffer.append", json!({ "n": n, "audio": sound }));
            let down = event("response.audio.delta", json!({ "n": n, "delta": sound }));
            agent.send(TEXT, &up).await;
            upstream.send(TEXT, &down).await;
            assert_eq!(upstream.text().await, up);
            assert_eq!(agent.text().await, down);
        }
        let leak = event("error", json!({ "error": { "message": format!("key {world_secret}") } }));
        upstream.send(TEXT, &leak).await;
        let got = agent.text().await;
        assert!(!got.contains("sk-live") && got.len() == leak.len(), "{got}");
        world.nothing_leaked(&[]).await;
    }
}
