//! 2. A token is worthless elsewhere.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use sallyport::model::{Environment, ProxyToken, TokenForm, TokenShape};

use crate::support::agent::basic;
use crate::support::world::{HOST, OTHER};
use crate::support::{Agent, World, emitted};

fn plain(host: &str) -> http::request::Builder {
    Request::post("/v1/x").header("host", host)
}

#[tokio::test]
async fn token_in_a_credential_slot_of_another_host_is_refused_there() {
    let world = World::start().await;
    for value in
        [world.bearer(), world.bearer().replace("Bearer", "token"), basic("x", world.token()), basic(world.token(), "")]
    {
        let request = plain(OTHER).header("authorization", &value).body(Full::new(Bytes::new())).expect("a request");
        let answer = world.agent().ask(OTHER, request).await;
        assert_eq!((answer.status.as_u16(), answer.code()), (403, "host_not_allowed"), "{value}");
    }
    assert!(world.upstream.received().is_empty(), "{:?}", world.upstream.received());
    world.nothing_leaked(&[]).await;
}

#[tokio::test]
async fn token_outside_of_a_slot_is_text_that_is_forwarded_as_it_is() {
    let world = World::start().await;
    let token = world.token().to_owned();
    let body = format!("{{\"said\": \"my key is {token}\"}}");
    let request = plain(HOST)
        .uri(format!("/v1/x?k={token}"))
        .header("referer", format!("https://x/{token}"))
        .header("cookie", format!("k={token}"))
        .header("x-note", &token)
        .header("authorization", world.bearer())
        .body(Full::new(Bytes::from(body.clone())))
        .expect("a request");
    assert_eq!(world.agent().ask(HOST, request).await.status, 200);
    let received = world.upstream.only();
    assert_eq!(received.header("authorization"), format!("Bearer {}", world.secret));
    assert_eq!(received.path, format!("/v1/x?k={token}"));
    assert_eq!(received.header("referer"), format!("https://x/{token}"));
    assert_eq!(received.header("cookie"), format!("k={token}"));
    assert_eq!(received.header("x-note"), token);
    assert_eq!(received.body, body);
    let live = world.node.shared().registry.token(&world.token.hash).expect("it is known");
    assert_eq!(live.times_inert(), 4, "in three headers and the query");
    assert_eq!(world.agent().ask(HOST, world.get("/none")).await.status, 200);
    world.nothing_leaked(&[]).await;
    let log = String::from_utf8(emitted::all()).expect("text");
    // Other tests may log meanwhile.
    let mine = live.session.id.to_string();
    let lines: Vec<_> = log.lines().filter(|line| line.contains(&mine) && line.contains("http.status=200")).collect();
    assert!(lines[0].contains("inert_tokens=4"), "{lines:?}");
    assert!(!lines[1].contains("inert_tokens"), "{lines:?}");
}

#[tokio::test]
async fn token_in_a_slot_that_its_key_does_not_name_is_refused() {
    let world = World::build().slots(&["header:x-api-key"]).start().await;
    for value in [world.bearer(), basic("x", world.token()), basic(world.token(), "")] {
        let request = plain(HOST).header("authorization", &value).body(Full::new(Bytes::new())).expect("a request");
        let answer = world.agent().ask(HOST, request).await;
        assert_eq!((answer.status.as_u16(), answer.code()), (403, "token_misplaced"), "{value}");
    }
    assert!(world.upstream.received().is_empty());
    let request = plain(HOST).header("x-api-key", world.token()).body(Full::new(Bytes::new())).expect("a request");
    assert_eq!(world.agent().ask(HOST, request).await.status, 200);
    assert_eq!(world.upstream.only().header("x-api-key"), world.secret);
}

#[tokio::test]
async fn every_slot_gets_the_key_in_its_own_form() {
    let world = World::build().slots(&["bearer", "header:x-api-key", "basic:user", "basic:password"]).start().await;
    let secret = &world.secret;
    let cases = [
        ("authorization", world.bearer(), format!("Bearer {secret}")),
        ("authorization", format!("bearer {}", world.token()), format!("bearer {secret}")),
        ("authorization", format!("token {}", world.token()), format!("token {secret}")),
        ("x-api-key", world.token().to_owned(), secret.clone()),
        ("authorization", basic("git", world.token()), basic("git", secret)),
        ("authorization", basic(world.token(), ""), basic(secret, "")),
        ("authorization", basic(world.token(), "x-oauth"), basic(secret, "x-oauth")),
    ];
    for (at, (name, sent, expected)) in cases.iter().enumerate() {
        let request = plain(HOST).header(*name, sent).body(Full::new(Bytes::new())).expect("a request");
        assert_eq!(world.agent().ask(HOST, request).await.status, 200, "{sent}");
        assert_eq!(world.upstream.received()[at].header(name), expected);
    }
    world.nothing_leaked(&[]).await;
}

#[tokio::test]
async fn token_of_one_session_is_refused_with_the_proxy_credentials_of_another() {
    let world = World::start().await;
    let hour = Duration::from_secs(3600);
    let other = world.node.start_session(None, Environment::Development, &[], hour).expect("a session");
    let credentials = Some(basic(&other.session.id.to_string(), other.secret.expose()));
    let agent = Agent { credentials, ..world.agent() };
    let answer = agent.ask(HOST, world.get("/")).await;
    assert_eq!((answer.status.as_u16(), answer.code()), (403, "token_misplaced"));
    assert!(world.upstream.received().is_empty());
    assert_eq!(world.known_agent().ask(HOST, world.get("/")).await.status, 200);
}

#[tokio::test]
async fn guessed_mistyped_and_malformed_tokens_open_nothing() {
    let world = World::start().await;
    let mut agent = world.agent().http1(HOST).await;
    let strange = ProxyToken::generate(TokenForm::Long, &TokenShape::default()).expect("random");
    let mut mistyped = world.token().to_owned();
    mistyped.replace_range(10..11, if &mistyped[10..11] == "a" { "b" } else { "a" });
    let long = "A".repeat(20_000);
    let cases = [
        (format!("Bearer {}", strange.expose()), "token_unknown"),
        (format!("Bearer {mistyped}"), "credential_unregistered"),
        (format!("Bearer {} ", world.token()), ""),
        (format!("Bearer x{}", world.token()), "token_misplaced"),
        (format!("Bearer {}x", world.token()), "token_misplaced"),
        (format!("Bearer {0} {0}", world.token()), "token_misplaced"),
        ("Basic !!!".to_owned(), "credential_unregistered"),
        (format!("Basic {}", STANDARD.encode("no colon")), "credential_unregistered"),
        (format!("Basic {}", STANDARD.encode(format!("a\0b:{}", world.token()))), "token_misplaced"),
        (format!("Basic {}", STANDARD.encode(long)), "credential_unregistered"),
        ("Bearer".to_owned(), "credential_unregistered"),
        ("Bearer sk-live-a-real-key-of-the-agent".to_owned(), "credential_unregistered"),
    ];
    let mut forwarded = 0;
    for (value, code) in &cases {
        let request = plain(HOST).header("authorization", value).body(Full::new(Bytes::new())).expect("a request");
        let answer = agent.ask(request).await;
        assert_eq!(answer.code(), *code, "{value}");
        forwarded += usize::from(code.is_empty());
    }
    assert_eq!(world.upstream.received().len(), forwarded);
}

#[tokio::test]
async fn two_credentials_in_one_request_are_all_swapped_or_none() {
    let world = World::build().slots(&["bearer", "header:x-api-key"]).start().await;
    let send = async |first: &str, second: &str| {
        let request = plain(HOST).header("authorization", first).header("x-api-key", second);
        world.agent().ask(HOST, request.body(Full::new(Bytes::new())).expect("a request")).await
    };
    assert_eq!(send(&world.bearer(), world.token()).await.status, 200);
    let received = world.upstream.only();
    assert_eq!(received.header("x-api-key"), world.secret);
    assert_eq!(received.header("authorization"), format!("Bearer {}", world.secret));
    let answer = send(&world.bearer(), "a-real-key-of-the-agent").await;
    assert_eq!(answer.code(), "credential_unregistered");
    let twice = plain(HOST).header("authorization", world.bearer()).header("authorization", world.bearer());
    let answer = world.agent().ask(HOST, twice.body(Full::new(Bytes::new())).expect("a request")).await;
    assert_eq!(answer.status, 400, "{}", answer.text());
    assert_eq!(world.upstream.received().len(), 1);
}

#[tokio::test]
async fn proxy_credentials_never_reach_the_upstream() {
    let world = World::start().await;
    let credentials = world.known_agent().credentials.expect("credentials");
    let request = plain(HOST).header("authorization", world.bearer()).header("proxy-authorization", &credentials);
    world.agent().ask(HOST, request.body(Full::new(Bytes::new())).expect("a request")).await;
    assert_eq!(world.upstream.only().header("proxy-authorization"), "");
}
