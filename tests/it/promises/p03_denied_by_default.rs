//! 3. Denied by default.

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use sallyport::app::{Node, NodeSettings};
use sallyport::proxy::settings::Unbound;

use crate::support::World;
use crate::support::world::{HOST, OTHER};

#[tokio::test]
async fn without_any_policy_no_key_is_used() {
    let world = World::build().policy("version: 1\nname: nothing\n").start().await;
    let answer = world.agent().ask(HOST, world.get("/")).await;
    assert_eq!((answer.status.as_u16(), answer.code()), (403, "policy_denied"));
    assert!(world.upstream.received().is_empty());
    assert!(world.records_of("intent").is_empty());
}

#[tokio::test]
async fn rule_that_denies_beats_every_rule_that_allows() {
    let policy = "version: 1\nname: p\nrules:\n\
        \x20 - { name: all, allow: { paths: [\"/**\"] } }\n\
        \x20 - { name: no-payouts, deny: { paths: [\"/v1/payouts/**\"] } }\n";
    let world = World::build().policy(policy).start().await;
    assert_eq!(world.agent().ask(HOST, world.get("/v1/charges")).await.status, 200);
    for path in ["/v1/payouts", "/v1/payouts/1", "/v1/payouts?x=1", "/v1/payouts/"] {
        let answer = world.agent().ask(HOST, world.get(path)).await;
        assert_eq!(answer.code(), "policy_denied", "{path}");
        assert!(answer.text().contains("p/no-payouts"), "{}", answer.text());
    }
    assert_eq!(world.upstream.received().len(), 1);
}

#[tokio::test]
async fn path_that_servers_could_read_differently_is_refused_where_a_path_rule_applies() {
    let policy = "version: 1\nname: p\nrules:\n\
        \x20 - { name: all, allow: { paths: [\"/**\"] } }\n\
        \x20 - { name: no-admin, deny: { paths: [\"/admin/**\"] } }\n";
    let world = World::build().policy(policy).start().await;
    for path in [
        "/v1/../admin/x",
        "/v1/%2e%2e/admin",
        "/%2E%2e/admin",
        "/v1/.%2e/admin",
        "/./admin",
        "/x%2f..%2fadmin",
        "/x%5c..%5cadmin",
        "/x\\..\\admin",
        "/x%00",
        "/x%0d%0a",
        "/%",
        "/%zz",
        "/x;/../admin",
    ] {
        let head = format!("GET {path} HTTP/1.1\r\nhost: {HOST}\r\nauthorization: {}\r\n\r\n", world.bearer());
        let got = world.agent().raw(HOST, head.as_bytes()).await;
        let refused = got.starts_with("HTTP/1.1 403") || got.starts_with("HTTP/1.1 400");
        assert!(refused, "{path}: {got}");
    }
    assert!(world.upstream.received().is_empty(), "{:?}", world.upstream.received());
    let answer = world.agent().ask(HOST, world.get("/%61dmin/users")).await;
    assert_eq!(answer.code(), "policy_denied", "an encoded letter is that letter");
}

#[tokio::test]
async fn mistake_in_a_policy_stops_the_start_and_a_later_one_keeps_the_old() {
    let world = World::start().await;
    std::fs::write(world.home.policy_dir().join("bad.yaml"), "version: 1\nname: bad\nrules: [{ allow: ")
        .expect("written");
    let why = Node::start(&world.home, &world.store, NodeSettings::default()).await.err().expect("refused");
    assert!(format!("{why:#}").contains("bad.yaml"), "{why:#}");
    let digest = *world.node.policies().current().digest();
    assert!(world.node.policies().reload().is_err());
    assert_eq!(world.node.policies().current().digest(), &digest);
    assert_eq!(world.agent().ask(HOST, world.get("/")).await.status, 200, "what was in force stays in force");
}

#[tokio::test]
async fn request_without_a_token_to_a_bound_host_follows_without_token() {
    let empty = || Request::get("/").header("host", HOST).body(Full::new(Bytes::new())).expect("a request");
    let stray = || {
        let request = Request::get("/").header("host", HOST).header("authorization", "Bearer sk-a-stray-real-key");
        request.body(Full::new(Bytes::new())).expect("a request")
    };
    let world = World::start().await;
    assert_eq!(world.agent().ask(HOST, stray()).await.code(), "credential_unregistered");
    assert!(world.upstream.received().is_empty(), "a stray real key doesn't slip by");

    let allow = "version: 1\nname: p\nrules: [{ name: all, allow: { methods: [GET], paths: [\"/**\"] } }]\nwithout_token: inject\n";
    let world = World::build().policy(allow).start().await;
    assert_eq!(world.known_agent().ask(HOST, empty()).await.status, 200);
    assert_eq!(world.upstream.only().header("authorization"), format!("Bearer {}", world.secret));
    // Without proxy credentials there is no session whose grant could be used; and a browser's
    // request is never given a key.
    let _ = world.agent().ask(HOST, empty()).await;
    let mut browser = empty();
    browser.headers_mut().insert("origin", "https://evil.test".parse().expect("a value"));
    let _ = world.known_agent().ask(HOST, browser).await;
    let with_key = |r: &&crate::support::Received| r.header("authorization").contains(&world.secret);
    assert_eq!(world.upstream.received().iter().filter(with_key).count(), 1);
}

#[tokio::test]
async fn hosts_without_keys_follow_proxy_unbound() {
    let request = || Request::get("/").header("host", OTHER).body(Full::new(Bytes::new())).expect("a request");
    let world = World::build().upstream(|u| u.host = OTHER.to_owned()).start().await;
    assert_eq!(world.agent().ask(OTHER, request()).await.status, 200);
    let build = World::build().upstream(|u| u.host = OTHER.to_owned());
    let world = build.settings(|s| s.proxy.unbound = Unbound::Deny).start().await;
    let answer = world.agent().ask(OTHER, request()).await;
    assert_eq!((answer.status.as_u16(), answer.code()), (403, "host_not_allowed"));
    assert!(world.upstream.received().is_empty());
}

#[tokio::test]
async fn decision_names_rule_and_reason_in_the_audit() {
    let world = World::start().await;
    world.agent().ask(HOST, world.get("/v1/x?secret=1")).await;
    let intent = world.records_of("intent").pop().expect("an intent");
    assert_eq!(intent["key"], "upstream_key");
    assert_eq!(intent["authority"], format!("{HOST}:443"));
    assert_eq!(intent["path"], "/v1/x");
    assert_eq!(intent["policy"], "development");
    assert!(intent["rule"].as_str().is_some_and(|rule| !rule.is_empty()), "{intent}");
}

#[tokio::test]
async fn blind_tunnel_is_only_for_hosts_without_keys_and_ends_when_one_gets_a_key() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let build = World::build().settings(|s| s.proxy.unbound = Unbound::Tunnel);
    let world = build.upstream(|u| u.host = format!("{HOST},{OTHER}")).start().await;
    // The upstream's own certificate comes through: nobody ended TLS in between.
    let mut blind = world.agent();
    blind.ca_pem = world.upstream.ca_pem.clone();
    let stream = blind.connect(&format!("{OTHER}:443")).await.expect("a tunnel");
    let mut stream = blind.tls_on(stream, OTHER, &[b"http/1.1"]).await.expect("TLS with the upstream itself");
    stream.write_all(format!("GET / HTTP/1.1\r\nhost: {OTHER}\r\n\r\n").as_bytes()).await.expect("written");
    let head = crate::support::agent::head_of(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    // A host with a key is intercepted all the same.
    let tunnel = blind.connect(&format!("{HOST}:443")).await.expect("a tunnel");
    assert!(blind.tls_on(tunnel, HOST, &[b"http/1.1"]).await.is_err(), "the leaf is the proxy's");
    assert_eq!(world.agent().ask(HOST, world.get("/")).await.status, 200);
    // The other host gets a key: its tunnel ends.
    let destination = sallyport::model::Destination {
        hosts: vec![sallyport::model::HostPattern::parse(OTHER).expect("a host")],
        ..world.key.destination.clone()
    };
    let secret = sallyport::model::Secret::new(b"sk-another-key-0123".to_vec());
    let (name, provider) = ("another".parse().expect("a name"), "custom".parse().expect("a name"));
    world
        .node
        .add_key(&name, &provider, world.key.environment, destination, world.key.shape.clone(), &secret)
        .expect("a key");
    let mut rest = Vec::new();
    let end = tokio::time::timeout(std::time::Duration::from_secs(1), stream.read_to_end(&mut rest)).await;
    assert!(end.is_ok(), "the tunnel goes on although its host has a key");
}
