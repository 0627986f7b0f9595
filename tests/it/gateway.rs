//! The gateway: a base URL in place of a proxy setting.

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use tokio::net::TcpStream;

use crate::support::agent::{Sender, http1_on};
use crate::support::world::{Build, HOST};
use crate::support::{Raw, World};

fn build() -> Build {
    World::build().settings(|s| {
        s.gateway = Some(([127, 0, 0, 1], 0).into());
        s.routes.insert("base".into(), format!("https://{HOST}/base/v1"));
    })
}

async fn tcp(world: &World) -> TcpStream {
    TcpStream::connect(world.node.gateway.expect("it listens")).await.expect("connected")
}

async fn gateway(world: &World) -> Sender<Full<Bytes>> {
    http1_on(tcp(world).await).await
}

fn request(path: &str, auth: &str) -> Request<Full<Bytes>> {
    let request = Request::post(path).header("host", "127.0.0.1:8081").header("authorization", auth);
    request.body(Full::new(Bytes::from_static(b"{}"))).expect("a request")
}

#[tokio::test]
async fn route_leads_to_its_base_url_with_the_key_in_the_slot() {
    let world = build().start().await;
    let mut agent = gateway(&world).await;
    for (sent, arrives) in [
        ("/upstream/v1/x?q=1", "/v1/x?q=1"),
        ("/upstream", "/"),
        ("/upstream?q=1", "/?q=1"),
        ("/base/x", "/base/v1/x"),
        ("/base", "/base/v1/"),
    ] {
        assert_eq!(agent.ask(request(sent, &world.bearer())).await.status, 200, "{sent}");
        let received = world.upstream.received().pop().expect("received");
        assert_eq!((received.path.as_str(), received.authority.as_str()), (arrives, HOST), "{sent}");
        assert_eq!(received.header("authorization"), format!("Bearer {}", world.secret), "{sent}");
    }
    world.nothing_leaked(&[]).await;
}

#[tokio::test]
async fn what_names_no_route_goes_nowhere() {
    let world = build().start().await;
    let mut agent = gateway(&world).await;
    for path in ["/", "/nowhere/v1", "//upstream/v1", "/Upstream/v1", "/%75pstream/v1", "/.//upstream", "/../upstream"]
    {
        let answer = agent.ask(request(path, &world.bearer())).await;
        assert_eq!((answer.status.as_u16(), answer.code()), (404, "route_unknown"), "{path}");
        assert!(answer.text().ends_with("}\n"), "the line ends, for terminals");
    }
    for (path, meant) in [("/opnai/v1", "/openai"), ("/Upstream/v1", "/upstream"), ("/upstreem", "/upstream")] {
        let answer = agent.ask(request(path, &world.bearer())).await;
        assert!(answer.text().contains(&format!("is {meant} meant?")), "{}", answer.text());
        assert!(
            answer.text().contains("/anthropic, ") && answer.text().contains(" /base, "),
            "the routes are listed: {}",
            answer.text()
        );
    }
    let secret = "sk-a-key-in-the-wrong-place";
    assert!(!agent.ask(request(&format!("/{secret}/v1"), "Bearer x")).await.text().contains(secret));
    for head in [
        format!("GET https://{HOST}/v1 HTTP/1.1\r\nhost: {HOST}\r\nauthorization: {}\r\n\r\n", world.bearer()),
        format!("CONNECT {HOST}:443 HTTP/1.1\r\nhost: {HOST}:443\r\n\r\n"),
        format!("GET /upstream HTTP/1.1\r\nhost: a\r\nhost: b\r\nauthorization: {}\r\n\r\n", world.bearer()),
        format!("TRACE /upstream HTTP/1.1\r\nhost: a\r\nauthorization: {}\r\n\r\n", world.bearer()),
    ] {
        let mut raw = Raw::new(tcp(&world).await);
        raw.send(&head).await;
        let status = raw.reply().await.expect("an answer").status;
        assert!((400..500).contains(&status), "{status} for {head}");
    }
    assert!(world.upstream.received().is_empty(), "{:?}", world.upstream.received());
}

#[tokio::test]
async fn stray_real_keys_and_tokens_of_other_hosts_are_refused() {
    let world = build().start().await;
    let mut agent = gateway(&world).await;
    let answer = agent.ask(request("/upstream/v1", "Bearer sk-a-stray-real-key")).await;
    assert_eq!((answer.status.as_u16(), answer.code()), (403, "credential_unregistered"));
    let answer = agent.ask(request("/openai/v1", &world.bearer())).await;
    assert_eq!((answer.status.as_u16(), answer.code()), (403, "host_not_allowed"));
    assert!(world.upstream.received().is_empty());
}

#[tokio::test]
async fn path_rules_hold_for_the_path_that_is_sent() {
    let policy = "version: 1\nname: p\nrules:\n\
        \x20 - { name: all, allow: { paths: [\"/base/v1/**\"] } }\n\
        \x20 - { name: no-admin, deny: { paths: [\"/base/v1/admin/**\"] } }\n";
    let world = build().policy(policy).start().await;
    let mut agent = gateway(&world).await;
    assert_eq!(agent.ask(request("/base/users", &world.bearer())).await.status, 200);
    for path in ["/base/admin/x", "/base/%61dmin", "/base/../../v2", "/base/%2e%2e/v2", "/base//admin", "/upstream/v2"]
    {
        let answer = agent.ask(request(path, &world.bearer())).await;
        assert_eq!((answer.status.as_u16(), answer.code()), (403, "policy_denied"), "{path}");
    }
    assert_eq!(world.upstream.received().len(), 1);
}
