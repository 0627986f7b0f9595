//! Requests that are signed with a shared secret in a form that the key declares.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::{Method, Request};
use http_body_util::Full;
use sallyport::model::KeyKind;

use super::Computed;
use crate::support::world::OTHER;
use crate::support::{Reply, World, emitted};

/// As at Coinbase: the secret is base64, the signature too.
const HEADERS: &str = r#"{
    "key": "public-name", "secret": "cmVhbCBzaGFyZWQgc2VjcmV0IG9mIGJ5dGVz", "secret_encoding": "base64", "encoding": "base64",
    "template": "{timestamp}{method}{target}{body}", "signature": "header:cb-access-sign",
    "timestamp": "header:cb-access-timestamp"
}"#;
/// As at Binance: the query and the body are signed, and the query takes the signature.
const QUERY: &str = r#"{
    "key": "public-name", "secret": "real-shared-secret-of-text",
    "template": "{query}{body}", "signature": "query:signature", "timestamp": "query:timestamp",
    "timestamp_unit": "milliseconds"
}"#;
const NONCE: &str = r#"{
    "key": "public-name", "secret": "real-shared-secret-of-text", "algorithm": "sha512",
    "template": "{key}\n{nonce}\n{method}\n{path}\n{body_sha256}", "signature": "header:x-sign", "nonce": "header:x-nonce"
}"#;

fn tag(algorithm: hmac::Algorithm, secret: &[u8], text: &str) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(algorithm, secret), text.as_bytes())
}

async fn world() -> World {
    let echo = |_: &_| {
        Reply::text("real-shared-secret-of-text cmVhbCBzaGFyZWQgc2VjcmV0IG9mIGJ5dGVz real shared secret of bytes")
    };
    World::build().upstream(|u| u.host = OTHER.to_owned()).answer(echo).start().await
}

fn post(uri: &str, token: &str) -> http::request::Builder {
    Request::post(uri).header("host", OTHER).header("authorization", format!("Bearer {token}"))
}

#[tokio::test]
async fn request_is_signed_over_what_is_sent_with_time_and_body() {
    let world = world().await;
    let computed = Computed::with_slots(&world, KeyKind::Hmac, HEADERS, &["header:cb-access-key"]);
    let request = Request::post("/orders?a=b%20c").header("host", OTHER).header("cb-access-key", computed.token());
    let request = request.header("cb-access-sign", "the-agents").body(Full::from("{\"size\":1}")).expect("a request");
    let answer = world.agent().ask(OTHER, request).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let received = world.upstream.received().pop().expect("received");
    assert_eq!((received.header("cb-access-key"), &received.body[..]), ("public-name", &b"{\"size\":1}"[..]));
    let time = received.header("cb-access-timestamp").to_owned();
    assert!((world.home.clock().now().millis() / 1000 - time.parse::<i64>().expect("a number")).abs() < 60);
    let text = format!("{time}POST/orders?a=b%20c{{\"size\":1}}");
    let expected = BASE64.encode(tag(hmac::HMAC_SHA256, b"real shared secret of bytes", &text));
    assert_eq!(received.headers.get_all("cb-access-sign").iter().collect::<Vec<_>>(), [&expected[..]]);
    for secret in ["cmVhbCBzaGFyZWQgc2VjcmV0IG9mIGJ5dGVz", "real shared secret of bytes"] {
        assert_eq!(emitted::find(answer.text().as_bytes(), secret), None);
    }
    world.nothing_leaked(&[answer]).await;
}

#[tokio::test]
async fn signature_in_the_query_covers_the_rest_of_it_and_replaces_the_agents() {
    let world = world().await;
    let computed = Computed::with_slots(&world, KeyKind::Hmac, QUERY, &["header:x-mbx-apikey"]);
    let uri = "/api/v3/order?symbol=LTCBTC&signature=00&timestamp=1&side=BUY";
    let request = Request::post(uri).header("host", OTHER).header("x-mbx-apikey", computed.token());
    let request = request.body(Full::from("quantity=1")).expect("a request");
    let answer = world.agent().ask(OTHER, request).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let received = world.upstream.received().pop().expect("received");
    let (signed, signature) = received.path.split_once("&signature=").expect("a signature");
    assert!(signed.starts_with("/api/v3/order?symbol=LTCBTC&side=BUY&timestamp=17"), "{signed}");
    let text = format!("{}quantity=1", signed.split_once('?').expect("a query").1);
    assert_eq!(signature, hex::encode(tag(hmac::HMAC_SHA256, b"real-shared-secret-of-text", &text)));
}

#[tokio::test]
async fn nonce_is_fresh_each_time_and_a_body_beyond_the_limit_is_refused() {
    let world = World::build().upstream(|u| u.host = OTHER.to_owned());
    let world = world.settings(|settings| settings.proxy.limits.signed_body = 1000).start().await;
    let computed = Computed::with_slots(&world, KeyKind::Hmac, NONCE, &["bearer"]);
    let mut nonces = Vec::new();
    for _ in 0..2 {
        let mut request = post("/x", computed.token()).body(Full::from("body")).expect("a request");
        *request.method_mut() = Method::PUT;
        assert_eq!(world.agent().ask(OTHER, request).await.status, 200);
        let received = world.upstream.received().pop().expect("received");
        let nonce = received.header("x-nonce").to_owned();
        let body = "230d8358dc8e8890b4c58deeb62912ee2f20357ae92a5cc861b98e68fe31acb5";
        let text = format!("public-name\n{nonce}\nPUT\n/x\n{body}");
        let expected = hex::encode(tag(hmac::HMAC_SHA512, b"real-shared-secret-of-text", &text));
        assert_eq!(
            (received.header("x-sign"), received.header("authorization")),
            (&expected[..], "Bearer public-name")
        );
        nonces.push(nonce);
    }
    assert_ne!(nonces[0], nonces[1]);
    let long = post("/x", computed.token()).body(Full::from(vec![b'x'; 1001])).expect("a request");
    assert_eq!(world.agent().ask(OTHER, long).await.code(), "too_large");
}

#[tokio::test]
async fn bodies_that_are_held_to_be_signed_are_bounded_all_together() {
    let world = World::build().upstream(|u| u.host = OTHER.to_owned());
    let world = world.settings(|settings| {
        settings.proxy.limits.signed_bodies = 1500;
        // What is slow is held from its first byte on, before the others come.
        settings.proxy.limits.whole_body = 0;
        settings.cores = 1;
    });
    let world = world.start().await;
    let computed = Computed::with_slots(&world, KeyKind::Hmac, NONCE, &["bearer"]);
    let ask = async || {
        let request = post("/x", computed.token()).body(Full::from(vec![b'x'; 700])).expect("a request");
        world.agent().ask(OTHER, request).await
    };
    let mut slow = world.agent().inside(OTHER, b"http/1.1").await;
    let head = format!(
        "POST /x HTTP/1.1\r\nhost: {OTHER}\r\nauthorization: Bearer {}\r\ncontent-length: 1001\r\n\r\n{}",
        computed.token(),
        "x".repeat(1000)
    );
    slow.send(head.as_bytes()).await;
    let refused = async { while ask().await.status == 200 {} };
    crate::support::soon("there to be no room", refused).await;
    assert_eq!(ask().await.code(), "overloaded");
    slow.send(b"x").await;
    assert_eq!(slow.reply().await.expect("a reply").status, 200);
    assert_eq!(ask().await.status, 200, "what was held is given back");
}

#[tokio::test]
async fn form_that_signs_nothing_or_lacks_its_time_is_not_taken() {
    let world = world().await;
    for (from, to) in [
        ("{query}{body}", "nothing"),
        ("{query}{body}", "{querys}"),
        ("{query}{body}", "{query"),
        ("{query}{body}", "{nonce}{body}"),
        ("query:signature", "cookie:signature"),
        ("query:signature", "header:authorization"),
        ("query:signature", "header:host"),
        ("real-shared-secret-of-text", "short"),
        ("\"template\"", "\"other\": 1, \"template\""),
    ] {
        let document = QUERY.replace(from, to);
        let refused = Computed::refused(&world, KeyKind::Hmac, &document);
        assert!(!refused.contains("real-shared"), "{refused}");
    }
}

#[tokio::test]
async fn key_that_signs_is_not_used_where_no_token_stands_even_if_a_rule_injects() {
    let policy = "version: 1\nname: p\nrules: [{ name: all, allow: { methods: [GET], paths: [\"/**\"] } }]\nwithout_token: inject\n";
    let aws =
        r#"{"access_key_id": "AKIAREALREALREALREAL", "secret_access_key": "real+secret/of-forty-characters-01234567"}"#;
    for (kind, document, slots) in [
        (KeyKind::Hmac, HEADERS, &["header:cb-access-key"][..]),
        (KeyKind::Hmac, QUERY, &["bearer"]),
        (KeyKind::Aws, aws, &["signature", "presigned"]),
    ] {
        let world = World::build().upstream(|u| u.host = OTHER.to_owned()).policy(policy).start().await;
        let computed = Computed::with_slots(&world, kind, document, slots);
        let id = computed.started.session.id.to_string();
        let credentials = crate::support::agent::basic(&id, computed.started.secret.expose());
        let agent = crate::support::Agent { credentials: Some(credentials), ..world.agent() };
        for header in ["x-nothing", "cb-access-key", "authorization"] {
            let request = Request::get("/orders").header("host", OTHER).header(header, "something");
            let answer = agent.ask(OTHER, request.body(Full::default()).expect("a request")).await;
            assert_eq!(answer.code(), "credential_unregistered", "{kind} {header}: {}", answer.text());
        }
        assert!(world.upstream.received().is_empty());
        world.nothing_leaked(&[]).await;
    }
}
