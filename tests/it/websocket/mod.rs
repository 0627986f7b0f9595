//! WebSockets through the proxy: keys go into their slots, frames pass, and nothing of a key comes back.

mod clients;
mod ends;
mod handshake;
mod http2;
mod masks;
mod slots;

use std::sync::{Arc, Mutex};

use tokio::sync::mpsc;

use crate::support::websocket::{CLOSE, PING, PONG, Peer, TEXT, field};
use crate::support::world::{Build, HOST};
use crate::support::{Raw, World, emitted, soon};

/// A world whose upstream accepts WebSockets with these headers, and the accepted ones.
pub fn build(more: &'static str) -> (Build, Accepted) {
    let (send, receive) = mpsc::unbounded_channel();
    let build = World::build().script(move |raw: Raw, _| {
        let send = send.clone();
        async move {
            let _ = send.send(Peer::accept(raw, more).await);
        }
    });
    (build, Accepted(receive))
}

pub struct Accepted(mpsc::UnboundedReceiver<Peer>);

impl Accepted {
    pub async fn next(&mut self) -> Peer {
        soon("the upstream accepts a WebSocket", self.0.recv()).await.expect("it runs")
    }
}

/// An agent's WebSocket with the token in its bearer slot.
pub async fn ask(world: &World, more: &str) -> Peer {
    let raw = world.agent().inside(HOST, b"http/1.1").await;
    let more = format!("Authorization: {}\r\n{more}", world.bearer());
    Peer::ask(raw, HOST, "/v1/realtime?model=m", &more).await.expect("accepted")
}

/// Both ends of a WebSocket through the proxy.
pub async fn pair(world: &World, accepted: &mut Accepted) -> (Peer, Peer) {
    let agent = ask(world, "").await;
    (agent, accepted.next().await)
}

/// The lines about exchanges, once there are so many.
pub async fn outcomes(world: &World, count: usize) -> Vec<serde_json::Value> {
    let found = async {
        loop {
            let all = world.records_of("outcome");
            if all.len() >= count {
                return all;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    soon("the outcome's record", found).await
}

#[tokio::test]
async fn key_goes_into_its_slot_and_frames_pass_both_ways() {
    let (build, mut accepted) = build("Sec-WebSocket-Protocol: realtime\r\n");
    let world = build.start().await;
    let mut agent = ask(&world, "Sec-WebSocket-Protocol: realtime, other\r\n").await;
    assert_eq!(field(&agent.head, "sec-websocket-protocol"), "realtime");
    let mut upstream = accepted.next().await;
    assert!(upstream.head.starts_with("GET /v1/realtime?model=m HTTP/1.1\r\n"), "{}", upstream.head);
    assert_eq!(field(&upstream.head, "authorization"), format!("Bearer {}", world.secret));
    assert_eq!(field(&upstream.head, "sec-websocket-protocol"), "realtime, other");
    assert_eq!(field(&upstream.head, "connection").to_lowercase(), "upgrade");
    assert!(!upstream.head.to_lowercase().contains("proxy-"), "{}", upstream.head);

    agent.send(TEXT, "from the agent").await;
    assert_eq!(upstream.text().await, "from the agent");
    upstream.send(TEXT, "from the \u{fc}pstream").await;
    assert_eq!(agent.text().await, "from the \u{fc}pstream");
    for (first, payload) in [(PING, &b"are you there"[..]), (PONG, b"yes"), (0x82, &[0, 255, 1])] {
        agent.send(first, payload).await;
        assert_eq!(upstream.frame_back().await, Some((first, payload.to_vec())));
        upstream.send(first, payload).await;
        assert_eq!(agent.frame_back().await, Some((first, payload.to_vec())));
    }
    for len in [0, 125, 126, 65535, 65536, 300_000] {
        let payload: Vec<u8> = (0..len).map(|n: u32| n.to_le_bytes()[0]).collect();
        agent.send(0x82, &payload).await;
        assert_eq!(upstream.message().await.expect("a message"), (0x82, payload.clone()), "{len}");
        upstream.send(0x82, &payload).await;
        assert_eq!(agent.message().await.expect("a message"), (0x82, payload), "{len}");
    }
    upstream.send(CLOSE, b"\x0f\xa1bye").await;
    assert_eq!(agent.close_code().await, Some((4001, "bye".to_owned())));
    agent.send(CLOSE, b"\x0f\xa1").await;
    assert_eq!(upstream.close_code().await, Some((4001, String::new())));
    assert_eq!(agent.frame_back().await, None);
    assert_eq!(upstream.frame_back().await, None);

    let outcome = outcomes(&world, 1).await.remove(0);
    assert_eq!((outcome["outcome"].as_str(), outcome["status"].as_u64()), (Some("ok"), Some(101)), "{outcome}");
    let data: u64 = [0, 125, 126, 65535, 65536, 300_000].iter().sum::<u64>() + 3 + 14;
    assert_eq!(outcome["bytesIn"].as_u64(), Some(data), "{outcome}");
    assert_eq!(outcome["bytesOut"].as_u64(), Some(data + 4), "{outcome}");
    let metrics = world.node.metrics();
    assert!(metrics.contains("sallyport_requests_total{mode=\"forward\",outcome=\"websocket\"} 1"), "{metrics}");
    let exchange = world.records_of("intent").remove(0)["exchange"].as_str().expect("an id").to_owned();
    let lines = String::from_utf8_lossy(&emitted::all()).into_owned();
    let lines: Vec<_> = lines.lines().filter(|l| l.contains(&exchange)).collect();
    assert_eq!(lines.len(), 1, "one line at the close: {lines:?}");
    assert_eq!(world.upstream.connections(), 1);
    world.nothing_leaked(&[]).await;
}

#[tokio::test]
async fn frames_keep_their_form_and_fragments_their_order() {
    let (build, mut accepted) = build("");
    let world = build.start().await;
    let (mut agent, mut upstream) = pair(&world, &mut accepted).await;
    let frames =
        [(0x01, &b"one "[..]), (PING, b"between"), (0x00, b"two "), (0x00, b""), (0x80, b"three"), (TEXT, b"")];
    for from_agent in [true, false] {
        let (from, to) = if from_agent { (&mut agent, &mut upstream) } else { (&mut upstream, &mut agent) };
        // One byte at a time, and all at once.
        let all: Vec<u8> = frames.iter().flat_map(|(first, payload)| from.frame(*first, payload)).collect();
        for size in [1, all.len()] {
            for piece in all.chunks(size) {
                from.raw.send(piece).await;
            }
            for (first, payload) in frames.iter().filter(|(first, payload)| *first != 0 || !payload.is_empty()) {
                assert_eq!(to.frame_back().await, Some((*first, payload.to_vec())));
            }
        }
    }
}

#[tokio::test]
async fn lost_connection_is_lost_on_the_other_side_too() {
    for agent_goes in [true, false] {
        let (build, mut accepted) = build("");
        let world = build.start().await;
        let (mut agent, mut upstream) = pair(&world, &mut accepted).await;
        let (gone, left) = if agent_goes { (&mut agent, &mut upstream) } else { (&mut upstream, &mut agent) };
        gone.send(TEXT, "last words").await;
        gone.raw.finish().await;
        assert_eq!(left.text().await, "last words");
        assert_eq!(left.frame_back().await, None, "without a close frame that nobody sent");
        let outcome = outcomes(&world, 1).await.remove(0);
        assert_eq!(outcome["outcome"], if agent_goes { "aborted" } else { "upstream_error" });
    }
}

#[tokio::test]
async fn common_library_talks_through_the_proxy() {
    use futures_util::{SinkExt as _, StreamExt as _};
    use tokio_tungstenite::tungstenite::Message;
    use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

    let seen: Arc<Mutex<String>> = Arc::default();
    let saw = Arc::clone(&seen);
    let world = World::build()
        .script(move |raw, _| {
            let saw = Arc::clone(&saw);
            async move {
                #[expect(clippy::result_large_err, reason = "the library's")]
                let note = |request: &http::Request<()>, response| {
                    let bearer = request.headers()["authorization"].to_str().expect("text");
                    *saw.lock().expect("not poisoned") = bearer.to_owned();
                    Ok(response)
                };
                let mut socket =
                    tokio_tungstenite::accept_hdr_async(raw.into_stream(), note).await.expect("a handshake");
                while let Some(Ok(message)) = socket.next().await {
                    if message.is_text() || message.is_binary() {
                        socket.send(message).await.expect("sent");
                    }
                }
            }
        })
        .start()
        .await;
    let mut request = format!("wss://{HOST}/echo").into_client_request().expect("a request");
    request.headers_mut().insert("authorization", world.bearer().parse().expect("a value"));
    let stream = world.agent().inside(HOST, b"http/1.1").await.into_stream();
    let (mut socket, _) = tokio_tungstenite::client_async(request, stream).await.expect("a handshake");
    assert_eq!(*seen.lock().expect("not poisoned"), format!("Bearer {}", world.secret));
    for len in [0, 1, 1000, 70_000, 2_000_000] {
        let sent = Message::text("\u{e9}".repeat(len));
        socket.send(sent.clone()).await.expect("sent");
        assert_eq!(soon("the echo", socket.next()).await.expect("a message").expect("well formed"), sent);
    }
    socket.close(None).await.expect("closed");
    while let Some(Ok(_)) = soon("the end", socket.next()).await {}
    assert_eq!(outcomes(&world, 1).await[0]["outcome"], "ok");
    world.nothing_leaked(&[]).await;
}
