//! 4. What is checked is what is sent.

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use tokio::io::AsyncWriteExt as _;

use crate::support::World;
use crate::support::agent::{drain, http1_on};
use crate::support::world::{HOST, OTHER};

#[tokio::test]
async fn connect_server_name_and_host_have_to_agree() {
    let world = World::start().await;
    let agent = world.agent();
    let mut other_sni = http1_on(
        agent
            .tls_on(agent.connect(&format!("{HOST}:443")).await.expect("a tunnel"), HOST, &[b"http/1.1"])
            .await
            .expect("TLS"),
    )
    .await;
    let host = |name: &str| {
        let request = Request::get("/").header("host", name).header("authorization", world.bearer());
        request.body(Full::new(Bytes::new())).expect("a request")
    };
    for name in [OTHER, "api.upstream.test:8443", "API.upstream.test.evil.test", "api.upstream.test@evil.test"] {
        let answer = other_sni.ask(host(name)).await;
        assert!(matches!(answer.status.as_u16(), 421 | 400), "{name}: {}", answer.status);
    }
    for name in [HOST, "API.Upstream.TEST", "api.upstream.test:443", "api.upstream.test."] {
        assert_eq!(world.agent().ask(HOST, host(name)).await.status, 200, "{name}");
        let received = world.upstream.received().pop().expect("received");
        assert_eq!(received.authority, HOST, "the one normal form is sent");
    }
    assert_eq!(world.upstream.received().len(), 4);
    // Another name in the hello: the leaf is for CONNECT's name, so the client sees a wrong certificate.
    let stream = agent.connect(&format!("{OTHER}:443")).await.expect("a tunnel");
    assert!(agent.tls_on(stream, HOST, &[b"http/1.1"]).await.is_err());
}

#[tokio::test]
async fn http2_authority_has_to_agree_too() {
    let world = World::start().await;
    let mut agent = world.agent().http2(HOST).await;
    let to = |authority: &str| {
        let request = Request::get(format!("https://{authority}/")).header("authorization", world.bearer());
        request.body(Full::new(Bytes::new())).expect("a request")
    };
    assert_eq!(agent.ask(to(OTHER)).await.status, 421);
    assert_eq!(agent.ask(to("api.upstream.test:8443")).await.status, 421);
    assert!(world.upstream.received().is_empty());
    assert_eq!(agent.ask(to(HOST)).await.status, 200);
}

#[tokio::test]
async fn absolute_form_inside_a_tunnel_can_not_name_another_host() {
    let world = World::start().await;
    for target in
        [format!("https://{OTHER}/"), format!("http://{HOST}/"), format!("https://{HOST}:8443/"), "*".to_owned()]
    {
        let head = format!("GET {target} HTTP/1.1\r\nhost: {HOST}\r\nauthorization: {}\r\n\r\n", world.bearer());
        let got = world.agent().raw(HOST, head.as_bytes()).await;
        assert!(got.starts_with("HTTP/1.1 4"), "{target}: {got}");
    }
    assert!(world.upstream.received().is_empty(), "{:?}", world.upstream.received());
}

#[tokio::test]
async fn key_never_leaves_without_tls() {
    let world = World::start().await;
    let proxy = world.node.forward.expect("it listens");
    let mut stream = tokio::net::TcpStream::connect(proxy).await.expect("connected");
    let head = format!("GET http://{HOST}/ HTTP/1.1\r\nhost: {HOST}\r\nauthorization: {}\r\n\r\n", world.bearer());
    stream.write_all(head.as_bytes()).await.expect("written");
    let got = drain(&mut stream).await;
    assert!(got.starts_with("HTTP/1.1 403") && got.contains("host_not_allowed"), "{got}");
    // In clear inside a tunnel that is meant for TLS: closed, and nothing is forwarded.
    let mut tunnel = world.agent().connect(&format!("{HOST}:443")).await.expect("a tunnel");
    tunnel.write_all(head.as_bytes()).await.expect("written");
    assert_eq!(drain(&mut tunnel).await, "");
    assert_eq!(world.upstream.connections(), 0);
}

#[tokio::test]
async fn forbidden_addresses_are_refused_in_every_disguise_and_never_dialled() {
    let world = World::start().await;
    for authority in [
        "127.0.0.1:443",
        "2130731777:443",
        "0177.0.0143.1:443",
        "127.25345:443",
        "0x7f.1:443",
        "[::ffff:127.0.99.1]:443",
        "[::ffff:7f00:6301]:443",
        "0.0.0.0:443",
        "[::]:443",
        "[fe80::1%25lo]:443",
        "10.0.0.1:443",
        "169.254.169.254:443",
        "100.100.100.200:443",
        "localhost:443",
        "[api.upstream.test]:443",
        "127.0.99.1.:443",
        "[64:ff9b::7f00:1]:443",
        "api.upstream.test:0",
        "api.upstream.test:65536",
        "api.upstream.test",
        "user@api.upstream.test:443",
        "api.upstream.test:443/x",
        "api upstream.test:443",
        "\u{e4}pi.test:443",
    ] {
        let mut stream =
            tokio::net::TcpStream::connect(world.node.forward.expect("it listens")).await.expect("connected");
        let head = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.expect("written");
        let got = crate::support::agent::head_of(&mut stream).await;
        if got.starts_with("HTTP/1.1 200") {
            // The address is checked when a request is there to be answered.
            let name = authority
                .rsplit_once(':')
                .map_or(authority, |(host, _)| host.trim_matches(['[', ']']).trim_end_matches('.'));
            let tls = world.agent().tls_on(stream, name, &[b"http/1.1"]).await.expect("TLS");
            let request = Request::get("/").header("host", authority).body(Full::new(Bytes::new())).expect("a request");
            let answer = http1_on(tls).await.ask(request).await;
            assert_eq!(answer.code(), "destination_blocked", "{authority}: {}", answer.text());
        } else {
            assert!(got.starts_with("HTTP/1.1 4"), "{authority}: {got}");
        }
    }
    assert_eq!(world.upstream.connections(), 0);
}

#[tokio::test]
async fn own_listeners_are_never_dialled() {
    let world = World::build()
        .settings(|s| s.upstream.allow_private = vec!["127.0.0.0/8".parse().expect("a network")])
        .start()
        .await;
    let proxy = world.node.forward.expect("it listens");
    let mut stream = tokio::net::TcpStream::connect(proxy).await.expect("connected");
    let head = format!("GET http://{proxy}/ HTTP/1.1\r\nhost: {proxy}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.expect("written");
    let got = drain(&mut stream).await;
    assert!(got.contains("destination_blocked"), "{got}");
}

#[tokio::test]
async fn hop_by_hop_fields_and_what_connection_names_stay_behind() {
    let world = World::build()
        .answer(|_| crate::support::Reply::text("x").with("alt-svc", "h3=\":443\"").with("x-own", "1"))
        .start()
        .await;
    let head = format!(
        "GET / HTTP/1.1\r\nhost: {HOST}\r\nauthorization: {}\r\nconnection: keep-alive, x-private\r\nx-private: 1\r\n\
         keep-alive: timeout=5\r\nproxy-connection: keep-alive\r\nte: trailers\r\nx-kept: 1\r\n\r\n",
        world.bearer()
    );
    let got = world.agent().raw(HOST, head.as_bytes()).await;
    assert!(got.starts_with("HTTP/1.1 200") && got.contains("x-own: 1") && !got.contains("alt-svc"), "{got}");
    let received = world.upstream.only();
    for name in ["connection", "x-private", "keep-alive", "proxy-connection"] {
        assert_eq!(received.header(name), "", "{name}");
    }
    assert_eq!(received.header("x-kept"), "1");
    // An agent can't have the injected field dropped by naming it as hop-by-hop.
    let head = head.replace("keep-alive, x-private", "authorization");
    let got = world.agent().raw(HOST, head.as_bytes()).await;
    let kept = world.upstream.received().last().map(|r| r.header("authorization").to_owned()).unwrap_or_default();
    assert!(got.starts_with("HTTP/1.1 400") || kept.contains(&world.secret), "{got}");
}
