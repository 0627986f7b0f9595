//! WebSockets over HTTP/2 (RFC 8441), and through the gateway.

use bytes::Bytes;
use h2::client::SendRequest;
use http::{Method, Request, Response};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{Accepted, build, outcomes};
use crate::support::websocket::{CLOSE, PING, Peer, TEXT, field};
use crate::support::world::HOST;
use crate::support::{Raw, World, soon};

/// An HTTP/2 connection to the proxy, inside of a tunnel.
async fn connect(world: &World) -> SendRequest<Bytes> {
    let stream = world.agent().tls(&format!("{HOST}:443"), HOST, &[b"h2"]).await;
    let (sender, connection) = h2::client::handshake(stream).await.expect("a handshake");
    tokio::spawn(connection);
    let sender = sender.ready().await.expect("ready");
    soon("SETTINGS_ENABLE_CONNECT_PROTOCOL", async {
        while !sender.is_extended_connect_protocol_enabled() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    sender
}

fn extended(world: &World, protocol: &'static str) -> Request<()> {
    Request::builder()
        .method(Method::CONNECT)
        .uri(format!("https://{HOST}/v1/realtime?model=m"))
        .extension(h2::ext::Protocol::from_static(protocol))
        .header("sec-websocket-version", "13")
        .header("sec-websocket-protocol", "realtime")
        .header("authorization", world.bearer())
        .body(())
        .expect("a request")
}

/// The answer, and the stream behind it.
async fn ask(sender: &mut SendRequest<Bytes>, request: Request<()>) -> (Response<()>, Peer) {
    let (response, mut send) = sender.send_request(request, false).expect("sent");
    let response = soon("an answer", response).await.expect("an answer");
    let (head, mut receive) = response.into_parts();
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    let (mut from_test, mut to_test) = tokio::io::split(theirs);
    tokio::spawn(async move {
        let mut piece = vec![0; 16 * 1024];
        while let Ok(len @ 1..) = from_test.read(&mut piece).await {
            if send.send_data(Bytes::copy_from_slice(&piece[..len]), false).is_err() {
                return;
            }
        }
        let _ = send.send_data(Bytes::new(), true);
    });
    tokio::spawn(async move {
        while let Some(Ok(data)) = receive.data().await {
            let _ = receive.flow_control().release_capacity(data.len());
            if to_test.write_all(&data).await.is_err() {
                return;
            }
        }
        let _ = to_test.shutdown().await;
    });
    (Response::from_parts(head, ()), Peer::client(Raw::new(ours)))
}

#[tokio::test]
async fn extended_connect_becomes_an_upgrade_with_the_key_in_its_slot() {
    let (build, mut accepted) = build("Sec-WebSocket-Protocol: realtime\r\n");
    let world = build.start().await;
    let mut sender = connect(&world).await;
    // Several at once share the agent's connection, and none the upstream's.
    for number in 1..=3 {
        let (answer, mut agent) = ask(&mut sender, extended(&world, "websocket")).await;
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["sec-websocket-protocol"], "realtime");
        assert!(!answer.headers().contains_key("sec-websocket-accept"));
        let mut upstream = accepted.next().await;
        assert!(upstream.head.starts_with("GET /v1/realtime?model=m HTTP/1.1\r\n"), "{}", upstream.head);
        assert_eq!(field(&upstream.head, "authorization"), format!("Bearer {}", world.secret));
        assert_eq!(field(&upstream.head, "host"), HOST);
        agent.send(TEXT, "up").await;
        assert_eq!(upstream.text().await, "up");
        upstream.send(PING, "ping").await;
        assert_eq!(agent.frame_back().await, Some((PING, b"ping".to_vec())));
        let long = format!("{}{}", "x".repeat(300_000), world.secret);
        upstream.send(TEXT, &long).await;
        let masked = long.replace(&world.secret, &"*".repeat(world.secret.len()));
        assert!(agent.message().await.expect("a message").1 == masked.into_bytes());
        agent.send(CLOSE, b"\x03\xe8").await;
        assert_eq!(upstream.close_code().await, Some((1000, String::new())));
        upstream.send(CLOSE, b"\x03\xe8").await;
        assert_eq!(agent.close_code().await, Some((1000, String::new())));
        assert_eq!(agent.frame_back().await, None);
        let outcome = outcomes(&world, number).await.pop().expect("a record");
        assert_eq!((outcome["outcome"].as_str(), outcome["status"].as_u64()), (Some("ok"), Some(200)));
    }
    assert_eq!(world.upstream.connections(), 3);
    assert_eq!(world.records_of("intent")[0]["method"], "GET", "what is sent is what was decided on");
    world.nothing_leaked(&[]).await;
}

#[tokio::test]
async fn revoked_session_cuts_a_stream_with_1008() {
    let (build, mut accepted) = build("");
    let world = build.start().await;
    let mut sender = connect(&world).await;
    let mut request = extended(&world, "websocket");
    request.headers_mut().remove("sec-websocket-protocol");
    let (_, mut agent) = ask(&mut sender, request).await;
    let mut upstream = accepted.next().await;
    world.node.revoke_session(&world.started.session, "test");
    assert_eq!(agent.close_code().await.map(|(code, _)| code), Some(1008));
    assert_eq!(upstream.close_code().await.map(|(code, _)| code), Some(1001));
}

#[tokio::test]
async fn connect_for_another_protocol_or_for_none_is_refused() {
    let (build, _accepted): (_, Accepted) = build("");
    let world = build.start().await;
    let mut sender = connect(&world).await;
    let (answer, _) = ask(&mut sender, extended(&world, "connect-udp")).await;
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["sallyport-error"]),
        (400, &"bad_request".parse().expect("a value"))
    );
    let plain = Request::builder().method(Method::CONNECT).uri(format!("{HOST}:443")).body(()).expect("a request");
    let (answer, _) = ask(&mut sender, plain).await;
    assert_eq!(answer.status(), 405);
    assert_eq!(world.upstream.connections(), 0);
}

#[tokio::test]
async fn success_that_is_no_acceptance_is_none_over_http2_either() {
    for (line, status) in [("200 OK", 502), ("403 Forbidden", 403), ("426 Upgrade Required", 426)] {
        let world = World::build()
            .script(move |mut raw: Raw, _| async move {
                raw.head().await;
                raw.send(format!("HTTP/1.1 {line}\r\nContent-Length: 2\r\n\r\nno")).await;
                raw.rest().await;
            })
            .start()
            .await;
        let mut sender = connect(&world).await;
        let (answer, _) = ask(&mut sender, extended(&world, "websocket")).await;
        assert_eq!(answer.status(), status, "{line}");
    }
}

#[tokio::test]
async fn gateway_takes_websockets_in_clear_and_over_tls() {
    let (build, mut accepted) = build("");
    let world = build
        .settings(|s| {
            s.gateway = Some(([127, 0, 0, 1], 0).into());
            s.gateway_tls = Some(([127, 0, 0, 1], 0).into());
        })
        .start()
        .await;
    let mut open = Vec::new();
    for tls in [false, true] {
        let at = if tls { world.node.gateway_tls } else { world.node.gateway }.expect("it listens");
        let stream = TcpStream::connect(at).await.expect("connected");
        let raw = match tls {
            true => Raw::new(world.agent().tls_on(stream, "127.0.0.1", &[b"http/1.1"]).await.expect("TLS")),
            false => Raw::new(stream),
        };
        let more = format!("Authorization: {}\r\n", world.bearer());
        let mut agent = Peer::ask(raw, &at.to_string(), "/upstream/v1/realtime", &more).await.expect("accepted");
        let mut upstream = accepted.next().await;
        assert!(upstream.head.starts_with("GET /v1/realtime HTTP/1.1\r\n"), "{}", upstream.head);
        assert_eq!(field(&upstream.head, "authorization"), format!("Bearer {}", world.secret));
        assert_eq!(field(&upstream.head, "host"), HOST);
        upstream.send(TEXT, format!("your key is {}", world.secret)).await;
        assert_eq!(agent.text().await, format!("your key is {}", "*".repeat(world.secret.len())));
        open.push((agent, upstream));
    }
    let metrics = world.node.metrics();
    assert!(metrics.contains("sallyport_connections{side=\"agent\"} 2"), "{metrics}");
    drop(open);
    world.nothing_leaked(&[]).await;
}
