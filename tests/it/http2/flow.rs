//! Flow control passes through: a reader that is slow holds its own writer back, and nobody else's.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::channel::Channel;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::Incoming;

use crate::support::agent::whole;
use crate::support::world::HOST;
use crate::support::{World, soon};

/// Zeros without end; counts what was taken.
struct Endless(Arc<AtomicUsize>);

impl Body for Endless {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.0.fetch_add(16_384, Ordering::SeqCst);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[b'z'; 16_384])))))
    }
}

/// Waits until the count stands still, which only time can tell.
async fn standstill(count: &AtomicUsize) -> usize {
    let mut before = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(150)).await;
        match count.load(Ordering::SeqCst) {
            now if now == before && now > 0 => return now,
            now => before = now,
        }
    }
}

#[tokio::test]
async fn upstream_that_does_not_read_holds_the_agent_back() {
    for (http2, protocol) in [(false, "http/1.1"), (false, "h2"), (true, "http/1.1"), (true, "h2")] {
        let held = |request: Request<Incoming>| async move {
            let _unread = request;
            std::future::pending().await
        };
        let world = World::build().upstream(|u| u.alpn = vec![protocol]).streaming(held).start().await;
        let taken = Arc::new(AtomicUsize::new(0));
        let request = world.post(http2, Endless(Arc::clone(&taken)));
        let agent = world.agent();
        let mut sender = if http2 { agent.http2(HOST).await } else { agent.http1(HOST).await };
        let asking = tokio::spawn(async move { sender.send(request).await.is_ok() });
        let stood = soon("a standstill", standstill(&taken)).await;
        assert!(stood < 16 << 20, "{http2} {protocol}: {stood} bytes were taken from the agent");
        asking.abort();
    }
}

/// Without end under `/endless`, short elsewhere.
async fn some_endless(request: Request<Incoming>) -> Response<crate::support::upstream::Streamed> {
    Response::new(match request.uri().path() {
        "/endless" => Endless(Arc::default()).boxed_unsync(),
        _ => Full::new(Bytes::from_static(b"short")).map_err(|never| match never {}).boxed_unsync(),
    })
}

#[tokio::test]
async fn replies_that_nobody_reads_hold_no_other_agent_back() {
    let world = World::build().streaming(some_endless);
    let world = world.start().await;
    let mut unread = world.agent().http2::<Empty<Bytes>>(HOST).await;
    let mut held = Vec::new();
    for _ in 0..40 {
        let request = world.get2("/endless").map(|_| Empty::new());
        held.push(soon("a head", unread.send(request)).await.expect("an answer"));
    }
    let mut other = world.agent().http2(HOST).await;
    for _ in 0..3 {
        assert_eq!(soon("another agent's reply", other.ask(world.get2("/"))).await.text(), "short");
    }
}

#[tokio::test]
async fn more_replies_may_run_than_an_upstream_takes_on_one_connection() {
    let (send, body) = tokio::sync::watch::channel(false);
    let hold = move |request: Request<Incoming>| {
        let mut body = body.clone();
        async move {
            let (mut feed, reply) = Channel::<Bytes, io::Error>::new(1);
            let waits = request.uri().path() == "/held";
            tokio::spawn(async move {
                if waits {
                    let _ = body.wait_for(|over| *over).await;
                }
                let _ = feed.send_data("over".into()).await;
            });
            Response::new(reply.boxed_unsync())
        }
    };
    let world = World::build().streaming(hold).start().await;
    let mut held = Vec::new();
    // hyper's servers take 200 streams on a connection.
    for _ in 0..3 {
        let mut agent = world.agent().http2::<Full<Bytes>>(HOST).await;
        for _ in 0..80 {
            held.push(soon("a head", agent.send(world.get2("/held"))).await.expect("an answer"));
        }
    }
    assert_eq!(soon("a reply", world.agent().http2(HOST).await.ask(world.get2("/"))).await.text(), "over");
    send.send_replace(true);
    for reply in held {
        assert_eq!(soon("a held reply", whole(reply)).await.text(), "over");
    }
    assert!(world.upstream.connections() < 20, "{} connections", world.upstream.connections());
}
