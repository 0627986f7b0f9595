//! Requests that aren't over when their replies begin, and how they end.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::channel::Channel;
use tokio::sync::mpsc;

use crate::support::frames::{
    CANCEL, DATA, END_HEADERS, END_STREAM, Frame, HEADERS, NO_ERROR, PING, PREFACE, RST_STREAM, SETTINGS, STATUS_200,
    accept, asked, frame, open, post, reset, until,
};
use crate::support::world::{Build, HOST};
use crate::support::{Raw, World, soon};

/// No window for any body (RFC 9113 section 6.5.2).
const NO_WINDOW: [u8; 6] = [0, 4, 0, 0, 0, 0];

/// An upstream that gives uploads no window, and replies with a byte that ends its reply or not. It tells of the
/// reset that comes then.
fn replies_at_once(ends: u8) -> (Build, mpsc::UnboundedReceiver<Option<Frame>>) {
    let (tell, told) = mpsc::unbounded_channel();
    let script = move |mut raw: Raw, _| {
        let tell = tell.clone();
        async move {
            assert_eq!(raw.exactly(PREFACE.len()).await, PREFACE);
            raw.send(frame(SETTINGS, 0, 0, &NO_WINDOW)).await;
            let stream = asked(&mut raw).await.expect("a request");
            raw.send([frame(HEADERS, END_HEADERS, stream, STATUS_200), frame(DATA, ends, stream, b"x")].concat()).await;
            let end = until(&mut raw, |f: &Frame| f.kind == RST_STREAM).await;
            let _ = tell.send(end);
        }
    };
    (World::build().script(script).upstream(|u| u.alpn = vec!["h2"]), told)
}

/// A POST whose body has begun, and whose reply has.
async fn posting(world: &World) -> Raw {
    let mut raw = world.agent().inside(HOST, b"h2").await;
    open(&mut raw).await;
    let bearer = world.bearer();
    let head = post(HOST, "/", &[(b"authorization", bearer.as_bytes())]);
    raw.send(frame(HEADERS, END_HEADERS, 1, &head)).await;
    raw.send(frame(DATA, 0, 1, b"a beginning")).await;
    until(&mut raw, |f| f.kind == DATA && f.stream == 1).await.expect("a reply");
    // The upstream's word about its windows was heard by now, and then what lacks one is on its way.
    for round in 0..3 {
        raw.send([frame(DATA, 0, 1, b"more"), frame(PING, 0, 0, &[round; 8])].concat()).await;
        until(&mut raw, |f| f.kind == PING).await.expect("an answer");
    }
    raw
}

#[tokio::test]
async fn upstream_without_a_window_hears_that_the_agent_left_in_the_middle_of_its_reply() {
    for leaves in ["reset", "connection"] {
        let (world, mut told) = replies_at_once(0);
        let world = world.start().await;
        let mut raw = posting(&world).await;
        match leaves {
            "reset" => raw.send(reset(1, CANCEL)).await,
            _ => drop(raw),
        }
        let end = soon("the reset", told.recv()).await.expect("told").expect("no loss of the connection");
        assert_eq!(end.error(), CANCEL, "{leaves}");
    }
}

#[tokio::test]
async fn upstream_without_a_window_hears_of_a_revocation_in_the_middle_of_its_reply() {
    let (world, mut told) = replies_at_once(0);
    let world = world.start().await;
    let _raw = posting(&world).await;
    world.node.revoke_session(&world.started.session, "test");
    let end = soon("the reset", told.recv()).await.expect("told").expect("no loss of the connection");
    assert_eq!(end.error(), CANCEL);
}

#[tokio::test]
async fn upload_that_gets_no_window_ends_some_time_after_its_reply() {
    let (world, mut told) = replies_at_once(END_STREAM);
    let world = world.settings(|s| s.upstream.deadlines.idle_body = Duration::from_millis(300)).start().await;
    let _raw = posting(&world).await;
    let end = soon("the reset", told.recv()).await.expect("told").expect("no loss of the connection");
    assert_eq!(end.error(), CANCEL);
}

#[tokio::test]
async fn trailers_that_belong_to_one_hop_end_the_request_over_http2_too() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let script = move |mut raw: Raw, _| {
        let tell = tell.clone();
        async move {
            accept(&mut raw).await;
            let stream = asked(&mut raw).await.expect("a request");
            let end = until(&mut raw, |f: &Frame| f.flags & END_STREAM != 0 && f.stream == stream).await;
            raw.send([frame(HEADERS, END_HEADERS, stream, STATUS_200), frame(DATA, END_STREAM, stream, b"x")].concat())
                .await;
            let _ = tell.send(end);
            raw.rest().await;
        }
    };
    let world = World::build().script(script).upstream(|u| u.alpn = vec!["h2"]).start().await;
    let mut raw = world.agent().inside(HOST, b"http/1.1").await;
    let bearer = world.bearer();
    raw.send(format!(
        "POST / HTTP/1.1\r\nhost: {HOST}\r\nauthorization: {bearer}\r\ntransfer-encoding: chunked\r\ntrailer: keep-alive, \
         etag\r\n\r\n1\r\nx\r\n0\r\nkeep-alive: timeout=5\r\nproxy-connection: close\r\netag: end\r\n\r\n"
    ))
    .await;
    let end = soon("the end of the request", told.recv()).await.expect("told").expect("no loss of the connection");
    assert_eq!(end.kind, HEADERS, "there is one that may pass");
    assert_eq!(raw.reply().await.expect("a reply").status, 200);
}

#[tokio::test]
async fn whole_reply_before_the_end_of_an_upload_arrives_whole_though_the_rest_is_declined() {
    // All at once, and the reset a while later (RFC 9113 section 8.1).
    for (piece, together) in [(&b"too large"[..], true), (b"too large", false), (b"", true)] {
        let script = move |mut raw: Raw, _| async move {
            accept(&mut raw).await;
            while let Some(stream) = asked(&mut raw).await {
                until(&mut raw, |f| f.kind == DATA && f.stream == stream).await.expect("some of the body");
                let head = frame(HEADERS, END_HEADERS, stream, &[0x08, 3, b'4', b'1', b'3']);
                let reply = [head, frame(DATA, END_STREAM, stream, piece)].concat();
                match together {
                    true => raw.send([reply, reset(stream, NO_ERROR)].concat()).await,
                    false => {
                        raw.send(reply).await;
                        raw.send(frame(PING, 0, 0, &[0; 8])).await;
                        until(&mut raw, |f| f.kind == PING).await.expect("an answer");
                        raw.send(reset(stream, NO_ERROR)).await;
                    }
                }
            }
        };
        let world = World::build().script(script).upstream(|u| u.alpn = vec!["h2"]).start().await;
        for http2 in [true, false] {
            let (mut feed, body) = Channel::<Bytes>::new(1);
            feed.send_data("a beginning".into()).await.expect("taken");
            let agent = world.agent();
            let mut sender = if http2 { agent.http2(HOST).await } else { agent.http1(HOST).await };
            let answer = soon("the reply", sender.ask(world.post(http2, body))).await;
            assert_eq!(
                (answer.status.as_u16(), answer.text().as_bytes(), answer.whole),
                (413, piece, true),
                "{http2} {together}"
            );
            drop(feed);
        }
    }
}

#[tokio::test]
async fn refusal_stands_for_a_moment_before_the_rest_of_its_request_is_declined() {
    for ends in [true, false] {
        let world = World::build().settings(|s| s.proxy.deadlines.linger = Duration::from_millis(500)).start().await;
        let mut raw = world.agent().inside(HOST, b"h2").await;
        open(&mut raw).await;
        let head = post(HOST, "/", &[(b"authorization", b"Bearer sk-of-the-agents-own-0123456789")]);
        raw.send([frame(HEADERS, END_HEADERS, 1, &head), frame(DATA, 0, 1, b"a beginning")].concat()).await;
        let whole = |f: &Frame| f.stream == 1 && f.flags & END_STREAM != 0;
        assert_eq!(until(&mut raw, whole).await.map(|f| f.kind), Some(DATA), "the refusal, whole");
        for round in 0..3 {
            raw.send([frame(DATA, 0, 1, &[b'x'; 1000]), frame(PING, 0, 0, &[round; 8])].concat()).await;
            let next = until(&mut raw, |f| [PING, RST_STREAM].contains(&f.kind)).await.map(|f| f.kind);
            assert_eq!(next, Some(PING), "what is left is read");
        }
        if ends {
            raw.send([frame(DATA, END_STREAM, 1, b"the end"), frame(PING, 0, 0, &[9; 8])].concat()).await;
            let next = until(&mut raw, |f| [PING, RST_STREAM].contains(&f.kind)).await.map(|f| f.kind);
            assert_eq!(next, Some(PING), "nothing is left to decline");
        } else {
            let reset = until(&mut raw, |f| f.kind == RST_STREAM).await.expect("a reset");
            assert_eq!((reset.stream, reset.error()), (1, NO_ERROR));
        }
    }
}
