//! Access tokens that are minted for a key, and put in instead of it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use rcgen::PublicKeyData as _;
use sallyport::app::{NewKey, Node};
use sallyport::model::{
    Cleartext, Clock as _, Destination, Environment, HostPattern, KeyKind, ManualClock, Secret, SystemClock, TokenShape,
};
use sallyport::session::registry::Moment;
use sallyport::vault::key::KeyState;
use serde_json::{Value, json};

use super::Computed;
use crate::support::agent::basic;
use crate::support::world::{Build, OTHER};
use crate::support::{Answer, Received, Reply, World, emitted, soon};

pub const SECRET: &str = "client-secret/0123456789+abcdef";
pub const TOKEN_PATH: &str = "/oauth2/token";

/// A clock that shows the present until it is moved.
pub fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::at(SystemClock.now()))
}

/// The access token with this number.
pub fn access(number: usize) -> String {
    format!("ya29.real-access-token/{number:04}+xyz")
}

/// The fields of a form.
pub fn form(received: &Received) -> Vec<(String, String)> {
    let decode = |text: &str| {
        let mut out = Vec::new();
        let mut bytes = text.bytes();
        while let Some(byte) = bytes.next() {
            match byte {
                b'+' => out.push(b' '),
                b'%' => {
                    let digits = [bytes.next().expect("a digit"), bytes.next().expect("a digit")];
                    out.push(u8::from_str_radix(std::str::from_utf8(&digits).expect("ascii"), 16).expect("hex"));
                }
                _ => out.push(byte),
            }
        }
        String::from_utf8(out).expect("text")
    };
    let body = String::from_utf8(received.body.to_vec()).expect("text");
    let pair = |field: &str| field.split_once('=').map(|(name, value)| (decode(name), decode(value))).expect("a pair");
    body.split('&').map(pair).collect()
}

pub fn field(received: &Received, name: &str) -> String {
    form(received).into_iter().find(|(n, _)| n == name).map(|(_, value)| value).unwrap_or_default()
}

pub fn granted(number: usize, expires_in: &Value) -> Reply {
    let answer = json!({ "access_token": access(number), "token_type": "Bearer", "expires_in": expires_in });
    Reply::text(answer.to_string()).with("content-type", "application/json")
}

/// A world whose upstream is token endpoint and API in one; the API echoes what it got.
pub fn world(token: impl Fn(usize, &Received) -> Reply + Send + Sync + 'static) -> Build {
    let count = AtomicUsize::new(0);
    World::build().upstream(|u| u.host = OTHER.to_owned()).answer(move |received| {
        match received.path.starts_with(TOKEN_PATH) || received.path.starts_with("/app/") {
            true => token(count.fetch_add(1, Ordering::SeqCst) + 1, received),
            false => {
                // It shows what it got, and what it got before.
                let seen = received.header("authorization");
                Reply::text(format!("hello {seen} {}", access(1))).with("x-seen", seen)
            }
        }
    })
}

pub fn client_credentials(auth: &str) -> String {
    json!({
        "token_url": format!("https://{OTHER}{TOKEN_PATH}"),
        "client_id": "my client",
        "client_secret": SECRET,
        "auth": auth,
        "scopes": ["read", "write"],
    })
    .to_string()
}

pub fn call(token: &str) -> Request<Full<Bytes>> {
    Request::get("/v1/things")
        .header("host", OTHER)
        .header("authorization", format!("Bearer {token}"))
        .body(Full::default())
        .expect("a request")
}

pub fn to_api(world: &World) -> Vec<Received> {
    world.upstream.received().into_iter().filter(|r| r.path.starts_with("/v1/")).collect()
}

pub fn to_endpoint(world: &World) -> Vec<Received> {
    let at_endpoint = |r: &Received| r.path.starts_with(TOKEN_PATH) || r.path.starts_with("/app/");
    world.upstream.received().into_iter().filter(at_endpoint).collect()
}

pub fn holds_nothing(answer: &Answer) {
    let all = format!("{:?} {}", answer.headers, answer.text()).into_bytes();
    for number in 1..5 {
        assert_eq!(emitted::find(&all, &access(number)), None, "{}", answer.text());
    }
    assert_eq!(emitted::find(&all, SECRET), None, "{}", answer.text());
}

#[tokio::test]
async fn client_authenticates_either_way_and_the_api_gets_the_access_token() {
    for auth in ["basic", "post"] {
        let world = world(|number, _| granted(number, &json!(3600))).start().await;
        let key = Computed::add(&world, KeyKind::ClientCredentials, &client_credentials(auth));
        for _ in 0..2 {
            let answer = world.agent().ask(OTHER, call(key.token())).await;
            assert_eq!(answer.status, 200, "{}", answer.text());
            assert!(answer.text().starts_with("hello Bearer ****"), "{}", answer.text());
            holds_nothing(&answer);
        }
        let asked = to_endpoint(&world);
        assert_eq!(asked.len(), 1, "one mint serves both");
        assert_eq!((asked[0].method.as_str(), asked[0].path.as_str()), ("POST", TOKEN_PATH));
        assert_eq!(field(&asked[0], "grant_type"), "client_credentials");
        assert_eq!(field(&asked[0], "scope"), "read write");
        match auth {
            "basic" => {
                // Both parts are form-encoded first (RFC 6749 section 2.3.1).
                let pair = basic("my+client", "client-secret%2F0123456789%2Babcdef");
                assert_eq!(asked[0].header("authorization"), pair);
                assert_eq!(field(&asked[0], "client_secret"), "");
            }
            _ => {
                assert_eq!(asked[0].header("authorization"), "");
                assert_eq!(field(&asked[0], "client_id"), "my client");
                assert_eq!(field(&asked[0], "client_secret"), SECRET);
            }
        }
        for received in to_api(&world) {
            assert_eq!(received.header("authorization"), format!("Bearer {}", access(1)));
        }
        let intents = world.records_of("intent");
        assert_eq!(intents.len(), 3, "{intents:#?}");
        assert_eq!((&intents[0]["mint"], &intents[0]["path"]), (&json!(true), &json!(TOKEN_PATH)));
        assert_eq!((&intents[1]["mint"], &intents[1]["path"]), (&Value::Null, &json!("/v1/things")));
        assert_eq!(intents[0]["exchange"], intents[1]["exchange"], "whose request caused it");
        assert_eq!(intents[0]["authority"], json!(format!("{OTHER}:443")));
        world.nothing_leaked(&[]).await;
        let emitted = emitted::all();
        for secret in [SECRET, &access(1)] {
            assert_eq!(emitted::find(&emitted, secret), None);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_cause_one_mint() {
    let (release, body) = Reply::live();
    let body = Mutex::new(Some(body));
    let world = world(move |_, _| body.lock().expect("not poisoned").take().expect("one mint"))
        .settings(|s| s.cores = 2)
        .start()
        .await;
    let key = Computed::add(&world, KeyKind::ClientCredentials, &client_credentials("basic"));
    let asking: Vec<_> = (0..20)
        .map(|_| {
            let (agent, request) = (world.agent(), call(key.token()));
            tokio::spawn(async move { agent.ask(OTHER, request).await })
        })
        .collect();
    soon("the mint", async {
        while to_endpoint(&world).is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let answer = json!({ "access_token": access(1), "token_type": "bearer", "expires_in": 600 });
    release.send(answer.to_string().into()).await.expect("sent");
    drop(release);
    for asked in asking {
        let answer = asked.await.expect("joined");
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    assert_eq!(to_endpoint(&world).len(), 1);
    assert_eq!(to_api(&world).len(), 20);
}

#[tokio::test]
async fn agent_that_goes_away_does_not_cut_the_mint() {
    let (release, body) = Reply::live();
    let body = Mutex::new(Some(body));
    let world = world(move |_, _| body.lock().expect("not poisoned").take().expect("one mint")).start().await;
    let key = Computed::add(&world, KeyKind::ClientCredentials, &client_credentials("basic"));
    let (agent, request) = (world.agent(), call(key.token()));
    let gone = tokio::spawn(async move { agent.ask(OTHER, request).await });
    soon("the mint", async {
        while to_endpoint(&world).is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    gone.abort();
    let _ = gone.await;
    let answer = json!({ "access_token": access(1), "token_type": "bearer", "expires_in": 600 });
    release.send(answer.to_string().into()).await.expect("sent");
    drop(release);
    let answer = world.agent().ask(OTHER, call(key.token())).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(to_endpoint(&world).len(), 1);
}

#[tokio::test]
async fn session_that_is_revoked_does_not_wait_for_a_token() {
    let (release, body) = Reply::live();
    let body = Mutex::new(Some(body));
    let world = world(move |_, _| body.lock().expect("not poisoned").take().expect("one mint")).start().await;
    let key = Computed::add(&world, KeyKind::ClientCredentials, &client_credentials("basic"));
    let (agent, request) = (world.agent(), call(key.token()));
    let asking = tokio::spawn(async move { agent.ask(OTHER, request).await });
    soon("the mint", async {
        while to_endpoint(&world).is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    world.node.revoke_session(&key.started.session, "test");
    let answer = soon("the refusal", asking).await.expect("joined");
    assert_eq!(answer.code(), "session_revoked");
    assert!(to_api(&world).is_empty());
    drop(release);
}

/// Moves the clock, and waits until the node has heard of the store again.
pub async fn later(world: &World, clock: &ManualClock, by: Duration) {
    clock.advance(by);
    fresh(&world.node).await;
}

/// Waits until the node has heard of the store.
pub async fn fresh(node: &Node) {
    let shared = Arc::clone(node.shared());
    soon("the store", async {
        while shared.registry.is_stale(Moment::now(&*shared.clock)) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn token_is_replaced_ahead_of_its_end_and_never_used_past_it() {
    let clock = clock();
    let world = world(|number, _| granted(number, &json!(1000))).clock(clock.clone()).start().await;
    let key = Computed::add(&world, KeyKind::ClientCredentials, &client_credentials("basic"));
    let used = async || {
        let answer = world.agent().ask(OTHER, call(key.token())).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        to_api(&world).pop().expect("received").header("authorization").to_owned()
    };
    assert_eq!(used().await, format!("Bearer {}", access(1)));
    later(&world, &clock, Duration::from_secs(790)).await;
    assert_eq!(used().await, format!("Bearer {}", access(1)));
    assert_eq!(to_endpoint(&world).len(), 1, "a fifth of its lifetime is left");
    later(&world, &clock, Duration::from_secs(15)).await;
    assert_eq!(used().await, format!("Bearer {}", access(1)), "nobody waits for the next one");
    soon("the next token", async { while used().await != format!("Bearer {}", access(2)) {} }).await;
    assert_eq!(to_endpoint(&world).len(), 2);
    later(&world, &clock, Duration::from_secs(995)).await;
    assert_eq!(used().await, format!("Bearer {}", access(3)), "its last seconds aren't used");
}

#[tokio::test]
async fn endpoint_that_fails_is_tried_a_few_times_and_then_left_alone() {
    let world = world(|_, _| Reply::text("it is hunter2hunter2").status(500)).start().await;
    let key = Computed::add(&world, KeyKind::ClientCredentials, &client_credentials("basic"));
    for _ in 0..2 {
        let answer = world.agent().ask(OTHER, call(key.token())).await;
        assert_eq!((answer.status.as_u16(), answer.code()), (503, "credential_unavailable"));
        assert!(answer.text().contains("answered 500") && !answer.text().contains("hunter2"), "{}", answer.text());
    }
    assert_eq!(to_endpoint(&world).len(), 3, "the second request came while nothing is tried");
    assert!(to_api(&world).is_empty());
    let outcomes: Vec<_> = world.records_of("intent").iter().map(|r| r["mint"].clone()).collect();
    assert_eq!(outcomes, vec![json!(true); 3], "each try has its record");
}

#[tokio::test]
async fn endpoint_that_stands_still_is_given_up_in_time() {
    let live: Mutex<Vec<_>> = Mutex::default();
    let world = world(move |_, _| {
        let (send, reply) = Reply::live();
        live.lock().expect("not poisoned").push(send);
        reply
    })
    .settings(|s| {
        s.credential.deadline = Duration::from_millis(200);
        s.credential.tries = 2;
    })
    .start()
    .await;
    let key = Computed::add(&world, KeyKind::ClientCredentials, &client_credentials("basic"));
    let answer = world.agent().ask(OTHER, call(key.token())).await;
    assert_eq!((answer.status.as_u16(), answer.code()), (504, "upstream_timeout"), "{}", answer.text());
    assert!(answer.text().contains("token endpoint at"), "{}", answer.text());
    assert_eq!(to_endpoint(&world).len(), 2);
    assert!(to_api(&world).is_empty());
}

#[tokio::test]
async fn answers_that_are_no_good_token_bring_no_request_to_the_api() {
    let huge = format!("{{\"access_token\":\"{}\"}}", "x".repeat(100_000));
    let token = |extra: Value| {
        let mut answer = json!({ "access_token": "hunter2hunter2", "token_type": "Bearer", "expires_in": 60 });
        answer.as_object_mut().expect("an object").extend(extra.as_object().expect("an object").clone());
        Reply::text(answer.to_string())
    };
    type Case = (&'static str, Box<dyn Fn() -> Reply + Send + Sync>, &'static str);
    let cases: Vec<Case> = vec![
        (
            "a redirect",
            Box::new(move || token(json!({})).status(307).with("location", "https://api.upstream.test/steal")),
            "redirect",
        ),
        ("a huge body", Box::new(move || Reply::text(huge.clone())), "more than"),
        ("CR and LF", Box::new(move || token(json!({ "access_token": "hunter2\r\nx-evil: 1" }))), "no header"),
        ("a control character", Box::new(move || token(json!({ "access_token": "hunter2\u{0}hunter2" }))), "no header"),
        ("a lifetime below zero", Box::new(move || token(json!({ "expires_in": -3600 }))), "lifetime"),
        ("no lifetime at all", Box::new(move || token(json!({ "expires_in": 0 }))), "lifetime"),
        ("another type", Box::new(move || token(json!({ "token_type": "DPoP" }))), "another type"),
        ("no JSON", Box::new(|| Reply::text("access_token=hunter2hunter2")), "no JSON"),
        ("coded", Box::new(|| Reply::text("\u{1f}hunter2").with("content-encoding", "gzip")), "no JSON"),
        (
            "a refusal",
            Box::new(|| Reply::text("{\"error\":\"invalid_client\",\"error_description\":\"hunter2\"}").status(401)),
            "invalid_client",
        ),
    ];
    for (name, reply, says) in cases {
        let world = world(move |_, _| reply()).settings(|s| s.credential.tries = 1).start().await;
        let key = Computed::add(&world, KeyKind::ClientCredentials, &client_credentials("basic"));
        let answer = world.agent().ask(OTHER, call(key.token())).await;
        assert!(answer.code().starts_with("credential_"), "{name}: {}", answer.text());
        assert!(answer.text().contains(says) && !answer.text().contains("hunter2"), "{name}: {}", answer.text());
        assert_eq!(to_endpoint(&world).len(), 1, "{name}");
        assert_eq!(world.upstream.received().len(), 1, "{name}: nothing went to the API, and nothing was followed");
    }
}

#[tokio::test]
async fn huge_lifetime_is_bounded() {
    let clock = clock();
    let world = world(|number, _| granted(number, &json!(1e200)))
        .clock(clock.clone())
        .settings(|s| s.credential.longest_lifetime = Duration::from_secs(100))
        .start()
        .await;
    let key = Computed::add(&world, KeyKind::ClientCredentials, &client_credentials("post"));
    for number in [1, 2] {
        let answer = world.agent().ask(OTHER, call(key.token())).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(to_endpoint(&world).len(), number);
        later(&world, &clock, Duration::from_secs(101)).await;
    }
}

#[tokio::test]
async fn endpoint_outside_the_key_s_destinations_is_refused_when_the_key_is_stored() {
    let world = world(|number, _| granted(number, &json!(60))).start().await;
    let new = NewKey {
        name: "elsewhere".parse().expect("a name"),
        provider: "custom".parse().expect("a name"),
        kind: KeyKind::ClientCredentials,
        environment: Environment::Development,
        destination: Destination {
            hosts: vec![HostPattern::parse("api.upstream.test").expect("a host")],
            slots: KeyKind::ClientCredentials.usual_slots(),
            cleartext: Cleartext::Never,
        },
        shape: TokenShape::default(),
    };
    let secret = Secret::new(client_credentials("basic").into_bytes());
    let why = world.node.add_key_of(new, &secret).expect_err("refused").to_string();
    assert!(why.contains(OTHER) && !why.contains(SECRET), "{why}");
}

#[tokio::test]
async fn access_token_of_a_disabled_key_is_not_used_again_and_policy_decides_before_a_mint() {
    let world = world(|number, _| granted(number, &json!(3600))).start().await;
    let key = Computed::add(&world, KeyKind::ClientCredentials, &client_credentials("basic"));
    assert_eq!(world.agent().ask(OTHER, call(key.token())).await.status, 200);
    world.node.set_key_state(&key.key, KeyState::Disabled);
    assert_eq!(world.node.shared().mints.count(), 1, "replies are still searched for it");
    let answer = world.agent().ask(OTHER, call(key.token())).await;
    assert_eq!(answer.code(), "key_disabled");
    world.node.set_key_state(&key.key, KeyState::Enabled);
    assert_eq!(world.agent().ask(OTHER, call(key.token())).await.status, 200);
    assert_eq!(to_endpoint(&world).len(), 2, "the token from before isn't used again");

    let denying = "version: 1\nname: no\napplies_to: { environments: [development] }\nrules: [{ name: no-get, deny: { methods: [GET] } }]\n";
    let world = self::world(|number, _| granted(number, &json!(3600))).policy(denying).start().await;
    let key = Computed::add(&world, KeyKind::ClientCredentials, &client_credentials("basic"));
    assert_eq!(world.agent().ask(OTHER, call(key.token())).await.code(), "policy_denied");
    assert!(world.upstream.received().is_empty(), "nothing was minted for it");
}

#[tokio::test]
async fn access_token_of_a_disabled_key_is_still_masked_in_what_another_key_brings_back() {
    let world = World::build().upstream(|u| u.host = OTHER.to_owned()).answer(|received| {
        match received.path.starts_with(TOKEN_PATH) {
            true => granted(1, &json!(3600)),
            false => Reply::text(format!("hello {}", access(1))),
        }
    });
    let world = world.start().await;
    let key = Computed::add(&world, KeyKind::ClientCredentials, &client_credentials("basic"));
    let other = Computed::add(&world, KeyKind::Secret, "sk-of-another-key");
    holds_nothing(&world.agent().ask(OTHER, call(key.token())).await);
    world.node.set_key_state(&key.key, KeyState::Disabled);
    let answer = world.agent().ask(OTHER, call(other.token())).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    holds_nothing(&answer);
}

#[tokio::test]
async fn token_that_was_replaced_is_still_masked_in_replies() {
    let clock = clock();
    let world = world(|number, _| granted(number, &json!(100))).clock(clock.clone()).start().await;
    let key = Computed::add(&world, KeyKind::ClientCredentials, &client_credentials("basic"));
    let first = world.agent().ask(OTHER, call(key.token())).await;
    assert_eq!(first.status, 200, "{}", first.text());
    holds_nothing(&first);
    later(&world, &clock, Duration::from_secs(92)).await;
    let second = world.agent().ask(OTHER, call(key.token())).await;
    assert_eq!((second.status.as_u16(), to_endpoint(&world).len()), (200, 2), "{}", second.text());
    holds_nothing(&second);
}

#[tokio::test]
async fn token_that_holds_is_masked_however_many_an_agent_has_minted_behind_it() {
    for expires_in in [json!(36_000), Value::Null] {
        let clock = clock();
        let count = AtomicUsize::new(0);
        let lasts = expires_in.clone();
        let world = World::build().upstream(|u| u.host = OTHER.to_owned()).answer(move |received| {
            match (received.path.starts_with(TOKEN_PATH), received.path.as_str()) {
                (true, _) => granted(count.fetch_add(1, Ordering::SeqCst) + 1, &lasts),
                (_, "/v1/no") => Reply::text("no").status(401),
                _ => Reply::text(format!("hello {}", access(1))),
            }
        });
        let world = world.clock(clock.clone()).start().await;
        let key = Computed::add(&world, KeyKind::ClientCredentials, &client_credentials("basic"));
        let ask = async |path: &str| {
            let mut request = call(key.token());
            *request.uri_mut() = path.parse().expect("a path");
            world.agent().ask(OTHER, request).await
        };
        for _ in 0..12 {
            assert_eq!(ask("/v1/no").await.status, 401);
            let answer = ask("/v1/things").await;
            assert_eq!(answer.status, 200, "{}", answer.text());
            holds_nothing(&answer);
            later(&world, &clock, Duration::from_secs(31)).await;
        }
        assert!(to_endpoint(&world).len() > 4, "{}", to_endpoint(&world).len());
    }
}

/// A P-256 key in PEM, and how to check what it signed.
fn signer() -> (String, impl Fn(&str) -> (Value, Value)) {
    let key = rcgen::KeyPair::generate().expect("a key");
    let public = key.der_bytes().to_vec();
    let check = move |assertion: &str| {
        let (signed, signature) = assertion.rsplit_once('.').expect("three parts");
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &public);
        let signature = BASE64URL.decode(signature).expect("base64url");
        public.verify(signed.as_bytes(), &signature).expect("it verifies");
        let (header, claims) = signed.split_once('.').expect("two parts");
        let read = |part: &str| serde_json::from_slice(&BASE64URL.decode(part).expect("base64url")).expect("json");
        (read(header), read(claims))
    };
    (key.serialize_pem(), check)
}

#[tokio::test]
async fn github_app_asks_for_its_installation_with_the_claims_that_github_wants() {
    let clock = clock();
    let (pem, check) = signer();
    let ends = clock.now().plus(Duration::from_secs(3600)).to_string();
    let world = world(move |number, _| {
        let answer = json!({ "token": access(number), "expires_at": ends, "permissions": {} });
        Reply::text(answer.to_string()).status(201)
    })
    .clock(clock.clone())
    .start()
    .await;
    let document = json!({
        "app_id": 12345, "installation_id": 678, "private_key": pem, "api_url": format!("https://{OTHER}"),
        "permissions": { "contents": "read" }, "repositories": ["one"],
    });
    let key = Computed::add(&world, KeyKind::GithubApp, &document.to_string());
    let answer = world.agent().ask(OTHER, call(key.token())).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    holds_nothing(&answer);
    let asked = to_endpoint(&world).remove(0);
    assert_eq!(asked.path, "/app/installations/678/access_tokens");
    assert!(!asked.header("user-agent").is_empty(), "GitHub refuses requests without one");
    let (header, claims) = check(asked.header("authorization").strip_prefix("Bearer ").expect("bearer"));
    assert_eq!(header["alg"], "ES256");
    let now = clock.now().millis() / 1000;
    assert_eq!(claims["iss"], "12345");
    assert_eq!(claims["iat"], now - 60);
    assert!(claims["exp"].as_i64().is_some_and(|exp| exp > now && exp <= now + 600), "{claims}");
    let body: Value = serde_json::from_slice(&asked.body).expect("json");
    assert_eq!(body, json!({ "permissions": { "contents": "read" }, "repositories": ["one"] }));
    assert_eq!(to_api(&world)[0].header("authorization"), format!("Bearer {}", access(1)));
}

#[tokio::test]
async fn jwt_bearer_and_service_account_sign_what_they_are() {
    for kind in [KeyKind::JwtBearer, KeyKind::ServiceAccount] {
        let (pem, check) = signer();
        let world = world(|number, _| granted(number, &json!(3599))).start().await;
        let url = format!("https://{OTHER}{TOKEN_PATH}");
        let document = match kind {
            KeyKind::JwtBearer => json!({
                "token_url": url, "issuer": "me@x.test", "subject": "you@x.test", "key_id": "k1",
                "private_key": pem, "scopes": ["a", "b"], "algorithm": "ES256",
            }),
            _ => json!({
                "type": "service_account", "project_id": "p", "private_key_id": "k1", "private_key": pem,
                "client_email": "me@x.test", "client_id": "1", "auth_uri": "https://a.test", "token_uri": url,
                "scopes": ["a", "b"], "subject": "you@x.test", "universe_domain": "googleapis.com",
            }),
        };
        let key = Computed::add(&world, kind, &document.to_string());
        let answer = world.agent().ask(OTHER, call(key.token())).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let asked = to_endpoint(&world).remove(0);
        assert_eq!(field(&asked, "grant_type"), "urn:ietf:params:oauth:grant-type:jwt-bearer");
        let (header, claims) = check(&field(&asked, "assertion"));
        assert_eq!((&header["alg"], &header["kid"]), (&json!("ES256"), &json!("k1")));
        let claim = |name: &str| claims[name].as_str().unwrap_or_default().to_owned();
        assert_eq!((claim("iss"), claim("sub"), claim("aud")), ("me@x.test".into(), "you@x.test".into(), url));
        assert_eq!(claim("scope"), "a b");
        assert!(claims["exp"].as_i64() > claims["iat"].as_i64());
    }
}
