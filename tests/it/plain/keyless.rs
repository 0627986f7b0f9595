//! Requests to hosts that no key is bound to.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::support::world::{HOST, OTHER};
use crate::support::{Reply, World};

fn build() -> crate::support::world::Build {
    World::build().upstream(|u| {
        u.host = format!("{HOST},{OTHER}");
        u.alpn = vec!["http/1.1"];
    })
}

fn get(path: &str, fields: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {OTHER}\r\n{fields}\r\n")
}

#[tokio::test]
async fn what_needs_no_search_passes_as_it_is_both_ways() {
    let world = build()
        .answer(|asked| match asked.header("range") {
            "" => Reply::text("\u{1f}\u{8b} in some coding").with("content-encoding", "zst2"),
            _ => Reply::text("a part").status(206).with("content-range", "bytes 0-5/100"),
        })
        .start()
        .await;
    let mut raw = world.agent().inside(OTHER, b"http/1.1").await;
    let fields = [
        ("accept-encoding", "zst2, br"),
        ("authorization", "Basic dXNlcjp3b3Jk"),
        ("if-match", "\"one\""),
        ("cookie", "a=b"),
    ];
    let text: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    for range in ["", "Range: bytes=0-5\r\nIf-Range: \"one\"\r\n"] {
        raw.send(get("/", &format!("{text}{range}"))).await;
        let reply = raw.reply().await.expect("a reply");
        match range {
            "" => {
                assert!(reply.head.contains("content-encoding: zst2\r\n"), "{}", reply.head);
                assert_eq!(reply.body, "\u{1f}\u{8b} in some coding".as_bytes());
            }
            _ => assert_eq!((reply.status, &reply.body[..]), (206, &b"a part"[..])),
        }
    }
    raw.send(get("/bare", "")).await;
    assert_eq!(raw.reply().await.expect("a reply").status, 200);
    let received = world.upstream.received();
    assert_eq!(received.len(), 3);
    for (name, value) in fields {
        assert_eq!(received[0].header(name), value);
        assert_eq!(received[1].header(name), value);
    }
    assert_eq!((received[1].header("range"), received[1].header("if-range")), ("bytes=0-5", "\"one\""));
    assert!(!received[2].headers.contains_key("accept-encoding"), "nothing is added: {received:?}");
    assert_eq!(world.upstream.connections(), 1);
    assert!(world.records_of("intent").is_empty());
}

#[tokio::test]
async fn token_for_another_host_is_refused_however_it_is_written() {
    let world = build().start().await;
    let basic = BASE64.encode(format!("user:{}", world.token()));
    for credential in [world.bearer(), format!("Basic {basic}")] {
        let mut raw = world.agent().inside(OTHER, b"http/1.1").await;
        raw.send(get("/", &format!("Authorization: {credential}\r\n"))).await;
        let reply = raw.reply().await.expect("a reply");
        assert_eq!((reply.status, reply.code.as_str()), (403, "host_not_allowed"), "{credential}");
    }
    assert!(world.upstream.received().is_empty());
}

#[tokio::test]
async fn key_that_is_stored_for_the_host_is_looked_for_from_the_next_reply_on() {
    let secret = "sk-another-key-that-comes-later";
    let world = build().answer(move |_| Reply::text(format!("it is {secret}"))).start().await;
    let mut raw = world.agent().inside(OTHER, b"http/1.1").await;
    raw.send(get("/", "")).await;
    assert_eq!(raw.reply().await.expect("a reply").body, format!("it is {secret}").as_bytes());
    let destination = sallyport::model::Destination {
        hosts: vec![sallyport::model::HostPattern::parse(OTHER).expect("a host")],
        ..world.key.destination.clone()
    };
    let (name, provider) = ("another".parse().expect("a name"), "custom".parse().expect("a name"));
    let bytes = sallyport::model::Secret::new(secret.as_bytes().to_vec());
    let environment = world.key.environment;
    world.node.add_key(&name, &provider, environment, destination, world.key.shape.clone(), &bytes).expect("a key");
    // Its host is one with a key from here on, so that a request without a token is decided by policies.
    raw.send(get("/", "")).await;
    let reply = raw.reply().await.expect("a reply");
    assert!(memchr::memmem::find(&reply.body, secret.as_bytes()).is_none(), "{reply:?}");
}

#[tokio::test]
async fn request_on_a_tunnel_whose_session_ended_is_refused() {
    let world = build().start().await;
    let mut raw = world.known_agent().inside(OTHER, b"http/1.1").await;
    raw.send(get("/", "")).await;
    assert_eq!(raw.reply().await.expect("a reply").status, 200);
    world.node.revoke_session(&world.started.session, "test");
    raw.send(get("/", "")).await;
    let reply = raw.reply().await.expect("a reply");
    assert_eq!((reply.status, reply.code.as_str()), (403, "session_revoked"));
    assert_eq!(world.upstream.received().len(), 1);
}
