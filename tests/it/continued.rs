//! An agent that waits for 100 (Continue) is told by the upstream (RFC 9110 section 10.1.1).

use std::time::Duration;

use tokio::sync::mpsc;

use crate::support::world::{Build, HOST};
use crate::support::{Raw, World, soon};

/// An upstream that says each of these when it is told to, and tells what it got before that.
fn upstream(answers: &'static [&'static str]) -> (Build, mpsc::Sender<()>, mpsc::UnboundedReceiver<String>) {
    let (go, wait) = mpsc::channel(8);
    let (tell, told) = mpsc::unbounded_channel();
    let wait = std::sync::Arc::new(tokio::sync::Mutex::new(wait));
    let script = move |mut raw: Raw, _| {
        let (wait, tell) = (std::sync::Arc::clone(&wait), tell.clone());
        async move {
            let head = raw.head().await;
            let _ = tell.send(head);
            for answer in answers {
                if wait.lock().await.recv().await.is_none() {
                    return;
                }
                raw.send(answer).await;
            }
            let body = raw.exactly(5).await;
            let _ = tell.send(String::from_utf8_lossy(&body).into_owned());
            raw.send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ngood").await;
            raw.rest().await;
        }
    };
    (World::build().script(script), go, told)
}

fn head(world: &World) -> String {
    world.head("/").replace("GET", "POST").replace("\r\n\r\n", "\r\ncontent-length: 5\r\nexpect: 100-Continue\r\n\r\n")
}

const CONTINUE: &str = "HTTP/1.1 100 Continue\r\n\r\n";

#[tokio::test]
async fn body_is_asked_for_when_the_upstream_asks() {
    let (build, go, mut told) = upstream(&["HTTP/1.1 103 Early Hints\r\n\r\n", CONTINUE]);
    let world = build.settings(|s| s.upstream.deadlines.continued = Duration::from_secs(60)).start().await;
    let mut raw = world.agent().inside(HOST, b"http/1.1").await;
    raw.send(head(&world)).await;
    let seen = soon("the head", told.recv()).await.expect("told");
    assert!(seen.contains("expect: 100-continue\r\n") && seen.contains(&world.secret), "{seen}");
    // Another interim reply asks for nothing.
    go.send(()).await.expect("it waits");
    assert!(tokio::time::timeout(Duration::from_millis(300), raw.head()).await.is_err(), "nothing is said yet");
    go.send(()).await.expect("it waits");
    assert!(raw.head().await.starts_with("HTTP/1.1 100 "));
    raw.send("hello").await;
    assert_eq!(soon("the body", told.recv()).await.expect("told"), "hello");
    let reply = raw.reply().await.expect("an answer");
    assert_eq!((reply.status, &reply.body[..]), (200, &b"good"[..]));
}

#[tokio::test]
async fn refused_body_never_leaves_the_agent() {
    static REFUSALS: [&str; 2] = [
        "HTTP/1.1 401 Unauthorized\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno",
        "HTTP/1.1 417 Expectation Failed\r\ncontent-length: 2\r\n\r\nno",
    ];
    for (at, status) in [(0, 401), (1, 417)] {
        let (build, go, mut told) = upstream(&REFUSALS[at..=at]);
        let world = build.settings(|s| s.upstream.deadlines.continued = Duration::from_secs(60)).start().await;
        let mut raw = world.agent().inside(HOST, b"http/1.1").await;
        raw.send(head(&world)).await;
        soon("the head", told.recv()).await.expect("told");
        go.send(()).await.expect("it waits");
        let reply = raw.reply().await.expect("an answer");
        assert_eq!((reply.status, &reply.body[..]), (status, &b"no"[..]), "the first thing that is said");
        let rest = raw.rest().await;
        assert!(!rest.starts_with(b"HTTP/1.1 100"), "{}", String::from_utf8_lossy(&rest));
    }
}

#[tokio::test]
async fn upstream_that_says_nothing_gets_the_body_after_a_while() {
    let (build, _go, mut told) = upstream(&[]);
    let limit = Duration::from_millis(400);
    let world = build.settings(move |s| s.upstream.deadlines.continued = limit).start().await;
    let mut raw = world.agent().inside(HOST, b"http/1.1").await;
    raw.send(head(&world)).await;
    soon("the head", told.recv()).await.expect("told");
    let began = std::time::Instant::now();
    assert!(raw.head().await.starts_with("HTTP/1.1 100 "));
    assert!(began.elapsed() > limit / 2, "{:?}", began.elapsed());
    raw.send("hello").await;
    assert_eq!(soon("the body", told.recv()).await.expect("told"), "hello");
    assert_eq!(raw.reply().await.expect("an answer").status, 200);
}

#[tokio::test]
async fn agent_that_does_not_wait_is_not_waited_for() {
    let (build, _go, mut told) = upstream(&[]);
    let world = build.settings(|s| s.upstream.deadlines.continued = Duration::from_secs(60)).start().await;
    let mut raw = world.agent().inside(HOST, b"http/1.1").await;
    raw.send(head(&world).replace("expect: 100-Continue\r\n", "")).await;
    raw.send("hello").await;
    let seen = soon("the head", told.recv()).await.expect("told");
    assert!(!seen.contains("expect"), "{seen}");
    assert_eq!(soon("the body", told.recv()).await.expect("told"), "hello");
    assert_eq!(raw.reply().await.expect("an answer").status, 200);
}
