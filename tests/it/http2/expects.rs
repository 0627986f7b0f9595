//! Agents that wait for 100 (Continue) over HTTP/2, where none can be said to them: RFC 9110 section 10.1.1 has
//! them send their body after a while, and nothing may hang until then or after it.

use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use tokio::sync::mpsc;

use crate::support::frames::{
    DATA, END_HEADERS, END_STREAM, Frame, HEADERS, RST_STREAM, STATUS_200, accept, asked, frame, hint, next, open,
    post, until,
};
use crate::support::world::{Build, HOST};
use crate::support::{Raw, World, soon};

/// An upstream that tells of each head and each body, and answers 401 to `/refused` without asking for one.
fn upstream(protocol: &'static str) -> (Build, mpsc::UnboundedReceiver<String>) {
    let (tell, told) = mpsc::unbounded_channel();
    let build = World::build().upstream(|u| u.alpn = vec![protocol]).streaming(move |request| {
        let tell = tell.clone();
        async move {
            let (parts, body) = request.into_parts();
            let _ = tell.send(format!("{} {:?}", parts.uri.path(), parts.headers.get("expect")));
            let answer = |status, text| {
                let body = Full::new(bytes::Bytes::from_static(text)).map_err(|never| match never {});
                http::Response::builder().status(status).body(body.boxed_unsync()).expect("an answer")
            };
            if parts.uri.path() == "/refused" {
                return answer(401, b"no");
            }
            match body.collect().await {
                Ok(body) => drop(tell.send(String::from_utf8_lossy(&body.to_bytes()).into_owned())),
                Err(_) => drop(tell.send("broken".to_owned())),
            }
            answer(200, b"good")
        }
    });
    (build, told)
}

async fn ask(world: &World, path: &str) -> Raw {
    let mut raw = world.agent().inside(HOST, b"h2").await;
    open(&mut raw).await;
    let bearer = world.bearer();
    let more: [(&[u8], &[u8]); 3] =
        [(b"authorization", bearer.as_bytes()), (b"expect", b"100-continue"), (b"content-length", b"5")];
    raw.send(frame(HEADERS, END_HEADERS, 1, &post(HOST, path, &more))).await;
    raw
}

/// The next frame of the request's stream that carries something of a reply.
async fn of_reply(raw: &mut Raw) -> Option<Frame> {
    until(raw, |f| f.stream == 1 && [HEADERS, DATA, RST_STREAM].contains(&f.kind)).await
}

#[tokio::test]
async fn body_that_comes_after_a_while_goes_through_and_the_reply_is_the_first_that_is_said() {
    for protocol in ["http/1.1", "h2"] {
        let (build, mut told) = upstream(protocol);
        let world = build.start().await;
        let mut raw = ask(&world, "/").await;
        // The upstream is asked at once, and isn't told of an expectation whose answer couldn't be passed on.
        assert_eq!(soon("the head", told.recv()).await.expect("told"), "/ None", "{protocol}");
        raw.send(frame(DATA, END_STREAM, 1, b"hello")).await;
        assert_eq!(soon("the body", told.recv()).await.expect("told"), "hello", "{protocol}");
        let head = of_reply(&mut raw).await.expect("a head");
        assert_eq!((head.kind, head.payload.first()), (HEADERS, STATUS_200.first()), "{protocol}");
        let body = of_reply(&mut raw).await.expect("a body");
        assert_eq!((body.kind, &body.payload[..]), (DATA, &b"good"[..]), "{protocol}");
    }
}

#[tokio::test]
async fn refusal_reaches_an_agent_that_still_waits() {
    for protocol in ["http/1.1", "h2"] {
        let (build, mut told) = upstream(protocol);
        let world = build.start().await;
        let mut raw = ask(&world, "/refused").await;
        assert_eq!(soon("the head", told.recv()).await.expect("told"), "/refused None", "{protocol}");
        let head = of_reply(&mut raw).await.expect("a head");
        // 401 isn't in the static table (RFC 7541 appendix A), so it stands there in digits or their Huffman code.
        assert_eq!((head.kind, head.flags & END_STREAM), (HEADERS, 0), "{protocol}");
        assert_ne!(head.payload.first(), STATUS_200.first(), "{protocol}");
        let body = of_reply(&mut raw).await.expect("a body");
        assert_eq!((body.kind, &body.payload[..]), (DATA, &b"no"[..]), "{protocol}");
    }
}

#[tokio::test]
async fn agent_that_waits_for_ever_is_given_up() {
    for protocol in ["http/1.1", "h2"] {
        let (build, mut told) = upstream(protocol);
        let world = build.settings(|s| s.proxy.deadlines.idle_body = Duration::from_millis(300)).start().await;
        let mut raw = ask(&world, "/").await;
        assert_eq!(soon("the head", told.recv()).await.expect("told"), "/ None", "{protocol}");
        assert_eq!(soon("the end", told.recv()).await.expect("told"), "broken", "{protocol}");
        let end = of_reply(&mut raw).await;
        assert!(end.is_none_or(|f| f.kind == RST_STREAM || f.payload.first() != STATUS_200.first()), "{protocol}");
    }
}

#[tokio::test]
async fn upstream_over_http2_that_says_100_gets_the_body_and_its_100_goes_nowhere() {
    let script = |mut raw: Raw, _| async move {
        accept(&mut raw).await;
        while let Some(stream) = asked(&mut raw).await {
            raw.send([hint(b"103", stream), hint(b"100", stream), hint(b"102", stream)].concat()).await;
            let mut body = Vec::new();
            while let Some(frame) = next(&mut raw).await {
                if frame.kind == DATA && frame.stream == stream {
                    body.extend_from_slice(&frame.payload);
                    if frame.flags & END_STREAM != 0 {
                        break;
                    }
                }
            }
            raw.send(frame(HEADERS, END_HEADERS, stream, STATUS_200)).await;
            raw.send(frame(DATA, END_STREAM, stream, &body)).await;
        }
    };
    let world = World::build().script(script).upstream(|u| u.alpn = vec!["h2"]).start().await;
    let mut raw = ask(&world, "/").await;
    raw.send(frame(DATA, END_STREAM, 1, b"hello")).await;
    let head = of_reply(&mut raw).await.expect("a head");
    assert_eq!((head.kind, head.payload.first()), (HEADERS, STATUS_200.first()), "nothing comes before it");
    assert_eq!(of_reply(&mut raw).await.expect("a body").payload, b"hello");
    // To an agent over HTTP/1.1 it is said, as its body is wanted.
    let mut raw = world.agent().inside(HOST, b"http/1.1").await;
    let head = world.head("/").replace("GET", "POST");
    raw.send(head.replace("\r\n\r\n", "\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n")).await;
    assert!(raw.head().await.starts_with("HTTP/1.1 100 "));
    raw.send("again").await;
    let reply = raw.reply().await.expect("an answer");
    assert_eq!((reply.status, &reply.body[..]), (200, &b"again"[..]));
}
