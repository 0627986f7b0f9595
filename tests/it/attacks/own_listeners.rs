//! Agents can't reach sallyport's own listeners through sallyport, least of all the admin API.

use std::net::SocketAddr;

use http::Request;
use http_body_util::Full;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::support::agent::{Agent, http1_on};
use crate::support::binary::{Place, Serve};
use crate::support::raw::RawReply;
use crate::support::world::Build;
use crate::support::{Raw, World, apart};

/// Asks for `authority` in clear, in absolute form.
async fn ask(proxy: SocketAddr, authority: &str) -> RawReply {
    let mut raw = Raw::new(tokio::net::TcpStream::connect(proxy).await.expect("connected"));
    raw.send(format!("GET http://{authority}/healthz HTTP/1.1\r\nhost: {authority}\r\n\r\n")).await;
    raw.reply().await.expect("an answer")
}

/// A server that answers the first bytes of every connection.
async fn answering(at: &str) -> SocketAddr {
    let listener = TcpListener::bind(at).await.expect("a port");
    let at = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi").await;
        }
    });
    at
}

#[tokio::test(flavor = "multi_thread")]
async fn no_listener_is_reached_under_any_of_its_names() {
    let place = Place::new();
    place.ok(&["init"]);
    // The operator let agents reach loopback.
    let serve = Serve::start(&place, "upstream: { allow_private: [\"127.0.0.0/8\", \"::1/128\", \"0.0.0.0/8\"] }");
    let elsewhere = answering("127.0.0.1:0").await;
    assert_eq!(ask(serve.proxy, &elsewhere.to_string()).await.status, 200, "other ports are reached");
    let ca_pem = std::fs::read_to_string(place.data.join("ca.pem")).expect("readable");
    let agent = Agent { proxy: serve.proxy, credentials: None, ca_pem };
    for own in [serve.proxy, serve.gateway, serve.admin] {
        for name in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "0.0.0.0", "2130706433"] {
            let authority = format!("{name}:{}", own.port());
            let reply = ask(serve.proxy, &authority).await;
            let refused = reply.code == "destination_blocked" || (reply.code == "bad_request" && name == "2130706433");
            assert!(refused, "{authority}: {} {}", reply.head, String::from_utf8_lossy(&reply.body));
        }
        // Nor inside of a tunnel.
        let stream = agent.connect(&own.to_string()).await.expect("a tunnel");
        let stream = agent.tls_on(stream, "127.0.0.1", &[b"http/1.1"]).await.expect("TLS");
        let request = Request::get("/healthz").header("host", own.to_string());
        let answer =
            http1_on(stream).await.ask(request.body(Full::<bytes::Bytes>::default()).expect("a request")).await;
        assert_eq!(answer.code(), "destination_blocked", "{own}: {}", answer.text());
    }
}

fn told(own: &'static str) -> Build {
    World::build().settings(move |s| {
        s.upstream.allow_private = vec!["10.0.0.0/8".parse().expect("a network")];
        s.upstream.own_addresses.push(own.parse().expect("an address"));
    })
}

#[test]
fn listener_on_every_address_is_not_reached_by_any_of_them() {
    const NAME: &str = "attacks::own_listeners::listener_on_every_address_is_not_reached_by_any_of_them";
    let setup = "ip link set lo up; ip addr add 10.0.0.1/32 dev lo; ip addr add 10.0.0.2/32 dev lo";
    if !apart::inside(NAME, setup) {
        return;
    }
    apart::run(async {
        answering("0.0.0.0:9443").await;
        for (own, authority, reached) in [
            ("0.0.0.0:9443", "10.0.0.1:9443", false),
            ("[::]:9443", "10.0.0.2:9443", false),
            ("[::ffff:10.0.0.1]:9443", "10.0.0.1:9443", false),
            ("10.0.0.1:9443", "10.0.0.1:9443", false),
            ("10.0.0.1:9443", "10.0.0.2:9443", true),
            ("0.0.0.0:9444", "10.0.0.1:9443", true),
        ] {
            let world = told(own).start().await;
            let reply = ask(world.node.forward.expect("it listens"), authority).await;
            let expected = if reached { (200, "") } else { (403, "destination_blocked") };
            assert_eq!((reply.status, reply.code.as_str()), expected, "{own} {authority}: {}", reply.head);
        }
    });
}
