//! 8. Revoked means now: at whatever stage an exchange stands.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as _;
use http_body_util::channel::Channel;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::Incoming;
use sallyport::vault::key::KeyState;
use tokio::sync::Notify;

use crate::support::upstream::Streamed;
use crate::support::world::{Build, HOST, OTHER};
use crate::support::{World, soon};

const SECOND: Duration = Duration::from_secs(1);

/// Says when it is dropped.
struct Gone(Arc<Notify>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

/// An upstream that says when it has the request, reads it to its end, and answers never.
fn silent(has: &Arc<Notify>, left: &Arc<Notify>) -> Build {
    let (has, left) = (Arc::clone(has), Arc::clone(left));
    World::build().streaming(move |request: Request<Incoming>| {
        let gone = Gone(Arc::clone(&left));
        has.notify_one();
        async move {
            let gone = gone;
            if request.into_body().collect().await.is_err() {
                drop(gone);
            }
            std::future::pending::<Response<Streamed>>().await
        }
    })
}

#[tokio::test]
async fn exchange_that_waits_for_its_reply_is_refused_and_the_upstream_is_left() {
    for (http2, protocol) in [(false, "http/1.1"), (true, "h2"), (true, "http/1.1")] {
        let (has, left) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let world = silent(&has, &left).upstream(|u| u.alpn = vec![protocol]).start().await;
        let mut agent = if http2 { world.agent().http2(HOST).await } else { world.agent().http1(HOST).await };
        let request = if http2 { world.get2("/") } else { world.get("/") };
        let asked = tokio::spawn(async move { agent.ask(request).await });
        soon("the request", has.notified()).await;
        let began = Instant::now();
        world.node.revoke_token(&world.token, "test");
        let answer = soon("the refusal", asked).await.expect("asked");
        assert_eq!((answer.status.as_u16(), answer.code()), (403, "token_revoked"), "{http2} {protocol}");
        soon("the end at the upstream", left.notified()).await;
        assert!(began.elapsed() < SECOND, "{http2} {protocol}: {:?}", began.elapsed());
    }
}

#[tokio::test]
async fn running_upload_is_stopped() {
    for http2 in [false, true] {
        let (has, left) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let world = silent(&has, &left).start().await;
        let mut agent = if http2 { world.agent().http2(HOST).await } else { world.agent().http1(HOST).await };
        let (mut send, body) = Channel::<Bytes>::new(1);
        let request = world.post(http2, body);
        let asked = tokio::spawn(async move { agent.ask(request).await });
        send.send_data("a beginning".into()).await.expect("sent");
        soon("the request", has.notified()).await;
        let began = Instant::now();
        world.node.revoke_session(&world.started.session, "test");
        let answer = soon("the refusal", asked).await.expect("asked");
        assert_eq!((answer.status.as_u16(), answer.code()), (403, "session_revoked"), "HTTP/2: {http2}");
        soon("the end at the upstream", left.notified()).await;
        assert!(began.elapsed() < SECOND, "HTTP/2: {http2}: {:?}", began.elapsed());
    }
}

/// Zeros without end; counts the pieces that were taken.
struct Endless {
    taken: Arc<AtomicUsize>,
    _gone: Gone,
}

impl http_body::Body for Endless {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, io::Error>>> {
        self.taken.fetch_add(1, Ordering::SeqCst);
        std::task::Poll::Ready(Some(Ok(http_body::Frame::data(Bytes::from_static(&[b'z'; 16_384])))))
    }
}

#[tokio::test]
async fn reply_that_nobody_reads_is_cut_as_well() {
    for (http2, protocol) in [(false, "http/1.1"), (false, "h2"), (true, "http/1.1"), (true, "h2")] {
        let (left, taken) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
        let (of_left, of_taken) = (Arc::clone(&left), Arc::clone(&taken));
        let build = World::build().upstream(|u| u.alpn = vec![protocol]).streaming(move |_| {
            let endless = Endless { taken: Arc::clone(&of_taken), _gone: Gone(Arc::clone(&of_left)) };
            async move { Response::new(endless.boxed_unsync()) }
        });
        let world = build.start().await;
        let mut agent = if http2 { world.agent().http2(HOST).await } else { world.agent().http1(HOST).await };
        let request = if http2 { world.get2("/") } else { world.get("/") };
        let reply = agent.send(request).await.expect("an answer");
        assert!(!reply.body().is_end_stream());
        // Every buffer on the way is full when nothing is taken any more, which only time can tell.
        let mut before = 0;
        while before == 0 || taken.load(Ordering::SeqCst) != before {
            before = taken.load(Ordering::SeqCst);
            // The system takes a little now and then, up to some seconds.
            tokio::time::sleep(Duration::from_millis(2500)).await;
        }
        let early = tokio::time::timeout(Duration::from_millis(200), left.notified()).await;
        assert!(early.is_err(), "{http2} {protocol}: it waits for the agent");
        let began = Instant::now();
        world.node.set_key_state(&world.key, KeyState::Disabled);
        soon(&format!("the end at the upstream, {http2} {protocol}"), left.notified()).await;
        // A second is what the proxy has; the upstream has megabytes to work through before it sees it.
        assert!(began.elapsed() < 4 * SECOND, "{http2} {protocol}: {:?}", began.elapsed());
        let answer = soon("the end of the reply", crate::support::agent::whole(reply)).await;
        assert!(!answer.whole, "{http2} {protocol}");
    }
}

#[tokio::test]
async fn exchange_without_a_token_ends_with_its_session_and_its_key() {
    let policy = "version: 1\nname: p\nrules: [{ name: all, allow: { methods: [GET], paths: [\"/**\"] } }]\nwithout_token: inject\n";
    for (host, by_key) in [(HOST, false), (HOST, true), (OTHER, false)] {
        let (feed, reply) = crate::support::Reply::live();
        let reply = std::sync::Mutex::new(Some(reply));
        let build = World::build().policy(policy).upstream(|u| u.host = host.to_owned());
        let world =
            build.answer(move |_| reply.lock().expect("not poisoned").take().expect("one request")).start().await;
        let request = Request::get("/").header("host", host).body(Empty::<Bytes>::new()).expect("a request");
        let mut response = world.known_agent().http1(host).await.send(request).await.expect("an answer");
        feed.send("first".into()).await.expect("sent");
        assert!(soon("the first piece", response.body_mut().frame()).await.expect("a frame").is_ok());
        let key = format!("Bearer {}", world.secret);
        assert_eq!(world.upstream.only().header("authorization") == key, host == HOST);
        let began = Instant::now();
        match by_key {
            true => world.node.set_key_state(&world.key, KeyState::Disabled),
            false => world.node.revoke_session(&world.started.session, "test"),
        }
        let last = soon("the cut", response.body_mut().frame()).await;
        assert!(matches!(last, Some(Err(_))), "{host}, by key: {by_key}: {last:?}");
        assert!(began.elapsed() < SECOND, "{host}, by key: {by_key}: {:?}", began.elapsed());
    }
}

#[tokio::test]
async fn policy_that_changed_holds_from_the_next_exchange() {
    let world = World::build().policy("version: 1\nname: p\nrules: [{ name: all, allow: {} }]\n").start().await;
    let mut agent = world.agent().http1::<Full<Bytes>>(HOST).await;
    assert_eq!(agent.ask(world.get("/")).await.status, 200);
    let path = world.home.policy_dir().join("only.yaml");
    std::fs::write(&path, "version: 1\nname: p\nrules: [{ name: none, deny: {} }]\n").expect("written");
    world.node.policies().reload().expect("taken");
    assert_eq!(agent.ask(world.get("/")).await.code(), "policy_denied");
    assert_eq!(world.upstream.received().len(), 1);
}
