//! 9. Nothing is unbounded.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::World;
use crate::support::agent::{drain, head_of};
use crate::support::world::HOST;

#[tokio::test]
async fn oversized_heads_are_refused_with_their_status() {
    let world = World::start().await;
    let bearer = world.bearer();
    let many: String = (0..10_000).map(|n| format!("x-{n}: y\r\n")).collect();
    let cases = [
        ("many fields", format!("GET / HTTP/1.1\r\nhost: {HOST}\r\nauthorization: {bearer}\r\n{many}\r\n"), "431"),
        (
            "a long field",
            format!("GET / HTTP/1.1\r\nhost: {HOST}\r\nauthorization: {bearer}\r\nx: {}\r\n\r\n", "y".repeat(1 << 20)),
            "431",
        ),
        ("a long target", format!("GET /{} HTTP/1.1\r\nhost: {HOST}\r\n\r\n", "y".repeat(1 << 20)), "4"),
    ];
    for (name, head, status) in cases {
        let began = Instant::now();
        let got = world.agent().raw(HOST, head.as_bytes()).await;
        assert!(got.is_empty() || got.starts_with(&format!("HTTP/1.1 {status}")), "{name}: {got}");
        assert!(began.elapsed() < Duration::from_secs(5), "{name}");
    }
    let connect = format!("CONNECT {HOST}:443 HTTP/1.1\r\nhost: {HOST}:443\r\nx: {}\r\n\r\n", "y".repeat(1 << 20));
    let mut stream = TcpStream::connect(world.node.forward.expect("it listens")).await.expect("connected");
    let _ = stream.write_all(connect.as_bytes()).await;
    let got = drain(&mut stream).await;
    assert!(got.is_empty() || got.starts_with("HTTP/1.1 431"), "{got}");
    assert!(world.upstream.received().is_empty());
    assert_eq!(world.agent().ask(HOST, world.get("/")).await.status, 200, "it goes on serving");
}

#[tokio::test]
async fn silent_and_slow_connections_are_closed() {
    let world = World::build()
        .settings(|s| {
            s.proxy.deadlines.head = Duration::from_millis(400);
            s.proxy.deadlines.tls = Duration::from_millis(400);
            s.proxy.deadlines.idle_body = Duration::from_millis(400);
        })
        .start()
        .await;
    let proxy = world.node.forward.expect("it listens");
    let closes = async |name: &str, mut stream: TcpStream| {
        let mut byte = [0u8; 1024];
        let end = async { while let Ok(1..) = stream.read(&mut byte).await {} };
        tokio::time::timeout(Duration::from_secs(5), end).await.unwrap_or_else(|_| panic!("{name} stays open"));
    };
    closes("a silent connection", TcpStream::connect(proxy).await.expect("connected")).await;
    let mut half = TcpStream::connect(proxy).await.expect("connected");
    half.write_all(b"CONNECT api.ups").await.expect("written");
    closes("half a CONNECT", half).await;
    let mut tunnel = world.agent().connect(&format!("{HOST}:443")).await.expect("a tunnel");
    tunnel.write_all(&[0x16, 3, 1, 1]).await.expect("written");
    closes("half a hello", tunnel).await;
    closes("a tunnel without TLS", world.agent().connect(&format!("{HOST}:443")).await.expect("a tunnel")).await;
    let mut stream = world.agent().tls(&format!("{HOST}:443"), HOST, &[b"http/1.1"]).await;
    let head = format!(
        "POST / HTTP/1.1\r\nhost: {HOST}\r\nauthorization: {}\r\ncontent-length: 100\r\n\r\nabc",
        world.bearer()
    );
    stream.write_all(head.as_bytes()).await.expect("written");
    let mut rest = Vec::new();
    let end = stream.read_to_end(&mut rest);
    let _ = tokio::time::timeout(Duration::from_secs(5), end).await.expect("a body that stands still is given up");
    assert!(!String::from_utf8_lossy(&rest).starts_with("HTTP/1.1 200"), "{}", String::from_utf8_lossy(&rest));
}

#[tokio::test]
async fn connections_past_the_limit_wait_and_those_within_go_on() {
    let world = World::build().settings(|s| s.proxy.limits.connections = 4).start().await;
    let mut agent = world.agent().http1(HOST).await;
    let proxy = world.node.forward.expect("it listens");
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(TcpStream::connect(proxy).await.expect("connected"));
    }
    // The limit is reached: this one is in the system's queue, and unanswered.
    let mut waits = TcpStream::connect(proxy).await.expect("connected");
    waits
        .write_all(format!("CONNECT {HOST}:443 HTTP/1.1\r\nhost: {HOST}:443\r\n\r\n").as_bytes())
        .await
        .expect("written");
    assert_eq!(agent.ask(world.get("/")).await.status, 200, "what is in flight goes on");
    let mut byte = [0u8; 1];
    assert!(tokio::time::timeout(Duration::from_millis(300), waits.peek(&mut byte)).await.is_err());
    held.clear();
    let answer = tokio::time::timeout(Duration::from_secs(5), head_of(&mut waits)).await.expect("its turn comes");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn wrong_proxy_credentials_can_be_tried_a_few_times_only() {
    let world = World::build().settings(|s| s.proxy.require_auth = true).start().await;
    let mut stream = TcpStream::connect(world.node.forward.expect("it listens")).await.expect("connected");
    let head = format!("CONNECT {HOST}:443 HTTP/1.1\r\nhost: {HOST}:443\r\nproxy-authorization: Basic eDp5\r\n\r\n");
    for _ in 0..3 {
        stream.write_all(head.as_bytes()).await.expect("written");
        let answer = head_of(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 407"), "{answer}");
        let length: usize = answer
            .lines()
            .find_map(|l| l.strip_prefix("content-length: "))
            .and_then(|l| l.trim().parse().ok())
            .expect("a length");
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.expect("a body");
    }
    let _ = stream.write_all(head.as_bytes()).await;
    assert_eq!(head_of(&mut stream).await, "", "the connection is closed");
    assert_eq!(world.known_agent().ask(HOST, world.get("/")).await.status, 200);
}

#[tokio::test]
async fn streams_of_an_http2_connection_are_bounded() {
    let (_send, reply) = crate::support::Reply::live();
    let reply = std::sync::Mutex::new(Some(reply));
    let build = World::build().answer(move |r| match r.path.as_str() {
        "/hang" => reply.lock().expect("not poisoned").take().unwrap_or_else(|| crate::support::Reply::text("x")),
        _ => crate::support::Reply::text("x"),
    });
    let world = build.settings(|s| s.proxy.limits.streams = 2).start().await;
    let mut agent = world.agent().http2::<http_body_util::Full<bytes::Bytes>>(HOST).await;
    let _first = agent.send(world.get2("/hang")).await.expect("an answer");
    for _ in 0..20 {
        assert_eq!(agent.ask(world.get2("/")).await.status, 200);
    }
}
