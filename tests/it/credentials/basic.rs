//! A user name and a password, put in together.

use base64::Engine as _;
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use sallyport::model::KeyKind;

use super::Computed;
use crate::support::agent::basic;
use crate::support::world::OTHER;
use crate::support::{Reply, World, emitted};

const PASSWORD: &str = "pass\\word-\"0123456789";
const DOCUMENT: &str = r#"{ "user": "service@example.com",
    "password": "pass\\word-\"0123456789" }"#;

fn request(authorization: &str) -> Request<Full<Bytes>> {
    Request::get("/rest/api")
        .header("host", OTHER)
        .header("authorization", authorization)
        .body(Full::default())
        .expect("a request")
}

#[tokio::test]
async fn pair_is_put_in_wherever_the_token_stands_and_only_the_password_is_masked_in_replies() {
    let echo = |received: &crate::support::Received| {
        let seen = received.header("authorization").to_owned();
        Reply::text(format!("service@example.com {PASSWORD} {seen}")).with("x-seen", &seen)
    };
    let world = World::build().upstream(|u| u.host = OTHER.to_owned()).answer(echo).start().await;
    let computed = Computed::add(&world, KeyKind::Basic, DOCUMENT);
    let token = computed.token();
    let mut answers = Vec::new();
    for authorization in [format!("Bearer {token}"), basic("anybody", token), basic(token, "")] {
        let answer = world.agent().ask(OTHER, request(&authorization)).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let received = world.upstream.received().pop().expect("received");
        assert_eq!(received.header("authorization"), basic("service@example.com", PASSWORD));
        assert!(answer.text().starts_with("service@example.com *****"), "{}", answer.text());
        answers.push(answer);
    }
    for answer in &answers {
        let all = format!("{:?} {}", answer.headers, answer.text()).into_bytes();
        assert_eq!(emitted::find(&all, PASSWORD), None);
        assert!(!answer.text().contains(&base64::engine::general_purpose::STANDARD.encode(PASSWORD)[..16]));
    }
    world.nothing_leaked(&answers).await;
}

#[tokio::test]
async fn token_in_a_header_that_is_no_slot_brings_no_password() {
    let world = World::build().upstream(|u| u.host = OTHER.to_owned()).start().await;
    let computed = Computed::add(&world, KeyKind::Basic, DOCUMENT);
    let mut request = request("");
    request.headers_mut().remove("authorization");
    request.headers_mut().insert("x-api-key", computed.token().parse().expect("a value"));
    let answer = world.agent().ask(OTHER, request).await;
    assert_eq!(answer.status, 200);
    assert_eq!(world.upstream.received().pop().expect("received").header("authorization"), "");
}
