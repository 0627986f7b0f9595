//! 1. The agent never sees a key: whatever the coding of the reply, however it is cut into pieces.

use std::io::Write as _;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};

use crate::support::coded::{Code, bare_deflate, brotli, gzip, zlib, zstd};
use crate::support::world::HOST;
use crate::support::{Received, Reply, World, emitted};

/// The key as the upstream received it.
fn key(received: &Received) -> String {
    received.header("authorization").trim_start_matches("Bearer ").to_owned()
}

/// Two parts, each coded by itself.
fn in_two(code: fn(&[u8]) -> Vec<u8>, text: &[u8]) -> Vec<u8> {
    let (a, b) = text.split_at(text.len() / 2);
    [code(a), code(b)].concat()
}

/// What `Content-Encoding` says, and what the body is.
const CODINGS: [(&str, Code); 11] = [
    ("gzip", gzip),
    ("X-GZip", gzip),
    ("gzip", |text| in_two(gzip, text)),
    ("gzip", |text| [gzip(text), vec![0; 512]].concat()),
    ("deflate", zlib),
    ("deflate", bare_deflate),
    ("br", brotli),
    ("zstd", zstd),
    ("zstd", |text| in_two(zstd, text)),
    ("gzip, identity, br", |text| brotli(&gzip(text))),
    ("deflate, zstd, gzip", |text| gzip(&zstd(&zlib(text)))),
];

fn broken(coding: &'static str, body: Vec<u8>) -> impl Fn(&Received) -> Reply + Send + Sync {
    move |_| Reply::pieces(body.chunks(700).map(<[u8]>::to_vec).collect::<Vec<_>>()).with("content-encoding", coding)
}

#[tokio::test]
async fn key_in_a_coded_reply_is_masked_in_every_coding_and_at_every_cut() {
    for protocol in ["h2", "http/1.1"] {
        for (name, code) in CODINGS {
            let world = World::build()
                .upstream(|setup| setup.alpn = vec![protocol])
                .answer(move |r| {
                    let text = format!("{}before {} after", "filler ".repeat(3000), key(r));
                    let size: usize = r.path.trim_start_matches('/').parse().expect("a number");
                    let reply = Reply::pieces(code(text.as_bytes()).chunks(size).map(<[u8]>::to_vec));
                    reply.with("content-encoding", name).with("vary", "accept-encoding").with("etag", "\"x\"")
                })
                .start()
                .await;
            let mut answers = Vec::new();
            let mut http2 = world.agent().http2(HOST).await;
            for size in [1, 2, 3, 7, 64, 100_000] {
                let answer = http2.ask(world.get2(&format!("/{size}"))).await;
                let expected = format!("{}before {} after", "filler ".repeat(3000), "*".repeat(world.secret.len()));
                assert!(answer.whole, "{protocol}, {name}, {size}");
                assert_eq!(answer.text(), expected, "{protocol}, {name}, {size}");
                let said = ["content-encoding", "content-length", "vary", "etag"].map(|field| answer.header(field));
                assert_eq!(said, ["", "", "accept-encoding", "W/\"x\""], "{name}");
                answers.push(answer);
            }
            answers.push(world.agent().ask(HOST, world.get("/5")).await);
            assert!(answers.last().is_some_and(|answer| answer.text().ends_with("** after")), "{name}");
            assert_eq!(world.node.metrics().matches("sallyport_scrubbed_total{encoding=\"raw\"} 7").count(), 1);
            world.nothing_leaked(&answers).await;
        }
    }
}

#[tokio::test]
async fn head_of_a_decoded_reply_says_nothing_of_its_coded_bytes() {
    let world = World::build()
        .answer(|r| {
            let body = gzip(format!("key {}", key(r)).as_bytes());
            let length = body.len().to_string();
            let reply = Reply::text(body).with("content-encoding", "gzip").with("content-length", &length);
            let reply = reply.with("accept-ranges", "bytes").with("content-md5", "eA==").with("digest", "sha-256=eA==");
            let reply = reply.with("content-digest", "sha-256=:eA==:").with("repr-digest", "sha-256=:eA==:");
            reply.with("x-amz-checksum-crc32", "eA==").with("etag", "W/\"kept\"").with("x-kept", "1")
        })
        .start()
        .await;
    for method in ["GET", "HEAD"] {
        let answer = world.agent().ask(HOST, world.request(method, "/", "")).await;
        for gone in [
            "content-encoding",
            "content-length",
            "accept-ranges",
            "content-md5",
            "digest",
            "content-digest",
            "repr-digest",
            "x-amz-checksum-crc32",
        ] {
            assert_eq!(answer.header(gone), "", "{method}: {gone}");
        }
        assert_eq!((answer.header("etag"), answer.header("x-kept")), ("W/\"kept\"", "1"), "{method}");
        let body = if method == "GET" { format!("key {}", "*".repeat(world.secret.len())) } else { String::new() };
        assert_eq!((answer.text(), answer.whole), (body, true), "{method}");
    }
}

/// RFC 9110 section 13.1.1: `If-Match` compares strongly, so a weakened tag would never match.
#[tokio::test]
async fn tag_that_was_weakened_matches_again_where_it_came_from() {
    let world = World::build()
        .answer(|r| match r.header("if-match") {
            "" => Reply::text(gzip(b"text")).with("content-encoding", "gzip").with("etag", "\"v1,W/\""),
            tags if tags.contains("\"v1,W/\"") && !tags.contains("W/\"v1") => Reply::text("changed"),
            _ => Reply::text("").status(412),
        })
        .start()
        .await;
    let tag = world.agent().ask(HOST, world.get("/")).await.header("etag").to_owned();
    assert_eq!(tag, "W/\"v1,W/\"");
    for (sent, arrives) in [
        (tag.clone(), "\"v1,W/\"".to_owned()),
        (format!("\"other\",  {tag} ,W/\"\""), "\"other\",  \"v1,W/\" ,\"\"".to_owned()),
        ("*".to_owned(), "*".to_owned()),
    ] {
        let mut request = world.request("PUT", "/", "text");
        request.headers_mut().insert("if-match", sent.parse().expect("a value"));
        request.headers_mut().insert("if-none-match", "W/\"v0\"".parse().expect("a value"));
        let answer = world.agent().ask(HOST, request).await;
        let received = world.upstream.received().pop().expect("received");
        assert_eq!((received.header("if-match"), received.header("if-none-match")), (arrives.as_str(), "W/\"v0\""));
        assert_eq!(answer.status.as_u16(), if sent == "*" { 412 } else { 200 }, "{sent}");
    }
}

#[tokio::test]
async fn digest_in_the_trailers_of_a_decoded_reply_is_dropped_and_other_trailers_pass() {
    let world = World::build()
        .answer(|r| {
            let reply = Reply::text(brotli(key(r).as_bytes())).with("content-encoding", "br");
            reply.trailer("x-late", &key(r)).trailer("content-digest", "sha-256=:eA==:").trailer("grpc-status", "0")
        })
        .start()
        .await;
    let answer = world.agent().http2(HOST).await.ask(world.get2("/")).await;
    let trailers = answer.trailers.clone().expect("trailers");
    assert_eq!((trailers.get("content-digest"), trailers["grpc-status"].as_bytes()), (None, &b"0"[..]));
    assert!(trailers["x-late"].to_str().expect("text").starts_with("***"));
    world.nothing_leaked(&[answer]).await;
}

#[tokio::test]
async fn empty_coded_replies_are_empty() {
    for status in [200, 204, 304] {
        let world = World::build()
            .answer(move |_| Reply::pieces(Vec::<Vec<u8>>::new()).status(status).with("content-encoding", "gzip"))
            .start()
            .await;
        for answer in
            [world.agent().ask(HOST, world.get("/")).await, world.agent().http2(HOST).await.ask(world.get2("/")).await]
        {
            assert_eq!((answer.status.as_u16(), answer.body.len(), answer.whole), (status, 0, true));
            assert_eq!(answer.header("content-encoding"), "", "{status}");
        }
    }
}

#[tokio::test]
async fn coded_reply_that_is_cut_or_broken_is_never_given_as_whole() {
    let text = b"all of it ".repeat(2000);
    for (name, code) in CODINGS {
        let whole = code(&text);
        let padding = whole.iter().rev().take_while(|byte| **byte == 0).count();
        let whole = whole[..whole.len() - padding].to_vec();
        let lengths = [1, 2, 9, whole.len() / 3, whole.len() - 1];
        let body = move |r: &Received| {
            let keep: usize = r.path.trim_start_matches('/').parse().expect("a number");
            broken(name, whole[..keep].to_vec())(r)
        };
        let world = World::build().answer(body).start().await;
        for keep in lengths {
            let answer = world.agent().try_ask(HOST, world.get(&format!("/{keep}"))).await;
            let Some(answer) = answer else { continue };
            assert!(!answer.whole, "{name}, {keep}: {} bytes came", answer.body.len());
            assert!(text.starts_with(&answer.body), "{name}");
        }
        assert!(world.node.metrics().contains("sallyport_upstream_errors_total{code=\"upstream_encoding\"} 5"));
        let cut = world.stopped("security").await;
        assert!(cut.len() == 5 && cut.iter().all(|record| record["action"] == "reply_cut"), "{name}: {cut:?}");
    }
}

#[tokio::test]
async fn what_follows_the_end_of_a_coding_is_no_part_of_the_reply() {
    for (name, code) in CODINGS {
        let world = World::build()
            .answer(move |r| broken(name, [code(b"fine"), key(r).into_bytes()].concat())(r))
            .start()
            .await;
        let answer = world.agent().try_ask(HOST, world.get("/")).await;
        assert!(answer.as_ref().is_none_or(|a| !a.whole && b"fine".starts_with(&a.body)), "{name}: {answer:?}");
        world.nothing_leaked(answer.as_slice()).await;
    }
}

#[tokio::test]
async fn reply_that_expands_without_bound_is_cut() {
    let zeros = vec![0; 64 << 20];
    for (name, code) in [("gzip", gzip as Code), ("br", brotli), ("zstd", zstd), ("gzip, gzip", |t| gzip(&gzip(t)))] {
        let bomb = code(&zeros);
        let world = World::build().answer(broken(name, bomb)).start().await;
        let answer = world.agent().ask(HOST, world.get("/")).await;
        assert!(!answer.whole && answer.body.len() < 32 << 20, "{name}: {} bytes came", answer.body.len());
        let cut = world.stopped("security").await;
        assert!(cut[0]["detail"].as_str().expect("text").contains("proxy.limits.expansion"), "{cut:?}");
    }
    // What is long and ordinary isn't.
    let text: Vec<u8> = (0..2_000_000u32).flat_map(|n| format!("{{\"n\":{n}}},").into_bytes()).collect();
    let world = World::build().answer(broken("gzip", gzip(&text))).start().await;
    let answer = world.agent().ask(HOST, world.get("/")).await;
    assert!(answer.whole && answer.body == text);
}

#[tokio::test]
async fn windows_and_dictionaries_beyond_the_standards_are_refused() {
    let text = b"some text of no interest, some text".repeat(100);
    // RFC 8878: a frame whose window is 64 MiB, and one that names a dictionary.
    let mut context = zstd_safe::CCtx::create();
    context.set_parameter(zstd_safe::CParameter::WindowLog(26)).expect("set");
    context.set_parameter(zstd_safe::CParameter::ContentSizeFlag(false)).expect("set");
    let mut wide = Vec::with_capacity(100_000);
    let mut to = zstd_safe::OutBuffer::around(&mut wide);
    let mut from = zstd_safe::InBuffer::around(&text);
    context.compress_stream(&mut to, &mut from).expect("coded");
    context.end_stream(&mut to).expect("coded");
    let mut named = zstd(&text);
    // The flags of the frame's header: a dictionary's number of one byte follows.
    let size_flag = named[4];
    named[4] |= 1;
    named.insert(if size_flag & 0x20 == 0 { 6 } else { 5 }, 7);
    let mut large = Vec::new();
    let params = brotli::enc::BrotliEncoderParams { lgwin: 26, large_window: true, ..Default::default() };
    brotli::BrotliCompress(&mut &text[..], &mut large, &params).expect("coded");
    // RFC 1950: a preset dictionary.
    let mut preset = zlib(&text);
    preset[1] |= 0x20;
    preset[1] -= (u16::from_be_bytes([preset[0], preset[1]]) % 31) as u8;
    for (name, body) in [("zstd", wide), ("zstd", named), ("br", large), ("deflate", preset)] {
        let world = World::build().answer(broken(name, body)).start().await;
        let answer = world.agent().try_ask(HOST, world.get("/")).await;
        assert!(answer.as_ref().is_none_or(|a| !a.whole && a.body.is_empty()), "{name}: {answer:?}");
    }
}

#[tokio::test]
async fn coded_replies_share_a_bounded_memory() {
    let (send, reply) = Reply::live();
    let reply = std::sync::Mutex::new(Some(reply.with("content-encoding", "br")));
    let world = World::build()
        .answer(move |r| match r.path.as_str() {
            "/slow" => reply.lock().expect("not poisoned").take().expect("one request"),
            _ => Reply::text(brotli(b"quick")).with("content-encoding", "br"),
        })
        .settings(|settings| settings.proxy.limits.windows_bytes = 6 << 20)
        .start()
        .await;
    let mut slow = world.agent().http1(HOST).await.send(world.get("/slow")).await.expect("an answer");
    let mut coded = Vec::new();
    let mut encoder = brotli::CompressorWriter::new(&mut coded, 4096, 5, 22);
    encoder.write_all(b"one").expect("coded");
    encoder.flush().expect("coded");
    send.send(Bytes::copy_from_slice(encoder.get_ref())).await.expect("sent");
    assert_eq!(slow.body_mut().frame().await.expect("a frame").expect("whole").into_data().expect("data"), "one");
    let answer = world.agent().try_ask(HOST, world.get("/")).await;
    assert!(answer.is_none_or(|answer| !answer.whole), "4 MiB and 4 MiB are more than 6");
    drop(slow);
    drop(send);
    // The slow reply's share comes back once its connection is seen to be gone.
    for _ in 0..200 {
        match world.agent().try_ask(HOST, world.get("/")).await {
            Some(answer) if answer.whole => return assert_eq!(answer.text(), "quick"),
            _ => {}
        }
    }
    panic!("the memory never comes back");
}

#[tokio::test]
async fn event_in_a_coded_stream_leaves_as_it_came() {
    for (name, protocol) in [("gzip", "h2"), ("deflate", "http/1.1"), ("br", "h2"), ("zstd", "http/1.1")] {
        let (send, reply) = Reply::live();
        let reply = std::sync::Mutex::new(Some(reply.with("content-encoding", name)));
        let world = World::build()
            .upstream(|setup| setup.alpn = vec![protocol])
            .answer(move |_| reply.lock().expect("not poisoned").take().expect("one request"))
            .start()
            .await;
        let mut response =
            world.agent().http1::<Full<Bytes>>(HOST).await.send(world.get("/events")).await.expect("an answer");
        let mut coder = Flushing::new(name);
        for n in 0..20 {
            let event = format!("data: {{\"delta\":\"word {n}\"}}\n\n");
            send.send(coder.code(event.as_bytes()).into()).await.expect("sent");
            // The next event is sent only when this one has arrived.
            let frame = response.body_mut().frame().await.expect("a frame").expect("whole");
            assert_eq!(frame.into_data().expect("data"), event, "{name}");
        }
        send.send(coder.code(format!("data: {}\n\n", world.secret).as_bytes()).into()).await.expect("sent");
        let frame = response.body_mut().frame().await.expect("a frame").expect("whole").into_data().expect("data");
        assert_eq!(emitted::find(&frame, &world.secret), None, "{name}");
    }
}

/// Codes piece by piece, each flushed.
enum Flushing {
    Gzip(flate2::write::GzEncoder<Vec<u8>>),
    Zlib(flate2::write::ZlibEncoder<Vec<u8>>),
    Brotli(Box<brotli::CompressorWriter<Vec<u8>>>),
    Zstd(zstd_safe::CCtx<'static>),
}

impl Flushing {
    fn new(name: &str) -> Self {
        let level = flate2::Compression::default();
        match name {
            "gzip" => Self::Gzip(flate2::write::GzEncoder::new(Vec::new(), level)),
            "deflate" => Self::Zlib(flate2::write::ZlibEncoder::new(Vec::new(), level)),
            "br" => Self::Brotli(Box::new(brotli::CompressorWriter::new(Vec::new(), 4096, 5, 18))),
            _ => Self::Zstd(zstd_safe::CCtx::create()),
        }
    }

    fn code(&mut self, text: &[u8]) -> Vec<u8> {
        fn through(writer: &mut impl std::io::Write, text: &[u8]) {
            writer.write_all(text).expect("coded");
            writer.flush().expect("coded");
        }
        match self {
            Self::Gzip(encoder) => {
                through(encoder, text);
                std::mem::take(encoder.get_mut())
            }
            Self::Zlib(encoder) => {
                through(encoder, text);
                std::mem::take(encoder.get_mut())
            }
            Self::Brotli(encoder) => {
                through(encoder, text);
                std::mem::take(encoder.get_mut())
            }
            Self::Zstd(context) => {
                let mut out = Vec::with_capacity(10_000);
                let mut to = zstd_safe::OutBuffer::around(&mut out);
                context.compress_stream(&mut to, &mut zstd_safe::InBuffer::around(text)).expect("coded");
                context.flush_stream(&mut to).expect("coded");
                out
            }
        }
    }
}

#[tokio::test]
async fn only_codings_that_are_decoded_are_asked_for() {
    for (asked, sent) in [
        ("gzip, deflate, br, zstd", "gzip, deflate, br, zstd"),
        ("gzip, compress, br;q=0.5, exi, identity;q=0", "gzip, br;q=0.5, identity;q=0"),
        ("zstd;q=1.0 , dcz, dcb;q=1 , GZIP ; q=0.2", "zstd;q=1.0, GZIP ; q=0.2"),
        ("*", "identity"),
        ("gzip, *;q=0.5", "gzip"),
        ("gzip, *;q=0", "gzip, *;q=0"),
        ("compress", "identity"),
        ("", ""),
    ] {
        let world = World::start().await;
        let mut request = world.get("/");
        request.headers_mut().insert("accept-encoding", asked.parse().expect("a value"));
        assert_eq!(world.agent().ask(HOST, request).await.status, 200);
        assert_eq!(world.upstream.only().header("accept-encoding"), sent, "{asked}");
    }
}

const FORWARDS: &str = "
version: 1
name: everything
applies_to: { environments: [development] }
rules: [{ name: all, allow: {} }]
replies: { unknown_coding: forward, range: forward }
";

/// One document says yes, another no.
const CONTRADICTS: &str = "
version: 1
name: everything
rules: [{ name: all, allow: {} }]
replies: { unknown_coding: refuse, range: drop }
";

#[tokio::test]
async fn unknown_coding_is_refused_and_passes_where_policy_says_so() {
    for coding in ["compress", "dcz", "gzip, x-made-up", "aes128gcm", "gzip, gzip, gzip, gzip"] {
        for (policy, passes) in [(FORWARDS, true), (CONTRADICTS, false)] {
            let world = World::build().answer(|_| Reply::text("coded").with("content-encoding", coding)).policy(policy);
            let world = world.start().await;
            let answer = world.agent().ask(HOST, world.get("/")).await;
            if passes {
                assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, "coded"), "{coding}");
                assert_eq!(answer.header("content-encoding"), coding);
            } else {
                assert_eq!((answer.status.as_u16(), answer.code()), (502, "upstream_encoding"), "{coding}");
            }
        }
    }
}

#[tokio::test]
async fn trailers_are_searched_also_behind_a_body_that_passes_unread() {
    let answer = |r: &Received| Reply::text("coded").with("content-encoding", "dcz").trailer("x-seen", &key(r));
    let world = World::build().upstream(|setup| setup.alpn = vec!["h2"]).answer(answer).policy(FORWARDS);
    let world = world.start().await;
    let answer = world.agent().http2(HOST).await.ask(world.get2("/")).await;
    assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, "coded"));
    let trailers = answer.trailers.expect("trailers");
    assert!(trailers["x-seen"].as_bytes().starts_with(b"***"), "{trailers:?}");
}

#[tokio::test]
async fn part_of_a_reply_passes_only_where_policy_says_so() {
    let part = |r: &Received| match r.header("range") {
        "" if r.path == "/unasked" => Reply::text("part").status(206).with("content-range", "bytes 0-3/9"),
        "" => Reply::text("whole"),
        _ if r.path == "/coded" => Reply::text(gzip(b"part")).status(206).with("content-encoding", "gzip"),
        _ => Reply::text(format!("part {}", key(r))).status(206).with("content-range", "bytes 0-3/9"),
    };
    let ask = |world: &World, path: &str| {
        let mut request = world.get(path);
        for (name, value) in [("range", "bytes=0-3"), ("if-range", "\"x\""), ("accept-encoding", "gzip")] {
            request.headers_mut().insert(name, value.parse().expect("a value"));
        }
        request
    };
    let world = World::build().answer(part).policy(CONTRADICTS).start().await;
    let answer = world.agent().ask(HOST, ask(&world, "/")).await;
    assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, "whole"));
    let answer = world.agent().ask(HOST, ask(&world, "/unasked")).await;
    assert_eq!((answer.status.as_u16(), answer.code()), (502, "upstream_encoding"));

    let world = World::build().answer(part).policy(FORWARDS).start().await;
    let answer = world.agent().ask(HOST, ask(&world, "/")).await;
    assert_eq!((answer.status.as_u16(), answer.header("content-range")), (206, "bytes 0-3/9"));
    assert!(answer.text().starts_with("part ***"), "{}", answer.text());
    let received = world.upstream.only();
    assert_eq!((received.header("if-range"), received.header("accept-encoding")), ("\"x\"", "identity"));
    let answer = world.agent().ask(HOST, ask(&world, "/coded")).await;
    assert_eq!((answer.status.as_u16(), answer.code()), (502, "upstream_encoding"));
}

#[tokio::test]
async fn what_is_masked_is_a_security_event_and_limited_for_each_session() {
    let clock = std::sync::Arc::new(sallyport::model::ManualClock::at(sallyport::model::Clock::now(
        &sallyport::model::SystemClock,
    )));
    let world = World::build()
        .answer(|r| Reply::text(format!("{0} {0} {0}", key(r))))
        .settings(|settings| settings.proxy.limits.masked = 7)
        .clock(clock.clone())
        .start()
        .await;
    for _ in 0..2 {
        assert!(world.agent().ask(HOST, world.get("/")).await.whole);
    }
    // Two more are over the limit: this reply is cut, and the next request isn't sent.
    let cut = world.agent().try_ask(HOST, world.get("/")).await;
    assert!(cut.is_none_or(|answer| !answer.whole));
    let answer = world.agent().ask(HOST, world.get("/")).await;
    assert_eq!((answer.status.as_u16(), answer.code()), (429, "rate_limited"));
    assert_eq!(answer.header("retry-after"), "60");
    assert_eq!(world.upstream.received().len(), 3);
    assert!(world.node.metrics().contains("sallyport_security_events_total{kind=\"key_in_reply\"} 3"));
    clock.advance(std::time::Duration::from_secs(60));
    assert!(world.agent().ask(HOST, world.get("/")).await.whole);
    let session = world.started.session.id.to_string();
    let event = &world.stopped("security").await[0];
    assert_eq!(event["action"].as_str(), Some("key_in_reply"), "{event}");
    assert!(event["subject"].as_str().expect("text").starts_with(HOST), "{event}");
    assert_eq!(event["detail"].as_str(), Some("masked in the reply: 3 raw"));
    assert_eq!(event["session"].as_str(), Some(session.as_str()));
}

#[tokio::test]
async fn reply_of_a_host_without_keys_stays_coded() {
    let body = gzip(b"as it was");
    let world = World::build()
        .upstream(|setup| setup.host = crate::support::world::OTHER.to_owned())
        .answer(broken("gzip", body.clone()))
        .start()
        .await;
    let request = Request::get("/").header("host", crate::support::world::OTHER).header("range", "bytes=0-");
    let request = request.header("accept-encoding", "compress").body(Full::default()).expect("a request");
    let answer = world.agent().ask(crate::support::world::OTHER, request).await;
    assert_eq!((answer.header("content-encoding"), &answer.body), ("gzip", &Bytes::from(body)));
    let received = world.upstream.only();
    assert_eq!((received.header("accept-encoding"), received.header("range")), ("compress", "bytes=0-"));
}
