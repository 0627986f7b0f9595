//! An upstream that says the key again, in ways that might be overlooked.

use crate::support::world::HOST;
use crate::support::{Raw, Received, Reply, World, emitted};

fn key(received: &Received) -> String {
    received.header("authorization").trim_start_matches("Bearer ").to_owned()
}

#[tokio::test]
async fn key_is_masked_whatever_the_reply_is_said_to_be() {
    for kind in ["image/png", "application/octet-stream", "text/event-stream", "video/mp4", "application/grpc", "x", ""]
    {
        for status in [200, 201, 206, 301, 400, 404, 418, 500, 599] {
            let world = World::build().answer(move |r| {
                let reply = Reply::text(format!("\u{89}PNG\r\n\u{1a}\n{}", key(r))).status(status);
                if kind.is_empty() { reply } else { reply.with("content-type", kind) }
            });
            let world = world.start().await;
            let answer = world.agent().ask(HOST, world.get("/")).await;
            // A part that wasn't asked for is refused: half a key can't be found.
            assert!(
                answer.text().contains("***") || answer.code() == "upstream_encoding",
                "{kind} {status}: {answer:?}"
            );
            assert_eq!(emitted::find(&answer.body, &world.secret), None, "{kind} {status}");
        }
    }
}

#[tokio::test]
async fn key_in_other_letters_is_masked() {
    type View = fn(&str) -> String;
    let views: [(&str, View); 3] = [
        ("capitals", |k| k.to_uppercase()),
        ("small letters", |k| k.to_lowercase()),
        ("capitals of hex", |k| hex::encode_upper(k)),
    ];
    for (name, view) in views {
        let world = World::build().answer(move |r| Reply::text(format!("no key <{}>", view(&key(r))))).start().await;
        let answer = world.agent().ask(HOST, world.get("/")).await;
        assert_eq!(answer.text(), format!("no key <{}>", "*".repeat(view(&world.secret).len())), "{name}");
    }
}

#[tokio::test]
async fn key_that_comes_a_byte_at_a_time_is_masked_with_what_frames_it() {
    // Each byte is a TLS record and a TCP segment of its own: the head, the chunks' sizes, the trailers.
    let script = |mut raw: Raw, _| async move {
        let head = raw.head().await;
        let key = head.lines().find_map(|l| l.strip_prefix("authorization: Bearer ")).expect("a key");
        let (front, back) = key.split_at(9);
        let reply = format!(
            "HTTP/1.1 200 {key}\r\nx-first: {key}\r\ntrailer: x-late\r\ntransfer-encoding: chunked\r\n\r\n\
             {:x}\r\n{front}\r\n{:x};{key}={key}\r\n{back}\r\n0\r\nx-late: {key}\r\n\r\n",
            front.len(),
            back.len()
        );
        for byte in reply.bytes() {
            raw.send([byte]).await;
        }
        raw.rest().await;
    };
    let world = World::build().script(script).start().await;
    let mut agent = world.agent().inside(HOST, b"http/1.1").await;
    agent.send(world.head("/").replace("\r\n\r\n", "\r\nte: trailers\r\n\r\n")).await;
    let reply = agent.reply().await.expect("an answer");
    assert_eq!(reply.body, "*".repeat(world.secret.len()).as_bytes());
    assert_eq!(emitted::find(&agent.seen, &world.secret), None);
    assert!(String::from_utf8_lossy(&agent.seen).contains("x-first: ***"));
}
