//! Replies that are framed in a way that two parsers could read differently, or that ask for what
//! nobody asked for.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use tokio::sync::Notify;

use crate::support::frames::{
    DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PREFACE, RST_STREAM, SETTINGS, frame, until,
};
use crate::support::world::HOST;
use crate::support::{Raw, Reply, World, soon};

const HONEST: &str = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nhonest";
const FORGED: &str = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nforged";

/// A world whose upstream says `first` on its first connection and is honest on every other.
async fn once(first: impl Into<Vec<u8>>) -> World {
    let first: Arc<[u8]> = first.into().into();
    let script = move |mut raw: Raw, number| {
        let first = Arc::clone(&first);
        async move {
            while !raw.head().await.is_empty() {
                raw.send(if number == 1 { &first[..] } else { HONEST.as_bytes() }).await;
            }
        }
    };
    World::build().script(script).start().await
}

#[tokio::test]
async fn reply_that_is_framed_twice_is_refused_and_its_connection_is_not_used_again() {
    for (name, head, body) in [
        ("length and chunks", "content-length: 3\r\ntransfer-encoding: chunked", "5\r\nhello\r\n0\r\n\r\n"),
        ("chunks and length", "transfer-encoding: chunked\r\ncontent-length: 3", "5\r\nhello\r\n0\r\n\r\n"),
        ("the same length twice", "content-length: 5\r\ncontent-length: 5", "hello"),
        ("a list of the same length", "content-length: 5, 5", "hello"),
        ("a coding beneath the chunks", "transfer-encoding: gzip, chunked", "5\r\nhello\r\n0\r\n\r\n"),
        ("a coding that is not chunks", "transfer-encoding: gzip", "hello"),
        ("chunks twice", "transfer-encoding: chunked, chunked", "5\r\nhello\r\n0\r\n\r\n"),
        ("two codings", "transfer-encoding: identity\r\ntransfer-encoding: chunked", "5\r\nhello\r\n0\r\n\r\n"),
        ("a folded field", "x: a\r\n b\r\ncontent-length: 5", "hello"),
        ("a space before the colon", "content-length : 5", "hello"),
        ("a signed length", "content-length: +5", "hello"),
        ("an empty name", ": x\r\ncontent-length: 5", "hello"),
    ] {
        let world = once(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n{body}")).await;
        let answer = world.agent().ask(HOST, world.get("/")).await;
        assert_eq!((answer.status.as_u16(), answer.code()), (502, "upstream_unreachable"), "{name}: {}", answer.text());
        assert_eq!(world.agent().ask(HOST, world.get("/")).await.text(), "honest", "{name}");
        assert_eq!(world.upstream.connections(), 2, "{name}");
    }
}

#[tokio::test]
async fn switch_of_protocols_that_nobody_asked_for_is_refused() {
    let switch = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nanything at all";
    for http2 in [false, true] {
        let world = once(switch).await;
        let answer = match http2 {
            true => world.agent().http2(HOST).await.ask(world.get2("/")).await,
            false => world.agent().ask(HOST, world.get("/")).await,
        };
        assert_eq!((answer.status.as_u16(), answer.code()), (502, "upstream_unreachable"), "HTTP/2: {http2}");
        assert!(!answer.text().contains("anything"), "{}", answer.text());
        assert_eq!(world.agent().ask(HOST, world.get("/")).await.text(), "honest");
        world.nothing_leaked(&[answer]).await;
    }
}

#[tokio::test]
async fn bytes_behind_a_reply_end_its_connection() {
    for (name, reply, method) in [
        ("a second reply", format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok{FORGED}"), "GET"),
        ("a body of 204", format!("HTTP/1.1 204 No Content\r\n\r\n{FORGED}"), "GET"),
        ("a body of 304", format!("HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n{FORGED}"), "GET"),
        ("a body for HEAD", format!("HTTP/1.1 200 OK\r\ncontent-length: 63\r\n\r\n{FORGED}"), "HEAD"),
        (
            "a reply behind chunks",
            format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{FORGED}"),
            "GET",
        ),
    ] {
        let world = once(reply).await;
        let mut agent = world.agent().http1::<Full<Bytes>>(HOST).await;
        let first = agent.ask(world.request(method, "/", "")).await;
        assert!(!first.text().contains("forged"), "{name}: {}", first.text());
        let second = agent.ask(world.get("/")).await;
        assert_eq!(second.text(), "honest", "{name}");
        assert_eq!(world.upstream.connections(), 2, "{name}");
    }
}

#[tokio::test]
async fn bytes_that_come_between_two_requests_end_their_connection() {
    let (say, said) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (of_say, of_said) = (Arc::clone(&say), Arc::clone(&said));
    let script = move |mut raw: Raw, number| {
        let (say, said) = (Arc::clone(&of_say), Arc::clone(&of_said));
        async move {
            raw.head().await;
            raw.send(HONEST).await;
            if number == 1 {
                say.notified().await;
                raw.send(FORGED).await;
                // The end of the connection: the proxy noticed.
                assert_eq!(raw.rest().await, b"");
                said.notify_one();
            } else {
                raw.rest().await;
            }
        }
    };
    let world = World::build().script(script).start().await;
    let mut agent = world.agent().http1::<Full<Bytes>>(HOST).await;
    assert_eq!(agent.ask(world.get("/")).await.text(), "honest");
    say.notify_one();
    soon("the end of the connection", said.notified()).await;
    assert_eq!(agent.ask(world.get("/")).await.text(), "honest");
    assert_eq!(world.upstream.connections(), 2);
}

#[tokio::test]
async fn reply_without_a_length_is_whole_only_if_tls_was_closed_in_order() {
    for orderly in [true, false] {
        let script = move |mut raw: Raw, _| async move {
            raw.head().await;
            raw.send("HTTP/1.1 200 OK\r\n\r\nall of it").await;
            if orderly {
                raw.finish().await;
            }
        };
        let world = World::build().script(script).start().await;
        for http2 in [false, true] {
            let answer = match http2 {
                true => world.agent().http2(HOST).await.ask(world.get2("/")).await,
                false => world.agent().ask(HOST, world.get("/")).await,
            };
            assert_eq!((answer.status.as_u16(), answer.whole), (200, orderly), "HTTP/2: {http2}, {answer:?}");
        }
    }
}

#[tokio::test]
async fn reply_over_http2_is_whole_only_if_its_stream_was_ended() {
    for (name, whole, last) in [
        ("END_STREAM", true, frame(DATA, END_STREAM, 1, b"")),
        ("NO_ERROR", false, frame(RST_STREAM, 0, 1, &[0; 4])),
        ("CANCEL", false, frame(RST_STREAM, 0, 1, &8u32.to_be_bytes())),
        ("GOAWAY", false, frame(GOAWAY, 0, 0, &[0; 8])),
        ("a lost connection", false, Vec::new()),
    ] {
        let script = move |mut raw: Raw, _| {
            let last = last.clone();
            async move {
                raw.exactly(PREFACE.len()).await;
                raw.send(frame(SETTINGS, 0, 0, &[])).await;
                until(&mut raw, |f| f.kind == HEADERS).await;
                // `:status: 200` (RFC 7541, appendix A).
                raw.send(frame(HEADERS, END_HEADERS, 1, &[0x88])).await;
                raw.send(frame(DATA, 0, 1, b"a part")).await;
                raw.send(last).await;
            }
        };
        let world = World::build().script(script).upstream(|u| u.alpn = vec!["h2"]).start().await;
        let reply = world.agent().http1::<Full<Bytes>>(HOST).await.send(world.get("/")).await;
        // One that is cut at once may not even begin.
        let Ok(reply) = reply else {
            assert!(!whole, "{name}");
            continue;
        };
        let answer = crate::support::agent::whole(reply).await;
        assert_eq!((answer.status.as_u16(), answer.whole), (200, whole), "{name}: {answer:?}");
    }
}

#[tokio::test]
async fn complete_reply_of_an_upstream_that_says_no_more_is_complete() {
    let script = |mut raw: Raw, _| async move {
        raw.head().await;
        raw.send(HONEST).await;
        raw.finish().await;
    };
    let world = World::build().script(script).start().await;
    let answer = world.agent().ask(HOST, world.get("/")).await;
    assert_eq!((answer.text().as_str(), answer.whole), ("honest", true));
}

#[tokio::test]
async fn request_that_left_is_not_sent_again() {
    // The first connection answers once, and is lost when the second request has arrived on it.
    let heads = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = Arc::clone(&heads);
    let script = move |mut raw: Raw, number| {
        let seen = Arc::clone(&seen);
        async move {
            loop {
                let head = raw.head().await;
                if head.is_empty() {
                    return;
                }
                seen.lock().expect("not poisoned").push(head.lines().next().unwrap_or_default().to_owned());
                if number == 1 && head.contains("/second") {
                    return;
                }
                raw.send(HONEST).await;
            }
        }
    };
    let world = World::build().script(script).start().await;
    let mut agent = world.agent().http1::<Full<Bytes>>(HOST).await;
    assert_eq!(agent.ask(world.request("POST", "/first", "")).await.text(), "honest");
    let answer = agent.ask(world.request("POST", "/second", "")).await;
    assert_eq!((answer.status.as_u16(), answer.code()), (502, "upstream_unreachable"));
    assert_eq!(*heads.lock().expect("not poisoned"), ["POST /first HTTP/1.1", "POST /second HTTP/1.1"]);
}

#[tokio::test]
async fn connection_that_was_closed_while_idle_costs_nothing() {
    let closed = Arc::new(Notify::new());
    let of_closed = Arc::clone(&closed);
    let script = move |mut raw: Raw, number| {
        let closed = Arc::clone(&of_closed);
        async move {
            while !raw.head().await.is_empty() {
                raw.send(HONEST).await;
                if number == 1 {
                    raw.finish().await;
                    closed.notify_one();
                }
            }
        }
    };
    let world = World::build().script(script).start().await;
    let mut agent = world.agent().http1::<Full<Bytes>>(HOST).await;
    assert_eq!(agent.ask(world.request("POST", "/", "a")).await.text(), "honest");
    soon("the end of the connection", closed.notified()).await;
    assert_eq!(agent.ask(world.request("POST", "/", "b")).await.text(), "honest");
}

#[tokio::test]
async fn upstream_can_not_speak_for_sallyport_or_lead_the_agent_around_it() {
    for protocol in ["h2", "http/1.1"] {
        let world = World::build().upstream(|u| u.alpn = vec![protocol]).answer(|_| {
            let reply = Reply::text("no").status(403).with("sallyport-error", "token_revoked");
            let reply = reply.with("sallyport-request-id", "forged").with("alt-svc", "h3=\":443\"; ma=9");
            reply.with("proxy-authenticate", "Basic realm=\"x\"").with("x-kept", "1")
        });
        let world = world.start().await;
        let answers =
            [world.agent().ask(HOST, world.get("/")).await, world.agent().http2(HOST).await.ask(world.get2("/")).await];
        for answer in answers {
            assert_eq!((answer.status.as_u16(), answer.text().as_str(), answer.header("x-kept")), (403, "no", "1"));
            for name in ["sallyport-error", "sallyport-request-id", "alt-svc", "proxy-authenticate"] {
                assert_eq!(answer.header(name), "", "{protocol}: {name}");
            }
        }
    }
}

#[tokio::test]
async fn reply_to_head_keeps_what_it_says_of_the_body_and_has_none() {
    for protocol in ["h2", "http/1.1"] {
        let world = World::build().upstream(|u| u.alpn = vec![protocol]).answer(|r| {
            let status = if r.path == "/304" { 304 } else { 200 };
            let reply = Reply::pieces(Vec::<Vec<u8>>::new()).status(status);
            reply.with("content-length", "1234").with("content-encoding", "identity").with("etag", "\"x\"")
        });
        let world = world.start().await;
        let mut http1 = world.agent().http1::<Full<Bytes>>(HOST).await;
        let mut http2 = world.agent().http2::<Full<Bytes>>(HOST).await;
        for path in ["/", "/304"] {
            let method = if path == "/304" { "GET" } else { "HEAD" };
            let mut again = world.get2(path);
            *again.method_mut() = method.parse().expect("a method");
            for answer in [http1.ask(world.request(method, path, "")).await, http2.ask(again).await] {
                assert_eq!((answer.header("etag"), answer.body.len(), answer.whole), ("\"x\"", 0, true), "{answer:?}");
                if method == "HEAD" {
                    assert_eq!(answer.header("content-length"), "1234", "{protocol}");
                    assert_eq!(answer.header("content-encoding"), "identity", "{protocol}");
                }
            }
        }
    }
}

#[tokio::test]
async fn plain_or_broken_tls_of_an_upstream_gets_no_key() {
    for (name, says) in [
        ("plain HTTP", &b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n"[..]),
        ("an alert of TLS 1.0", b"\x15\x03\x01\x00\x02\x02\x46"),
        ("nothing at all", b""),
        ("a record that is too long", b"\x16\x03\x03\xff\xff\x00\x00"),
    ] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let at = listener.local_addr().expect("an address");
        let heard = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.expect("a connection");
            let mut raw = Raw::new(stream);
            raw.some().await;
            raw.send(says).await;
            raw.finish().await;
            raw.rest().await;
            raw.seen
        });
        let world = World::build().settings(move |s| {
            s.upstream.resolve.insert(sallyport::model::Authority::parse(HOST, 443).expect("an authority"), at);
        });
        let world = world.start().await;
        let answer = world.agent().ask(HOST, world.get("/")).await;
        assert_eq!((answer.status.as_u16(), answer.code()), (502, "upstream_tls"), "{name}: {}", answer.text());
        let heard = String::from_utf8_lossy(&heard.await.expect("the script")).into_owned();
        assert!(!heard.contains("GET ") && !heard.contains(&world.secret), "{name}");
        assert!(world.records_of("intent").is_empty(), "{name}: nothing was opened");
    }
}
