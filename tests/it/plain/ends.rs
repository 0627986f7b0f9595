//! Plain exchanges that end otherwise than they began: what is left of one is never another's.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use sallyport::model::{Authority, Secret};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::Moments;
use crate::support::world::HOST;
use crate::support::{Raw, World, soon};

const HONEST: &str = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nhonest";

#[tokio::test]
async fn connection_whose_reply_came_before_all_of_the_request_was_sent_is_used_by_nobody_else() {
    let script = |mut raw: Raw, number| async move {
        if number > 1 {
            while !raw.head().await.is_empty() {
                raw.send(HONEST).await;
            }
            return;
        }
        // It has read enough to say no, and reads what else there is only once that was heard.
        raw.head().await;
        raw.send("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nearly").await;
        std::future::pending::<()>().await;
    };
    let world = World::build()
        .settings(|s| {
            // More than the buffers between hold.
            s.proxy.limits.whole_body = 64 << 20;
            s.proxy.deadlines.whole_body = Duration::from_secs(30);
        })
        .script(script)
        .start()
        .await;
    let mut agent = world.agent().http1::<Full<Bytes>>(HOST).await;
    let long = world.request("POST", "/", vec![b'a'; 32 << 20]);
    assert_eq!(agent.ask(long).await.text(), "early");
    let next = soon("the reply on another connection", agent.ask(world.get("/"))).await;
    assert_eq!((next.text().as_str(), world.upstream.connections()), ("honest", 2));
}

#[tokio::test]
async fn late_reply_to_an_exchange_that_was_ended_reaches_nobody() {
    let (has, go) = Moments::default();
    let of = (has.clone(), go.clone());
    let script = move |mut raw: Raw, number| {
        let (has, go) = of.clone();
        async move {
            while !raw.head().await.is_empty() {
                if number == 1 {
                    has.notify_one();
                    go.notified().await;
                    raw.send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nlate").await;
                } else {
                    raw.send(HONEST).await;
                }
            }
        }
    };
    let world = World::build().script(script).start().await;
    let (other, value) = world.node.mint(&world.started, &world.key).expect("a token");
    let mut raw = world.agent().inside(HOST, b"http/1.1").await;
    let head = format!("GET / HTTP/1.1\r\nhost: {HOST}\r\nauthorization: Bearer {}\r\n\r\n", value.expose());
    // The next request waits behind it already.
    raw.send(head.clone() + &world.head("/") + &head).await;
    soon("the request", has.notified()).await;
    world.node.revoke_token(&other, "test");
    let reply = raw.reply().await.expect("a reply");
    assert_eq!((reply.status, reply.code.as_str()), (403, "token_revoked"));
    go.notify_one();
    assert_eq!(raw.reply().await.expect("a reply").body, b"honest");
    assert_eq!(raw.reply().await.expect("a reply").code, "token_revoked");
    assert_eq!(world.upstream.connections(), 2);
    let outcomes = world.stopped("outcome").await;
    let words: Vec<_> = outcomes.iter().map(|o| o["outcome"].as_str().unwrap_or_default()).collect();
    assert_eq!(words, ["denied", "ok"]);
}

#[tokio::test]
async fn agent_that_leaves_takes_its_exchange_with_it_and_the_outcome_is_recorded() {
    for replied in [false, true] {
        let (has, left) = Moments::default();
        let of = (has.clone(), left.clone());
        let script = move |mut raw: Raw, _| {
            let (has, left) = of.clone();
            async move {
                raw.head().await;
                if replied {
                    raw.send("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nbegun").await;
                }
                has.notify_one();
                assert_eq!(raw.rest().await, b"");
                left.notify_one();
            }
        };
        let world = World::build().script(script).start().await;
        let mut raw = world.agent().inside(HOST, b"http/1.1").await;
        raw.send(world.head("/")).await;
        soon("the request", has.notified()).await;
        if replied {
            assert!(raw.head().await.starts_with("HTTP/1.1 200"));
        }
        drop(raw);
        soon("the end of the upstream's connection", left.notified()).await;
        let stopped = world.stopped("outcome").await;
        let words: Vec<_> = stopped.iter().map(|o| o["outcome"].as_str().unwrap_or_default()).collect();
        assert_eq!(words, ["aborted"], "{replied}");
    }
}

#[tokio::test]
async fn flood_of_requests_whose_replies_nobody_reads_stops_at_a_bound() {
    let world = World::build()
        .answer(|_| crate::support::Reply::text(vec![b'a'; 8000]))
        .settings(|s| s.proxy.deadlines.unread = Duration::from_millis(300))
        .start()
        .await;
    let mut raw = world.agent().inside(HOST, b"http/1.1").await;
    let many = world.head("/").repeat(200);
    let flood = async { while raw.try_send(&many).await.is_ok() {} };
    soon("the end of the flood", flood).await;
    let before = world.upstream.received().len();
    assert_eq!(world.agent().ask(HOST, world.get("/")).await.status, 200);
    assert!(before < 20_000, "{before} requests went on for an agent that reads nothing");
}

#[tokio::test]
async fn reply_that_its_agent_never_takes_is_recorded_as_aborted_and_a_revocation_ends_it() {
    let script = |mut raw: Raw, _| async move {
        let reply = [b"HTTP/1.1 200 OK\r\ncontent-length: 8000\r\n\r\n".as_slice(), &[b'a'; 8000]].concat();
        while !raw.head().await.is_empty() {
            if raw.try_send(&reply).await.is_err() {
                return;
            }
        }
    };
    for revoked in [false, true] {
        let unread = Duration::from_millis(if revoked { 60_000 } else { 300 });
        let world = World::build().script(script).settings(move |s| s.proxy.deadlines.unread = unread).start().await;
        let mut raw = world.agent().inside(HOST, b"http/1.1").await;
        let many = world.head("/").repeat(200);
        // Nothing goes in any more once a reply waits for its agent, which only time can tell.
        let flood = async { while let Ok(Ok(())) = timeout(Duration::from_secs(2), raw.try_send(&many)).await {} };
        soon("the end of the flood", flood).await;
        if revoked {
            world.node.revoke_session(&world.started.session, "test");
        }
        let ended = async { while raw.try_send(&many).await.is_ok() {} };
        soon("the end of the connection", ended).await;
        let records = world.stopped_all().await;
        let of = |kind: &str| records.iter().filter(|record| record["kind"] == kind).cloned().collect::<Vec<_>>();
        let outcomes = of("outcome");
        assert_eq!(outcomes.len(), of("intent").len(), "{revoked}");
        let cut: Vec<_> = outcomes.iter().filter(|outcome| outcome["outcome"] != "ok").collect();
        let [cut] = cut[..] else { panic!("{revoked}: one reply found no room: {cut:?}") };
        assert_eq!((&cut["outcome"], &cut["status"]), (&"aborted".into(), &200.into()), "{revoked}");
    }
}

#[tokio::test]
async fn core_that_polls_for_a_reply_serves_others_and_lets_go_when_the_session_ends() {
    let (asked, _) = Moments::default();
    let of = asked.clone();
    let script = move |mut raw: Raw, number| {
        let asked = of.clone();
        async move {
            let mut requests = 0;
            while !raw.head().await.is_empty() {
                requests += 1;
                if (number, requests) == (1, 2) {
                    asked.notify_one();
                    std::future::pending::<()>().await;
                }
                raw.send(HONEST).await;
            }
        }
    };
    let busy_poll = Duration::from_millis(300);
    let world = World::build()
        .settings(move |s| {
            s.cores = 1;
            s.upstream.busy_poll = busy_poll;
        })
        .script(script)
        .start()
        .await;
    assert_eq!(world.agent().ask(HOST, world.get("/")).await.text(), "honest");
    let mut waiting = world.agent().inside(HOST, b"http/1.1").await;
    // Only time makes an exchange one that is alone.
    tokio::time::sleep(busy_poll * 8).await;
    waiting.send(world.head("/")).await;
    soon("the request", asked.notified()).await;
    let served = soon("the reply to another", world.agent().ask(HOST, world.get("/"))).await;
    assert_eq!((served.status.as_u16(), served.text().as_str()), (200, "honest"));
    world.node.revoke_session(&world.started.session, "test");
    let reply = soon("the refusal", waiting.reply()).await.expect("a reply");
    assert_eq!((reply.status, reply.code.as_str()), (403, "session_revoked"));
}

/// Somebody who accepts connections and says nothing on them.
async fn silent() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let at = listener.local_addr().expect("an address");
    (listener, at)
}

#[tokio::test]
async fn exchange_that_ends_while_its_upstream_is_dialled_never_uses_its_key() {
    for agent_leaves in [false, true] {
        let (listener, at) = silent().await;
        let world = World::build()
            .settings(move |s| {
                s.upstream.resolve.insert(Authority::parse(HOST, 443).expect("an authority"), at);
            })
            .start()
            .await;
        let mut raw = world.agent().inside(HOST, b"http/1.1").await;
        raw.send(world.head("/")).await;
        let (mut dialled, _) = soon("the connection", listener.accept()).await.expect("accepted");
        if agent_leaves {
            drop(raw);
        } else {
            world.node.revoke_token(&world.token, "test");
            let reply = raw.reply().await.expect("a reply");
            assert_eq!((reply.status, reply.code.as_str()), (403, "token_revoked"));
        }
        let mut hello = Vec::new();
        let left = soon("the end of the upstream's connection", dialled.read_to_end(&mut hello)).await;
        assert!(left.is_ok_and(|len| len > 0), "{agent_leaves}");
        assert_eq!(world.stopped("intent").await.len(), 0, "{agent_leaves}");
    }
}

#[tokio::test]
async fn key_that_is_bound_while_the_reply_is_awaited_does_not_come_back_in_it() {
    const LATER: &str = "sk-stored-afterwards-7c";
    let (has, go) = Moments::default();
    let of = (has.clone(), go.clone());
    let script = move |mut raw: Raw, _| {
        let (has, go) = of.clone();
        async move {
            raw.head().await;
            has.notify_one();
            go.notified().await;
            raw.send(format!("HTTP/1.1 200 OK\r\nx-{LATER}: {LATER}\r\ncontent-length: 23\r\n\r\n{LATER}")).await;
            raw.rest().await;
        }
    };
    let world = World::build().script(script).start().await;
    let mut raw = world.agent().inside(HOST, b"http/1.1").await;
    raw.send(world.head("/")).await;
    soon("the request", has.notified()).await;
    let key = &world.key;
    let name = "later".parse().expect("a name");
    let (destination, shape) = (key.destination.clone(), key.shape.clone());
    let secret = Secret::new(LATER.as_bytes().to_vec());
    world.node.add_key(&name, &key.provider, key.environment, destination, shape, &secret).expect("a key");
    go.notify_one();
    let reply = raw.reply().await.expect("a reply");
    assert_eq!((reply.status, reply.body), (200, b"*".repeat(23)));
    assert!(!reply.head.contains("stored-afterwards"), "{}", reply.head);
}

#[tokio::test]
async fn what_goes_another_way_is_sent_and_recorded_once() {
    // The upstream speaks HTTP/2 only, which is known when it was dialled; later it is known before.
    let world = World::build().upstream(|u| u.alpn = vec!["h2"]).start().await;
    let (gone, value) = world.node.mint(&world.started, &world.key).expect("a token");
    world.node.revoke_token(&gone, "test");
    for body in ["first", "second"] {
        let mut agent = world.agent().http1::<Full<Bytes>>(HOST).await;
        assert_eq!(agent.ask(world.request("POST", "/", body)).await.status, 200);
        let bodies: Vec<_> = world.upstream.received().iter().map(|r| r.body.clone()).collect();
        assert_eq!(bodies.last().map(|body| &body[..]), Some(body.as_bytes()));
    }
    let mut raw = world.agent().inside(HOST, b"http/1.1").await;
    raw.send(format!("GET / HTTP/1.1\r\nhost: {HOST}\r\nauthorization: Bearer {}\r\n\r\n", value.expose())).await;
    assert_eq!(raw.reply().await.expect("a reply").code, "token_revoked");
    assert_eq!(world.upstream.received().len(), 2);
    world.node.stop(Duration::from_secs(5)).await;
    let filter = sallyport::audit::Filter { limit: 10_000, ..Default::default() };
    let records = sallyport::audit::query(&world.home.audit_dir(), &filter).expect("readable");
    let count = |kind: &str| records.iter().filter(|record| record["kind"] == kind).count();
    assert_eq!((count("intent"), count("outcome"), count("denied")), (2, 2, 1));
}
