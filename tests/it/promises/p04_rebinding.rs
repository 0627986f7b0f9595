//! 4. What is checked is what is sent: names that resolve to one address now and to another then.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use sallyport::proxy::settings::Unbound;
use tokio::net::TcpListener;

use crate::support::forwarder::{Forwarder, To};
use crate::support::names::Names;
use crate::support::world::{Build, HOST, OTHER};
use crate::support::{Reply, World, apart};

/// A public address, which in the test's namespace is one of loopback's.
const PUBLIC: &str = "93.184.216.34";
/// Addresses that agents may not reach; each has a trap behind it.
const TRAPPED: &[&str] = &["127.0.0.1", "127.0.99.1", "169.254.169.254", "10.0.0.1", "::1"];

/// The name server of the namespace is 127.0.0.1, and nothing leads out of it.
const SETUP: &str = "ip link set lo up
    for ip in 93.184.216.34 169.254.169.254 10.0.0.1; do ip addr add $ip/32 dev lo; done
    printf 'nameserver 127.0.0.1\\noptions attempts:1\\n' > \"$0/resolv.conf\"
    printf '127.0.0.1 localhost\\n' > \"$0/hosts\"
    printf 'hosts: files dns\\n' > \"$0/nsswitch.conf\"
    for file in resolv.conf hosts nsswitch.conf; do [ ! -e /etc/$file ] || mount --bind \"$0/$file\" /etc/$file; done";

/// What a name has: at the first look-up, and at every other.
fn addresses(name: &str, look_up: usize) -> Vec<IpAddr> {
    let list: &[&str] = match (name, look_up) {
        (HOST | OTHER, 1) => &[PUBLIC],
        (HOST | OTHER, _) => &["127.0.99.1"],
        ("behind.upstream.test", _) => &["127.0.99.1", "169.254.169.254", PUBLIC, "::1"],
        ("before.upstream.test", _) => &[PUBLIC, "10.0.0.1", "::1"],
        // The public one of these doesn't answer.
        ("dead.upstream.test", _) => &["8.8.4.4", "127.0.99.1", "169.254.169.254", "::1", "::ffff:127.0.99.1"],
        ("six.upstream.test", _) => &["::ffff:127.0.99.1", "::1", "64:ff9b::7f00:6301"],
        _ => &[],
    };
    list.iter().map(|ip| ip.parse().expect("an address")).collect()
}

struct Traps(Arc<Mutex<Vec<String>>>);

impl Traps {
    async fn set() -> Self {
        let caught: Arc<Mutex<Vec<String>>> = Arc::default();
        for ip in TRAPPED {
            for port in [80, 443] {
                let at = SocketAddr::new(ip.parse().expect("an address"), port);
                let trap = TcpListener::bind(at).await.expect("a trap");
                let caught = Arc::clone(&caught);
                tokio::spawn(async move {
                    while trap.accept().await.is_ok() {
                        caught.lock().expect("not poisoned").push(at.to_string());
                    }
                });
            }
        }
        Self(caught)
    }

    fn are_empty(&self) {
        let caught = self.0.lock().expect("not poisoned").clone();
        assert!(caught.is_empty(), "dialled: {caught:?}");
    }
}

/// A name server, traps, and a world whose names are asked for; no connection is used twice.
async fn scene(build: Build) -> (Names, Traps, World, Forwarder) {
    let names = Names::start(SocketAddr::from(([127, 0, 0, 1], 53)), Box::new(addresses)).await;
    let hosts = [HOST, OTHER, "behind.upstream.test", "before.upstream.test", "dead.upstream.test"].join(",");
    let build = build.answer(|_| Reply::text("hello").with("connection", "close")).upstream(move |u| u.host = hosts);
    let world = build.start().await;
    let public = format!("{PUBLIC}:443").parse().expect("an address");
    let public = Forwarder::at(public, To::Tcp(world.upstream.addr)).await;
    (names, Traps::set().await, world, public)
}

fn by_name() -> Build {
    World::build().settings(|s| s.upstream.resolve.clear())
}

fn plain(host: &str) -> Request<Full<Bytes>> {
    Request::get("/").header("host", host).body(Full::new(Bytes::new())).expect("a request")
}

#[test]
fn address_that_was_checked_is_the_one_that_is_dialled() {
    const NAME: &str = "promises::p04_rebinding::address_that_was_checked_is_the_one_that_is_dialled";
    if !apart::inside(NAME, SETUP) {
        return;
    }
    apart::run(async {
        let (names, traps, world, _public) = scene(by_name().upstream(|u| u.alpn = vec!["http/1.1"])).await;
        let answer = world.agent().ask(HOST, world.get("/")).await;
        assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, "hello"), "{}", answer.text());
        assert!(world.upstream.only().header("authorization").contains(&world.secret));
        assert_eq!(names.look_ups(HOST), 1, "looked up once: what was checked was dialled");
        let answer = world.agent().ask(HOST, world.get("/")).await;
        assert_eq!(answer.code(), "destination_blocked", "{}", answer.text());
        assert_eq!(names.look_ups(HOST), 2);
        for (host, code) in [
            ("behind.upstream.test", ""),
            ("before.upstream.test", ""),
            ("dead.upstream.test", "upstream_unreachable"),
            ("six.upstream.test", "destination_blocked"),
            ("none.upstream.test", "upstream_unreachable"),
        ] {
            let answer = world.agent().ask(host, plain(host)).await;
            assert_eq!(answer.code(), code, "{host}: {} {}", answer.status, answer.text());
            assert_eq!(answer.status == 200, code.is_empty(), "{host}");
        }
        traps.are_empty();
        assert_eq!(world.upstream.received().len(), 3);
    });
}

#[test]
fn second_dial_for_another_protocol_is_checked_like_the_first() {
    const NAME: &str = "promises::p04_rebinding::second_dial_for_another_protocol_is_checked_like_the_first";
    if !apart::inside(NAME, SETUP) {
        return;
    }
    apart::run(async {
        // An agent of HTTP/1.1 is first tried with HTTP/1.1, which this upstream doesn't speak.
        let (names, traps, world, _public) = scene(by_name().upstream(|u| u.alpn = vec!["h2"])).await;
        let answer = world.agent().ask(HOST, world.get("/")).await;
        assert_eq!(answer.code(), "destination_blocked", "{}", answer.text());
        assert_eq!((names.look_ups(HOST), world.upstream.connections()), (2, 1));
        traps.are_empty();
        assert!(world.upstream.received().is_empty());
    });
}

#[test]
fn tunnel_that_is_copied_unread_leads_only_where_the_check_passed() {
    const NAME: &str = "promises::p04_rebinding::tunnel_that_is_copied_unread_leads_only_where_the_check_passed";
    if !apart::inside(NAME, SETUP) {
        return;
    }
    apart::run(async {
        let (names, traps, world, _public) = scene(by_name().settings(|s| {
            s.upstream.resolve.clear();
            s.proxy.unbound = Unbound::Tunnel;
        }))
        .await;
        let authority = format!("{OTHER}:443");
        assert!(world.agent().connect(&authority).await.is_ok());
        let refused = world.agent().connect(&authority).await.expect_err("refused");
        assert!(refused.contains("destination_blocked"), "{refused}");
        let refused = world.agent().connect("six.upstream.test:443").await.expect_err("refused");
        assert!(refused.contains("destination_blocked"), "{refused}");
        assert_eq!((names.look_ups(OTHER), world.upstream.connections()), (2, 1));
        traps.are_empty();
    });
}
