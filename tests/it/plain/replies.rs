//! Replies of plain exchanges: where they end, and what comes back in them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http_body_util::Full;

use crate::support::world::HOST;
use crate::support::{Raw, World};

const SECRET: &str = "sk-Live-0aB1cD2eF3gH4iJ5kL6mN7";

/// Echoes of the key in a field, and in a body that is framed in this way.
fn echoes(chunked: bool) -> String {
    let head = format!("HTTP/1.1 200 OK\r\nX-Echo: <{SECRET}>\r\n");
    let body = format!("it is {SECRET}, you see");
    match chunked {
        false => format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()),
        true => {
            let (first, rest) = body.split_at(14);
            let (one, two) = (first.len(), rest.len());
            format!(
                "{head}Transfer-Encoding: chunked\r\n\r\n{one:X};a=b\r\n{first}\r\n0{two:x}\r\n{rest}\r\n0\r\nx-t: {SECRET}\r\n\r\n"
            )
        }
    }
}

#[tokio::test]
async fn reply_in_two_pieces_is_masked_and_whole_wherever_it_is_cut() {
    for chunked in [false, true] {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let script = move |mut raw: Raw, _| {
            let count = Arc::clone(&count);
            async move {
                let reply = echoes(chunked);
                while !raw.head().await.is_empty() {
                    let (first, rest) = reply.split_at(count.fetch_add(1, Ordering::SeqCst) % reply.len());
                    raw.send(first).await;
                    tokio::task::yield_now().await;
                    raw.send(rest).await;
                }
            }
        };
        let world = World::build().secret(SECRET).script(script).start().await;
        let mut raw = world.agent().inside(HOST, b"http/1.1").await;
        for cut in 0..echoes(chunked).len() {
            raw.send(world.head("/")).await;
            let reply = raw.reply().await.expect("a reply");
            assert_eq!(reply.status, 200, "{chunked} {cut}: {}", reply.head);
            let mask = "*".repeat(SECRET.len());
            assert_eq!(String::from_utf8_lossy(&reply.body), format!("it is {mask}, you see"), "{chunked} {cut}");
            assert!(reply.head.contains(&format!("<{mask}>")), "{chunked} {cut}: {}", reply.head);
        }
        assert_eq!(memchr::memmem::find(&raw.seen, &SECRET.as_bytes()[..12]), None);
        assert_eq!(world.upstream.connections(), 1, "{chunked}");
        assert_eq!(asked.load(Ordering::SeqCst), echoes(chunked).len());
    }
}

#[tokio::test]
async fn reply_that_ends_early_is_never_taken_for_whole() {
    for chunked in [false, true] {
        let script = move |mut raw: Raw, number: usize| async move {
            let reply = echoes(chunked);
            raw.head().await;
            raw.send(&reply[..number - 1]).await;
            raw.finish().await;
        };
        let world = World::build().secret(SECRET).script(script).start().await;
        for cut in 0..echoes(chunked).len() {
            let mut agent = world.agent().http1::<Full<Bytes>>(HOST).await;
            let answer = agent.ask(world.get("/")).await;
            let refused = answer.status == 502 && answer.code() == "upstream_unreachable";
            assert!(refused || !answer.whole, "{chunked} {cut}: {answer:?}");
        }
        assert_eq!(world.upstream.connections(), echoes(chunked).len());
    }
}

#[tokio::test]
async fn key_for_the_name_of_a_field_is_dropped_however_its_letters_came() {
    for name in
        [SECRET.to_owned(), SECRET.to_lowercase(), SECRET.to_uppercase(), "SK-live-0Ab1Cd2Ef3Gh4Ij5Kl6Mn7".to_owned()]
    {
        assert_eq!(name.to_lowercase(), SECRET.to_lowercase());
        let script = move |mut raw: Raw, _| {
            let name = name.clone();
            async move {
                while !raw.head().await.is_empty() {
                    raw.send(format!("HTTP/1.1 200 OK\r\n{name}: 1\r\nContent-Length: 2\r\n\r\nok")).await;
                }
            }
        };
        let world = World::build().secret(SECRET).script(script).start().await;
        let mut raw = world.agent().inside(HOST, b"http/1.1").await;
        raw.send(world.head("/")).await;
        let reply = raw.reply().await.expect("a reply");
        assert_eq!((reply.status, &reply.body[..]), (200, &b"ok"[..]));
        assert!(!reply.head.to_lowercase().contains(&SECRET.to_lowercase()), "{}", reply.head);
    }
}

#[tokio::test]
async fn replies_without_a_body_keep_both_connections_in_step() {
    let replies: [(&str, &[u8]); 6] = [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 1000\r\nETag: \"a\"\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        ("GET", b"\r\n\r\nHTTP/1.1 200 OK\r\nX-Empty:\r\ncontent-length: 4\r\n\r\nlast"),
    ];
    let script = move |mut raw: Raw, _| async move {
        for (_, reply) in replies {
            raw.head().await;
            raw.send(reply).await;
        }
        raw.rest().await;
    };
    let world = World::build().script(script).start().await;
    let mut agent = world.agent().http1::<Full<Bytes>>(HOST).await;
    for (n, (method, _)) in replies.iter().enumerate() {
        let answer = agent.ask(world.request(method, "/", "")).await;
        let expected = if n == 5 { "last" } else { "" };
        assert_eq!((answer.text().as_str(), answer.whole), (expected, true), "{n}");
        assert_eq!(answer.code(), "", "{n}");
    }
    assert_eq!(world.upstream.connections(), 1);
}

#[tokio::test]
async fn chunks_that_parsers_read_differently_are_never_whole() {
    for (name, body, whole) in [
        ("upper case, zeros in front, an extension", "00A;x=\"y\"\r\n0123456789\r\n0\r\n\r\n", true),
        ("a prefix", "0x3\r\nabc\r\n0\r\n\r\n", false),
        ("a sign", "+3\r\nabc\r\n0\r\n\r\n", false),
        ("less than nothing", "-3\r\nabc\r\n0\r\n\r\n", false),
        ("too large for 64 bits", "10000000000000003\r\nabc\r\n0\r\n\r\n", false),
        ("no size", "\r\nabc\r\n0\r\n\r\n", false),
        ("a size cut by a line feed", "3\nabc\r\n0\r\n\r\n", false),
        ("more than its size", "3\r\nabcd\r\n0\r\n\r\n", false),
        ("a line feed behind its bytes", "3\r\nabc\n0\r\n\r\n", false),
        ("a broken trailer", "3\r\nabc\r\n0\r\nx y: z\r\n\r\n", false),
        ("a folded trailer", "3\r\nabc\r\n0\r\nx: a\r\n b\r\n\r\n", false),
    ] {
        let script = move |mut raw: Raw, number: usize| async move {
            while !raw.head().await.is_empty() {
                match number {
                    1 => raw.send(format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{body}")).await,
                    _ => raw.send("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nhonest").await,
                }
            }
        };
        let world = World::build().script(script).start().await;
        let answer = world.agent().ask(HOST, world.get("/")).await;
        assert_eq!(answer.whole && answer.status == 200, whole, "{name}: {answer:?}");
        let again = world.agent().ask(HOST, world.get("/")).await;
        assert_eq!(
            (again.text() == "honest", world.upstream.connections()),
            (!whole, if whole { 1 } else { 2 }),
            "{name}"
        );
    }
}

#[tokio::test]
async fn heads_with_many_fields_pass_up_to_a_bound_and_those_of_one_reply_stay_in_it() {
    for (fields, status) in [(47, 200), (48, 200), (49, 200), (200, 200), (300, 502)] {
        let script = move |mut raw: Raw, _| async move {
            while !raw.head().await.is_empty() {
                let many: String = (1..fields).map(|n| format!("X-{n}: {n}\r\n")).collect();
                raw.send(format!("HTTP/1.1 200 OK\r\n{many}Content-Length: 2\r\n\r\nok")).await;
            }
        };
        let world = World::build().script(script).start().await;
        let mut raw = world.agent().inside(HOST, b"http/1.1").await;
        for _ in 0..2 {
            raw.send(world.head("/")).await;
            let reply = raw.reply().await.expect("a reply");
            assert_eq!(reply.status, status, "{fields}");
            if status == 200 {
                let last = format!("x-{0}: {0}\r\n", fields - 1);
                assert!(reply.body == b"ok" && reply.head.contains(&last), "{fields}: {}", reply.head);
            }
        }
        assert_eq!(world.upstream.connections(), if status == 200 { 1 } else { 2 }, "{fields}");
    }
}

#[tokio::test]
async fn close_delimited_reply_is_masked_and_its_connection_ends() {
    let script = move |mut raw: Raw, _| async move {
        raw.head().await;
        raw.send(format!("HTTP/1.0 200 OK\r\n\r\nit is {}", &SECRET[..10])).await;
        tokio::task::yield_now().await;
        raw.send(&SECRET[10..]).await;
        raw.finish().await;
    };
    let world = World::build().secret(SECRET).script(script).start().await;
    let mut agent = world.agent().http1::<Full<Bytes>>(HOST).await;
    for n in 1..=2 {
        let answer = agent.ask(world.get("/")).await;
        assert_eq!(answer.text(), format!("it is {}", "*".repeat(SECRET.len())));
        assert!(answer.whole);
        assert_eq!(world.upstream.connections(), n);
    }
}

#[tokio::test]
async fn reply_without_content_has_no_length_that_somebody_could_wait_for() {
    for stray in ["", "hello"] {
        let script = move |mut raw: Raw, _| async move {
            raw.head().await;
            raw.send(format!("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n{stray}")).await;
            raw.rest().await;
        };
        let world = World::build().script(script).start().await;
        let mut raw = world.agent().inside(HOST, b"http/1.1").await;
        raw.send(world.head("/")).await;
        let head = raw.head().await;
        assert!(head.starts_with("HTTP/1.1 204") && !head.contains("content-length"), "{head}");
    }
}
