//! SOCKS version 5 on the proxy's port.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use sallyport::app::NodeSettings;
use sallyport::model::Authority;
use sallyport::proxy::settings::Unbound;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::curl;
use crate::support::agent::http1_on;
use crate::support::world::{HOST, OTHER};
use crate::support::{Raw, World, apart, soon};

const NONE: &[u8] = &[5, 1, 0];
const GRANTED: &[u8] = &[5, 0, 0, 1, 0, 0, 0, 0, 0, 0];

/// A CONNECT to a name.
fn connect(name: &str, port: u16) -> Vec<u8> {
    let mut request = vec![5, 1, 0, 3, u8::try_from(name.len()).expect("short")];
    request.extend_from_slice(name.as_bytes());
    request.extend_from_slice(&port.to_be_bytes());
    request
}

/// RFC 1929.
fn password(user: &str, password: &str) -> Vec<u8> {
    let mut message = vec![1];
    for text in [user, password] {
        message.push(u8::try_from(text.len()).expect("short"));
        message.extend_from_slice(text.as_bytes());
    }
    message
}

/// The granted tunnel of an agent without credentials.
async fn tunnel(world: &World, name: &str, port: u16) -> TcpStream {
    let mut stream = TcpStream::connect(world.node.forward.expect("it listens")).await.expect("connected");
    stream.write_all(&[NONE, &connect(name, port)].concat()).await.expect("written");
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.expect("answered");
    assert_eq!(answer, [&[5, 0], GRANTED].concat()[..]);
    stream
}

/// Pins `plain.upstream.test` on port 80.
fn pin(settings: &mut NodeSettings, at: SocketAddr) {
    settings.upstream.resolve.insert(Authority::parse("plain.upstream.test", 80).expect("an authority"), at);
}

#[tokio::test]
async fn curl_with_credentials_gets_its_key_put_in_and_looks_no_name_up() {
    let world = World::build().settings(|s| s.proxy.require_auth = true).start().await;
    let proxy = world.node.forward.expect("it listens").to_string();
    let user = format!("{}:{}", world.started.session.id, world.started.secret.expose());
    let (header, url) = (format!("Authorization: {}", world.bearer()), format!("https://{HOST}/v1/models"));
    let said = curl(&world, &["--socks5-hostname", &proxy, "--proxy-user", &user, "-H", &header, &url]).await;
    assert!(said.ok && said.text == "hello", "{}", said.text);
    assert_eq!(world.upstream.only().header("authorization"), format!("Bearer {}", world.secret));
    // As a URL; and over HTTP/2.
    let url_of_proxy = format!("socks5h://{user}@{proxy}");
    let said = curl(&world, &["--proxy", &url_of_proxy, "-w", " %{http_version}", "-H", &header, &url]).await;
    assert_eq!(said.text, "hello 2");
    // Without credentials, and with wrong ones.
    let wrong = format!("{}:nonsense", world.started.session.id);
    for more in [&["--proxy-user", &wrong][..], &[]] {
        let said = curl(&world, &[&["--socks5-hostname", &proxy, "-H", &header, &url][..], more].concat()).await;
        assert!(!said.ok, "{}", said.text);
    }
    assert_eq!(world.upstream.received().len(), 2);
    let denials = "sallyport_denials_total{code=\"proxy_auth_required\"} 2";
    assert!(world.node.metrics().contains(denials), "{}", world.node.metrics());
    world.nothing_leaked(&[]).await;
}

#[tokio::test]
async fn http_in_clear_goes_on_in_clear_and_never_with_a_key() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let at = listener.local_addr().expect("an address");
    // Says what it was asked.
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut seen = vec![0; 4096];
            let len = stream.read(&mut seen).await.unwrap_or(0);
            seen.truncate(len);
            let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {len}\r\n\r\n");
            let _ = stream.write_all(&[head.as_bytes(), &seen].concat()).await;
        }
    });
    let world = World::build().settings(move |s| pin(s, at)).start().await;
    let proxy = world.node.forward.expect("it listens").to_string();
    let said = curl(&world, &["--socks5-hostname", &proxy, "http://plain.upstream.test/x?y=1"]).await;
    assert!(said.text.starts_with("GET /x?y=1 HTTP/1.1\r\nhost: plain.upstream.test\r\n"), "{}", said.text);
    // In an HTTP tunnel too, as clients of ws:// ask for one.
    let proxy = format!("http://{proxy}");
    let said = curl(&world, &["--proxytunnel", "--proxy", &proxy, "http://plain.upstream.test/z"]).await;
    assert!(said.text.starts_with("GET /z HTTP/1.1\r\nhost: plain.upstream.test\r\n"), "{}", said.text);
    // A token for a host of its key doesn't leave in clear.
    let header = format!("Authorization: {}", world.bearer());
    for way in [["--socks5-hostname", &world.node.forward.expect("it listens").to_string()], ["--proxy", &proxy]] {
        let url = format!("http://{HOST}/");
        let said = curl(&world, &[&way[..], &["--proxytunnel", "-H", &header, &url]].concat()).await;
        assert!(said.text.contains("host_not_allowed"), "{}", said.text);
    }
    assert!(world.upstream.received().is_empty());
}

#[tokio::test]
async fn what_is_not_served_is_told_with_its_code() {
    let world = World::start().await;
    let named = connect(HOST, 443);
    let with = |at: usize, byte: u8| {
        let mut changed = named.clone();
        changed[at] = byte;
        changed
    };
    for (name, messages, answer) in [
        ("BIND", [NONE, &with(1, 2)].concat(), vec![5, 0, 5, 7]),
        ("UDP ASSOCIATE", [NONE, &with(1, 3)].concat(), vec![5, 0, 5, 7]),
        ("an unknown kind of address", [NONE, &with(3, 2)].concat(), vec![5, 0, 5, 8]),
        ("another version", [NONE, &with(0, 4)].concat(), vec![5, 0, 5, 1]),
        ("port 0", [NONE, &connect(HOST, 0)].concat(), vec![5, 0, 5, 1]),
        ("no name", [NONE, &connect("", 443)].concat(), vec![5, 0, 5, 1]),
        ("an address in disguise", [NONE, &connect("2130706433", 443)].concat(), vec![5, 0, 5, 1]),
        ("a name with a NUL", [NONE, &connect("api.upstream.test\0.x", 443)].concat(), vec![5, 0, 5, 1]),
        ("no method of ours", vec![5, 2, 1, 3], vec![5, 0xff]),
        ("no method at all", vec![5, 0], vec![5, 0xff]),
        ("a wrong password", [&[5, 2, 0, 2][..], &password("me", "you")].concat(), vec![5, 2, 1, 1]),
        ("a password of another version", vec![5, 1, 2, 5, 1], vec![5, 2, 1, 1]),
    ] {
        let mut raw: Raw = world.agent().bare().await;
        raw.send(&messages).await;
        // What stands behind it is never a request.
        raw.send(format!("GET https://{HOST}/ HTTP/1.1\r\nhost: {HOST}\r\n\r\n")).await;
        raw.finish().await;
        let all = raw.rest().await;
        assert!(all.starts_with(&answer), "{name}: {all:?}");
        let last = if answer[answer.len() - 2] == 5 && answer.len() == 4 { answer.len() + 6 } else { answer.len() } + 2;
        assert!(all.len() <= last, "{name}: {all:?}");
    }
    assert!(world.upstream.received().is_empty());
    // SOCKS 4 begins with another byte, and is no HTTP either.
    let mut raw = world.agent().bare().await;
    raw.send([4, 1, 1, 187, 127, 0, 0, 1, 0]).await;
    assert_eq!(raw.reply().await.map(|reply| reply.status), Some(400));
}

#[tokio::test]
async fn user_name_without_a_password_is_nobody_unless_credentials_are_required() {
    for (required, expected) in [(false, vec![5, 2, 1, 0]), (true, vec![5, 2, 1, 1])] {
        let world = World::build().settings(move |s| s.proxy.require_auth = required).start().await;
        let mut raw = world.agent().bare().await;
        raw.send([&[5, 2, 0, 2][..], &password("java", "")].concat()).await;
        assert_eq!(raw.exactly(4).await, expected, "{required}");
    }
}

#[tokio::test]
async fn session_that_is_over_gets_no_tunnel_and_ends_its_open_ones() {
    let world = World::build().settings(|s| s.proxy.require_auth = true).start().await;
    let start = [
        &[5, 1, 2][..],
        &password(&world.started.session.id.to_string(), world.started.secret.expose()),
        &connect(OTHER, 443),
    ]
    .concat();
    let mut open = TcpStream::connect(world.node.forward.expect("it listens")).await.expect("connected");
    open.write_all(&start).await.expect("written");
    let mut answer = [0; 14];
    open.read_exact(&mut answer).await.expect("answered");
    assert_eq!(answer[..6], [5, 2, 1, 0, 5, 0]);
    let open = world.agent().tls_on(open, OTHER, &[b"http/1.1"]).await.expect("TLS with the proxy's leaf");
    world.node.revoke_session(&world.started.session, "test");
    let mut request = world.get("/");
    request.headers_mut().remove("authorization");
    request.headers_mut().insert("host", OTHER.parse().expect("a value"));
    assert_eq!(http1_on(open).await.ask(request).await.code(), "session_revoked");
    let mut raw = world.agent().bare().await;
    raw.send(&start).await;
    assert_eq!(raw.rest().await, [5, 2, 1, 1]);
}

#[tokio::test]
async fn everything_at_once_and_byte_by_byte_are_the_same() {
    let world = World::start().await;
    let request = format!("GET http://{HOST}/ HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
    let all = [NONE, &connect("127.0.0.1", 9), request.as_bytes()].concat();
    let mut whole = world.agent().bare().await;
    whole.send(&all).await;
    let mut slow = world.agent().bare().await;
    for byte in &all {
        slow.send([*byte]).await;
    }
    for raw in [&mut whole, &mut slow] {
        assert_eq!(raw.exactly(12).await, [&[5, 0], GRANTED].concat());
        // The tunnel is to another host than the request.
        assert_eq!(raw.reply().await.expect("an answer").code, "authority_mismatch");
    }
}

#[tokio::test]
async fn handshake_that_never_ends_is_closed() {
    let world = World::build().settings(|s| s.proxy.deadlines.head = Duration::from_millis(300)).start().await;
    for begun in [&[5][..], &[5, 255], &[5, 1, 0, 5, 1, 0, 3, 255, b'a'], &[5, 1, 2, 1, 255]] {
        let mut raw = world.agent().bare().await;
        let since = Instant::now();
        raw.send(begun).await;
        let _ = soon("the proxy to close", raw.rest()).await;
        assert!(since.elapsed() < Duration::from_secs(3), "{begun:?}");
    }
    // One that says a byte now and then has no more time.
    let (mut stream, since) = (TcpStream::connect(world.node.forward.expect("it listens")).await, Instant::now());
    let stream = stream.as_mut().expect("connected");
    let mut ticks = tokio::time::interval(Duration::from_millis(50));
    let mut bytes = [5, 255].into_iter().chain(std::iter::repeat(0));
    loop {
        tokio::select! {
            _ = ticks.tick() => if stream.write_all(&[bytes.next().expect("endless")]).await.is_err() { break },
            read = stream.read_u8() => if read.is_err() { break },
        }
    }
    assert!(since.elapsed() < Duration::from_secs(3), "{:?}", since.elapsed());
}

#[tokio::test]
async fn unread_tunnel_tells_why_its_host_is_not_reached() {
    let closed = TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address");
    let world = World::build()
        .settings(move |s| {
            pin(s, closed);
            s.proxy.unbound = Unbound::Tunnel;
        })
        .upstream(|u| u.host = format!("{HOST},{OTHER}"))
        .start()
        .await;
    let own = world.node.forward.expect("it listens");
    for (request, code) in [
        (connect("plain.upstream.test", 80), 5),
        (connect("127.0.0.1", own.port()), 2),
        ([&[5, 1, 0, 1, 127, 0, 0, 1][..], &own.port().to_be_bytes()].concat(), 2),
        ([&[5, 1, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1][..], &[1, 187]].concat(), 2),
        (connect("localhost.", 443), 2),
    ] {
        let mut raw = world.agent().bare().await;
        raw.send([NONE, &request].concat()).await;
        assert_eq!(raw.exactly(4).await, [5, 0, 5, code], "{request:?}");
    }
    // What can be reached shows its own certificate.
    let stream = tunnel(&world, OTHER, 443).await;
    let blind = crate::support::Agent { ca_pem: world.upstream.ca_pem.clone(), ..world.agent() };
    blind.tls_on(stream, OTHER, &[b"http/1.1"]).await.expect("TLS with the upstream itself");
    // A host with a key is intercepted all the same.
    let stream = tunnel(&world, HOST, 443).await;
    let inside = world.agent().tls_on(stream, HOST, &[b"http/1.1"]).await.expect("TLS with the proxy's leaf");
    assert_eq!(http1_on(inside).await.ask(world.get("/")).await.status, 200);
}

#[test]
fn metadata_service_is_not_reached() {
    const NAME: &str = "ways::socks::metadata_service_is_not_reached";
    let setup = "ip link set lo up; ip addr add 169.254.169.254/32 dev lo";
    if !apart::inside(NAME, setup) {
        return;
    }
    apart::run(async {
        let trap = TcpListener::bind("169.254.169.254:80").await.expect("a trap");
        let request = [&[5, 1, 0, 1, 169, 254, 169, 254][..], &[0, 80]].concat();
        for unbound in [Unbound::Forward, Unbound::Tunnel] {
            let world = World::build().settings(move |s| s.proxy.unbound = unbound).start().await;
            let mut raw = world.agent().bare().await;
            raw.send([NONE, &request].concat()).await;
            if unbound == Unbound::Tunnel {
                assert_eq!(raw.exactly(4).await, [5, 0, 5, 2]);
                continue;
            }
            assert_eq!(raw.exactly(12).await, [&[5, 0], GRANTED].concat());
            raw.send("GET /latest/meta-data/ HTTP/1.1\r\nhost: 169.254.169.254\r\n\r\n").await;
            assert_eq!(raw.reply().await.expect("an answer").code, "destination_blocked");
        }
        let dialled = tokio::time::timeout(Duration::from_millis(200), trap.accept()).await;
        assert!(dialled.is_err(), "{dialled:?}");
    });
}
