//! Interim replies (1xx) over HTTP/1.1: consumed, counted, bounded.

use bytes::Bytes;
use http_body_util::Full;

use crate::support::world::HOST;
use crate::support::{Raw, World, emitted, soon};

/// Waits until this many were counted: the cores count at their ticks.
pub async fn counted(world: &World, count: u64) {
    let line = format!("sallyport_upstream_interim_total {count}\n");
    let comes = async {
        while !world.node.metrics().contains(&line) {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    soon(&line, comes).await;
}

/// The credential of a request's head.
fn key(head: &str) -> &str {
    head.lines().find_map(|l| l.strip_prefix("authorization: ")).expect("a credential")
}

#[tokio::test]
async fn interim_replies_are_consumed_and_counted_with_what_they_say() {
    let script = |mut raw: Raw, _| async move {
        loop {
            let head = raw.head().await;
            if head.is_empty() {
                return;
            }
            let key = key(&head);
            raw.send(format!("HTTP/1.1 100 {key}\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: <{key}>\r\n")).await;
            raw.send(format!("x: {key}\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")).await;
        }
    };
    let world = World::build().script(script).start().await;
    for (http2, count) in [(false, 2), (true, 4)] {
        let agent = world.agent();
        let mut sender = if http2 { agent.http2(HOST).await } else { agent.http1::<Full<Bytes>>(HOST).await };
        let answer = sender.ask(if http2 { world.get2("/") } else { world.get("/") }).await;
        assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, "ok"));
        assert_eq!(answer.header("link"), "");
        counted(&world, count).await;
    }
    assert_eq!(world.upstream.connections(), 1, "the connection is good");
    let mut raw = world.agent().inside(HOST, b"http/1.1").await;
    raw.send(world.head("/")).await;
    let reply = raw.reply().await.expect("an answer");
    assert_eq!((reply.status, &reply.body[..]), (200, &b"ok"[..]), "nothing comes before it");
    assert_eq!(emitted::find(&raw.seen, &world.secret), None);
    counted(&world, 6).await;
}

#[tokio::test]
async fn interim_replies_without_end_are_given_up() {
    let script = |mut raw: Raw, _| async move {
        while !raw.head().await.is_empty() {
            for _ in 0..40 {
                if raw.try_send(b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n".repeat(1000)).await.is_err() {
                    return;
                }
            }
            raw.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        }
    };
    let world = World::build().script(script).start().await;
    let answer = world.agent().ask(HOST, world.get("/")).await;
    assert_eq!((answer.status.as_u16(), answer.code()), (502, "upstream_unreachable"));
    assert!(answer.text().contains("upstream.interim"), "{}", answer.text());
}
