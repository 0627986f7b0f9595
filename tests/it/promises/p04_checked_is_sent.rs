//! 4. What is checked is what is sent.

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use tokio::io::AsyncWriteExt as _;

use crate::support::World;
use crate::support::agent::{drain, http1_on};
use crate::support::apart;
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
async fn what_is_denied_is_denied_however_servers_may_be_asked_for_it() {
    const DENYING: &str = "version: 1\nname: p\nrules:\n  - { name: all, allow: {} }\n  \
        - { name: no-deletes, deny: { methods: [DELETE] } }\n  - { name: no-payouts, deny: { paths: [/v1/Payouts] } }\n";
    let world = World::build().policy(DENYING).start().await;
    let ask = async |method: &str, path: &str, more: Option<(&str, &str)>| {
        let mut request = world.request(method, path, "");
        if let Some((name, value)) = more {
            let name: http::HeaderName = name.parse().expect("a name");
            request.headers_mut().append(name, value.parse().expect("a value"));
        }
        world.agent().ask(HOST, request).await
    };
    for (method, path, more, code) in [
        ("DELETE", "/v1/charges", None, "policy_denied"),
        ("delete", "/v1/charges", None, "policy_denied"),
        ("Delete", "/v1/charges", None, "policy_denied"),
        ("trace", "/v1/charges", None, "method_refused"),
        ("POST", "/v1/charges", Some(("x-http-method-override", "DELETE")), "policy_denied"),
        ("POST", "/v1/charges", Some(("x-http-method", "delete ")), "policy_denied"),
        ("POST", "/v1/charges", Some(("x-method-override", "DELETE")), "policy_denied"),
        ("POST", "/v1/charges", Some(("x-method-override", "DELETE, GET")), "bad_request"),
        ("POST", "/v1/charges", Some(("x-original-url", "/v1/payouts")), "bad_request"),
        ("POST", "/v1/charges", Some(("x-rewrite-url", "/v1/payouts")), "bad_request"),
        ("POST", "/v1/Payouts", None, "policy_denied"),
        ("POST", "/v1/payouts", None, "policy_denied"),
        ("POST", "/v1/PAYOUTS/", None, "policy_denied"),
        ("POST", "/v1/payouts/?x=1", None, "policy_denied"),
    ] {
        let answer = ask(method, path, more).await;
        assert_eq!(answer.code(), code, "{method} {path} {more:?}: {}", answer.text());
    }
    assert!(world.upstream.received().is_empty() && world.records_of("intent").is_empty());
    for (method, path, more) in [
        ("POST", "/v1/charges", Some(("x-http-method-override", "GET"))),
        ("POST", "/v1/payouts/other", None),
        ("PURGE", "/", None),
    ] {
        assert_eq!(ask(method, path, more).await.status, 200, "{method} {path}");
    }
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

/// Addresses that no agent may reach, each with a trap listening on it.
const TRAPPED: &[&str] = &["169.254.169.254", "10.0.0.1", "100.100.100.200", "192.168.7.7", "172.16.0.9", "198.18.0.1"];

/// Names that resolve to them, or to a mixture.
const NAMES: &str = "127.0.0.1 localhost\n169.254.169.254 rebind.example.test\n127.0.99.1 loop.example.test\n\
    203.0.113.9 mixed.example.test\n127.0.99.1 mixed.example.test\n::1 six.example.test\n";

#[test]
fn forbidden_addresses_are_refused_in_every_disguise_and_never_dialled() {
    const NAME: &str =
        "promises::p04_checked_is_sent::forbidden_addresses_are_refused_in_every_disguise_and_never_dialled";
    let mut setup = "ip link set lo up\n".to_owned();
    for address in TRAPPED {
        setup.push_str(&format!("ip addr add {address}/32 dev lo\n"));
    }
    setup.push_str(&format!("printf '{NAMES}' > \"$0/hosts\"; mount --bind \"$0/hosts\" /etc/hosts"));
    if !apart::inside(NAME, &setup) {
        return;
    }
    apart::run(async {
        let caught = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        for address in TRAPPED.iter().chain(&["127.0.0.1", "127.0.99.1", "[::1]"]) {
            for port in [80, 443] {
                let trap = tokio::net::TcpListener::bind(format!("{address}:{port}")).await.expect("a trap");
                let caught = std::sync::Arc::clone(&caught);
                tokio::spawn(async move {
                    while trap.accept().await.is_ok() {
                        caught.lock().expect("not poisoned").push(format!("{address}:{port}"));
                    }
                });
            }
        }
        let world = World::build().settings(|s| s.upstream.deadlines.connect = std::time::Duration::from_millis(500));
        let world = world.start().await;
        for authority in [
            "127.0.0.1:443",
            "127.0.99.1:80",
            "2130731777:443",
            "0177.0.0143.1:443",
            "127.25345:443",
            "0x7f.1:443",
            "[::ffff:127.0.99.1]:443",
            "[::ffff:7f00:6301]:443",
            "0.0.0.0:443",
            "[::]:443",
            "[::1]:443",
            "[fe80::1%25lo]:443",
            "10.0.0.1:443",
            "192.168.7.7:443",
            "172.16.0.9:443",
            "198.18.0.1:443",
            "169.254.169.254:443",
            "169.254.169.254:80",
            "[::ffff:169.254.169.254]:80",
            "100.100.100.200:443",
            "localhost:443",
            "rebind.example.test:443",
            "loop.example.test:80",
            "mixed.example.test:443",
            "six.example.test:443",
            "nothing.example.test:443",
            "[api.upstream.test]:443",
            "127.0.99.1.:443",
            "[64:ff9b::7f00:1]:443",
            "[64:ff9b::a9fe:a9fe]:443",
            "[2002:7f00:1::]:443",
            "api.upstream.test:0",
            "api.upstream.test:65536",
            "api.upstream.test",
            "user@api.upstream.test:443",
            "api.upstream.test:443/x",
            "api upstream.test:443",
            "\u{e4}pi.test:443",
        ] {
            let proxy = world.node.forward.expect("it listens");
            let mut stream = tokio::net::TcpStream::connect(proxy).await.expect("connected");
            let head = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n");
            stream.write_all(head.as_bytes()).await.expect("written");
            let got = crate::support::agent::head_of(&mut stream).await;
            if !got.starts_with("HTTP/1.1 200") {
                assert!(got.starts_with("HTTP/1.1 4"), "{authority}: {got}");
                continue;
            }
            // The address is checked when a request is there to be answered.
            let name = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
            let name = name.trim_matches(['[', ']']).trim_end_matches('.');
            let tls = world.agent().tls_on(stream, name, &[b"http/1.1"]).await.expect("TLS");
            let port = authority.rsplit(':').next().expect("a port");
            let host = if name.contains(':') { format!("[{name}]:{port}") } else { format!("{name}:{port}") };
            let request = Request::get("/").header("host", host).body(Full::new(Bytes::new())).expect("a request");
            let answer = http1_on(tls).await.ask(request).await;
            let allowed: &[&str] = match authority {
                // The public address is tried and is dead; the other one never is.
                "mixed.example.test:443" => &["destination_blocked", "upstream_unreachable", "upstream_timeout"],
                "nothing.example.test:443" => &["upstream_unreachable", "upstream_timeout"],
                _ => &["destination_blocked"],
            };
            assert!(allowed.contains(&answer.code()), "{authority}: {} {}", answer.status, answer.text());
        }
        let caught = caught.lock().expect("not poisoned").clone();
        assert!(caught.is_empty(), "dialled: {caught:?}");
        assert_eq!(world.upstream.connections(), 0);
    });
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
