//! Bodies that are too long to be awaited: they go up while they come, and whatever becomes of one, what is
//! left of it is never taken for anything else.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::Moments;
use crate::support::world::{Build, HOST, OTHER};
use crate::support::{Raw, Reply, World, soon};

/// One that a key is bound to, and one that none is.
const HOSTS: [&str; 2] = [HOST, OTHER];

fn build() -> Build {
    World::build().upstream(|u| {
        u.host = format!("{HOST},{OTHER}");
        u.alpn = vec!["http/1.1"];
    })
}

/// A head that announces so many bytes, with a token where a key is.
fn head(world: &World, host: &str, method: &str, len: usize) -> String {
    let token = if host == HOST { format!("authorization: {}\r\n", world.bearer()) } else { String::new() };
    format!("{method} / HTTP/1.1\r\nhost: {host}\r\n{token}content-length: {len}\r\n\r\n")
}

/// Bytes that tell their place.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at / 251 + at) as u8).collect()
}

async fn inside(world: &World, host: &str) -> Raw {
    world.agent().inside(host, b"http/1.1").await
}

#[tokio::test]
async fn bodies_of_every_length_arrive_as_they_are_and_what_follows_them_is_the_next_request() {
    let world = build().answer(|asked| Reply::text(format!("{} {}", asked.method, asked.body.len()))).start().await;
    let whole = 65_536;
    let lengths = [0, 1, 16_384, whole - 1, whole, whole + 1, 2 * whole, 2 * whole + 17, 3 << 20];
    for host in HOSTS {
        let mut raw = inside(&world, host).await;
        for len in lengths {
            // The next one stands behind the body in one piece with its end.
            let all = [
                head(&world, host, "PUT", len).into_bytes(),
                pattern(len),
                head(&world, host, "HEAD", len).into_bytes(),
                pattern(len),
                head(&world, host, "PATCH", 2).into_bytes(),
                b"ok".to_vec(),
            ];
            let sent = async {
                for piece in all.concat().chunks(100_000) {
                    raw.send(piece).await;
                }
            };
            sent.await;
            assert_eq!(raw.reply().await.expect("a reply").body, format!("PUT {len}").as_bytes(), "{host}");
            let of_head = raw.head().await;
            assert!(of_head.starts_with("HTTP/1.1 200"), "{of_head}");
            assert_eq!(raw.reply().await.expect("a reply").body, b"PATCH 2", "{host} {len}");
        }
    }
    for request in world.upstream.received() {
        assert!(request.body == pattern(request.body.len()) || request.body == "ok", "{}", request.body.len());
    }
    assert_eq!(world.upstream.connections(), 2, "each is used again");
    let came: u64 = world.stopped("outcome").await.iter().filter_map(|outcome| outcome["bytesIn"].as_u64()).sum();
    assert_eq!(came, lengths.iter().map(|len| 2 * *len as u64 + 2).sum::<u64>());
}

#[tokio::test]
async fn head_and_what_there_is_of_a_body_go_on_before_the_rest_is_there() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let script = move |mut raw: Raw, _| {
        let tell = tell.clone();
        async move {
            raw.head().await;
            for _ in 0..4 {
                let piece = raw.exactly(50_000).await;
                tell.send(piece).expect("the test runs");
                // Its reply begins before the request has ended, too.
                if raw.seen.len() < 100_000 {
                    raw.send("HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n").await;
                }
                raw.send("piece").await;
            }
            raw.rest().await;
        }
    };
    let world = build().script(script).start().await;
    for host in HOSTS {
        let mut raw = inside(&world, host).await;
        raw.send(head(&world, host, "POST", 200_000)).await;
        for (n, piece) in pattern(200_000).chunks(50_000).enumerate() {
            raw.send(piece).await;
            assert!(soon("a piece", told.recv()).await.expect("told") == piece, "{host} {n}");
            if n == 0 {
                assert!(raw.head().await.starts_with("HTTP/1.1 200"));
            }
            assert_eq!(raw.exactly(5).await, b"piece", "{host} {n}");
        }
    }
}

#[tokio::test]
async fn whole_reply_before_the_end_of_an_upload_ends_neither_and_its_connection_is_used_by_nobody_else() {
    const LEN: usize = 1 << 20;
    let (tell, mut told) = mpsc::unbounded_channel();
    let script = move |mut raw: Raw, number| {
        let tell = tell.clone();
        async move {
            raw.head().await;
            if number % 2 == 0 {
                raw.send("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nsecond").await;
                raw.rest().await;
                return;
            }
            let mut all = raw.exactly(1000).await;
            raw.send("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nearly").await;
            all.extend(raw.rest().await);
            tell.send(all).expect("the test runs");
        }
    };
    let world = build().script(script).start().await;
    for host in HOSTS {
        let mut raw = inside(&world, host).await;
        let body = pattern(LEN);
        raw.send([head(&world, host, "POST", LEN).as_bytes(), &body[..100_000]].concat()).await;
        assert_eq!(raw.reply().await.expect("a reply").body, b"early");
        raw.send([&body[100_000..], head(&world, host, "GET", 0).as_bytes()].concat()).await;
        assert!(soon("the body", told.recv()).await.expect("told") == body, "{host}: all of it and nothing else");
        assert_eq!(raw.reply().await.expect("a reply").body, b"second", "{host}");
    }
    assert_eq!(world.upstream.connections(), 4);
}

#[tokio::test]
async fn refusal_of_an_upload_by_an_upstream_that_closes_arrives_whole_and_nothing_follows_it() {
    for unread in [false, true] {
        let script = move |mut raw: Raw, _| async move {
            raw.head().await;
            raw.exactly(65_536).await;
            raw.send("HTTP/1.1 413 Payload Too Large\r\ncontent-length: 3\r\nconnection: close\r\n\r\nbig").await;
            if !unread {
                raw.finish().await;
                raw.exactly(4 << 20).await;
            }
            // What is unread when the connection is dropped makes the system reset it.
        };
        let world = build().script(script).start().await;
        for round in 0..20 {
            let host = HOSTS[round % 2];
            let mut raw = inside(&world, host).await;
            raw.send(head(&world, host, "POST", 64 << 20)).await;
            for piece in pattern(8 << 20).chunks(1 << 20) {
                if raw.try_send(piece).await.is_err() {
                    break;
                }
            }
            let reply = raw.reply().await.expect("a reply");
            assert_eq!((reply.status, &reply.body[..]), (413, &b"big"[..]), "{unread} {round}");
            assert_eq!(raw.rest().await, b"", "{unread} {round}");
        }
    }
}

#[tokio::test]
async fn upstream_that_closes_without_a_word_is_told_and_the_connection_ends_with_the_rest_unread() {
    let script = |mut raw: Raw, _| async move {
        raw.head().await;
        raw.exactly(100_000).await;
    };
    let world = build().script(script).start().await;
    for host in HOSTS {
        let mut raw = inside(&world, host).await;
        raw.send([head(&world, host, "POST", 1 << 30).as_bytes(), &pattern(1 << 20)].concat()).await;
        let reply = raw.reply().await.expect("a reply");
        assert_eq!((reply.status, reply.code.as_str()), (502, "upstream_unreachable"));
        assert!(reply.head.to_ascii_lowercase().contains("\r\nconnection: close\r\n"), "{}", reply.head);
        assert_eq!(raw.rest().await, b"");
    }
}

#[tokio::test]
async fn upload_that_its_agent_breaks_off_is_never_whole_at_the_upstream() {
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum End {
        Half,
        Gone,
        Still,
    }
    for end in [End::Half, End::Gone, End::Still] {
        let (tell, mut told) = mpsc::unbounded_channel();
        let script = move |mut raw: Raw, _| {
            let tell = tell.clone();
            async move {
                raw.head().await;
                let begun = raw.exactly(70_000).await.len();
                tell.send(begun).expect("the test runs");
                let all = begun + raw.rest().await.len();
                tell.send(all).expect("the test runs");
            }
        };
        let world =
            build().settings(|s| s.proxy.deadlines.idle_body = Duration::from_millis(300)).script(script).start().await;
        for host in HOSTS {
            let mut raw = inside(&world, host).await;
            raw.send([head(&world, host, "POST", 100_000).as_bytes(), &pattern(70_000)].concat()).await;
            assert_eq!(soon("a beginning", told.recv()).await, Some(70_000));
            let mut raw = match end {
                End::Gone => {
                    drop(raw);
                    None
                }
                End::Half => {
                    raw.finish().await;
                    Some(raw)
                }
                End::Still => Some(raw),
            };
            if let Some(raw) = &mut raw {
                let reply = raw.reply().await.expect("a reply");
                assert_eq!((reply.status, reply.code.as_str()), (400, "bad_request"), "{end:?} {host}");
                assert_eq!(raw.rest().await, b"");
            }
            assert_eq!(soon("the end", told.recv()).await, Some(70_000), "{end:?} {host}");
        }
        let outcomes = world.stopped("outcome").await;
        let words: Vec<_> = outcomes.iter().map(|o| (o["outcome"].as_str(), o["bytesIn"].as_u64())).collect();
        assert_eq!(words, [(Some("denied"), Some(70_000))], "{end:?}");
    }
}

#[tokio::test]
async fn running_upload_ends_with_its_session_though_its_upstream_takes_nothing() {
    for reads in [true, false] {
        let (has, left) = Moments::default();
        let of = (has.clone(), left.clone());
        let script = move |mut raw: Raw, _| {
            let (has, left) = of.clone();
            async move {
                raw.head().await;
                has.notify_one();
                if reads {
                    raw.rest().await;
                } else {
                    // Until what was sent can't be taken any more, which only time can tell.
                    tokio::time::sleep(Duration::from_millis(1500)).await;
                    raw.rest().await;
                }
                left.notify_one();
            }
        };
        for host in HOSTS {
            let world = build().script(script.clone()).start().await;
            let mut raw = world.known_agent().inside(host, b"http/1.1").await;
            raw.send(head(&world, host, "POST", 1 << 30)).await;
            let piece = pattern(1 << 20);
            let mut sent = 0;
            let most = if reads { 4 } else { 64 };
            while sent < most
                && let Ok(()) = tokio::time::timeout(Duration::from_millis(300), raw.send(&piece)).await
            {
                sent += 1;
            }
            assert!(sent < 64, "what an upstream doesn't take isn't taken from the agent: {sent} MiB");
            soon("the request", has.notified()).await;
            let began = Instant::now();
            world.node.revoke_session(&world.started.session, "test");
            let reply = raw.reply().await.expect("a reply");
            assert_eq!((reply.status, reply.code.as_str()), (403, "session_revoked"), "{host}");
            assert!(began.elapsed() < Duration::from_secs(1), "{host}: {:?}", began.elapsed());
            soon("the end at the upstream", left.notified()).await;
        }
    }
}

#[tokio::test]
async fn upload_arrives_whole_although_its_agent_does_not_read_the_reply_meanwhile() {
    const LEN: usize = 16 << 20;
    let (tell, mut told) = mpsc::unbounded_channel();
    let script = move |mut raw: Raw, _| {
        let tell = tell.clone();
        async move {
            raw.head().await;
            raw.exactly(1).await;
            let (mut read, mut write) = tokio::io::split(raw.into_stream());
            let replying = tokio::spawn(async move {
                use tokio::io::AsyncWriteExt as _;
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {LEN}\r\n\r\n");
                write.write_all(head.as_bytes()).await.expect("taken");
                write.write_all(&pattern(LEN)).await.expect("taken");
                write.flush().await.expect("taken");
                write
            });
            let mut all = vec![0; LEN - 1];
            tokio::io::AsyncReadExt::read_exact(&mut read, &mut all).await.expect("all of it");
            tell.send(()).expect("the test runs");
            let _kept = replying.await;
        }
    };
    let world = build().script(script).start().await;
    for host in HOSTS {
        let mut raw = inside(&world, host).await;
        raw.send([head(&world, host, "POST", LEN).as_bytes(), b"1"].concat()).await;
        let reply_begins = raw.head().await;
        assert!(reply_begins.starts_with("HTTP/1.1 200"), "{reply_begins}");
        for piece in pattern(LEN - 1).chunks(1 << 20) {
            raw.send(piece).await;
        }
        soon("the upload", told.recv()).await.expect("told");
        assert!(raw.exactly(LEN).await == pattern(LEN), "{host}");
    }
}

#[tokio::test]
async fn uploads_by_the_gateway_and_to_an_upstream_that_speaks_http2_only_arrive() {
    for alpn in ["http/1.1", "h2"] {
        let listens = build().settings(|s| s.gateway = Some(([127, 0, 0, 1], 0).into()));
        let world = listens.upstream(|u| u.alpn = vec![alpn]).start().await;
        let gateway = tokio::net::TcpStream::connect(world.node.gateway.expect("it listens")).await.expect("connected");
        for (mut raw, path) in [(Raw::new(gateway), "/upstream/"), (inside(&world, HOST).await, "/")] {
            for len in [70_000, 1 << 20] {
                let head = head(&world, HOST, "POST", len).replacen(" / ", &format!(" {path} "), 1);
                raw.send([head.as_bytes(), &pattern(len)].concat()).await;
                let reply = raw.reply().await;
                assert_eq!(reply.map(|reply| reply.status), Some(200), "{alpn} {path} {len}");
            }
        }
        let received = world.upstream.received();
        assert_eq!(received.len(), 4);
        for request in received {
            assert!(request.body == pattern(request.body.len()) && request.body.len() >= 70_000, "{alpn}");
            assert_eq!(request.header("authorization"), format!("Bearer {}", world.secret));
        }
    }
}

#[tokio::test]
async fn upload_that_goes_on_behind_its_whole_reply_ends_with_its_session() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let script = move |mut raw: Raw, _| {
        let tell = tell.clone();
        async move {
            raw.head().await;
            raw.exactly(1000).await;
            raw.send("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nearly").await;
            raw.rest().await;
            tell.send(Instant::now()).expect("the test runs");
        }
    };
    // On the plain way, and on the full one.
    for way in ["", "te: trailers\r\n"] {
        for host in HOSTS {
            let world = build().script(script.clone()).start().await;
            let mut raw = world.known_agent().inside(host, b"http/1.1").await;
            let head =
                head(&world, host, "POST", 1 << 30).replacen("content-length", &format!("{way}content-length"), 1);
            raw.send([head.as_bytes(), &pattern(100_000)].concat()).await;
            assert_eq!(raw.reply().await.expect("a reply").body, b"early");
            let began = Instant::now();
            world.node.revoke_session(&world.started.session, "test");
            while told.is_empty() && began.elapsed() < Duration::from_secs(3) {
                raw.send(pattern(1000)).await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let ended = told.try_recv().ok().map(|at| at.saturating_duration_since(began));
            assert!(ended.is_some_and(|after| after < Duration::from_secs(1)), "{way:?} {host}: {ended:?}");
        }
    }
}

#[tokio::test]
async fn upload_whose_last_bytes_nobody_takes_ends_behind_its_whole_reply() {
    // No upstream takes anything; the first one's outcome tells how much is on its way then.
    let script = |mut raw: Raw, number| async move {
        raw.head().await;
        if number > 1 {
            raw.send("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nearly").await;
        }
        std::future::pending().await
    };
    let idle = Duration::from_millis(300);
    let deadlines = move |s: &mut sallyport::app::NodeSettings| {
        s.proxy.deadlines.idle_body = idle;
        s.upstream.deadlines.headers = 3 * idle;
    };
    let world = build().settings(deadlines).script(script).start().await;
    let mut raw = inside(&world, HOST).await;
    raw.send(head(&world, HOST, "POST", 64 << 20)).await;
    let piece = pattern(1 << 20);
    while tokio::time::timeout(idle, raw.try_send(&piece)).await.is_ok() {}
    drop(raw);
    let outcome = async {
        loop {
            if let Some(outcome) = world.records_of("outcome").first() {
                return outcome["bytesIn"].as_u64().expect("a number");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let most = usize::try_from(soon("the outcome", outcome).await).expect("few");
    // What TLS still holds of it then is a record or a few.
    for less in [72_000, 80_000] {
        let mut raw = inside(&world, HOST).await;
        raw.send([head(&world, HOST, "POST", most - less).as_bytes(), b"1"].concat()).await;
        assert_eq!(raw.reply().await.expect("a reply").body, b"early");
        for piece in pattern(most - less - 1).chunks(1 << 20) {
            raw.send(piece).await;
        }
        raw.send(head(&world, "elsewhere.test", "GET", 0)).await;
        // It waits for either to end, or for the next request's refusal if the system took everything.
        raw.reply().await;
    }
}
