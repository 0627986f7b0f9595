//! A stream that one side resets is reset on the other, with a code that is true there.

use tokio::sync::mpsc;

use crate::support::frames::{
    CANCEL, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, Frame, HEADERS, INTERNAL_ERROR, NO_ERROR, PROTOCOL_ERROR,
    REFUSED_STREAM, RST_STREAM, STATUS_200, accept, asked, frame, open, post, request, reset, until,
};
use crate::support::world::HOST;
use crate::support::{Raw, World, soon};

/// An upstream that answers each request with these frames on its stream.
async fn answers(make: impl Fn(u32) -> Vec<u8> + Send + Sync + Clone + 'static) -> World {
    let script = move |mut raw: Raw, _| {
        let make = make.clone();
        async move {
            accept(&mut raw).await;
            while let Some(stream) = asked(&mut raw).await {
                raw.send(make(stream)).await;
            }
        }
    };
    World::build().script(script).upstream(|u| u.alpn = vec!["h2"]).start().await
}

async fn inside(world: &World) -> Raw {
    let mut raw = world.agent().inside(HOST, b"h2").await;
    open(&mut raw).await;
    raw
}

fn get(world: &World, stream: u32) -> Vec<u8> {
    let block = request(HOST, "/", &[(b"authorization", world.bearer().as_bytes())]);
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &block)
}

#[tokio::test]
async fn reset_of_a_reply_reaches_the_agent_with_a_code_that_is_true_there() {
    for (said, passed_on) in [
        (CANCEL, CANCEL),
        (NO_ERROR, CANCEL),
        (ENHANCE_YOUR_CALM, ENHANCE_YOUR_CALM),
        // A reply had begun, so it isn't true that nothing was done; and what was wrong between sallyport and the
        // upstream isn't the agent's doing.
        (REFUSED_STREAM, INTERNAL_ERROR),
        (PROTOCOL_ERROR, INTERNAL_ERROR),
        (INTERNAL_ERROR, INTERNAL_ERROR),
        (77, INTERNAL_ERROR),
    ] {
        let begun = [frame(HEADERS, END_HEADERS, 0, STATUS_200), frame(DATA, 0, 0, b"begun")];
        let world = answers(move |stream| {
            let begun = begun.iter().flat_map(|f| [&f[..5], &stream.to_be_bytes(), &f[9..]].concat());
            begun.chain(reset(stream, said)).collect()
        });
        let world = world.await;
        let mut raw = inside(&world).await;
        for stream in [1, 3] {
            raw.send(get(&world, stream)).await;
            let head = until(&mut raw, |f| f.kind == HEADERS).await.expect("a head");
            assert_eq!(head.stream, stream);
            let end = until(&mut raw, |f| f.kind == RST_STREAM || f.flags & END_STREAM != 0 && f.kind == DATA);
            let end = end.await.expect("the connection stays");
            assert_eq!((end.kind, end.stream, end.error()), (RST_STREAM, stream, passed_on), "{said}");
        }
        assert_eq!(world.upstream.connections(), 1, "a stream's reset is no reason to leave the connection");
        let answer = world.agent().ask(HOST, world.get("/")).await;
        assert!(!answer.whole, "{said}: over HTTP/1.1 the reply has no end");
    }
}

#[tokio::test]
async fn reset_before_a_reply_is_told_with_its_code() {
    for said in [CANCEL, NO_ERROR, ENHANCE_YOUR_CALM, REFUSED_STREAM, PROTOCOL_ERROR] {
        let world = answers(move |stream| reset(stream, said)).await;
        let answer = world.agent().http2(HOST).await.ask(world.get2("/")).await;
        assert_eq!((answer.status.as_u16(), answer.code()), (502, "upstream_unreachable"), "{said}");
    }
}

#[tokio::test]
async fn reset_by_the_agent_reaches_the_upstream_at_every_stage() {
    for stage in ["waiting", "replying", "uploading"] {
        let (tell, mut told) = mpsc::unbounded_channel();
        let script = move |mut raw: Raw, _| {
            let tell = tell.clone();
            async move {
                accept(&mut raw).await;
                let stream = asked(&mut raw).await.expect("a request");
                if stage == "replying" {
                    raw.send([frame(HEADERS, END_HEADERS, stream, STATUS_200), frame(DATA, 0, stream, b"x")].concat())
                        .await;
                }
                if stage == "uploading" {
                    until(&mut raw, |f| f.kind == DATA).await.expect("data");
                }
                tell.send(None).expect("the test runs");
                let ends = |f: &Frame| f.kind == RST_STREAM || f.kind == DATA && f.flags & END_STREAM != 0;
                let end = until(&mut raw, ends).await;
                tell.send(end).expect("the test runs");
            }
        };
        let world = World::build().script(script).upstream(|u| u.alpn = vec!["h2"]).start().await;
        let mut raw = inside(&world).await;
        match stage {
            "uploading" => {
                let bearer = world.bearer();
                let head = post(HOST, "/", &[(b"authorization", bearer.as_bytes())]);
                raw.send(frame(HEADERS, END_HEADERS, 1, &head)).await;
                raw.send(frame(DATA, 0, 1, b"a beginning")).await;
            }
            _ => raw.send(get(&world, 1)).await,
        }
        assert!(soon("the request", told.recv()).await.expect("told").is_none());
        if stage == "replying" {
            until(&mut raw, |f| f.kind == DATA).await.expect("data");
        }
        raw.send(reset(1, CANCEL)).await;
        let end = soon("the reset", told.recv()).await.expect("told").expect("no loss of the connection");
        assert_eq!((end.kind, end.error()), (RST_STREAM, CANCEL), "{stage}");
        // The agent's other streams go on.
        raw.send(frame(crate::support::frames::PING, 0, 0, &[1; 8])).await;
        until(&mut raw, |f| f.kind == crate::support::frames::PING).await.expect("the connection stays");
    }
}
