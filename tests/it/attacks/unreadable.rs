//! What can't be read as a request is answered with a code all the same.

use crate::support::World;
use crate::support::raw::Raw;
use crate::support::world::HOST;

async fn tunnel(world: &World) -> Raw {
    Raw::new(world.agent().tls(&format!("{HOST}:443"), HOST, &[b"http/1.1"]).await)
}

#[tokio::test]
async fn unreadable_requests_get_a_code_and_what_to_do() {
    let world = World::start().await;
    let many: String = (0..1000).map(|n| format!("x-{n}: y\r\n")).collect();
    let cases = [
        ("no request", "this is no request\r\n\r\n".to_owned(), (400, "bad_request")),
        ("a control byte", format!("G\u{1}T / HTTP/1.1\r\nhost: {HOST}\r\n\r\n"), (400, "bad_request")),
        (
            "two lengths",
            format!("POST / HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n"),
            (400, "bad_request"),
        ),
        ("many fields", format!("GET / HTTP/1.1\r\nhost: {HOST}\r\n{many}\r\n"), (431, "too_large")),
        (
            "a long field",
            format!("GET / HTTP/1.1\r\nhost: {HOST}\r\nx: {}\r\n\r\n", "y".repeat(1 << 20)),
            (431, "too_large"),
        ),
    ];
    for (name, bytes, expected) in cases {
        let mut raw = tunnel(&world).await;
        raw.send(&bytes).await;
        let reply = raw.reply().await.unwrap_or_else(|| panic!("{name}: no reply"));
        assert_eq!((reply.status, reply.code.as_str()), expected, "{name}");
        let problem: serde_json::Value = serde_json::from_slice(&reply.body).expect("problem+json");
        assert_eq!(problem["code"], expected.1, "{name}");
        assert!(problem["hint"].as_str().is_some_and(|hint| !hint.is_empty()), "{name}");
        assert!(raw.rest().await.is_empty(), "{name}: one answer, then the end");
    }
    assert!(world.upstream.received().is_empty());
}

#[tokio::test]
async fn unreadable_request_behind_good_ones_leaves_their_replies_as_they_are() {
    let world = World::start().await;
    let mut raw = tunnel(&world).await;
    let good = format!("GET /good HTTP/1.1\r\nhost: {HOST}\r\nauthorization: {}\r\n\r\n", world.bearer());
    for _ in 0..3 {
        raw.send(&good).await;
        assert_eq!(raw.reply().await.expect("a reply").status, 200);
    }
    raw.send("bad\r\n\r\n").await;
    let reply = raw.reply().await.expect("a reply");
    assert_eq!((reply.status, reply.code.as_str()), (400, "bad_request"));
    // Together in one piece: the second may come before the first one's reply is out.
    let mut raw = tunnel(&world).await;
    raw.send(format!("{good}bad\r\n\r\n")).await;
    assert_eq!(raw.reply().await.expect("a reply").status, 200);
    assert_eq!(raw.reply().await.expect("a reply").status, 400);
    assert_eq!(world.upstream.received().len(), 4);
}

#[tokio::test]
async fn oversized_heads_get_a_code_over_http2_too() {
    let world = World::start().await;
    let long = "y".repeat(world.node.shared().settings.limits.head_bytes);
    let mut agent = world.agent().http2::<http_body_util::Full<bytes::Bytes>>(HOST).await;
    let mut request = world.get2("/");
    for half in [&long[..long.len() / 2], &long[long.len() / 2..]] {
        request.headers_mut().append("x", half.parse().expect("a value"));
    }
    let answer = agent.ask(request).await;
    assert_eq!((answer.status.as_u16(), answer.code()), (431, "too_large"), "{}", answer.text());
    assert!(world.upstream.received().is_empty());
    assert_eq!(agent.ask(world.get2("/")).await.status, 200, "the other streams go on");
}
