//! Tokens where they don't belong, and requests that say one thing and mean another.

use std::io::Write as _;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use sallyport::model::{Destination, ProxyToken, Secret, TokenForm, TokenShape};

use crate::support::world::{HOST, OTHER};
use crate::support::{Reply, World, emitted};

fn post(world: &World) -> http::request::Builder {
    Request::post("/v1/x").header("host", HOST).header("authorization", world.bearer())
}

fn empty(request: http::request::Builder) -> Request<Full<Bytes>> {
    request.body(Full::default()).expect("a request")
}

#[tokio::test]
async fn token_of_one_key_brings_no_other_key() {
    let world = World::build().slots(&["bearer", "header:x-api-key"]).start().await;
    let second = Secret::new(b"sk-second-0123456789".to_vec());
    let (key, name) = (&world.key, "second".parse().expect("a name"));
    let slots = vec!["header:x-second".parse().expect("a slot")];
    let destination = Destination { slots, ..key.destination.clone() };
    let second = world
        .node
        .add_key(&name, &key.provider, key.environment, destination, key.shape.clone(), &second)
        .expect("a key");
    let keys = [key.clone(), second.clone()];
    let hour = Duration::from_secs(3600);
    let session = world.node.start_session(None, key.environment, &keys, hour).expect("a session");
    let (_, first) = world.node.mint(&session, key).expect("a token");
    let (_, other) = world.node.mint(&session, &second).expect("a token");
    let ask = async |fields: &[(&'static str, String)]| {
        let mut request = Request::get("/").header("host", HOST);
        for (name, value) in fields {
            request = request.header(*name, value);
        }
        world.agent().ask(HOST, empty(request)).await
    };
    // Each in its slot.
    let bearer = |token: &ProxyToken| ("authorization", format!("Bearer {}", token.expose()));
    let answer = ask(&[bearer(&first), ("x-second", other.expose().to_owned())]).await;
    assert_eq!(answer.status, 200);
    let received = world.upstream.only();
    assert_eq!(received.header("authorization"), format!("Bearer {}", world.secret));
    assert_eq!(received.header("x-second"), "sk-second-0123456789");
    // The second in the slots of the first, alone and beside it.
    for fields in [
        vec![bearer(&other)],
        vec![("x-api-key", other.expose().to_owned())],
        vec![bearer(&other), ("x-second", first.expose().to_owned())],
        vec![bearer(&first), ("x-api-key", other.expose().to_owned())],
    ] {
        let answer = ask(&fields).await;
        assert_eq!((answer.status.as_u16(), answer.code()), (403, "token_misplaced"), "{fields:?}");
    }
    assert_eq!(world.upstream.received().len(), 1);
}

#[tokio::test]
async fn token_in_a_compressed_body_stays_text() {
    let world = World::start().await;
    let mut coder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    write!(coder, "{{\"key\": \"{}\"}}", world.token()).expect("coded");
    let body = coder.finish().expect("coded");
    let request = post(&world).header("content-encoding", "gzip").header("content-type", "application/json");
    let answer = world.agent().ask(HOST, request.body(Full::new(body.clone().into())).expect("a request")).await;
    assert_eq!(answer.status, 200);
    let received = world.upstream.only();
    assert_eq!((&received.body[..], received.header("content-encoding")), (&body[..], "gzip"));
}

#[tokio::test]
async fn guesses_open_nothing_are_counted_and_keep_nobody_waiting() {
    let world = World::start().await;
    let mut agent = world.agent().http2(HOST).await;
    let began = Instant::now();
    for n in 0..500 {
        let guess = ProxyToken::generate(TokenForm::Long, &TokenShape::default()).expect("random");
        let request =
            Request::get(format!("https://{HOST}/")).header("authorization", format!("Bearer {}", guess.expose()));
        let answer = agent.ask(empty(request)).await;
        assert_eq!((answer.status.as_u16(), answer.code()), (403, "token_unknown"), "{n}");
    }
    assert!(world.upstream.received().is_empty());
    assert!(world.node.metrics().contains("sallyport_denials_total{code=\"token_unknown\"} 500"));
    assert_eq!(agent.ask(world.get2("/")).await.status, 200);
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

#[tokio::test]
async fn huge_credentials_are_refused_and_nothing_breaks() {
    let world = World::start().await;
    for value in ["A".repeat(1 << 20), "=".repeat(30_000), "\u{ff}".repeat(20_000), ":".repeat(30_000)] {
        for name in ["authorization", "proxy-authorization"] {
            let head = format!("GET / HTTP/1.1\r\nhost: {HOST}\r\n{name}: Basic {value}\r\n\r\n");
            let got = world.agent().raw(HOST, head.as_bytes()).await;
            // Inside of a tunnel it is nobody's, and stays here.
            let stripped = got.starts_with("HTTP/1.1 200") && name == "proxy-authorization";
            let refused = got.is_empty() || got.starts_with("HTTP/1.1 4");
            assert!(refused || stripped, "{name}: {}", &got[..got.len().min(200)]);
            let mut bare = world.agent().bare().await;
            bare.send(format!("CONNECT {HOST}:443 HTTP/1.1\r\n{name}: Basic {value}\r\n\r\n")).await;
            let status = bare.reply().await.map_or(0, |reply| reply.status);
            assert!(
                status == 0 || status == 200 && name == "authorization" || (400..500).contains(&status),
                "{status}"
            );
        }
    }
    assert!(world.upstream.received().iter().all(|r| r.header("proxy-authorization").is_empty()));
    assert_eq!(world.agent().ask(HOST, world.get("/")).await.status, 200);
}

#[tokio::test]
async fn redirect_to_another_host_takes_neither_key_nor_token_along() {
    let elsewhere = |r: &crate::support::Received| {
        let to = format!(
            "https://{OTHER}/next?k={}",
            r.header("authorization").trim_start_matches("Bearer ").replace('"', "%22")
        );
        Reply::text("").status(307).with("location", &to)
    };
    let world = World::build().answer(elsewhere).start().await;
    let answer = world.agent().ask(HOST, world.get("/")).await;
    assert_eq!(answer.status, 307, "it is passed and not followed");
    let location = answer.header("location").to_owned();
    assert!(location.starts_with(&format!("https://{OTHER}/next?k=***")), "{location}");
    assert_eq!(world.upstream.received().len(), 1);
    // An agent that follows with all its headers, as careless ones do.
    let mut followed = world.get("/next");
    followed.headers_mut().insert("host", OTHER.parse().expect("a value"));
    let refused = world.agent().ask(OTHER, followed).await;
    assert_eq!((refused.status.as_u16(), refused.code()), (403, "host_not_allowed"));
    assert_eq!(world.upstream.received().len(), 1);
    world.nothing_leaked(&[answer, refused]).await;
}

#[tokio::test]
async fn ports_of_other_protocols_are_not_reached() {
    let world = World::start().await;
    for port in [22, 25, 53, 110, 587, 5432, 6379, 11211] {
        // HTTP in clear, whose lines a server of mail or a cache could take for commands.
        let mut bare = world.agent().bare().await;
        let url = format!("http://{OTHER}:{port}/");
        bare.send(format!("POST {url} HTTP/1.1\r\nhost: {OTHER}:{port}\r\ncontent-length: 6\r\n\r\nQUIT\r\n")).await;
        let reply = bare.reply().await.expect("an answer");
        assert_eq!((reply.status, reply.code.as_str()), (403, "destination_blocked"), "{port}");
        let stream = world.agent().tls(&format!("{OTHER}:{port}"), OTHER, &[b"http/1.1"]).await;
        let request = Request::get("/").header("host", format!("{OTHER}:{port}"));
        let answer = crate::support::agent::http1_on(stream).await.ask(empty(request)).await;
        assert_eq!((answer.status.as_u16(), answer.code()), (403, "destination_blocked"), "{port}");
        // What is no HTTP is never passed on, whatever the port.
        let mut tunnel =
            crate::support::Raw::new(world.agent().connect(&format!("{OTHER}:{port}")).await.expect("a tunnel"));
        tunnel.send("\x01SSH-2.0-x\r\n").await;
        assert_eq!(tunnel.rest().await, b"", "{port}");
    }
    assert_eq!(world.upstream.connections(), 0);
    // What an operator pinned is meant.
    let world = World::build().settings_of(|s, addr| {
        let authority = sallyport::model::Authority::parse(HOST, 6379).expect("an authority");
        s.upstream.resolve.insert(authority, addr);
    });
    let world = world.start().await;
    let stream = world.agent().tls(&format!("{HOST}:6379"), HOST, &[b"http/1.1"]).await;
    let request = Request::get("/").header("host", format!("{HOST}:6379"));
    let answer = crate::support::agent::http1_on(stream).await.ask(empty(request)).await;
    assert_ne!(answer.code(), "destination_blocked");
    assert_eq!(emitted::find(&answer.body, &world.secret), None);
}
