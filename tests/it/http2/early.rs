//! Interim replies (1xx) of upstreams over HTTP/2: consumed, counted exactly; and those without end are given up.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body_util::Full;
use tokio::sync::mpsc;

use super::interim::counted;
use crate::support::frames::{
    DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PROTOCOL_ERROR, RST_STREAM, STATUS_200, accept, asked, frame, hint,
    until,
};
use crate::support::world::{Build, HOST};
use crate::support::{Raw, World, soon};

/// An upstream over HTTP/2 whose connections are in the test's hands, to a node of one core.
fn upstream<F: Future<Output = ()> + Send + 'static>(
    script: impl Fn(Raw, usize) -> F + Send + Sync + 'static,
) -> Build {
    World::build().script(script).upstream(|u| u.alpn = vec!["h2"]).settings(|s| s.cores = 1)
}

fn interim(status: u16, link: &str) -> Response<()> {
    Response::builder().status(status).header("link", link).body(()).expect("a head")
}

/// Replies as the path says: `/body`, `/trailers` (without a body), `/both` or `/nothing`.
fn reply(path: &str, mut stream: h2::server::SendResponse<Bytes>) {
    let status = if path == "/nothing" { 204 } else { 200 };
    let head = Response::builder().status(status).header("x-path", path).body(()).expect("a head");
    let mut body = stream.send_response(head, path == "/nothing").expect("open");
    if path == "/body" || path == "/both" {
        body.send_data(Bytes::from_static(b"whole"), path == "/body").expect("open");
    }
    if path == "/trailers" || path == "/both" {
        body.send_trailers(HeaderMap::from_iter([(http::header::ETAG, "end".parse().expect("a value"))]))
            .expect("open");
    }
}

const PATHS: [&str; 4] = ["/body", "/trailers", "/both", "/nothing"];

#[tokio::test]
async fn interim_replies_are_counted_exactly_whatever_follows_them_and_whoever_shares_the_connection() {
    // One stream alone warms the connection up; then each step says something on every one of the others.
    let script = |raw: Raw, _| async move {
        let mut connection = h2::server::handshake(raw.into_stream()).await.expect("a handshake");
        let mut open = Vec::new();
        while let Some(Ok((request, mut stream))) = connection.accept().await {
            let path = request.uri().path().to_owned();
            if path == "/warm" {
                stream.send_informational(interim(103, "</warm>")).expect("open");
                reply("/body", stream);
                continue;
            }
            open.push((path, stream));
            if open.len() < PATHS.len() * 2 {
                continue;
            }
            for (status, link) in [(100, "</a>"), (102, "</b>"), (103, "</b>"), (103, "</c>")] {
                for (_, stream) in &mut open {
                    stream.send_informational(interim(status, link)).expect("open");
                }
            }
            // Of those that go on, one more comes behind the end of others.
            while let Some((path, stream)) = open.pop() {
                reply(&path, stream);
                for (_, stream) in &mut open {
                    stream.send_informational(interim(103, "</d>")).expect("open");
                }
            }
        }
    };
    let world = upstream(script).start().await;
    let mut count = 0;
    let agent = world.agent();
    for _ in 0..3 {
        assert_eq!(agent.http2(HOST).await.ask(world.get2("/warm")).await.text(), "whole");
        let asked = PATHS.iter().chain(&PATHS).map(|path| {
            let (agent, request) = (agent.clone(), world.get2(path));
            tokio::spawn(async move { (path, agent.http2(HOST).await.ask(request).await) })
        });
        for asked in asked.collect::<Vec<_>>() {
            let (path, answer) = asked.await.expect("an answer");
            assert_eq!((answer.header("x-path"), answer.header("link"), answer.whole), (*path, "", true));
            let body = if matches!(*path, "/body" | "/both") { "whole" } else { "" };
            assert_eq!(
                (answer.text().as_str(), answer.trailers.is_some()),
                (body, matches!(*path, "/trailers" | "/both"))
            );
        }
        // 4 on each of 8, and behind the replies 7 + 6 + ... + 1.
        count += 1 + 4 * 8 + 28;
        counted(&world, count).await;
    }
    assert_eq!(world.upstream.connections(), 1, "all of them share it");
}

#[tokio::test]
async fn as_many_as_may_come_are_consumed() {
    let script = |mut raw: Raw, _| async move {
        accept(&mut raw).await;
        while let Some(stream) = asked(&mut raw).await {
            raw.send(hint(b"103", stream).repeat(100)).await;
            raw.send(frame(HEADERS, END_HEADERS, stream, STATUS_200)).await;
            raw.send(frame(DATA, END_STREAM, stream, b"ok")).await;
        }
    };
    let world = upstream(script).start().await;
    for count in [100, 200] {
        let answer = world.agent().http2(HOST).await.ask(world.get2("/")).await;
        assert_eq!((answer.status.as_u16(), answer.text().as_str(), answer.header("link")), (200, "ok", ""));
        counted(&world, count).await;
    }
}

#[tokio::test]
async fn one_too_many_ends_its_stream_alone() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let script = move |mut raw: Raw, _| {
        let tell = tell.clone();
        async move {
            accept(&mut raw).await;
            let ok = |stream| {
                let head = frame(HEADERS, END_HEADERS, stream, STATUS_200);
                [head, frame(DATA, END_STREAM, stream, b"ok")].concat()
            };
            let warm = asked(&mut raw).await.expect("asked");
            raw.send(ok(warm)).await;
            let (first, second) = (asked(&mut raw).await.expect("asked"), asked(&mut raw).await.expect("asked"));
            raw.send([hint(b"102", second), hint(b"102", first).repeat(101), hint(b"102", first)].concat()).await;
            let reset = until(&mut raw, |f| f.kind == RST_STREAM || f.kind == GOAWAY).await.expect("a reset");
            let _ = tell.send((reset.kind, reset.stream == first, reset.error()));
            // Late ones hurt nobody.
            raw.send(hint(b"102", first).repeat(99)).await;
            raw.send(ok(second)).await;
            while let Some(stream) = asked(&mut raw).await {
                raw.send(ok(stream)).await;
            }
        }
    };
    let world = upstream(script).start().await;
    let agent = world.agent();
    assert_eq!(agent.http2(HOST).await.ask(world.get2("/warm")).await.text(), "ok");
    let (mut one, mut other) = (agent.http2(HOST).await, agent.http2(HOST).await);
    let (one, other) = tokio::join!(one.ask(world.get2("/one")), other.ask(world.get2("/other")));
    let (first, second) = if one.status == 200 { (other, one) } else { (one, other) };
    assert_eq!((first.status.as_u16(), first.code()), (502, "upstream_unreachable"));
    assert!(first.text().contains("upstream.interim"), "{}", first.text());
    assert_eq!((second.status.as_u16(), second.text().as_str()), (200, "ok"));
    assert_eq!(soon("what the upstream is told", told.recv()).await, Some((RST_STREAM, true, PROTOCOL_ERROR)));
    assert_eq!(agent.http2(HOST).await.ask(world.get2("/third")).await.text(), "ok");
    assert_eq!(world.upstream.connections(), 1, "the connection is good");
    // One on the second, one too many on the first.
    counted(&world, 102).await;
}

#[tokio::test]
async fn flood_is_given_up_by_its_count_with_its_connection_and_others_go_on() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let script = move |mut raw: Raw, number| {
        let tell = tell.clone();
        async move {
            accept(&mut raw).await;
            while let Some(stream) = asked(&mut raw).await {
                if number == 1 {
                    let flood = hint(b"103", stream).repeat(500);
                    while raw.try_send(&flood).await.is_ok() {}
                    let _ = tell.send(());
                    return;
                }
                raw.send(frame(HEADERS, END_HEADERS, stream, STATUS_200)).await;
                raw.send(frame(DATA, END_STREAM, stream, b"ok")).await;
            }
        }
    };
    let world = upstream(script).start().await;
    let begun = Instant::now();
    let answer = world.agent().http2(HOST).await.ask(world.get2("/")).await;
    let took = begun.elapsed();
    assert_eq!((answer.status.as_u16(), answer.code()), (502, "upstream_unreachable"));
    assert!(answer.text().contains("upstream.interim"), "{}", answer.text());
    assert!(took < Duration::from_secs(1), "{took:?}");
    soon("the end of the flood", told.recv()).await;
    for _ in 0..3 {
        assert_eq!(world.agent().http2(HOST).await.ask(world.get2("/")).await.text(), "ok");
    }
    assert_eq!(world.upstream.connections(), 2);
    counted(&world, 101).await;
}

#[tokio::test]
async fn upload_to_an_upstream_that_never_replies_ends_with_its_stream() {
    let script = |mut raw: Raw, _| async move {
        accept(&mut raw).await;
        let stream = asked(&mut raw).await.expect("asked");
        until(&mut raw, |f| f.kind == DATA && f.stream == stream).await.expect("some of the body");
        raw.send(hint(b"100", stream).repeat(101)).await;
        until(&mut raw, |f| f.kind == RST_STREAM && f.stream == stream).await.expect("a reset");
    };
    let world = upstream(script).start().await;
    let body = Full::new(Bytes::from(vec![b'x'; 300_000]));
    let answer = world.agent().http2(HOST).await.ask(world.post(true, body)).await;
    assert_eq!((answer.status.as_u16(), answer.code()), (502, "upstream_unreachable"));
    assert!(answer.text().contains("upstream.interim"), "{}", answer.text());
}
