//! GOAWAY (RFC 9113 section 6.8): what runs is finished, what is new goes elsewhere.

use http_body_util::BodyExt as _;

use crate::support::frames::{
    DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, INTERNAL_ERROR, NO_ERROR, STATUS_200, accept, asked, frame,
    go_away, open, request, until,
};
use crate::support::world::HOST;
use crate::support::{Raw, Reply, World, soon};

/// A whole reply.
fn reply(stream: u32, text: &[u8]) -> Vec<u8> {
    [frame(HEADERS, END_HEADERS, stream, STATUS_200), frame(DATA, END_STREAM, stream, text)].concat()
}

#[tokio::test]
async fn upstream_that_goes_away_finishes_its_reply_and_the_next_request_goes_elsewhere() {
    let script = |mut raw: Raw, number| async move {
        accept(&mut raw).await;
        while let Some(stream) = asked(&mut raw).await {
            if number == 1 {
                raw.send(frame(HEADERS, END_HEADERS, stream, STATUS_200)).await;
                raw.send(go_away(stream, NO_ERROR)).await;
                raw.send(frame(DATA, END_STREAM, stream, b"first")).await;
            } else {
                raw.send(reply(stream, b"elsewhere")).await;
            }
        }
    };
    let world = World::build().script(script).upstream(|u| u.alpn = vec!["h2"]).start().await;
    let mut agent = world.agent().http2(HOST).await;
    let answer = agent.ask(world.get2("/")).await;
    assert_eq!((answer.text().as_str(), answer.whole), ("first", true));
    for _ in 0..3 {
        let answer = agent.ask(world.get2("/")).await;
        assert_eq!((answer.text().as_str(), answer.whole), ("elsewhere", true));
    }
    assert_eq!(world.upstream.connections(), 2);
}

#[tokio::test]
async fn upstream_that_goes_away_with_an_error_is_told_of_and_left() {
    let script = |mut raw: Raw, number| async move {
        accept(&mut raw).await;
        while let Some(stream) = asked(&mut raw).await {
            match number {
                1 => raw.send(go_away(0, NO_ERROR)).await,
                2 => {
                    raw.send(
                        [frame(HEADERS, END_HEADERS, stream, STATUS_200), go_away(stream, INTERNAL_ERROR)].concat(),
                    )
                    .await
                }
                _ => raw.send(reply(stream, b"elsewhere")).await,
            }
            if number < 3 {
                return;
            }
        }
    };
    let world = World::build().script(script).upstream(|u| u.alpn = vec!["h2"]).start().await;
    let mut agent = world.agent().http2(HOST).await;
    // It says that it did nothing.
    let answer = agent.ask(world.get2("/")).await;
    assert_eq!((answer.status.as_u16(), answer.code()), (502, "upstream_unreachable"));
    // It breaks off in its reply.
    let answer = agent.ask(world.get2("/")).await;
    assert!(answer.status == 502 || !answer.whole, "{answer:?}");
    assert_eq!(agent.ask(world.get2("/")).await.text(), "elsewhere");
}

#[tokio::test]
async fn agent_that_goes_away_gets_its_replies_to_their_end() {
    let (feed, live) = Reply::live();
    let live = std::sync::Mutex::new(Some(live));
    let world = World::build().answer(move |_| live.lock().expect("not poisoned").take().expect("one request"));
    let world = world.start().await;
    let mut raw = world.agent().inside(HOST, b"h2").await;
    open(&mut raw).await;
    let block = request(HOST, "/", &[(b"authorization", world.bearer().as_bytes())]);
    raw.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, &block)).await;
    until(&mut raw, |f| f.kind == HEADERS).await.expect("a head");
    raw.send(go_away(0, NO_ERROR)).await;
    feed.send("late".into()).await.expect("sent");
    let data = until(&mut raw, |f| f.kind == DATA && !f.payload.is_empty()).await.expect("the rest");
    assert_eq!(data.payload, b"late");
    drop(feed);
    until(&mut raw, |f| f.kind == DATA && f.flags & END_STREAM != 0).await.expect("its end");
    soon("the end of the connection", raw.rest()).await;
}

#[tokio::test]
async fn node_that_stops_says_so_and_finishes_what_runs() {
    let (feed, live) = Reply::live();
    let live = std::sync::Mutex::new(Some(live));
    let world = World::build().answer(move |_| live.lock().expect("not poisoned").take().expect("one request"));
    let world = world.start().await;
    let mut agent = world.agent().http2(HOST).await;
    let mut response = agent.send(world.get2("/")).await.expect("an answer");
    // A second agent that sees the frames.
    let mut raw = world.agent().inside(HOST, b"h2").await;
    open(&mut raw).await;
    until(&mut raw, |f| f.kind == crate::support::frames::SETTINGS).await.expect("it serves");
    let World { node, .. } = world;
    let stopping = tokio::spawn(async move { node.stop(std::time::Duration::from_secs(10)).await });
    let away = until(&mut raw, |f| f.kind == GOAWAY).await.expect("it says so");
    assert_eq!(away.error(), NO_ERROR);
    drop(raw);
    feed.send("late".into()).await.expect("sent");
    let frame = soon("the rest", response.body_mut().frame()).await.expect("a frame").expect("whole");
    assert_eq!(frame.into_data().expect("data"), "late");
    drop(feed);
    assert!(soon("its end", response.into_body().collect()).await.is_ok());
    soon("the stop", stopping).await.expect("stopped");
}
