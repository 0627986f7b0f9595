//! 9. Nothing is unbounded: every wait ends.

use std::time::Duration;

use crate::support::world::{Build, HOST};
use crate::support::{Raw, World, frames, soon};

fn hasty() -> Build {
    World::build().settings(|s| {
        let short = Duration::from_millis(300);
        (s.proxy.deadlines.head, s.proxy.deadlines.tls, s.proxy.deadlines.idle_body) = (short, short, short);
        s.gateway = Some(([127, 0, 0, 1], 0).into());
    })
}

/// Says a byte every 50 ms until the other side ends the connection.
async fn drip(mut raw: Raw, bytes: &[u8]) {
    let mut bytes = bytes.iter().cycle();
    loop {
        if raw.try_send([*bytes.next().expect("endless")]).await.is_err() {
            return;
        }
        if let Ok(piece) = tokio::time::timeout(Duration::from_millis(50), raw.some()).await
            && piece.is_empty()
        {
            return;
        }
    }
}

#[tokio::test]
async fn heads_that_drip_are_given_up() {
    let world = hasty().start().await;
    let bare = world.agent().bare().await;
    soon("the end of a dripping CONNECT", drip(bare, b"CONNECT ")).await;
    let mut bare = world.agent().bare().await;
    bare.send(format!("CONNECT {HOST}:443 HTTP/1.1\r\n")).await;
    soon("the end of CONNECT's dripping fields", drip(bare, b"x: y\r\n")).await;
    let mut inside = world.agent().inside(HOST, b"http/1.1").await;
    inside.send("GET / HTTP/1.1\r\n").await;
    soon("the end of dripping fields in a tunnel", drip(inside, b"x: y\r\n")).await;
    let gateway = tokio::net::TcpStream::connect(world.node.gateway.expect("it listens")).await.expect("connected");
    soon("the end of a dripping request to the gateway", drip(Raw::new(gateway), b"GET /upstream")).await;
    // Half a block of fields over HTTP/2, whose frame goes on byte by byte.
    let mut inside = world.agent().inside(HOST, b"h2").await;
    frames::open(&mut inside).await;
    inside.send([0, 0x3f, 0, frames::HEADERS, frames::END_HEADERS, 0, 0, 0, 1]).await;
    soon("the end of a dripping frame", drip(inside, &[0x3f])).await;
    assert!(world.upstream.received().is_empty());
    assert_eq!(world.agent().ask(HOST, world.get("/")).await.status, 200);
}

#[tokio::test]
async fn connections_on_which_nothing_happens_are_closed() {
    let world = hasty().start().await;
    for protocol in [&b"http/1.1"[..], b"h2"] {
        let mut raw = world.agent().inside(HOST, protocol).await;
        soon("the end of a connection that never spoke", raw.rest()).await;
    }
    let mut raw = world.agent().inside(HOST, b"http/1.1").await;
    raw.send(world.head("/")).await;
    assert_eq!(raw.reply().await.expect("an answer").status, 200);
    assert_eq!(soon("the end of an idle connection", raw.rest()).await, b"");
    let gateway = tokio::net::TcpStream::connect(world.node.gateway.expect("it listens")).await.expect("connected");
    soon("the end of a silent gateway connection", Raw::new(gateway).rest()).await;
}

#[tokio::test]
async fn idle_connections_and_many_names_keep_nobody_waiting() {
    let world = World::start().await;
    let mut held = Vec::new();
    for _ in 0..300 {
        held.push(world.agent().bare().await);
    }
    for _ in 0..30 {
        held.push(world.agent().inside(HOST, b"h2").await);
        held.push(world.agent().inside(HOST, b"http/1.1").await);
    }
    let began = std::time::Instant::now();
    for n in 0..40 {
        let name = format!("host-{n}.upstream.test");
        world.agent().tls(&format!("{name}:443"), &name, &[b"http/1.1"]).await;
    }
    assert_eq!(world.agent().ask(HOST, world.get("/")).await.status, 200);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

/// Answers every PING, as a client does that means well.
async fn polite(raw: &mut Raw) {
    while let Some(frame) = frames::next(raw).await {
        if frame.kind == frames::PING && frame.flags & frames::ACK == 0 {
            raw.send(frames::frame(frames::PING, frames::ACK, 0, &frame.payload)).await;
        }
    }
}

#[tokio::test]
async fn idle_http2_connection_is_closed_although_its_agent_is_there() {
    let world = hasty().start().await;
    let mut raw = world.agent().inside(HOST, b"h2").await;
    frames::open(&mut raw).await;
    raw.send(frames::frame(frames::SETTINGS, frames::ACK, 0, &[])).await;
    soon("the end of an idle connection", polite(&mut raw)).await;
}

#[tokio::test]
async fn running_reply_is_no_idle_connection() {
    use http_body_util::BodyExt as _;
    for http2 in [false, true] {
        let (feed, reply) = crate::support::Reply::live();
        let reply = std::sync::Mutex::new(Some(reply));
        let answer = move |_: &_| reply.lock().expect("not poisoned").take().expect("one request");
        let world = World::build().answer(answer).settings(|s| {
            let short = Duration::from_millis(300);
            (s.proxy.deadlines.head, s.proxy.deadlines.idle_body) = (short, short);
        });
        let world = world.start().await;
        let agent = world.agent();
        let mut sender = if http2 { agent.http2(HOST).await } else { agent.http1(HOST).await };
        let request = if http2 { world.get2("/") } else { world.get("/") };
        let mut reply = sender.send(request).await.expect("an answer");
        for n in 0..2 {
            // Longer than every deadline of the agent's side: events may be rare.
            tokio::time::sleep(Duration::from_millis(700)).await;
            feed.send(n.to_string().into()).await.expect("sent");
            let frame = soon("an event", reply.body_mut().frame()).await;
            assert_eq!(frame.expect("a frame").expect("whole").into_data().expect("data"), n.to_string());
        }
    }
}
