//! Handshakes that are refused, and answers that are no acceptance.

use super::{Accepted, build};
use crate::support::raw::RawReply;
use crate::support::websocket::{Peer, TEXT, accept_of, field};
use crate::support::world::{HOST, OTHER};
use crate::support::{Raw, World};

const ASKS: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

#[tokio::test]
async fn request_that_is_no_handshake_goes_nowhere() {
    let (build, _accepted): (_, Accepted) = build("");
    let world = build.start().await;
    let change = |from: &str, to: &str| ASKS.replace(from, to);
    for (line, headers, why) in [
        ("GET / HTTP/1.1", change("websocket", "websocket, h2c"), "one of two protocols"),
        ("POST / HTTP/1.1", ASKS.to_owned(), "no GET"),
        ("GET / HTTP/1.1", change("Connection: Upgrade", "Connection: keep-alive"), "not in Connection"),
        ("GET / HTTP/1.1", change("Version: 13", "Version: 8"), "another version"),
        ("GET / HTTP/1.1", change("Sec-WebSocket-Version: 13\r\n", ""), "no version"),
        ("GET / HTTP/1.1", change("dGhlIHNhbXBsZSBub25jZQ==", "c2hvcnQ="), "a short nonce"),
        ("GET / HTTP/1.1", change("dGhlIHNhbXBsZSBub25jZQ==", "not base64"), "no nonce"),
        ("GET / HTTP/1.1", format!("{ASKS}Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"), "two nonces"),
        ("GET / HTTP/1.1", format!("{ASKS}Content-Length: 3\r\n"), "a body"),
        ("GET / HTTP/1.1", format!("{ASKS}Transfer-Encoding: chunked\r\n"), "a body in chunks"),
    ] {
        let mut raw = world.agent().inside(HOST, b"http/1.1").await;
        raw.send(format!("{line}\r\nHost: {HOST}\r\nAuthorization: {}\r\n{headers}\r\n", world.bearer())).await;
        let reply = raw.reply().await.expect("an answer");
        assert_eq!((reply.status, reply.code.as_str()), (400, "bad_request"), "{why}");
    }
    let old = format!("GET / HTTP/1.0\r\nHost: {HOST}\r\nAuthorization: {}\r\n{ASKS}\r\n", world.bearer());
    assert!(world.agent().raw(HOST, old.as_bytes()).await.starts_with("HTTP/1.0 400"));
    assert_eq!(world.upstream.connections(), 0);
}

/// Asks for a WebSocket; what is answered instead.
async fn refused(world: &World, authorization: &str, more: &str) -> RawReply {
    let raw = world.agent().inside(HOST, b"http/1.1").await;
    let more = format!("Authorization: {authorization}\r\n{more}");
    Peer::ask(raw, HOST, "/v1/realtime", &more).await.err().expect("no WebSocket")
}

#[tokio::test]
async fn handshake_takes_the_way_of_every_request() {
    let (build, _accepted): (_, Accepted) = build("");
    let world = build.start().await;
    let unknown = sallyport::model::ProxyToken::generate(Default::default(), &Default::default()).expect("random");
    assert_eq!(refused(&world, &format!("Bearer {}", unknown.expose()), "").await.code, "token_unknown");
    assert_eq!(refused(&world, "Bearer sk-live-stray", "").await.code, "credential_unregistered");
    world.node.revoke_token(&world.token, "test");
    assert_eq!(refused(&world, &world.bearer(), "").await.code, "token_revoked");
    assert_eq!(world.upstream.connections(), 0);
    world.nothing_leaked(&[]).await;
}

#[tokio::test]
async fn answer_that_is_no_acceptance_reaches_the_agent_without_the_key() {
    let world = World::build()
        .script(|mut raw: Raw, _| async move {
            let head = raw.head().await;
            let seen = field(&head, "authorization").to_owned();
            raw.send(format!(
                "HTTP/1.1 401 Unauthorized\r\nX-Seen: {seen}\r\nContent-Length: {}\r\n\r\n{seen}",
                seen.len()
            ))
            .await;
            raw.rest().await;
        })
        .start()
        .await;
    let reply = refused(&world, &world.bearer(), "").await;
    let masked = format!("Bearer {}", "*".repeat(world.secret.len()));
    assert_eq!((reply.status, reply.code.as_str()), (401, ""));
    assert_eq!(field(&reply.head, "x-seen"), masked);
    assert_eq!(String::from_utf8_lossy(&reply.body), masked);
    world.nothing_leaked(&[]).await;
}

#[tokio::test]
async fn acceptance_that_nobody_asked_for_is_the_upstreams_failure() {
    let good = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n";
    for (answer, why) in [
        (format!("{good}\r\n"), "no proof"),
        (format!("{good}Sec-WebSocket-Accept: {}\r\n\r\n", accept_of("AAAAAAAAAAAAAAAAAAAAAA==")), "another's proof"),
        (
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nA\r\n\r\n".to_owned(),
            "another protocol",
        ),
        (format!("{good}A\r\nSec-WebSocket-Protocol: other\r\n\r\n"), "a subprotocol that wasn't offered"),
        (
            format!("{good}A\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"),
            "an extension that wasn't offered",
        ),
        (format!("{good}A\r\nSec-WebSocket-Extensions: x-mux\r\n\r\n"), "an unknown extension"),
    ] {
        let proof = format!("Sec-WebSocket-Accept: {}\r\n", accept_of("dGhlIHNhbXBsZSBub25jZQ=="));
        let answer = answer.replace("A\r\n", &proof);
        let world = World::build()
            .script(move |mut raw: Raw, _| {
                let answer = answer.clone();
                async move {
                    raw.head().await;
                    raw.send(answer).await;
                    raw.rest().await;
                }
            })
            .start()
            .await;
        // What isn't understood isn't offered on, so nobody may accept it.
        let more = "Sec-WebSocket-Protocol: realtime\r\nSec-WebSocket-Extensions: x-mux\r\n";
        let reply = refused(&world, &world.bearer(), more).await;
        assert_eq!((reply.status, reply.code.as_str()), (502, "upstream_unreachable"), "{why}");
    }
}

#[tokio::test]
async fn answer_to_a_plain_request_that_switches_protocols_is_refused() {
    let world = World::build()
        .raw(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", false)
        .start()
        .await;
    let answer = world.agent().ask(HOST, world.get("/")).await;
    assert_eq!((answer.status.as_u16(), answer.code()), (502, "upstream_unreachable"));
}

#[tokio::test]
async fn host_without_a_key_gets_its_websocket_too() {
    let (build, mut accepted) = build("Sec-WebSocket-Extensions: permessage-deflate\r\n");
    let world = build.upstream(|setup| setup.host = OTHER.to_owned()).start().await;
    let raw = world.agent().inside(OTHER, b"http/1.1").await;
    let more = "Sec-WebSocket-Extensions: permessage-deflate\r\n";
    let mut agent = Peer::ask(raw, OTHER, "/", more).await.expect("accepted");
    let mut upstream = accepted.next().await;
    upstream.send(TEXT | 0x40, b"\xf2\x48\xcd\xc9\xc9\x07\x00").await;
    assert_eq!(agent.message().await, Some((TEXT | 0x40, b"\xf2\x48\xcd\xc9\xc9\x07\x00".to_vec())));
}

#[tokio::test]
async fn upstream_that_prefers_http2_is_asked_over_http1() {
    let (build, mut accepted) = build("");
    let world = build.upstream(|setup| setup.alpn = vec!["h2", "http/1.1"]).start().await;
    let (mut agent, mut upstream) = super::pair(&world, &mut accepted).await;
    agent.send(TEXT, "hello").await;
    assert_eq!(upstream.text().await, "hello");
}
