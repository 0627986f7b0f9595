//! What an agent can send over HTTP/2, frame by frame.

use std::time::Duration;

use crate::support::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, Frame, GOAWAY, HEADERS, PING, RST_STREAM, SETTINGS, WINDOW_UPDATE,
    fields, frame, next, open, post, request, until,
};
use crate::support::world::HOST;
use crate::support::{Raw, Reply, World};

const REFUSED_STREAM: u32 = 7;
/// An indexed `:status: 200` (RFC 7541, appendix A).
const STATUS_200: u8 = 0x88;

async fn inside(world: &World) -> Raw {
    let mut raw = world.agent().inside(HOST, b"h2").await;
    open(&mut raw).await;
    raw
}

/// The end of stream 1: its reply's head, its reset, or the end of everything.
async fn verdict(raw: &mut Raw) -> Option<Frame> {
    let ends = |f: &Frame| f.kind == GOAWAY || (f.stream == 1 && matches!(f.kind, HEADERS | RST_STREAM));
    until(raw, ends).await
}

fn accepted(verdict: &Option<Frame>) -> bool {
    verdict.as_ref().is_some_and(|f| f.kind == HEADERS && f.payload.first() == Some(&STATUS_200))
}

#[tokio::test]
async fn malformed_fields_end_the_stream_and_never_reach_the_upstream() {
    let world = World::start().await;
    let bearer = world.bearer();
    let with = |more: &[(&[u8], &[u8])]| {
        let mut all: Vec<(&[u8], &[u8])> = vec![(b"authorization", bearer.as_bytes())];
        all.extend(more);
        request(HOST, "/", &all)
    };
    let pseudo = |all: &[(&[u8], &[u8])]| {
        let mut all = all.to_vec();
        all.push((b"authorization", bearer.as_bytes()));
        fields(&all)
    };
    let to: (&[u8], &[u8]) = (b":authority", HOST.as_bytes());
    let cases = [
        ("transfer-encoding", with(&[(b"transfer-encoding", b"chunked")])),
        ("connection", with(&[(b"connection", b"keep-alive")])),
        ("keep-alive", with(&[(b"keep-alive", b"timeout=5")])),
        ("proxy-connection", with(&[(b"proxy-connection", b"keep-alive")])),
        ("upgrade", with(&[(b"upgrade", b"websocket")])),
        ("te other than trailers", with(&[(b"te", b"gzip")])),
        ("CRLF in a value", with(&[(b"x", b"a\r\nx-injected: 1")])),
        ("NUL in a value", with(&[(b"x", b"a\0b")])),
        ("upper-case name", with(&[(b"X-Up", b"1")])),
        ("colon in a name", with(&[(b"x:y", b"1")])),
        ("space in a name", with(&[(b"x y", b"1")])),
        ("pseudo-field behind a field", with(&[(b":path", b"/again")])),
        ("unknown pseudo-field", with(&[(b":nope", b"1")])),
        ("two lengths", with(&[(b"content-length", b"5"), (b"content-length", b"6")])),
        ("length that is no number", with(&[(b"content-length", b"0x0")])),
        ("another host", with(&[(b"host", b"evil.test")])),
        ("two hosts", with(&[(b"host", HOST.as_bytes()), (b"host", HOST.as_bytes())])),
        ("space in the path", pseudo(&[(b":method", b"GET"), (b":scheme", b"https"), to, (b":path", b"/a b")])),
        (
            "request in the path",
            pseudo(&[(b":method", b"GET"), (b":scheme", b"https"), to, (b":path", b"/ HTTP/1.1\r\nx: 1")]),
        ),
        ("no path", pseudo(&[(b":method", b"GET"), (b":scheme", b"https"), to])),
        ("empty path", pseudo(&[(b":method", b"GET"), (b":scheme", b"https"), to, (b":path", b"")])),
        ("no method", pseudo(&[(b":scheme", b"https"), to, (b":path", b"/")])),
        ("two paths", pseudo(&[(b":method", b"GET"), (b":scheme", b"https"), to, (b":path", b"/"), (b":path", b"/x")])),
        ("clear text", pseudo(&[(b":method", b"GET"), (b":scheme", b"http"), to, (b":path", b"/")])),
        (
            "user in the authority",
            pseudo(&[
                (b":method", b"GET"),
                (b":scheme", b"https"),
                (b":authority", b"x@api.upstream.test"),
                (b":path", b"/"),
            ]),
        ),
        ("CONNECT", pseudo(&[(b":method", b"CONNECT"), (b":authority", b"evil.test:443")])),
        ("TRACE", pseudo(&[(b":method", b"TRACE"), (b":scheme", b"https"), to, (b":path", b"/")])),
    ];
    for (name, block) in cases {
        let mut raw = inside(&world).await;
        raw.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, &block)).await;
        let verdict = verdict(&mut raw).await;
        assert!(!accepted(&verdict), "{name}: {verdict:?}");
        assert!(world.upstream.received().is_empty(), "{name}: {:?}", world.upstream.received());
    }
    let mut raw = inside(&world).await;
    raw.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, &with(&[(b"x", b"good")]))).await;
    assert!(accepted(&verdict(&mut raw).await), "the same frames pass where nothing is wrong");
    assert_eq!(world.upstream.only().header("x"), "good");
}

#[tokio::test]
async fn body_of_another_length_than_announced_is_never_a_whole_request() {
    for protocol in ["h2", "http/1.1"] {
        let world = World::build().upstream(|u| u.alpn = vec![protocol]).start().await;
        let bearer = world.bearer();
        for (name, body) in [("shorter", &b"abc"[..]), ("longer", b"abcdefghij")] {
            let mut raw = inside(&world).await;
            let more: [(&[u8], &[u8]); 2] = [(b"authorization", bearer.as_bytes()), (b"content-length", b"5")];
            raw.send(frame(HEADERS, END_HEADERS, 1, &post(HOST, "/", &more))).await;
            raw.send(frame(DATA, END_STREAM, 1, body)).await;
            let verdict = verdict(&mut raw).await;
            assert!(!accepted(&verdict), "{name}: {verdict:?}");
            assert!(world.upstream.received().is_empty(), "{name}: {:?}", world.upstream.received());
        }
    }
}

#[tokio::test]
async fn streams_past_the_limit_are_refused_one_by_one() {
    let world =
        World::build().answer(|_| Reply { body: crate::support::upstream::Body::Live(held()), ..Reply::text("") });
    let world = world.settings(|s| s.proxy.limits.streams = 10).start().await;
    let bearer = world.bearer();
    let block = request(HOST, "/", &[(b"authorization", bearer.as_bytes())]);
    let mut raw = inside(&world).await;
    for n in 0..15u32 {
        raw.send(frame(HEADERS, END_HEADERS | END_STREAM, n * 2 + 1, &block)).await;
    }
    for _ in 0..5 {
        let reset = until(&mut raw, |f| matches!(f.kind, RST_STREAM | GOAWAY)).await.expect("a reset");
        assert_eq!((reset.kind, reset.error()), (RST_STREAM, REFUSED_STREAM), "{reset:?}");
        assert!(reset.stream > 20, "the first ten are served: {reset:?}");
    }
    assert!(world.upstream.received().len() <= 10);
}

/// A body that never ends and never says anything.
fn held() -> tokio::sync::mpsc::Receiver<bytes::Bytes> {
    let (send, receive) = tokio::sync::mpsc::channel(1);
    std::mem::forget(send);
    receive
}

/// Sends the same bytes over and over, until the connection ends or isn't read any more: both are
/// bounds.
async fn flood(raw: &mut Raw, bytes: &[u8], times: usize) {
    for _ in 0..times {
        match tokio::time::timeout(Duration::from_millis(300), raw.try_send(bytes)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
}

#[tokio::test]
async fn floods_end_their_connection_or_wait_and_others_are_served() {
    let world = World::start().await;
    let block = request(HOST, "/", &[(b"x", b"1")]);
    let opened = frame(HEADERS, END_STREAM, 1, &block);
    let reset = [frame(HEADERS, END_HEADERS, 1, &block), frame(RST_STREAM, 0, 1, &8u32.to_be_bytes())];
    let piece = frame(CONTINUATION, 0, 1, &fields(&[(b"y", &[b'z'; 16_000])]));
    let floods: [(&str, Vec<u8>, Vec<u8>, usize); 6] = [
        ("CONTINUATION", opened.clone(), piece, 4000),
        ("empty CONTINUATION", opened, frame(CONTINUATION, 0, 1, &[]).repeat(100), 2000),
        ("SETTINGS", Vec::new(), frame(SETTINGS, 0, 0, &[]).repeat(100), 2000),
        ("PING", Vec::new(), frame(PING, 0, 0, &[7; 8]).repeat(100), 2000),
        ("empty DATA", frame(HEADERS, END_HEADERS, 1, &block), frame(DATA, 0, 1, &[]).repeat(100), 2000),
        ("unknown frames", Vec::new(), frame(0xbb, 0, 0, &[0; 100]).repeat(100), 300),
    ];
    for (name, first, again, times) in floods {
        let mut raw = inside(&world).await;
        raw.send(&first).await;
        flood(&mut raw, &again, times).await;
        // What is answered or skipped one by one is absorbed.
        let may_pass = ["unknown frames", "empty DATA", "SETTINGS", "PING"].contains(&name);
        if !may_pass {
            while next(&mut raw).await.is_some() {}
        }
        assert_eq!(world.agent().ask(HOST, world.get("/")).await.status, 200, "{name}");
    }
    // Streams that are opened and reset at once (CVE-2023-44487).
    let mut raw = inside(&world).await;
    for n in 0..5000u32 {
        let id = (n * 2 + 1).to_be_bytes();
        let pair: Vec<u8> = reset.iter().flat_map(|f| [&f[..5], &id, &f[9..]].concat()).collect();
        if raw.try_send(pair).await.is_err() {
            break;
        }
    }
    let away = until(&mut raw, |f| f.kind == GOAWAY).await;
    assert!(away.is_none_or(|f| f.error() == 11), "ENHANCE_YOUR_CALM, or closed");
    assert_eq!(world.agent().ask(HOST, world.get("/")).await.status, 200);
}

#[tokio::test]
async fn small_block_that_unpacks_into_megabytes_is_refused() {
    let world = World::start().await;
    let mut block = request(HOST, "/", &[]);
    // One entry of the table of 3,900 bytes, then thousands of references to it.
    block.extend([0x40, 1, b'x', 127, 0xbd, 0x1d]);
    block.extend([b'y'; 3900]);
    block.extend([0xbe; 4000]);
    let mut raw = inside(&world).await;
    raw.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, &block)).await;
    let verdict = verdict(&mut raw).await;
    assert!(!accepted(&verdict), "{verdict:?}");
    assert!(world.upstream.received().is_empty());
}

#[tokio::test]
async fn frames_that_break_the_protocol_end_the_connection() {
    let world = World::start().await;
    let cases = [
        ("DATA of no stream", frame(DATA, 0, 0, b"x")),
        ("DATA of an unopened stream", frame(DATA, 0, 5, b"x")),
        ("HEADERS of an even stream", frame(HEADERS, END_HEADERS | END_STREAM, 2, &request(HOST, "/", &[]))),
        ("SETTINGS of a wrong size", frame(SETTINGS, 0, 0, &[0; 5])),
        ("PING of a wrong size", frame(PING, 0, 0, &[0; 7])),
        ("CONTINUATION of nothing", frame(CONTINUATION, END_HEADERS, 1, &[])),
        ("a table reference to nothing", frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0xff, 0xff, 0xff, 0x7f])),
        ("a frame longer than allowed", frame(DATA, 0, 1, &[0; 20_000])),
        ("a window that overflows", frame(WINDOW_UPDATE, 0, 0, &0x7fff_ffffu32.to_be_bytes())),
        ("text", b"GET / HTTP/1.1\r\nhost: api.upstream.test\r\n\r\n".to_vec()),
    ];
    for (name, bytes) in cases {
        let mut raw = inside(&world).await;
        raw.send(bytes).await;
        while let Some(frame) = next(&mut raw).await {
            assert!(frame.kind != HEADERS, "{name}: {frame:?}");
        }
    }
    assert!(world.upstream.received().is_empty());
    let mut raw = world.agent().inside(HOST, b"h2").await;
    raw.send(b"GET / HTTP/1.1\r\nhost: api.upstream.test\r\n\r\n").await;
    assert!(!String::from_utf8_lossy(&raw.rest().await).contains("HTTP/1.1 200"));
}
