//! An address of this machine that the operator registered is reached by its route or its key, and by nothing else.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use sallyport::app::NewKey;
use sallyport::model::{Cleartext, Destination, Environment, HostPattern, KeyKind, Secret, Slot, TokenShape};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::support::agent::{Answer, http1_on};
use crate::support::raw::RawReply;
use crate::support::world::Build;
use crate::support::{Raw, World};

/// A server in clear on this machine, which keeps its connections open.
struct Local {
    at: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Local {
    async fn start(at: &str, answer: &'static str) -> Self {
        let listener = TcpListener::bind(at).await.expect("a port");
        let at = listener.local_addr().expect("an address");
        let heads: Arc<Mutex<Vec<String>>> = Arc::default();
        let seen = Arc::clone(&heads);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let seen = Arc::clone(&seen);
                tokio::spawn(async move {
                    let mut piece = [0; 4096];
                    while let Ok(n @ 1..) = stream.read(&mut piece).await {
                        seen.lock().expect("not poisoned").push(String::from_utf8_lossy(&piece[..n]).into_owned());
                        if stream.write_all(answer.as_bytes()).await.is_err() {
                            break;
                        }
                    }
                });
            }
        });
        Self { at, heads }
    }

    fn seen(&self) -> Vec<String> {
        self.heads.lock().expect("not poisoned").clone()
    }
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi";

fn routed(routes: Vec<(&'static str, String)>) -> Build {
    World::build().settings(|settings| {
        settings.gateway = Some(([127, 0, 0, 1], 0).into());
        settings.cores = 1;
        settings.routes.extend(routes.into_iter().map(|(name, base)| (name.to_owned(), base)));
    })
}

async fn by_gateway(world: &World, path: &str) -> Answer {
    let stream = tokio::net::TcpStream::connect(world.node.gateway.expect("it listens")).await.expect("connected");
    let request = Request::get(path).header("host", "127.0.0.1:8081").body(Full::<Bytes>::default());
    http1_on(stream).await.ask(request.expect("a request")).await
}

/// Asks in clear, in absolute form, perhaps with a token.
async fn in_clear(world: &World, authority: &str, token: Option<&str>) -> RawReply {
    let mut raw =
        Raw::new(tokio::net::TcpStream::connect(world.node.forward.expect("it listens")).await.expect("connected"));
    let token = token.map(|token| format!("authorization: Bearer {token}\r\n")).unwrap_or_default();
    raw.send(format!("GET http://{authority}/x HTTP/1.1\r\nhost: {authority}\r\n{token}\r\n")).await;
    raw.reply().await.expect("an answer")
}

/// Asks inside of a tunnel with TLS.
async fn in_tunnel(world: &World, authority: &str, token: Option<&str>) -> Answer {
    let agent = world.agent();
    let stream = agent.connect(authority).await.expect("a tunnel");
    let stream = agent.tls_on(stream, "127.0.0.1", &[b"http/1.1"]).await.expect("TLS");
    let mut request = Request::get("/x").header("host", authority);
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    http1_on(stream).await.ask(request.body(Full::<Bytes>::default()).expect("a request")).await
}

#[tokio::test]
async fn route_to_this_machine_leads_there_and_to_nothing_else_and_nobody_else_gets_there() {
    let (local, other) = (Local::start("127.0.0.1:0", OK).await, Local::start("127.0.0.1:0", OK).await);
    let port = local.at.port();
    let world = routed(vec![
        ("local", format!("http://127.0.0.1:{port}")),
        ("named", format!("http://localhost:{port}")),
        ("resolved", format!("http://anything.localhost:{port}")),
    ]);
    let world = world.start().await;
    for path in ["/local/api/tags", "/named/api/tags", "/local/api/tags"] {
        let answer = by_gateway(&world, path).await;
        assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, "hi"), "{path}");
    }
    assert_eq!(local.seen().len(), 3);
    assert!(local.seen()[0].starts_with("GET /api/tags HTTP/1.1\r\n"), "{:?}", local.seen());
    // A name that some resolver leads to loopback isn't the address.
    let answer = by_gateway(&world, "/resolved/x").await;
    assert!(["destination_blocked", "upstream_unreachable"].contains(&answer.code()), "{}", answer.text());
    // The connections wait in the pool, and are nobody's but the route's.
    let other = other.at.port();
    for authority in [
        format!("127.0.0.1:{port}"),
        format!("localhost:{port}"),
        format!("127.0.0.2:{port}"),
        format!("[::1]:{port}"),
        format!("[::ffff:127.0.0.1]:{port}"),
        format!("[::ffff:7f00:1]:{port}"),
        format!("0.0.0.0:{port}"),
        format!("127.0.0.1:{other}"),
    ] {
        let reply = in_clear(&world, &authority, None).await;
        assert_eq!((reply.status, reply.code.as_str()), (403, "destination_blocked"), "{authority}: {}", reply.head);
    }
    let answer = in_tunnel(&world, &format!("127.0.0.1:{port}"), None).await;
    assert_eq!(answer.code(), "destination_blocked", "{}", answer.text());
    assert_eq!(local.seen().len(), 3);
    // What a path says doesn't move a route.
    for path in
        [format!("/local@127.0.0.1:{other}/"), format!("/local//127.0.0.1:{other}/"), format!("/local:{other}/x")]
    {
        let answer = by_gateway(&world, &path).await;
        assert!(answer.status == 200 || answer.code() == "route_unknown", "{path}: {}", answer.text());
    }
    assert!(in_clear(&world, "127.0.0.1:11434", None).await.code == "destination_blocked");
    assert_eq!(by_gateway(&world, "/ollama/api/tags").await.code(), "destination_blocked", "nobody registered it");
}

struct Stored {
    token: String,
}

fn store(world: &World, host: &str, cleartext: Cleartext) -> Stored {
    let new = NewKey {
        name: format!("local_{}", world.node.shared().registry.generation()).parse().expect("a name"),
        provider: "custom".parse().expect("a name"),
        kind: KeyKind::Secret,
        environment: Environment::Development,
        destination: Destination {
            hosts: vec![HostPattern::parse(host).expect("a host")],
            slots: vec![Slot::Bearer],
            cleartext,
        },
        shape: TokenShape::default(),
    };
    let key = world.node.add_key_of(new, &Secret::new(b"sk-of-a-local-service".to_vec())).expect("a key");
    let hour = std::time::Duration::from_secs(3600);
    let keys = std::slice::from_ref(&key);
    let started = world.node.start_session(None, Environment::Development, keys, hour).expect("a session");
    let (_, value) = world.node.mint(&started, &key).expect("a token");
    Stored { token: value.expose().to_owned() }
}

#[tokio::test]
async fn address_of_a_key_on_this_machine_is_reached_with_that_key_alone() {
    let (local, other) = (Local::start("127.0.0.1:0", OK).await, Local::start("127.0.0.1:0", OK).await);
    let world = World::build().settings(|settings| settings.cores = 1).start().await;
    let at = local.at.to_string();
    let key = store(&world, &at, Cleartext::Loopback);
    for _ in 0..2 {
        let reply = in_clear(&world, &at, Some(&key.token)).await;
        assert_eq!((reply.status, &reply.body[..]), (200, &b"hi"[..]), "{}", reply.head);
    }
    assert!(local.seen().iter().all(|head| head.contains("authorization: Bearer sk-of-a-local-service")));
    // Without the grant: no token, and a token of another key.
    let reply = in_clear(&world, &at, None).await;
    assert_eq!(reply.code, "destination_blocked", "{}", reply.head);
    assert_eq!(in_clear(&world, &at, Some(world.token())).await.code, "host_not_allowed");
    // With it, for another port, address or scheme.
    let (port, other_port) = (local.at.port(), other.at.port());
    for (authority, code) in [
        (format!("127.0.0.1:{other_port}"), "host_not_allowed"),
        (format!("127.0.0.2:{port}"), "host_not_allowed"),
        (format!("localhost:{port}"), "host_not_allowed"),
        (format!("[::ffff:127.0.0.1]:{port}"), "host_not_allowed"),
    ] {
        assert_eq!(in_clear(&world, &authority, Some(&key.token)).await.code, code, "{authority}");
    }
    assert_eq!(in_tunnel(&world, &at, Some(&key.token)).await.code(), "destination_blocked");
    assert_eq!((local.seen().len(), other.seen().len()), (2, 0));
    // Our own listeners nobody registers.
    let own = world.node.forward.expect("it listens").to_string();
    let key = store(&world, &own, Cleartext::Loopback);
    assert_eq!(in_clear(&world, &own, Some(&key.token)).await.code, "destination_blocked");
}

#[tokio::test]
async fn redirect_of_a_registered_service_is_passed_and_leads_nowhere() {
    let victim = Local::start("127.0.0.1:0", OK).await;
    let location =
        format!("HTTP/1.1 307 Temporary Redirect\r\nlocation: http://{}/admin\r\ncontent-length: 0\r\n\r\n", victim.at);
    let local = Local::start("127.0.0.1:0", Box::leak(location.into_boxed_str())).await;
    let world = routed(vec![("local", format!("http://{}", local.at))]).start().await;
    let answer = by_gateway(&world, "/local/x").await;
    assert_eq!(
        (answer.status.as_u16(), answer.header("location")),
        (307, format!("http://{}/admin", victim.at).as_str())
    );
    assert_eq!(in_clear(&world, &victim.at.to_string(), None).await.code, "destination_blocked");
    assert!(victim.seen().is_empty());
}
