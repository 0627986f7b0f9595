//! Bodies stream both ways: nothing is gathered, nothing is held back, and nothing outruns its reader.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::channel::{Channel, Sender as Feed};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use tokio::sync::{Notify, mpsc};

use crate::support::upstream::Streamed;
use crate::support::world::HOST;
use crate::support::{Raw, World, frames, soon};

/// All four ways through the proxy: what the agent speaks, and what the upstream does.
const WAYS: [(bool, &str); 4] = [(false, "http/1.1"), (false, "h2"), (true, "http/1.1"), (true, "h2")];

fn post(world: &World, http2: bool, body: Channel<Bytes>) -> Request<Channel<Bytes>> {
    let whole = if http2 { format!("https://{HOST}/") } else { "/".to_owned() };
    let request = Request::post(whole).header("authorization", world.bearer());
    let request = if http2 { request } else { request.header("host", HOST) };
    request.body(body).expect("a request")
}

async fn sender(world: &World, http2: bool) -> crate::support::agent::Sender<Channel<Bytes>> {
    if http2 { world.agent().http2(HOST).await } else { world.agent().http1(HOST).await }
}

async fn piece(body: &mut Incoming) -> Option<Bytes> {
    match soon("a piece of a body", body.frame()).await {
        Some(Ok(frame)) => Some(frame.into_data().expect("data")),
        _ => None,
    }
}

/// Sends back each piece as it comes.
async fn echo(request: Request<Incoming>) -> Response<Streamed> {
    let (mut send, body) = Channel::<Bytes, io::Error>::new(1);
    let mut from = request.into_body();
    tokio::spawn(async move {
        while let Some(Ok(frame)) = from.frame().await {
            if let Ok(data) = frame.into_data()
                && send.send_data(data).await.is_err()
            {
                return;
            }
        }
    });
    Response::new(body.boxed_unsync())
}

#[tokio::test]
async fn conversation_inside_one_exchange_passes_piece_by_piece() {
    for (http2, protocol) in WAYS {
        let world = World::build().upstream(|u| u.alpn = vec![protocol]).streaming(echo).start().await;
        let (mut send, body) = Channel::new(1);
        let mut sender = sender(&world, http2).await;
        let (reply, _) = tokio::join!(sender.send(post(&world, http2, body)), send.send_data("0".into()));
        let mut body = reply.expect("an answer").into_body();
        assert_eq!(piece(&mut body).await.expect("a piece"), "0", "{http2} {protocol}");
        for n in 1..5 {
            send.send_data(n.to_string().into()).await.expect("sent");
            assert_eq!(piece(&mut body).await.expect("a piece"), n.to_string(), "{http2} {protocol}");
        }
        drop(send);
        // An empty piece may mark the end.
        while let Some(last) = soon("the end", body.frame()).await {
            let data = last.expect("an end in order").into_data().expect("data");
            assert_eq!(data, "", "{http2} {protocol}");
        }
    }
}

#[tokio::test]
async fn upload_that_the_agent_breaks_off_never_ends_well_at_the_upstream() {
    let reset = |reason: u32| frames::frame(frames::RST_STREAM, 0, 1, &reason.to_be_bytes());
    let mut ways = Vec::new();
    for (http2, protocol) in WAYS {
        ways.push((http2, protocol, Vec::new()));
        if http2 {
            // NO_ERROR and CANCEL (RFC 9113 section 7).
            ways.extend([0, 8].map(|reason| (http2, protocol, reset(reason))));
        }
    }
    for (http2, protocol, last) in ways {
        let (tell, mut told) = mpsc::channel(2);
        let world = World::build().upstream(|u| u.alpn = vec![protocol]).streaming(move |request| {
            let tell = tell.clone();
            async move {
                let mut body = request.into_body();
                let _ = body.frame().await;
                let _ = tell.send(Told::Began).await;
                let all = body.collect().await;
                let _ = tell.send(if all.is_ok() { Told::Whole } else { Told::Broken }).await;
                Response::new(Full::new(Bytes::new()).map_err(|never| match never {}).boxed_unsync())
            }
        });
        let world = world.start().await;
        let mut raw;
        if http2 {
            raw = world.agent().inside(HOST, b"h2").await;
            frames::open(&mut raw).await;
            let bearer = world.bearer();
            let block = frames::request(HOST, "/", &[(b"authorization", bearer.as_bytes())]);
            raw.send(frames::frame(frames::HEADERS, frames::END_HEADERS, 1, &block)).await;
            raw.send(frames::frame(frames::DATA, 0, 1, b"a beginning")).await;
        } else {
            raw = world.agent().inside(HOST, b"http/1.1").await;
            let head = world.head("/").replace("\r\n\r\n", "\r\ncontent-length: 100\r\n\r\n");
            raw.send(format!("{head}a beginning")).await;
        }
        assert_eq!(soon("the body at the upstream", told.recv()).await, Some(Told::Began), "{http2} {protocol}");
        raw.send(&last).await;
        // An agent that says nothing is gone.
        let _kept = (!last.is_empty()).then_some(raw);
        assert_eq!(soon("its end", told.recv()).await, Some(Told::Broken), "{http2} {protocol} {last:?}");
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Told {
    Began,
    Whole,
    Broken,
}

#[tokio::test]
async fn continue_is_said_only_when_the_body_is_wanted() {
    let world = World::start().await;
    let post = |auth: &str| {
        format!(
            "POST / HTTP/1.1\r\nhost: {HOST}\r\nauthorization: {auth}\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n"
        )
    };
    let mut raw = world.agent().inside(HOST, b"http/1.1").await;
    raw.send(post(&world.bearer())).await;
    assert!(raw.head().await.starts_with("HTTP/1.1 100 "));
    raw.send("hello").await;
    let reply = raw.reply().await.expect("an answer");
    assert_eq!((reply.status, &reply.body[..]), (200, &b"hello"[..]));
    let received = world.upstream.only();
    assert_eq!((&received.body[..], received.header("expect")), (&b"hello"[..], "100-continue"));
    // A request that is refused gets its refusal, and no invitation to send the body.
    let mut raw = world.agent().inside(HOST, b"http/1.1").await;
    raw.send(post("Bearer sk-stray-real-key")).await;
    let reply = raw.reply().await.expect("an answer");
    assert_eq!((reply.status, reply.code.as_str()), (403, "credential_unregistered"));
    assert_eq!(world.upstream.received().len(), 1);
}

#[tokio::test]
async fn upload_arrives_whole_although_the_agent_does_not_read_the_reply_meanwhile() {
    const PIECES: usize = 200;
    const PIECE: usize = 64 * 1024;
    for (http2, protocol) in WAYS {
        let (done, mut arrived) = mpsc::unbounded_channel();
        let world = World::build()
            .upstream(|u| u.alpn = vec![protocol])
            .streaming(move |request: Request<Incoming>| {
                let done = done.clone();
                async move {
                    let (mut send, body) = Channel::<Bytes, io::Error>::new(1);
                    let mut from = request.into_body();
                    tokio::spawn(async move {
                        let mut bytes = 0;
                        while let Some(Ok(frame)) = from.frame().await {
                            bytes += frame.data_ref().map_or(0, Bytes::len);
                        }
                        done.send(bytes).expect("the test still runs");
                    });
                    // More than all buffers on the way take.
                    tokio::spawn(async move {
                        for _ in 0..PIECES {
                            if send.send_data(vec![b'x'; PIECE].into()).await.is_err() {
                                return;
                            }
                        }
                    });
                    Response::new(body.boxed_unsync())
                }
            })
            .start()
            .await;
        let (mut send, body) = Channel::new(1);
        let mut sender = sender(&world, http2).await;
        let (reply, _) = tokio::join!(sender.send(post(&world, http2, body)), send.send_data("0".into()));
        let reply = reply.expect("an answer");
        for _ in 0..PIECES {
            soon("a piece to be taken", send.send_data(vec![b'y'; PIECE].into())).await.expect("sent");
        }
        drop(send);
        let bytes = soon("the upload", arrived.recv()).await.expect("a count");
        assert_eq!(bytes, PIECES * PIECE + 1, "{http2} {protocol}");
        let reply = soon("the reply", reply.into_body().collect()).await.expect("a reply in order").to_bytes();
        assert_eq!(reply.len(), PIECES * PIECE, "{http2} {protocol}");
    }
}

#[tokio::test]
async fn early_refusal_of_an_upload_arrives_while_it_runs() {
    let script = |mut raw: Raw, _| async move {
        raw.head().await;
        raw.send("HTTP/1.1 413 Payload Too Large\r\ncontent-length: 3\r\nconnection: close\r\n\r\nbig").await;
        // As servers do that close in good order: what is under way is read, up to some end.
        raw.exactly(4 << 20).await;
    };
    for http2 in [false, true] {
        let world = World::build().script(script).start().await;
        let (mut send, body) = Channel::new(1);
        let mut sender = sender(&world, http2).await;
        let feeding = tokio::spawn(async move {
            let mut sent = 0u64;
            while send.send_data(Bytes::from_static(&[0; 65_536])).await.is_ok() {
                sent += 65_536;
                if sent > 1 << 30 {
                    break;
                }
            }
            sent
        });
        let reply = soon("the refusal", sender.send(post(&world, http2, body))).await.expect("an answer");
        assert_eq!(reply.status(), 413, "HTTP/2: {http2}");
        let answer = soon("its body", crate::support::agent::whole(reply)).await;
        assert_eq!(answer.text(), "big");
        drop(sender);
        assert!(soon("the upload's end", feeding).await.expect("fed") < 1 << 28, "the upload stops");
    }
}

#[tokio::test]
async fn early_refusal_arrives_although_the_upstream_resets_behind_it() {
    // What is unread when the connection is dropped makes the system reset it.
    let script = |mut raw: Raw, _| async move {
        raw.head().await;
        raw.exactly(65_536).await;
        raw.send("HTTP/1.1 413 Payload Too Large\r\ncontent-length: 3\r\nconnection: close\r\n\r\nbig").await;
    };
    let world = World::build().script(script).start().await;
    for round in 0..60 {
        let http2 = round % 2 == 0;
        let (mut send, body) = Channel::new(1);
        let mut sender = sender(&world, http2).await;
        let feeding =
            tokio::spawn(async move { while send.send_data(Bytes::from_static(&[0; 65_536])).await.is_ok() {} });
        let reply = soon("the refusal", sender.send(post(&world, http2, body))).await.expect("an answer");
        assert_eq!(reply.status(), 413, "round {round}, HTTP/2: {http2}");
        let answer = soon("its body", crate::support::agent::whole(reply)).await;
        assert_eq!((answer.text().as_str(), answer.whole), ("big", true), "round {round}, HTTP/2: {http2}");
        drop(sender);
        soon("the upload's end", feeding).await.expect("fed");
    }
}

#[tokio::test]
async fn our_own_refusal_of_an_upload_arrives_while_the_agent_still_sends() {
    let world = World::start().await;
    let (body, len) = (vec![0; 1 << 20], 8 << 20);
    for round in 0..20 {
        let mut raw = world.agent().inside(HOST, b"http/1.1").await;
        let auth = "authorization: Bearer sk-stray-real-key";
        raw.send(format!("POST / HTTP/1.1\r\nhost: {HOST}\r\n{auth}\r\ncontent-length: {len}\r\n\r\n")).await;
        // It sends all it can before it reads anything.
        for _ in 0..8 {
            if raw.try_send(&body).await.is_err() {
                break;
            }
        }
        let reply = raw.reply().await.expect("an answer");
        assert_eq!((reply.status, reply.code.as_str()), (403, "credential_unregistered"), "round {round}");
        assert!(reply.body.ends_with(b"}") || reply.body.ends_with(b"}\n"), "round {round}: whole");
    }
    assert!(world.upstream.received().is_empty());
}

/// Zeros without end; counts what was taken, and says when it is given up.
struct Endless(Arc<AtomicUsize>, Arc<Notify>);

impl Drop for Endless {
    fn drop(&mut self) {
        self.1.notify_one();
    }
}

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
async fn agent_that_does_not_read_holds_the_upstream_back() {
    for (http2, protocol) in WAYS {
        let (taken, left) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let (of_taken, of_left) = (Arc::clone(&taken), Arc::clone(&left));
        let world = World::build().upstream(|u| u.alpn = vec![protocol]).streaming(move |_| {
            let endless = Endless(Arc::clone(&of_taken), Arc::clone(&of_left));
            async move { Response::new(endless.boxed_unsync()) }
        });
        let world = world.start().await;
        let (feed, body) = Channel::new(1);
        drop::<Feed<Bytes>>(feed);
        let mut sender = sender(&world, http2).await;
        let reply = sender.send(post(&world, http2, body)).await.expect("an answer");
        let stood = soon("a standstill", standstill(&taken)).await;
        assert!(stood < 32 << 20, "{http2} {protocol}: {stood} bytes were taken from the upstream");
        // The agent goes away, and so does the reply.
        drop((reply, sender));
        soon("the end at the upstream", left.notified()).await;
    }
}
