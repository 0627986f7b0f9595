//! The admin listener: connections that give nothing back, and callers that take everything.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use sallyport::admin::{self, Peer, Settings, server};
use sallyport::app::server::admin_alone;
use sallyport::config::Config;
use sallyport::model::{Clock as _, Host, OrgId, PrincipalId, SessionSecret, SystemClock};
use sallyport::session::records::{Principal, Role};
use serde_json::json;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::support::door::Door;
use crate::support::{Raw, World, apart, soon};

const SHORT: Duration = Duration::from_millis(300);

/// Serves the admin API with these bounds.
async fn serve(world: &World, at: &str, settings: Settings, tls: bool) -> SocketAddr {
    let config = Config { admin: settings.clone(), ..Config::default() };
    let router = admin::router(admin_alone(&world.home, &config).await.expect("the admin API"));
    let listener = TcpListener::bind(at).await.expect("a port");
    let at = listener.local_addr().expect("an address");
    let tls = tls.then(|| world.node.shared().leaves.named(&Host::Ip(at.ip())).expect("a leaf"));
    tokio::spawn(server::network(listener, tls, router, settings, CancellationToken::new()));
    at
}

async fn connect(at: SocketAddr) -> Raw {
    Raw::new(TcpStream::connect(at).await.expect("connected"))
}

const HEALTH: &str = "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n";

#[tokio::test]
async fn idle_and_slow_connections_are_closed() {
    let world = World::start().await;
    let settings = Settings { head: SHORT, age: Duration::from_secs(2), ..Settings::default() };
    for tls in [false, true] {
        let at = serve(&world, "127.0.0.1:0", settings.clone(), tls).await;
        let mut raw = connect(at).await;
        soon("the end of a silent connection", raw.rest()).await;
        let mut raw = connect(at).await;
        let dripping = async {
            while raw.try_send("x").await.is_ok() {
                if tokio::time::timeout(Duration::from_millis(50), raw.some()).await.is_ok_and(|piece| piece.is_empty())
                {
                    return;
                }
            }
        };
        soon("the end of a dripping one", dripping).await;
    }
    let at = serve(&world, "127.0.0.1:0", settings, false).await;
    let mut raw = connect(at).await;
    raw.send(HEALTH).await;
    assert_eq!(raw.reply().await.expect("an answer").status, 200);
    soon("the end of one that was used", raw.rest()).await;
}

#[tokio::test]
async fn connection_that_asks_and_never_reads_is_closed_at_its_age() {
    let world = World::start().await;
    let age = Duration::from_millis(800);
    // So many requests are let through that their answers fill every buffer on the way.
    let many = NonZeroU32::new(1_000_000).expect("not zero");
    let settings = Settings { head: SHORT, age, requests_per_second: many, ..Settings::default() };
    let at = serve(&world, "127.0.0.1:0", settings, false).await;
    let began = Instant::now();
    let mut raw = connect(at).await;
    let asking = async { while raw.try_send(HEALTH.repeat(100)).await.is_ok() {} };
    soon("the end", asking).await;
    assert!(began.elapsed() > age / 2, "{:?}", began.elapsed());
}

#[test]
fn one_address_takes_only_its_part_of_the_connections() {
    const NAME: &str = "attacks::admin_listener::one_address_takes_only_its_part_of_the_connections";
    let setup = "ip link set lo up; for n in 7 8 9; do ip addr add 192.0.2.$n/32 dev lo; done";
    if !apart::inside(NAME, setup) {
        return;
    }
    apart::run(async {
        let world = World::start().await;
        let settings = Settings { connections: 6, connections_of_one: 3, ..Settings::default() };
        let at = serve(&world, "192.0.2.7:0", settings, true).await;
        let from = async |ip: &str| {
            let socket = TcpSocket::new_v4().expect("a socket");
            socket.bind(SocketAddr::new(ip.parse().expect("an address"), 0)).expect("bound");
            soon("a connection", socket.connect(at)).await.expect("connected")
        };
        let health = async |stream: TcpStream| {
            let mut raw = Raw::new(world.agent().tls_on(stream, "192.0.2.7", &[]).await.ok()?);
            raw.send(HEALTH).await;
            Some(raw.reply().await?.status)
        };
        let mut greedy = Vec::new();
        for _ in 0..3 {
            greedy.push(from("192.0.2.8").await);
        }
        for _ in 0..10 {
            assert_eq!(health(from("192.0.2.8").await).await, None);
        }
        assert_eq!(health(from("192.0.2.9").await).await, Some(200), "another address gets in");
        // A place that is given back is free again.
        drop(greedy);
        let again = async { while health(from("192.0.2.8").await).await.is_none() {} };
        soon("a place", again).await;
    });
}

#[tokio::test]
async fn principal_who_asks_too_much_locks_out_nobody_else() {
    let world = World::start().await;
    let mut tokens = Vec::new();
    let mut batch = world.store.batch(OrgId::DEFAULT);
    for name in ["greedy", "modest"] {
        let token = SessionSecret::generate().expect("random");
        batch = batch.insert(&Principal {
            id: PrincipalId::generate(),
            org: OrgId::DEFAULT,
            name: name.parse().expect("a name"),
            role: Role::Admin,
            token: token.hash(),
            enabled: true,
            created_at: SystemClock.now(),
        });
        tokens.push(token);
    }
    world.store.commit(batch).await.expect("committed");
    let few = NonZeroU32::new(3).expect("not zero");
    let settings = Settings { requests_per_second: few, failures_per_minute: few, ..Settings::default() };
    let door = Door::open(&world.home, &Config { admin: settings, ..Config::default() }).await;
    // All come from one address.
    let peer = Peer::Network(SocketAddr::from(([192, 0, 2, 7], 7)));
    let ask = async |token: &str| door.ask_as(peer, Some(token), "GET", "/api/v1/projects", &json!({})).await.0;
    let (greedy, modest) = (tokens[0].expose(), tokens[1].expose());
    let limited = async { while ask(greedy).await != 429 {} };
    soon("the limit", limited).await;
    assert_eq!(ask(modest).await, 200);
    // Nor does somebody who guesses.
    let limited = async { while ask("guess").await != 429 {} };
    soon("the limit of guesses", limited).await;
    assert_eq!(ask(modest).await, 200);
    let refilled = async { while ask(greedy).await != 200 {} };
    soon("the next second", refilled).await;
}
