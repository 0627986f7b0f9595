//! 1. The agent never sees a key.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::Request;
use http_body_util::{Empty, Full};

use crate::support::world::HOST;
use crate::support::{Received, Reply, World, emitted};

/// The key as the upstream received it.
fn key(received: &Received) -> String {
    received.header("authorization").trim_start_matches("Bearer ").to_owned()
}

fn json_units(text: &str) -> String {
    text.encode_utf16().map(|u| format!("\\u{u:04x}")).collect()
}

#[tokio::test]
async fn key_reaches_the_upstream_and_comes_back_in_no_view() {
    type View = (&'static str, fn(&str) -> String);
    let views: &[View] = &[
        ("raw", str::to_owned),
        ("in JSON", |k| serde_json::to_string(&k).expect("JSON")),
        ("in JSON by code units", |k| format!("\"{}\"", json_units(k))),
        ("hex", |k| hex::encode(k)),
        ("upper-case hex", |k| hex::encode_upper(k)),
        ("base64", |k| STANDARD.encode(k)),
        ("base64 of a pair", |k| STANDARD.encode(format!("user:{k}"))),
        ("base64url", |k| URL_SAFE_NO_PAD.encode(format!("ab{k}"))),
        ("percent", |k| k.bytes().map(|b| format!("%{b:02X}")).collect()),
        ("percent where needed", |k| k.replace('/', "%2F").replace('+', "%2B").replace('"', "%22").replace('&', "%26")),
        ("HTML", |k| k.replace('&', "&amp;").replace('"', "&quot;")),
        ("HTML with numbers", |k| k.replace('&', "&#38;").replace('"', "&#34;")),
    ];
    for (name, view) in views {
        let world = World::build().answer(|r| Reply::text(format!("you sent <{}>!", view(&key(r))))).start().await;
        let answer = world.agent().ask(HOST, world.get("/echo")).await;
        assert_eq!(world.upstream.only().header("authorization"), format!("Bearer {}", world.secret), "{name}");
        let expected = format!("you sent <{}>!", view(&world.secret));
        assert_eq!(answer.body.len(), expected.len(), "{name}: lengths hold");
        assert!(answer.text().contains("***"), "{name}: {}", answer.text());
        world.nothing_leaked(&[answer]).await;
    }
}

#[tokio::test]
async fn key_is_masked_in_headers_errors_redirects_and_trailers() {
    let world = World::build()
        .answer(|r| {
            let key = key(r);
            let location = format!("https://elsewhere.test/?k={}", key.replace('"', "%22").replace('&', "%26"));
            Reply::text(format!("bad key {key}"))
                .status(401)
                .with("x-echo", &key)
                .with("location", &location)
                .with("set-cookie", &format!("k={}", STANDARD.encode(&key)))
                .with("trailer", "x-late")
                .trailer("x-late", &key)
        })
        .start()
        .await;
    let mut http2 = world.agent().http2(HOST).await;
    let answers = [http2.ask(world.get2("/")).await, world.agent().ask(HOST, world.get("/")).await];
    for answer in &answers {
        assert_eq!(answer.status, 401);
        for name in ["x-echo", "location", "set-cookie"] {
            assert!(answer.header(name).contains("***"), "{name}: {}", answer.header(name));
        }
        assert!(answer.text().starts_with("bad key ***"), "{}", answer.text());
    }
    let late = answers[0].trailers.as_ref().expect("trailers always pass on HTTP/2");
    assert!(late["x-late"].to_str().expect("text").contains("***"));
    world.nothing_leaked(&answers).await;
}

#[tokio::test]
async fn key_that_is_cut_into_pieces_is_masked_at_every_cut() {
    for protocol in ["h2", "http/1.1"] {
        let world = World::build()
            .upstream(|setup| setup.alpn = vec![protocol])
            .answer(|r| {
                let text = format!("before {} after", key(r)).into_bytes();
                let size: usize = r.path.trim_start_matches('/').parse().expect("a number");
                Reply::pieces(text.chunks(size).map(<[u8]>::to_vec))
            })
            .start()
            .await;
        let mut answers = Vec::new();
        let mut http2 = world.agent().http2(HOST).await;
        for size in [1, 2, 3, 5, 7, 11, 13, 17, 23, 31] {
            let answer = http2.ask(world.get2(&format!("/{size}"))).await;
            assert_eq!(answer.text(), format!("before {} after", "*".repeat(world.secret.len())), "{protocol}, {size}");
            answers.push(answer);
        }
        world.nothing_leaked(&answers).await;
    }
}

#[tokio::test]
async fn key_behind_megabytes_of_body_is_masked() {
    let world = World::build()
        .answer(|r| Reply::pieces([vec![b's'; 4 << 20], key(r).into_bytes(), vec![b'k'; 1 << 20]]))
        .start()
        .await;
    let answer = world.agent().ask(HOST, world.get("/")).await;
    assert_eq!(answer.body.len(), (5 << 20) + world.secret.len());
    assert!(answer.whole);
    world.nothing_leaked(&[answer]).await;
}

#[tokio::test]
async fn key_that_was_stored_earlier_is_masked_in_a_reply_without_any_token() {
    let world = World::build().answer(|r| Reply::text(format!("stored: {}", r.header("x-remembered")))).start().await;
    // The upstream remembers the key and returns it to a request that carries none.
    let request = Request::get("/").header("host", HOST).header("x-remembered", &world.secret).body(Empty::new());
    let answer = world.agent().http1::<Empty<bytes::Bytes>>(HOST).await.ask(request.expect("a request")).await;
    assert!(answer.text().starts_with("stored: ***"), "{}", answer.text());
    assert_eq!(emitted::find(&answer.body, &world.secret), None);
}

#[tokio::test]
async fn raw_replies_of_every_framing_are_masked() {
    // The upstream can't know the key before it receives it, so these replies carry a key that is
    // bound to the host and that this request doesn't inject.
    static CASES: &[(&str, &[u8])] = &[
        ("reason phrase", b"HTTP/1.1 200 sk-stored-elsewhere-9f\r\ncontent-length: 2\r\n\r\nok"),
        ("ended by close", b"HTTP/1.1 200 OK\r\n\r\nkey sk-stored-elsewhere-9f"),
        ("HTTP/1.0", b"HTTP/1.0 200 OK\r\nx-k: sk-stored-elsewhere-9f\r\n\r\nkey sk-stored-elsewhere-9f"),
        (
            "early hints",
            b"HTTP/1.1 103 Early Hints\r\nlink: <sk-stored-elsewhere-9f>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        ),
        (
            "trailer",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-k\r\n\r\n2\r\nok\r\n0\r\nx-k: sk-stored-elsewhere-9f\r\n\r\n",
        ),
        (
            "chunk extension",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2;k=sk-stored-elsewhere-9f\r\nok\r\n0\r\n\r\n",
        ),
    ];
    for (name, reply) in CASES {
        let world = World::build().raw(reply, true).start().await;
        let stored = sallyport::model::Secret::new(b"sk-stored-elsewhere-9f".to_vec());
        let (provider, destination) = (&world.key.provider, world.key.destination.clone());
        let other = "other_key".parse().expect("a name");
        world
            .node
            .add_key(&other, provider, world.key.environment, destination, world.key.shape.clone(), &stored)
            .expect("a key");
        let head = format!("GET / HTTP/1.1\r\nhost: {HOST}\r\nauthorization: {}\r\n\r\n", world.bearer());
        let got = world.agent().raw(HOST, head.as_bytes()).await;
        assert!(got.starts_with("HTTP/1.1 200"), "{name}: {got}");
        assert_eq!(emitted::find(got.as_bytes(), "sk-stored-elsewhere-9f"), None, "{name}");
    }
}

#[tokio::test]
async fn request_bodies_and_replies_stream_and_nothing_is_gathered() {
    let (send, reply) = Reply::live();
    let reply = std::sync::Mutex::new(Some(reply));
    let world =
        World::build().answer(move |_| reply.lock().expect("not poisoned").take().expect("one request")).start().await;
    let mut agent = world.agent().http1::<Full<bytes::Bytes>>(HOST).await;
    let mut response = agent.send(world.get("/events")).await.expect("an answer");
    for n in 0..5 {
        send.send(format!("data: {n}\n\n").into()).await.expect("sent");
        // The next piece is sent only when this one has arrived.
        let frame = http_body_util::BodyExt::frame(response.body_mut()).await.expect("a frame").expect("whole");
        assert_eq!(frame.into_data().expect("data"), format!("data: {n}\n\n"));
    }
}
