//! Requests that look plain and aren't quite.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::support::world::HOST;
use crate::support::{Raw, World, soon};

/// A GET with these fields beside its Host.
fn get(path: &str, fields: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\n{fields}\r\n")
}

#[tokio::test]
async fn fields_that_any_connection_header_names_stay_behind() {
    let world = World::start().await;
    let token = format!("Authorization: {}\r\n", world.bearer());
    for (n, (connection, status)) in [
        ("Connection: close\r\nConnection: x-hop\r\n", 200),
        ("Connection: keep-alive\r\nConnection: x-hop\r\n", 200),
        ("Connection: close, x-hop\r\n", 200),
        ("Connection: close\r\nConnection: authorization\r\n", 400),
        ("Connection: authorization\r\nConnection: close\r\n", 400),
    ]
    .into_iter()
    .enumerate()
    {
        let mut raw = world.agent().inside(HOST, b"http/1.1").await;
        raw.send(get(&format!("/{n}"), &format!("{connection}X-Hop: for you alone\r\n{token}"))).await;
        assert_eq!(raw.reply().await.expect("a reply").status, status, "{connection}");
    }
    let received = world.upstream.received();
    assert_eq!(received.len(), 3, "{received:?}");
    for request in received {
        assert_eq!(request.headers.get("x-hop"), None, "{}", request.path);
        assert_eq!(request.headers["authorization"], format!("Bearer {}", world.secret), "{}", request.path);
    }
}

#[tokio::test]
async fn token_that_authorization_has_encoded_beside_another_slot_is_refused() {
    let world = World::build().slots(&["header:x-api-key"]).start().await;
    let (_, other) = world.node.mint(&world.started, &world.key).expect("a token");
    for pair in [format!("user:{}", other.expose()), format!("{}:", other.expose())] {
        let basic = BASE64.encode(pair);
        let fields = format!("X-Api-Key: {}\r\nAuthorization: Basic {basic}\r\n", world.token());
        let mut raw = world.agent().inside(HOST, b"http/1.1").await;
        raw.send(get("/", &fields)).await;
        let reply = raw.reply().await.expect("a reply");
        assert_eq!((reply.status, reply.code.as_str()), (403, "token_misplaced"));
    }
    assert!(world.upstream.received().is_empty());
    // What is no token passes there, as it would without us.
    let fields = format!("X-Api-Key: {}\r\nAuthorization: Basic {}\r\n", world.token(), BASE64.encode("user:word"));
    let mut raw = world.agent().inside(HOST, b"http/1.1").await;
    raw.send(get("/", &fields)).await;
    assert_eq!(raw.reply().await.expect("a reply").status, 200);
    assert_eq!(world.upstream.only().headers["x-api-key"], world.secret.as_str());
}

#[tokio::test]
async fn head_that_never_pauses_for_long_ends_in_time_too() {
    let world = World::build()
        .settings(|s| {
            s.proxy.deadlines.head = Duration::from_millis(300);
            s.proxy.deadlines.whole_body = Duration::from_millis(100);
            s.proxy.deadlines.linger = Duration::from_millis(50);
        })
        .start()
        .await;
    let mut raw = world.agent().inside(HOST, b"http/1.1").await;
    raw.send("GET / HTTP/1.1\r\nx: ").await;
    let drip = async {
        while raw.try_send("y").await.is_ok() {
            // It is what the attack is made of: each piece comes while the one before it is still new.
            if let Ok(piece) = tokio::time::timeout(Duration::from_millis(5), raw.some()).await
                && piece.is_empty()
            {
                return;
            }
        }
    };
    soon("the end of a head that goes on and on", drip).await;
    assert!(world.upstream.received().is_empty());
}

#[tokio::test]
async fn what_is_refused_between_plain_requests_leaves_their_order() {
    let world = World::build().answer(|asked| crate::support::Reply::text(asked.path.clone())).start().await;
    let token = format!("Authorization: {}\r\n", world.bearer());
    let (gone, value) = world.node.mint(&world.started, &world.key).expect("a token");
    world.node.revoke_token(&gone, "test");
    let revoked = format!("Authorization: Bearer {}\r\n", value.expose());
    let smuggled = get("/smuggled", &token);
    let all = [
        get("/first", &token),
        get("/revoked", &revoked),
        get("/second", &format!("Content-Length: {}\r\n{token}", smuggled.len())),
        smuggled,
        get("/third", &format!("TE: trailers\r\n{token}")),
        get("/fourth", &token),
    ];
    let mut raw = world.agent().inside(HOST, b"http/1.1").await;
    raw.send(all.concat()).await;
    let mut got = Vec::new();
    for _ in 0..5 {
        let reply = raw.reply().await.expect("a reply");
        got.push((reply.status, reply.code.clone(), String::from_utf8_lossy(&reply.body).into_owned()));
    }
    let paths: Vec<_> = got.iter().map(|(status, _, body)| if *status == 200 { body.as_str() } else { "" }).collect();
    assert_eq!(paths, ["/first", "", "/second", "/third", "/fourth"], "{got:?}");
    assert_eq!((got[1].0, got[1].1.as_str()), (403, "token_revoked"));
    let received: Vec<_> = world.upstream.received().into_iter().map(|r| (r.path, r.body.len())).collect();
    let hidden = get("/smuggled", &token).len();
    let expected = [("/first", 0), ("/second", hidden), ("/third", 0), ("/fourth", 0)];
    assert_eq!(received, expected.map(|(path, len)| (path.to_owned(), len)));
}

#[tokio::test]
async fn request_in_pieces_arrives_once_and_whole() {
    let world = World::start().await;
    let body = "0123456789".repeat(20);
    let whole = get("/", &format!("Content-Length: {}\r\nAuthorization: {}\r\n", body.len(), world.bearer())) + &body;
    let mut raw = world.agent().inside(HOST, b"http/1.1").await;
    for (n, cut) in (1..whole.len()).step_by(13).enumerate() {
        let (first, rest) = whole.split_at(cut);
        raw.send(first).await;
        raw.send(rest).await;
        assert_eq!(raw.reply().await.expect("a reply").status, 200, "{cut}");
        let received = world.upstream.received();
        assert_eq!(received.len(), n + 1, "{cut}");
        assert_eq!((&received[n].body[..], received[n].path.as_str()), (body.as_bytes(), "/"), "{cut}");
        assert_eq!(received[n].headers["authorization"], format!("Bearer {}", world.secret), "{cut}");
    }
}

#[tokio::test]
async fn empty_and_strange_values_pass_as_they_are() {
    let world = World::start().await;
    let token = world.bearer();
    let mut raw = world.agent().inside(HOST, b"http/1.1").await;
    let mut request =
        format!("GET /a//b?c=d&&e HTTP/1.1\r\nHost: {HOST}\r\nX-Empty:\r\nX-Tab: a\tb\r\nX-High: ").into_bytes();
    request.extend_from_slice(b"\xc3\xa9\xff\r\nX-Last: \r\n");
    request.extend_from_slice(format!("Authorization: {token}\n\r\n").as_bytes());
    raw.send(request).await;
    assert_eq!(raw.reply().await.expect("a reply").status, 200);
    let received = world.upstream.only();
    assert_eq!(received.path, "/a//b?c=d&&e");
    assert_eq!((received.headers["x-empty"].as_bytes(), received.headers["x-last"].as_bytes()), (&b""[..], &b""[..]));
    assert_eq!(received.headers["x-tab"], "a\tb");
    assert_eq!(received.headers["x-high"].as_bytes(), b"\xc3\xa9\xff");
}

#[tokio::test]
async fn host_that_is_no_text_is_refused_at_the_gateway_too() {
    let world = World::build().settings(|s| s.gateway = Some(([127, 0, 0, 1], 0).into())).start().await;
    let gateway = tokio::net::TcpStream::connect(world.node.gateway.expect("it listens")).await.expect("connected");
    let mut raw = Raw::new(gateway);
    raw.send(format!("GET /upstream/ HTTP/1.1\r\nHost: caf\u{e9}\r\nAuthorization: {}\r\n\r\n", world.bearer())).await;
    assert_eq!(raw.reply().await.expect("a reply").code, "bad_request");
    assert!(world.upstream.received().is_empty());
}

#[tokio::test]
async fn refusal_before_the_body_is_there_says_that_the_connection_ends() {
    let world = World::start().await;
    for credential in ["Bearer sk-live-of-nobody", "Basic eDp5"] {
        let mut raw = world.agent().inside(HOST, b"http/1.1").await;
        raw.send(get("/first", &format!("Authorization: {}\r\n", world.bearer()))).await;
        assert_eq!(raw.reply().await.expect("a reply").status, 200);
        raw.send(get("/refused", &format!("Content-Length: 200\r\nAuthorization: {credential}\r\n"))).await;
        let head = raw.head().await.to_ascii_lowercase();
        assert!(
            head.starts_with("http/1.1 403") && head.contains("sallyport-error: credential_unregistered"),
            "{head}"
        );
        assert!(head.contains("\r\nconnection: close\r\n"), "{head}");
        // The agent knows, so that its next request goes elsewhere.
        assert!(String::from_utf8_lossy(&raw.rest().await).ends_with("}\n"));
    }
}

#[tokio::test]
async fn request_after_a_refused_one_whose_body_came_is_served() {
    let world = World::start().await;
    let mut raw = world.agent().inside(HOST, b"http/1.1").await;
    raw.send(get("/refused", "Content-Length: 5\r\nAuthorization: Bearer sk-live-of-nobody\r\n") + "hello").await;
    assert_eq!(raw.reply().await.expect("a reply").code, "credential_unregistered");
    raw.send(get("/next", &format!("Authorization: {}\r\n", world.bearer()))).await;
    assert_eq!(raw.reply().await.expect("a reply").status, 200);
}

#[tokio::test]
async fn length_that_nobody_can_count_to_is_refused_here() {
    let world = World::start().await;
    let mut raw = world.agent().inside(HOST, b"http/1.1").await;
    let fields = format!("Content-Length: {}\r\nAuthorization: {}\r\n", u64::MAX, world.bearer());
    raw.send(get("/", &fields) + "hello").await;
    assert_eq!(raw.reply().await.expect("a reply").code, "too_large");
    assert_eq!(world.upstream.connections(), 0);
}
