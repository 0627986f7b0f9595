//! 9. Nothing is unbounded: how long an agent may leave a reply unread.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Response;
use http_body::{Body, Frame};
use http_body_util::BodyExt as _;
use tokio::sync::Notify;

use crate::support::world::{Build, HOST};
use crate::support::{Raw, World, frames, soon};

/// `proxy.deadlines.unread` in these tests.
const LIMIT: Duration = Duration::from_millis(700);

/// Zeros without end, which say when they are given up.
struct Endless(Arc<Notify>);

impl Drop for Endless {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

impl Body for Endless {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[0; 16_384])))))
    }
}

fn endless(left: &Arc<Notify>) -> Build {
    let left = Arc::clone(left);
    let build = World::build().settings(|s| {
        s.proxy.deadlines.unread = LIMIT;
        s.gateway = Some(([127, 0, 0, 1], 0).into());
    });
    build.streaming(move |_| {
        let body = Endless(Arc::clone(&left)).boxed_unsync();
        async move { Response::new(body) }
    })
}

async fn is_left_in_time(what: &str, left: &Notify) {
    let began = Instant::now();
    soon(what, left.notified()).await;
    assert!(began.elapsed() > LIMIT / 2, "{what}: {:?}", began.elapsed());
}

#[tokio::test]
async fn agent_that_stops_reading_loses_its_connection_and_the_upstream_is_left() {
    let left = Arc::new(Notify::new());
    let world = endless(&left).start().await;
    let mut raw = world.agent().inside(HOST, b"http/1.1").await;
    raw.send(world.head("/")).await;
    assert!(raw.head().await.starts_with("HTTP/1.1 200"));
    is_left_in_time("a tunnel", &left).await;
    let gateway = tokio::net::TcpStream::connect(world.node.gateway.expect("it listens")).await.expect("connected");
    let mut raw = Raw::new(gateway);
    let head = format!("GET /upstream/ HTTP/1.1\r\nhost: localhost\r\nauthorization: {}\r\n\r\n", world.bearer());
    raw.send(head).await;
    assert!(raw.head().await.starts_with("HTTP/1.1 200"));
    is_left_in_time("the gateway", &left).await;
    let mut raw = world.agent().inside(HOST, b"h2").await;
    frames::open(&mut raw).await;
    // Windows without end, so that nothing but the connection itself holds the reply back.
    raw.send(frames::frame(frames::WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0, 0])).await;
    raw.send(request(&world, 1)).await;
    raw.send(frames::frame(frames::WINDOW_UPDATE, 0, 1, &[0x7f, 0xff, 0, 0])).await;
    is_left_in_time("HTTP/2", &left).await;
}

/// A GET with the token as a frame.
fn request(world: &World, stream: u32) -> Vec<u8> {
    let block = frames::request(HOST, "/", &[(b"authorization", world.bearer().as_bytes())]);
    frames::frame(frames::HEADERS, frames::END_HEADERS | frames::END_STREAM, stream, &block)
}

#[tokio::test]
async fn stream_that_gets_no_window_is_reset_and_the_others_go_on() {
    let left = Arc::new(Notify::new());
    let world = endless(&left).start().await;
    let mut raw = world.agent().inside(HOST, b"h2").await;
    frames::open(&mut raw).await;
    raw.send(request(&world, 1)).await;
    let began = Instant::now();
    // Every frame is read and every PING answered, and the window stays closed.
    let mut data = 0;
    let reset = async {
        loop {
            let frame = frames::next(&mut raw).await.expect("the connection stays open");
            match frame.kind {
                frames::DATA => data += frame.payload.len(),
                frames::RST_STREAM => return frame,
                frames::PING if frame.flags & frames::ACK == 0 => {
                    raw.send(frames::frame(frames::PING, frames::ACK, 0, &frame.payload)).await;
                }
                _ => {}
            }
        }
    };
    let reset = soon("the reset", reset).await;
    assert_eq!((reset.stream, reset.error()), (1, 8), "CANCEL");
    assert!(began.elapsed() > LIMIT && data == 65_535, "{:?}, {data} bytes", began.elapsed());
    soon("the end at the upstream", left.notified()).await;
    // The connection's own window is used up too: with more of it the next stream is served.
    raw.send(frames::frame(frames::WINDOW_UPDATE, 0, 0, &[0, 0, 0x40, 0])).await;
    raw.send(request(&world, 3)).await;
    let served = async { while frames::next(&mut raw).await.expect("the connection stays open").stream != 3 {} };
    soon("the next stream", served).await;
}

#[tokio::test]
async fn agent_that_reads_slowly_gets_everything() {
    const LEN: usize = 8 << 20;
    for http2 in [false, true] {
        let whole = Bytes::from(vec![b'x'; LEN]);
        let build = World::build().answer(move |_| crate::support::Reply::pieces([whole.clone()]));
        let world = build.settings(|s| s.proxy.deadlines.unread = LIMIT).start().await;
        let agent = world.agent();
        let mut sender = if http2 { agent.http2(HOST).await } else { agent.http1(HOST).await };
        let request = if http2 { world.get2("/") } else { world.get("/") };
        let mut reply = sender.send(request).await.expect("an answer");
        let (began, mut got, mut pauses) = (Instant::now(), 0, 0);
        while let Some(frame) = reply.body_mut().frame().await {
            got += frame.expect("not cut").into_data().expect("data").len();
            // Slow all the time, and never as long as the limit.
            if got * 8 > LEN * pauses {
                pauses += 1;
                tokio::time::sleep(LIMIT / 3).await;
            }
        }
        assert_eq!(got, LEN, "HTTP/2: {http2}");
        assert!(began.elapsed() > 2 * LIMIT, "HTTP/2: {http2}");
    }
}
