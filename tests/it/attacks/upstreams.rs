//! What an upstream can send.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;

use crate::support::world::HOST;
use crate::support::{Reply, World};

async fn asked(world: &World) -> String {
    let head = format!("GET / HTTP/1.1\r\nhost: {HOST}\r\nauthorization: {}\r\n\r\n", world.bearer());
    tokio::time::timeout(Duration::from_secs(30), world.agent().raw(HOST, head.as_bytes())).await.expect("an answer")
}

#[tokio::test]
async fn malformed_replies_become_a_clean_error_and_their_connection_is_not_used_again() {
    static CASES: &[(&str, &[u8])] = &[
        (
            "two lengths and a hidden reply",
            b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 40\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n",
        ),
        ("negative chunk", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n-5\r\nhello\r\n"),
        ("NUL in a field", b"HTTP/1.1 200 OK\r\nx: a\0b\r\ncontent-length: 0\r\n\r\n"),
        ("garbage", b"\x00\x01\x02\x03\r\n\r\n"),
        ("no version", b"200 OK\r\n\r\n"),
        ("status of two digits", b"HTTP/1.1 20 OK\r\n\r\n"),
    ];
    for (name, reply) in CASES {
        let world = World::build().raw(reply, false).start().await;
        let got = asked(&world).await;
        let refused = got.starts_with("HTTP/1.1 502") && got.contains("sallyport-error: upstream_unreachable");
        // A reply whose head was fine can only be cut off in its body.
        let cut = got.is_empty() || (got.starts_with("HTTP/1.1 200") && !got.contains("0\r\n\r\n"));
        assert!(refused || (cut && name.contains("chunk")), "{name}: {got}");
        let before = world.upstream.connections();
        asked(&world).await;
        assert_eq!(world.upstream.connections(), before + 1, "{name}: a fresh connection");
    }
}

#[tokio::test]
async fn reply_with_length_and_chunks_is_never_passed_on_as_both() {
    let reply = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let world = World::build().raw(reply, false).start().await;
    let got = asked(&world).await.to_ascii_lowercase();
    let both = got.contains("content-length: 3") && got.contains("transfer-encoding");
    assert!(!both, "{got}");
}

#[tokio::test]
async fn lines_of_a_reply_that_parsers_end_differently_reach_the_agent_in_one_form_or_not_at_all() {
    for (name, reply) in [
        ("bare LF in a field", &b"HTTP/1.1 200 OK\r\nx: a\nx-more: b\r\ncontent-length: 2\r\n\r\nok"[..]),
        ("bare LF everywhere", b"HTTP/1.1 200 OK\nx: a\ncontent-length: 2\n\nok"),
        ("bare LF before a length", b"HTTP/1.1 200 OK\r\nx: a\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nok"),
        ("bare CR in a field", b"HTTP/1.1 200 OK\r\nx: a\rx-more: b\r\ncontent-length: 2\r\n\r\nok"),
        ("bare LF behind a size", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\nok\r\n0\r\n\r\n"),
        ("a space before the reply", b" HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"),
        ("two spaces", b"HTTP/1.1  200 OK\r\ncontent-length: 2\r\n\r\nok"),
        ("HTTP/0.9", b"ok\r\n"),
    ] {
        let world = World::build().raw(reply, true).start().await;
        let got = asked(&world).await;
        let head = got.split("\r\n\r\n").next().unwrap_or_default().replace("\r\n", "");
        assert!(!head.contains(['\r', '\n']), "{name}: {got:?}");
        let clean = got.starts_with("HTTP/1.1 200") && got.matches("content-length").count() <= 1;
        assert!(clean || got.starts_with("HTTP/1.1 502") || got.is_empty(), "{name}: {got:?}");
    }
}

#[tokio::test]
async fn bytes_behind_a_reply_are_not_the_next_reply() {
    let reply = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nforged";
    let world = World::build().raw(reply, false).start().await;
    let mut agent = world.agent().http1::<Full<Bytes>>(HOST).await;
    for _ in 0..3 {
        let answer = agent.ask(world.get("/")).await;
        assert_ne!(answer.text(), "forged");
    }
}

#[tokio::test]
async fn endless_heads_are_given_up() {
    static HUGE: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    let huge = HUGE.get_or_init(|| {
        let mut all = b"HTTP/1.1 200 OK\r\n".to_vec();
        for n in 0..200_000 {
            all.extend_from_slice(format!("x-{n}: {}\r\n", "y".repeat(20)).as_bytes());
        }
        all
    });
    let world = World::build().raw(huge, true).start().await;
    let got = asked(&world).await;
    assert!(got.starts_with("HTTP/1.1 502"), "{}", &got[..got.len().min(200)]);
    static HINTS: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    let hints = HINTS.get_or_init(|| b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n".repeat(40_000));
    let world = World::build().raw(hints, true).start().await;
    let got = asked(&world).await;
    assert!(got.starts_with("HTTP/1.1 502"), "{}", &got[..got.len().min(200)]);
}

#[tokio::test]
async fn body_that_is_cut_is_never_given_as_whole() {
    for reply in [
        &b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this"[..],
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
    ] {
        let world = World::build().raw(reply, true).start().await;
        let answer = world.agent().ask(HOST, world.get("/")).await;
        assert_eq!(answer.status, 200);
        assert!(!answer.whole, "{answer:?}");
        let dir = world.home.audit_dir();
        world.node.stop(Duration::from_secs(2)).await;
        let filter = sallyport::audit::Filter { kind: Some("outcome".into()), limit: 10, ..Default::default() };
        let outcome = sallyport::audit::query(&dir, &filter).expect("readable").pop().expect("an outcome");
        assert_ne!(outcome["outcome"], "ok", "{outcome}");
    }
}

#[tokio::test]
async fn replies_without_a_body_stay_without_one() {
    let world = World::build()
        .answer(|r| {
            let status = r.path.trim_start_matches('/').parse().unwrap_or(200);
            Reply::pieces(Vec::<Vec<u8>>::new()).status(status).with("x-kept", "1")
        })
        .start()
        .await;
    let mut agent = world.agent().http1(HOST).await;
    for path in ["/204", "/304", "/200"] {
        let answer = agent.ask(world.get(path)).await;
        assert_eq!((answer.body.len(), answer.header("x-kept")), (0, "1"), "{path}");
    }
    let answer = agent.ask(world.request("HEAD", "/", "")).await;
    assert_eq!((answer.status.as_u16(), answer.body.len()), (200, 0));
}

#[tokio::test]
async fn upstream_that_can_not_be_reached_or_stays_silent_is_told_with_its_code() {
    let world = World::build().settings(|s| s.upstream.deadlines.headers = Duration::from_millis(300));
    let (_send, reply) = Reply::live();
    let held = std::sync::Mutex::new(Some(reply));
    let world = world
        .answer(move |_| {
            std::thread::sleep(Duration::from_millis(900));
            held.lock().expect("not poisoned").take().unwrap_or_else(|| Reply::text("late"))
        })
        .start()
        .await;
    let answer = world.agent().ask(HOST, world.get("/")).await;
    assert_eq!((answer.status.as_u16(), answer.code()), (504, "upstream_timeout"));
    let closed = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let world = World::build()
        .settings(move |s| {
            let authority = sallyport::model::Authority::parse(HOST, 443).expect("an authority");
            s.upstream.resolve.insert(authority, closed);
        })
        .start()
        .await;
    let answer = world.agent().ask(HOST, world.get("/")).await;
    assert_eq!((answer.status.as_u16(), answer.code()), (502, "upstream_unreachable"));
}

#[tokio::test]
async fn connections_are_shared_by_agents_and_used_again() {
    let world = World::build().upstream(|u| u.alpn = vec!["http/1.1"]).start().await;
    for _ in 0..5 {
        assert_eq!(world.agent().ask(HOST, world.get("/")).await.status, 200);
    }
    assert_eq!(world.upstream.connections(), 1);
}

#[tokio::test]
async fn trailers_pass_both_ways_where_the_protocol_has_them() {
    use http_body_util::channel::Channel;
    let world = World::build().answer(|_| Reply::text("x").trailer("x-sum", "2")).start().await;
    let mut agent = world.agent().http2::<Channel<Bytes>>(HOST).await;
    let (mut send, body) = Channel::new(4);
    tokio::spawn(async move {
        send.send_data("grpc".into()).await.expect("sent");
        let trailers =
            http::HeaderMap::from_iter([(http::HeaderName::from_static("x-sum"), "1".parse().expect("a value"))]);
        send.send_trailers(trailers).await.expect("sent");
    });
    let request = http::Request::post(format!("https://{HOST}/")).header("authorization", world.bearer());
    let answer = agent.ask(request.header("te", "trailers").body(body).expect("a request")).await;
    assert_eq!(answer.trailers.expect("trailers")["x-sum"], "2");
    let received = world.upstream.only();
    assert_eq!((received.method.as_str(), &received.body[..]), ("POST", &b"grpc"[..]));
    assert_eq!(received.trailers.expect("trailers")["x-sum"], "1");
}
