//! An agent that asks a token endpoint itself gets a proxy token.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use sallyport::model::{KeyKind, ProxyToken, TokenForm, TokenId, TokenShape};
use sallyport::session::records::{Standing, Token};
use serde_json::{Value, json};

use super::Computed;
use super::minted::{
    SECRET, TOKEN_PATH, access, call, client_credentials, clock, granted, holds_nothing, later, to_api, to_endpoint,
    world,
};
use crate::support::agent::basic;
use crate::support::world::OTHER;
use crate::support::{Answer, World};

fn ask(authorization: Option<String>, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    let mut request =
        Request::post(TOKEN_PATH).header("host", OTHER).header("content-type", "application/x-www-form-urlencoded");
    if let Some(value) = authorization {
        request = request.header("authorization", value);
    }
    request.body(Full::new(body.into())).expect("a request")
}

fn read(answer: &Answer) -> Value {
    serde_json::from_str(&answer.text()).unwrap_or_else(|why| panic!("{why}: {}", answer.text()))
}

/// An assertion as an SDK makes it from a stand-in; nobody checks its signature.
fn assertion(header: &Value, claims: &Value) -> String {
    let part = |value: &Value| BASE64URL.encode(value.to_string());
    format!("{}.{}.{}", part(header), part(claims), BASE64URL.encode("signed"))
}

async fn used(world: &World, token: &str) -> Answer {
    world.agent().ask(OTHER, call(token)).await
}

#[tokio::test]
async fn agent_gets_a_proxy_token_wherever_it_shows_its_own_and_uses_that() {
    let world = world(|number, _| granted(number, &json!(3600))).start().await;
    let key = Computed::add(&world, KeyKind::ClientCredentials, &client_credentials("basic"));
    let own = key.token().to_owned();
    let in_kid = assertion(&json!({ "alg": "RS256", "kid": own }), &json!({ "iss": "me", "scope": "read" }));
    let in_issuer = assertion(&json!({ "alg": "RS256" }), &json!({ "iss": own }));
    let jwt = "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=";
    let mut seen = vec![own.clone()];
    for (authorization, body) in [
        (Some(basic("my client", &own)), "grant_type=client_credentials&scope=read+write".to_owned()),
        (None, format!("grant_type=client_credentials&client_id=x&client_secret={own}")),
        (None, format!("grant_type=refresh_token&refresh_token={own}")),
        (None, format!("{jwt}{in_kid}")),
        (None, format!("{jwt}{in_issuer}")),
    ] {
        let answer = world.agent().ask(OTHER, ask(authorization, body.clone())).await;
        assert_eq!(answer.status, 200, "{body}: {}", answer.text());
        holds_nothing(&answer);
        assert_eq!(answer.header("cache-control"), "no-store");
        let answer = read(&answer);
        assert_eq!(answer["token_type"], "Bearer");
        assert_eq!(answer["scope"], "read write");
        assert!(answer["expires_in"].as_u64().is_some_and(|secs| (3590..=3600).contains(&secs)), "{answer}");
        let token = answer["access_token"].as_str().expect("a token").to_owned();
        assert!(!seen.contains(&token), "a fresh one each time");
        let answer = used(&world, &token).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(to_api(&world).pop().expect("received").header("authorization"), format!("Bearer {}", access(1)));
        seen.push(token);
    }
    assert_eq!(to_endpoint(&world).len(), 1, "none of the calls was forwarded");
    world.node.revoke_session(&key.started.session, "test");
    for token in &seen {
        assert_eq!(used(&world, token).await.code(), "session_revoked");
    }
    world.nothing_leaked(&[]).await;
}

#[tokio::test]
async fn calls_that_show_no_token_or_want_too_much_are_refused() {
    let world = world(|number, _| granted(number, &json!(3600)))
        .settings(|s| {
            s.credential.issued = 2;
            s.credential.message_bytes = 4096;
        })
        .start()
        .await;
    let key = Computed::add(&world, KeyKind::ClientCredentials, &client_credentials("basic"));
    let other = Computed::add(&world, KeyKind::ClientCredentials, &client_credentials("post"));
    let (own, others) = (key.token(), other.token());
    let beyond = assertion(&json!({ "alg": "RS256", "kid": own }), &json!({ "scope": "read admin" }));
    let jwt = "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=";
    for (body, code) in [
        (format!("grant_type=client_credentials&client_secret={SECRET}"), "credential_unregistered"),
        ("grant_type=client_credentials".to_owned(), "credential_unregistered"),
        (format!("grant_type=client_credentials&client_secret={own}&scope=read+admin"), "scope_not_allowed"),
        (format!("{jwt}{beyond}"), "scope_not_allowed"),
        (format!("grant_type=authorization_code&code=1&client_secret={own}"), "bad_request"),
        (format!("client_secret={own}&refresh_token={others}&grant_type=refresh_token"), "token_misplaced"),
        (format!("grant_type=client_credentials&client_secret={own}&x={}", "y".repeat(5000)), "too_large"),
        ("grant_type=client_credentials&client_secret=%ff".to_owned(), "bad_request"),
    ] {
        let answer = world.agent().ask(OTHER, ask(None, body.clone())).await;
        assert_eq!(answer.code(), code, "{body}: {}", answer.text());
        holds_nothing(&answer);
    }
    let good = format!("grant_type=client_credentials&client_secret={own}");
    for code in ["", "", "session_limit"] {
        let answer = world.agent().ask(OTHER, ask(None, good.clone())).await;
        assert_eq!(answer.code(), code, "{}", answer.text());
    }
    // Proxy credentials of another session.
    let agent = world.known_agent();
    assert_eq!(agent.ask(OTHER, ask(None, good.clone())).await.code(), "token_misplaced");
    world.node.revoke_session(&key.started.session, "test");
    assert_eq!(world.agent().ask(OTHER, ask(None, good)).await.code(), "session_revoked");
}

#[tokio::test]
async fn what_answers_a_call_ends_with_the_token_that_was_shown() {
    let clock = clock();
    let world = world(|number, _| granted(number, &json!(3600))).clock(clock.clone()).start().await;
    let key = Computed::add(&world, KeyKind::ClientCredentials, &client_credentials("basic"));
    let value = || ProxyToken::generate(TokenForm::Long, &TokenShape::default()).expect("random");
    let now = world.node.shared().clock.now();
    let token = |value: &ProxyToken, lasts| Token {
        id: TokenId::generate(),
        org: key.key.org,
        session: key.started.session.id,
        grant: key.started.grants[0].id,
        root: None,
        hash: value.hash(),
        shape: TokenShape::default(),
        standing: Standing::Active,
        created_at: now,
        expires_at: now.plus(Duration::from_secs(lasts)),
    };
    let asked = async |shown: &str| {
        let body = format!("grant_type=client_credentials&client_secret={shown}");
        let answer = world.agent().ask(OTHER, ask(None, body)).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let answer = read(&answer);
        (answer["access_token"].as_str().expect("a token").to_owned(), answer["expires_in"].as_u64().expect("seconds"))
    };
    let registry = &world.node.shared().registry;
    let (stolen, brief) = (value(), value());
    let (of_stolen, of_brief) = (token(&stolen, 3000), token(&brief, 60));
    registry.put_token(&of_stolen);
    registry.put_token(&of_brief);
    let (child, _) = asked(stolen.expose()).await;
    let (grandchild, _) = asked(&child).await;
    let (short, lasts) = asked(brief.expose()).await;
    assert!(lasts <= 60, "{lasts}");
    for good in [&child, &grandchild, &short] {
        assert_eq!(used(&world, good).await.status, 200);
    }
    world.node.revoke_token(&of_stolen, "test");
    for over in [stolen.expose(), &child, &grandchild] {
        assert_eq!(used(&world, over).await.code(), "token_revoked");
        let again = format!("grant_type=client_credentials&client_secret={over}");
        assert_eq!(world.agent().ask(OTHER, ask(None, again)).await.code(), "token_revoked");
    }
    assert_eq!(used(&world, &short).await.status, 200, "another's end is no concern of its");
    later(&world, &clock, Duration::from_secs(61)).await;
    assert_eq!(used(&world, &short).await.code(), "token_expired");
    assert_eq!(used(&world, key.token()).await.status, 200);
}

#[tokio::test]
async fn endpoint_that_refuses_gives_the_agent_no_token_either() {
    let world = world(|_, _| {
        crate::support::Reply::text("{\"error\":\"invalid_client\",\"error_description\":\"hunter2\"}").status(401)
    })
    .start()
    .await;
    let key = Computed::add(&world, KeyKind::ClientCredentials, &client_credentials("basic"));
    let body = format!("grant_type=client_credentials&client_secret={}", key.token());
    let answer = world.agent().ask(OTHER, ask(None, body)).await;
    assert_eq!((answer.status.as_u16(), answer.code()), (502, "credential_refused"), "{}", answer.text());
    assert!(answer.text().contains("invalid_client") && !answer.text().contains("hunter2"));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the clients that tests/run installs"]
async fn google_auth_for_python_works_with_a_stand_in_for_its_file() {
    let world = world(|number, _| granted(number, &json!(3599))).start().await;
    let url = format!("https://{OTHER}{TOKEN_PATH}");
    let document = json!({
        "type": "service_account", "project_id": "p", "private_key_id": "k1", "token_uri": url, "scopes": ["a"],
        "private_key": rcgen::KeyPair::generate().expect("a key").serialize_pem(), "client_email": "real@x.test",
    });
    let key = Computed::add(&world, KeyKind::ServiceAccount, &document.to_string());
    let clients = std::env::var_os("SALLYPORT_TEST_CLIENTS").expect("run by tests/run, which installs the clients");
    let ca = world.home.dir().with_extension("ca");
    std::fs::write(&ca, world.home.ca_pem()).expect("written");
    let mut python = tokio::process::Command::new(std::path::Path::new(&clients).join("python/bin/python"));
    python.arg(format!("{}/tests/clients/call_google.py", env!("CARGO_MANIFEST_DIR"))).env_clear();
    python.env("HTTPS_PROXY", format!("http://{}", world.node.forward.expect("it listens")));
    python.env("REQUESTS_CA_BUNDLE", ca).env("TOKEN", key.token()).env("TOKEN_URI", url);
    python.env("API", format!("https://{OTHER}/v1/things")).env("PYTHONDONTWRITEBYTECODE", "1");
    let output = python.output().await.expect("python runs");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("answer: 200 hello Bearer ****"), "{said}");
    assert!(said.contains("token: spt_"), "what the library holds is a proxy token: {said}");
    assert!(!said.contains(&access(1)), "{said}");
    assert_eq!(to_api(&world)[0].header("authorization"), format!("Bearer {}", access(1)));
    assert_eq!(to_endpoint(&world).len(), 1);
    world.nothing_leaked(&[]).await;
}
