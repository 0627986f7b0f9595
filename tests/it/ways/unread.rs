//! Tunnels that are moved unread.

use std::time::{Duration, Instant};

use sallyport::model::HostPattern;
use sallyport::proxy::settings::Unbound;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::support::agent::head_of;
use crate::support::world::{Build, HOST, OTHER};
use crate::support::{World, soon};

const MIB: usize = 1 << 20;

/// A world in which `OTHER` is a plain listener of the test's.
async fn world(change: impl FnOnce(&mut sallyport::app::NodeSettings) + 'static) -> (World, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let at = listener.local_addr().expect("an address");
    let build: Build = World::build().settings(move |s| {
        for (authority, pinned) in &mut s.upstream.resolve {
            if authority.to_string().starts_with(OTHER) {
                *pinned = at;
            }
        }
        s.proxy.unbound = Unbound::Tunnel;
        change(s);
    });
    (build.start().await, listener)
}

/// Both ends of a tunnel.
async fn tunnel(world: &World, listener: &TcpListener) -> (TcpStream, TcpStream) {
    let agent = world.known_agent().connect(&format!("{OTHER}:443")).await.expect("a tunnel");
    (agent, soon("the upstream's connection", listener.accept()).await.expect("accepted").0)
}

/// Bytes that repeat nowhere near.
fn noise(seed: u8, len: usize) -> Vec<u8> {
    let mut x = u64::from(seed) | 1;
    (0..len)
        .map(|_| {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            x.to_be_bytes()[0]
        })
        .collect()
}

async fn all_of(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.expect("read to the end");
    all
}

/// Sends both ways at once, one side a good deal slower than the other, and ends each way for itself.
async fn everything_arrives(spliced: usize) {
    let (world, listener) = world(move |s| s.proxy.limits.spliced = spliced).await;
    let (agent, upstream) = tunnel(&world, &listener).await;
    let (up, down) = (noise(1, 24 * MIB + 17), noise(2, 16 * MIB + 3));
    let ((mut agent_in, mut agent_out), (mut upstream_in, mut upstream_out)) =
        (agent.into_split(), upstream.into_split());
    let (up_sent, down_sent) = (up.clone(), down.clone());
    let sending = tokio::spawn(async move {
        agent_out.write_all(&up_sent).await.expect("written");
        agent_out.shutdown().await.expect("ended");
        agent_out
    });
    let receiving = tokio::spawn(async move {
        let mut all = Vec::new();
        upstream_in.read_to_end(&mut all).await.expect("read to the end");
        all
    });
    let received = soon("all bytes from the agent", receiving).await.expect("joined");
    assert!(received == up, "what the agent sent has changed");
    let _half_closed = sending.await.expect("joined");
    // The agent has ended its side, and gets the rest all the same.
    let answering = tokio::spawn(async move {
        upstream_out.write_all(&down_sent).await.expect("written");
        upstream_out.shutdown().await.expect("ended");
    });
    let mut all = Vec::new();
    soon("all bytes from the upstream", agent_in.read_to_end(&mut all)).await.expect("read to the end");
    assert!(all == down, "what the upstream sent has changed");
    answering.await.expect("joined");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_byte_arrives_and_each_way_ends_for_itself_where_the_kernel_moves_them() {
    everything_arrives(1000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_byte_arrives_and_each_way_ends_for_itself_where_they_are_copied() {
    everything_arrives(0).await;
}

#[tokio::test]
async fn bytes_behind_connect_arrive_first() {
    let (world, listener) = world(|_| {}).await;
    let mut agent = TcpStream::connect(world.node.forward.expect("it listens")).await.expect("connected");
    agent.write_all(format!("CONNECT {OTHER}:443 HTTP/1.1\r\n\r\nearly").as_bytes()).await.expect("written");
    let mut upstream = soon("the upstream's connection", listener.accept()).await.expect("accepted").0;
    assert!(head_of(&mut agent).await.starts_with("HTTP/1.1 200"));
    agent.write_all(b" and late").await.expect("written");
    agent.shutdown().await.expect("ended");
    assert_eq!(soon("the bytes", all_of(&mut upstream)).await, b"early and late");
}

#[tokio::test]
async fn tunnel_ends_with_its_session_and_when_nothing_moves() {
    let (world, listener) = world(|s| s.upstream.deadlines.idle_body = Duration::from_millis(600)).await;
    let (mut agent, mut upstream) = tunnel(&world, &listener).await;
    let since = Instant::now();
    // What moves keeps it open, past the time for which it may be silent.
    for _ in 0..10 {
        agent.write_all(b"x").await.expect("written");
        assert_eq!(upstream.read_u8().await.expect("it arrives"), b'x');
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(soon("the end of a silent tunnel", all_of(&mut upstream)).await, b"");
    assert!(since.elapsed() > Duration::from_millis(1500), "{:?}", since.elapsed());
    let (mut agent, mut upstream) = tunnel(&world, &listener).await;
    agent.write_all(b"x").await.expect("written");
    assert_eq!(upstream.read_u8().await.expect("it arrives"), b'x');
    let since = Instant::now();
    world.node.revoke_session(&world.started.session, "test");
    assert_eq!(soon("the tunnel's end", all_of(&mut upstream)).await, b"");
    assert!(since.elapsed() < Duration::from_millis(550), "{:?}", since.elapsed());
}

#[tokio::test]
async fn peer_that_is_gone_ends_the_other_side() {
    let (world, listener) = world(|_| {}).await;
    for reset in [true, false] {
        let (mut agent, upstream) = tunnel(&world, &listener).await;
        if reset {
            socket2::SockRef::from(&upstream).set_linger(Some(Duration::ZERO)).expect("set");
        }
        drop(upstream);
        let mut all = Vec::new();
        let _ = soon("the end", agent.read_to_end(&mut all)).await;
        assert!(all.is_empty());
    }
}

#[tokio::test]
async fn hosts_in_proxy_tunnel_are_unread_whatever_happens_to_others_but_never_with_a_key() {
    for unbound in [Unbound::Forward, Unbound::Deny] {
        let (world, listener) = world(move |s| {
            s.proxy.unbound = unbound;
            s.proxy.tunnel = ["*.upstream.test"].iter().map(|h| HostPattern::parse(h).expect("a pattern")).collect();
        })
        .await;
        let (mut agent, mut upstream) = tunnel(&world, &listener).await;
        agent.write_all(b"SSH-2.0-x").await.expect("written");
        agent.shutdown().await.expect("ended");
        assert_eq!(soon("the bytes", all_of(&mut upstream)).await, b"SSH-2.0-x");
        assert_eq!(world.agent().ask(HOST, world.get("/")).await.status, 200, "the key's host is intercepted");
    }
}
