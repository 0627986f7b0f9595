//! The PROXY protocol: who is behind a balancer.

use std::net::SocketAddr;
use std::time::Duration;

use sallyport::proxy::settings::Settings;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream};

use crate::support::agent::{Agent, head_of, http1_on};
use crate::support::world::HOST;
use crate::support::{Raw, World, soon};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A header of version 2.
fn header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).expect("short").to_be_bytes();
    [SIGNATURE, &[command, family], &length, rest].concat()
}

/// One that names 203.0.113.7, with a TLV behind it.
fn of_agent() -> Vec<u8> {
    header(0x21, 0x11, &[203, 0, 113, 7, 192, 0, 2, 1, 0x12, 0x67, 1, 187, 0x04, 0, 1, 0])
}

async fn behind(change: impl FnOnce(&mut Settings) + 'static) -> World {
    let balancer = "127.0.0.5/32".parse().expect("a network");
    World::build()
        .settings(move |s| {
            s.proxy.balancers = vec![balancer];
            change(&mut s.proxy);
        })
        .start()
        .await
}

/// A connection from this address of loopback.
async fn from(address: &str, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(format!("{address}:0").parse().expect("an address")).expect("bound");
    socket.connect(to).await.expect("connected")
}

async fn balancer(world: &World) -> TcpStream {
    from("127.0.0.5", world.node.forward.expect("it listens")).await
}

/// Asks with the token through a tunnel behind this header; which client the record names.
async fn client_behind(header: &[u8]) -> String {
    let world = behind(|_| {}).await;
    let agent = world.known_agent();
    let mut stream = balancer(&world).await;
    let credentials = agent.credentials.clone().expect("they are there");
    let connect = format!("CONNECT {HOST}:443 HTTP/1.1\r\nproxy-authorization: {credentials}\r\n\r\n");
    stream.write_all(&[header, connect.as_bytes()].concat()).await.expect("written");
    assert!(head_of(&mut stream).await.starts_with("HTTP/1.1 200"));
    let own = stream.local_addr().expect("an address").to_string();
    let stream = agent.tls_on(stream, HOST, &[b"http/1.1"]).await.expect("TLS");
    assert_eq!(http1_on(stream).await.ask(world.get("/")).await.status, 200);
    let intent = world.records_of("intent").pop().expect("an intent");
    intent["client"].as_str().expect("text").replace(&own, "the balancer")
}

#[tokio::test]
async fn record_names_the_agent_that_the_header_names() {
    let v6: Vec<u8> = [[0x20, 1, 0xd, 0xb8], [0; 4], [0; 4], [0, 0, 0, 9]].concat();
    let v6 = [&v6[..], &[0; 16], &[0, 80], &[1, 187]].concat();
    for (name, header, client) in [
        ("IPv4 with a TLV", of_agent(), "203.0.113.7:4711"),
        ("IPv6", header(0x21, 0x21, &v6), "[2001:db8::9]:80"),
        ("LOCAL", header(0x20, 0, &[]), "the balancer"),
        ("LOCAL with an address", header(0x20, 0x11, &[9; 12]), "the balancer"),
        ("unknown", header(0x21, 0, &[1, 2, 3]), "the balancer"),
        ("version 1", b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\r\n".to_vec(), "203.0.113.7:4711"),
        ("version 1 with IPv6", b"PROXY TCP6 2001:db8::9 ::1 80 443\r\n".to_vec(), "[2001:db8::9]:80"),
        ("version 1, unknown", b"PROXY UNKNOWN\r\n".to_vec(), "the balancer"),
    ] {
        assert_eq!(client_behind(&header).await, client, "{name}");
    }
}

#[tokio::test]
async fn connection_of_a_balancer_without_a_right_header_is_closed() {
    let world = behind(|_| {}).await;
    let request = format!("GET https://{HOST}/ HTTP/1.1\r\nhost: {HOST}\r\nauthorization: {}\r\n\r\n", world.bearer());
    let long_line = format!("PROXY TCP4 {}\r\n", "1".repeat(200));
    for (name, header) in [
        ("none", vec![]),
        ("SOCKS", vec![5, 1, 0, 5, 1, 0, 3, 1, b'a', 1, 187, 0]),
        ("another version", header(0x31, 0x11, &[0; 12])),
        ("an unknown command", header(0x22, 0x11, &[0; 12])),
        ("UDP", header(0x21, 0x12, &[0; 12])),
        ("a short address", header(0x21, 0x11, &[0; 11])),
        ("a short IPv6 address", header(0x21, 0x21, &[0; 35])),
        ("longer than allowed", header(0x21, 0x11, &[0; 2100])),
        ("another signature", [b"\r\n\r\n\0\r\nQUIT\r", &of_agent()[12..]].concat()),
        ("version 1 with the wrong family", b"PROXY TCP4 ::1 ::1 1 1\r\n".to_vec()),
        ("version 1 without ports", b"PROXY TCP4 203.0.113.7 192.0.2.1\r\n".to_vec()),
        ("version 1 with a name", b"PROXY TCP4 localhost 192.0.2.1 1 1\r\n".to_vec()),
        ("version 1 without an end", long_line.into_bytes()),
    ] {
        let mut raw = Raw::new(balancer(&world).await);
        raw.send([&header[..], request.as_bytes()].concat()).await;
        assert_eq!(raw.rest().await, b"", "{name}");
    }
    assert!(world.upstream.received().is_empty());
    let denials = "sallyport_denials_total{code=\"bad_request\"} 13";
    assert!(world.node.metrics().contains(denials), "{}", world.node.metrics());
}

#[tokio::test]
async fn header_of_anybody_else_is_not_believed() {
    let world = behind(|s| s.require_auth = true).await;
    for header in [of_agent(), b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\r\n".to_vec()] {
        let mut raw = world.agent().bare().await;
        raw.send([&header[..], format!("CONNECT {HOST}:443 HTTP/1.1\r\n\r\n").as_bytes()].concat()).await;
        let answer = String::from_utf8_lossy(&raw.rest().await).into_owned();
        assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
        assert!(!answer.contains("HTTP/1.1 200"), "{answer}");
    }
    assert_eq!(world.known_agent().ask(HOST, world.get("/")).await.status, 200, "without one it is served");
    let intent = world.records_of("intent").pop().expect("an intent");
    assert!(intent["client"].as_str().is_some_and(|client| client.starts_with("127.0.0.1:")), "{intent}");
}

#[tokio::test]
async fn header_that_never_ends_is_closed() {
    let world = behind(|s| s.deadlines.head = Duration::from_millis(200)).await;
    for begun in [&SIGNATURE[..5], SIGNATURE, &of_agent()[..20], b"PROXY TCP4 203.0.113.7"] {
        let mut raw = Raw::new(balancer(&world).await);
        raw.send(begun).await;
        assert_eq!(soon("the proxy to close", raw.rest()).await, b"", "{begun:?}");
    }
}

#[tokio::test]
async fn agent_on_another_machine_needs_credentials_and_a_tunnel() {
    let world = behind(|_| {}).await;
    let mut raw = Raw::new(balancer(&world).await);
    raw.send([&of_agent()[..], format!("CONNECT {HOST}:443 HTTP/1.1\r\n\r\n").as_bytes()].concat()).await;
    assert_eq!(raw.reply().await.expect("an answer").code, "proxy_auth_required");
    // What would be readable on its way here is refused, with credentials too.
    let credentials = world.known_agent().credentials.expect("they are there");
    let request = format!(
        "GET https://{HOST}/ HTTP/1.1\r\nhost: {HOST}\r\nproxy-authorization: {credentials}\r\nauthorization: {}\r\n\r\n",
        world.bearer()
    );
    let mut raw = Raw::new(balancer(&world).await);
    raw.send([&of_agent()[..], request.as_bytes()].concat()).await;
    let reply = raw.reply().await.expect("an answer");
    assert_eq!(reply.code, "bad_request");
    assert!(String::from_utf8_lossy(&reply.body).contains("listen.proxy_tls"));
    assert!(world.upstream.received().is_empty());
    // On this machine the same is served.
    let mut raw = Raw::new(balancer(&world).await);
    raw.send([&header(0x20, 0, &[])[..], request.as_bytes()].concat()).await;
    assert_eq!(raw.reply().await.expect("an answer").status, 200);
}

#[tokio::test]
async fn gateway_and_tls_are_behind_it_too() {
    let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    let balancers = vec!["127.0.0.5/32".parse().expect("a network")];
    let build = World::build().settings(move |s| {
        (s.gateway, s.gateway_tls, s.forward_tls) = (Some(any), Some(any), Some(any));
        s.proxy.balancers = balancers;
    });
    let world = build.start().await;
    let request = format!("GET /upstream/ HTTP/1.1\r\nhost: gate.test\r\nauthorization: {}\r\n\r\n", world.bearer());
    let mut stream = from("127.0.0.5", world.node.gateway.expect("it listens")).await;
    stream.write_all(&of_agent()).await.expect("written");
    let mut raw = Raw::new(stream);
    raw.send(&request).await;
    assert_eq!(raw.reply().await.expect("an answer").status, 200);
    let mut stream = from("127.0.0.5", world.node.gateway_tls.expect("it listens")).await;
    stream.write_all(&of_agent()).await.expect("written");
    let mut raw = Raw::new(world.agent().tls_on(stream, "gate.test", &[b"http/1.1"]).await.expect("TLS"));
    raw.send(&request).await;
    assert_eq!(raw.reply().await.expect("an answer").status, 200);
    let mut stream = from("127.0.0.5", world.node.forward_tls.expect("it listens")).await;
    stream.write_all(&of_agent()).await.expect("written");
    let agent: Agent = world.known_agent();
    let mut raw = Raw::new(agent.tls_on(stream, "proxy.test", &[b"http/1.1"]).await.expect("TLS"));
    let credentials = agent.credentials.expect("they are there");
    raw.send(format!("CONNECT {HOST}:443 HTTP/1.1\r\nproxy-authorization: {credentials}\r\n\r\n")).await;
    assert_eq!(raw.reply().await.expect("an answer").status, 200);
    for intent in world.records_of("intent") {
        assert_eq!(intent["client"], "203.0.113.7:4711");
    }
}
