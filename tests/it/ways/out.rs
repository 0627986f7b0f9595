//! Upstreams that are reached through a proxy of the operator's network.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use http::Request;
use http_body_util::Full;
use sallyport::app::NodeSettings;
use sallyport::model::Authority;
use sallyport::proxy::settings::Unbound;
use sallyport::upstream::egress::{Direct, Proxy};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::support::raw::Stream;
use crate::support::upstream::{Setup, tls};
use crate::support::world::{Build, HOST, OTHER};
use crate::support::{Agent, World, emitted};

const USER: &str = "corp\\me";
const PASSWORD: &str = "hunter2-of-the-proxy";
/// `USER:PASSWORD`, as `Basic` has it.
const BASIC: &str = "Y29ycFxtZTpodW50ZXIyLW9mLXRoZS1wcm94eQ==";

/// A proxy that leads everywhere to one upstream, and wants credentials.
#[derive(Clone)]
struct Corporate {
    at: SocketAddr,
    to: Arc<OnceLock<SocketAddr>>,
    /// What it was asked: the head of a request, or the target of SOCKS.
    asked: Arc<Mutex<Vec<String>>>,
}

impl Corporate {
    async fn start(acceptor: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let at = listener.local_addr().expect("an address");
        let corporate = Self { at, to: Arc::default(), asked: Arc::default() };
        let serving = corporate.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (corporate, acceptor) = (serving.clone(), acceptor.clone());
                tokio::spawn(async move {
                    match acceptor {
                        None => corporate.serve(Box::new(stream)).await,
                        Some(acceptor) => {
                            let Ok(stream) = acceptor.accept(stream).await else { return None };
                            corporate.serve(Box::new(stream)).await
                        }
                    }
                });
            }
        });
        corporate
    }

    async fn serve(&self, mut agent: Box<dyn Stream>) -> Option<()> {
        let first = agent.read_u8().await.ok()?;
        if first == 5 {
            return self.socks(agent).await;
        }
        let mut head = vec![first];
        while !head.ends_with(b"\r\n\r\n") {
            head.push(agent.read_u8().await.ok()?);
        }
        let head = String::from_utf8(head).ok()?;
        self.asked.lock().expect("not poisoned").push(head.clone());
        if !head.to_ascii_lowercase().contains(&format!("proxy-authorization: basic {BASIC}").to_ascii_lowercase()) {
            let refusal = "HTTP/1.1 407 Who\r\nproxy-authenticate: Basic realm=\"corp\"\r\ncontent-length: 0\r\n\r\n";
            return agent.write_all(refusal.as_bytes()).await.ok();
        }
        if !head.starts_with("CONNECT ") {
            return agent.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nclear").await.ok();
        }
        agent.write_all(b"HTTP/1.0 200 Connection established\r\nvia: corp\r\ncontent-length: 7\r\n\r\n").await.ok()?;
        self.lead(agent).await
    }

    async fn socks(&self, mut agent: Box<dyn Stream>) -> Option<()> {
        let count = agent.read_u8().await.ok()?;
        let mut methods = vec![0; count.into()];
        agent.read_exact(&mut methods).await.ok()?;
        if !methods.contains(&2) {
            return agent.write_all(&[5, 0xff]).await.ok();
        }
        agent.write_all(&[5, 2]).await.ok()?;
        let mut expected = vec![1, u8::try_from(USER.len()).expect("short")];
        expected.extend_from_slice(USER.as_bytes());
        expected.push(u8::try_from(PASSWORD.len()).expect("short"));
        expected.extend_from_slice(PASSWORD.as_bytes());
        let mut got = vec![0; expected.len()];
        agent.read_exact(&mut got).await.ok()?;
        if got != expected {
            return agent.write_all(&[1, 1]).await.ok();
        }
        agent.write_all(&[1, 0]).await.ok()?;
        let mut head = [0; 5];
        agent.read_exact(&mut head).await.ok()?;
        assert_eq!(head[..4], [5, 1, 0, 3], "names are resolved by the proxy");
        let mut name = vec![0; usize::from(head[4]) + 2];
        agent.read_exact(&mut name).await.ok()?;
        let port = u16::from_be_bytes([name[name.len() - 2], name[name.len() - 1]]);
        let name = String::from_utf8_lossy(&name[..name.len() - 2]).into_owned();
        self.asked.lock().expect("not poisoned").push(format!("{name}:{port}"));
        agent.write_all(&[&[5, 0, 0, 3, 4][..], b"corp", &[0, 80]].concat()).await.ok()?;
        self.lead(agent).await
    }

    async fn lead(&self, mut agent: Box<dyn Stream>) -> Option<()> {
        let mut upstream = TcpStream::connect(self.to.get().expect("known")).await.ok()?;
        copy_bidirectional(&mut agent, &mut upstream).await.ok().map(|_| ())
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("not poisoned").clone()
    }
}

/// A proxy that answers whatever comes with these bytes, and then closes or is silent.
async fn saying(answer: impl Into<Vec<u8>>, silent: bool) -> SocketAddr {
    let answer = answer.into();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let at = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(&answer).await;
            if silent {
                kept.push(stream);
                continue;
            }
            let _ = stream.shutdown().await;
            let _ = stream.read(&mut [0; 4096]).await;
        }
    });
    at
}

fn url(scheme: &str, at: impl std::fmt::Display) -> String {
    format!("{scheme}://corp%5Cme:{PASSWORD}@{at}")
}

/// A world in which nothing is pinned but what the proxy leads to.
fn behind(url: &str, to: Option<Arc<OnceLock<SocketAddr>>>) -> Build {
    let proxy = Proxy::parse(url).expect("a proxy");
    World::build().upstream(|u| u.host = format!("{HOST},{OTHER}")).settings(move |s: &mut NodeSettings| {
        let authority = Authority::parse(HOST, 443).expect("an authority");
        let upstream = s.upstream.resolve.remove(&authority).expect("pinned");
        if let Some(to) = to {
            to.set(upstream).expect("set once");
        }
        s.upstream.resolve.clear();
        s.upstream.egress.proxy = Some(proxy);
    })
}

fn plain(url: &str, host: &str) -> Request<Full<bytes::Bytes>> {
    Request::get(url).header("host", host).body(Full::default()).expect("a request")
}

#[tokio::test]
async fn upstream_is_reached_through_each_kind_of_proxy_and_verified_behind_it() {
    for scheme in ["http", "socks5", "socks5h"] {
        let corporate = Corporate::start(None).await;
        let world = behind(&url(scheme, corporate.at), Some(Arc::clone(&corporate.to))).start().await;
        let answer = world.agent().ask(HOST, world.get("/v1/models")).await;
        assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, "hello"), "{scheme}: {}", answer.text());
        assert_eq!(world.upstream.only().header("authorization"), format!("Bearer {}", world.secret));
        // The connection behind the proxy is pooled like any other.
        let mut sender = world.agent().http2(HOST).await;
        assert_eq!(sender.ask(world.get2("/")).await.status, 200);
        assert_eq!(sender.ask(world.get2("/")).await.status, 200);
        let asked = corporate.asked();
        assert_eq!(asked.len(), 1, "{scheme}: {asked:?}");
        assert!(asked[0].contains(&format!("{HOST}:443")), "{asked:?}");
        assert!(!asked.concat().contains(&world.secret));
        let mut emitted = emitted::all();
        emitted.extend_from_slice(world.node.metrics().as_bytes());
        assert_eq!(emitted::find(&emitted, PASSWORD), None, "{scheme}");
        assert_eq!(emitted::find(&emitted, BASIC), None, "{scheme}");
        world.nothing_leaked(&[answer]).await;
    }
}

#[tokio::test]
async fn tls_to_the_proxy_is_verified_under_its_own_name() {
    for (named, code) in [("proxy.upstream.test", ""), ("other.proxy.test", "upstream_unreachable")] {
        let setup = Setup { host: "proxy.upstream.test".to_owned(), alpn: vec!["http/1.1"], ..Setup::default() };
        let (config, ca_pem) = tls(&setup);
        let corporate = Corporate::start(Some(TlsAcceptor::from(config))).await;
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = dir.path().join("proxy-ca.pem");
        std::fs::write(&file, ca_pem).expect("written");
        let (at, to) = (corporate.at, Arc::clone(&corporate.to));
        let proxy = Proxy::parse(&url("https", format!("{named}:8443"))).expect("a proxy");
        let build = World::build().settings(move |s| {
            let upstream = *s.upstream.resolve.values().next().expect("pinned");
            to.set(upstream).expect("set once");
            s.upstream.resolve = [(proxy.authority.clone(), at)].into();
            s.upstream.egress.proxy = Some(proxy);
            s.extra_ca.push(file);
        });
        let world = build.start().await;
        let answer = world.agent().ask(HOST, world.get("/")).await;
        assert_eq!(answer.code(), code, "{}", answer.text());
        assert_eq!(corporate.asked().len(), usize::from(code.is_empty()));
        assert_eq!(world.upstream.received().len(), usize::from(code.is_empty()));
        if !code.is_empty() {
            assert!(answer.text().contains("upstream.proxy") && answer.text().contains("other names"));
        }
    }
}

#[tokio::test]
async fn requests_in_clear_are_asked_for_in_absolute_form_and_credentials_stay_here() {
    let corporate = Corporate::start(None).await;
    let world = behind(&url("http", corporate.at), None).start().await;
    let mut raw = world.agent().bare().await;
    for _ in 0..2 {
        raw.send("GET http://clear.upstream.test/x?y HTTP/1.1\r\nhost: clear.upstream.test\r\n\r\n").await;
        let reply = raw.reply().await.expect("an answer");
        assert_eq!((reply.status, &reply.body[..]), (200, &b"clear"[..]), "{}", reply.head);
    }
    let asked = corporate.asked();
    assert!(asked[0].starts_with("GET http://clear.upstream.test/x?y HTTP/1.1\r\n"), "{asked:?}");
    // A 407 is for us, not for the agent.
    let world = behind(&format!("http://{}", corporate.at), None).start().await;
    let mut raw = world.agent().bare().await;
    raw.send("GET http://clear.upstream.test/ HTTP/1.1\r\nhost: clear.upstream.test\r\n\r\n").await;
    let reply = raw.reply().await.expect("an answer");
    assert_eq!((reply.status, reply.code.as_str()), (502, "upstream_unreachable"));
    assert!(!reply.head.contains("proxy-authenticate"), "{}", reply.head);
}

#[tokio::test]
async fn exceptions_and_pinned_hosts_are_reached_directly() {
    let corporate = Corporate::start(None).await;
    let proxy = Proxy::parse(&url("http", corporate.at)).expect("a proxy");
    let world = World::build().settings(move |s| s.upstream.egress.proxy = Some(proxy)).start().await;
    assert_eq!(world.agent().ask(HOST, world.get("/")).await.status, 200, "pinned");
    let proxy = Proxy::parse(&url("http", corporate.at)).expect("a proxy");
    let world = behind(&url("http", corporate.at), None)
        .settings(move |s| {
            s.upstream.resolve.clear();
            s.upstream.egress.proxy = Some(proxy);
            s.upstream.egress.direct = vec![Direct::parse("**.upstream.test").expect("a pattern")];
        })
        .start()
        .await;
    let answer = world.agent().ask(HOST, world.get("/")).await;
    assert_eq!(answer.code(), "upstream_unreachable", "its name doesn't resolve here");
    assert!(!answer.text().contains("upstream.proxy`"), "{}", answer.text());
    assert!(corporate.asked().is_empty(), "{:?}", corporate.asked());
}

#[tokio::test]
async fn literal_addresses_that_agents_may_not_reach_are_refused_before_the_proxy() {
    let corporate = Corporate::start(None).await;
    for unbound in [Unbound::Forward, Unbound::Tunnel] {
        let proxy = Proxy::parse(&url("http", corporate.at)).expect("a proxy");
        let build = World::build().settings(move |s| {
            s.upstream.egress.proxy = Some(proxy);
            s.proxy.unbound = unbound;
        });
        let world = build.start().await;
        for host in ["169.254.169.254", "10.0.0.1", "[::1]", "[::ffff:127.0.99.1]", "localhost", "x.localhost"] {
            let head = format!("GET http://{host}/ HTTP/1.1\r\nhost: {host}\r\n\r\n");
            let mut raw = world.agent().bare().await;
            raw.send(head).await;
            assert_eq!(raw.reply().await.expect("an answer").code, "destination_blocked", "{host}");
            if unbound == Unbound::Tunnel {
                let refused = world.agent().connect(&format!("{host}:443")).await.expect_err("refused");
                assert!(refused.contains("destination_blocked"), "{host}: {refused}");
            }
        }
    }
    assert!(corporate.asked().is_empty(), "{:?}", corporate.asked());
}

#[tokio::test]
async fn unread_tunnel_goes_through_the_proxy_too() {
    let corporate = Corporate::start(None).await;
    let (to, proxy) = (Arc::clone(&corporate.to), Proxy::parse(&url("socks5", corporate.at)).expect("a proxy"));
    let build = World::build().upstream(|u| u.host = OTHER.to_owned()).settings(move |s| {
        to.set(*s.upstream.resolve.values().next().expect("pinned")).expect("set once");
        s.upstream.resolve.clear();
        s.upstream.egress.proxy = Some(proxy);
        s.proxy.unbound = Unbound::Tunnel;
    });
    let world = build.start().await;
    let blind = Agent { ca_pem: world.upstream.ca_pem.clone(), ..world.agent() };
    assert_eq!(blind.ask(OTHER, plain("/", OTHER)).await.text(), "hello");
    assert_eq!(corporate.asked(), [format!("{OTHER}:443")]);
}

#[tokio::test]
async fn whatever_a_proxy_says_amiss_is_one_clear_refusal_and_no_key_goes_its_way() {
    let huge = [b"HTTP/1.1 200 OK\r\nx: ".to_vec(), vec![b'a'; 100_000], b"\r\n\r\n".to_vec()].concat();
    let many = [b"HTTP/1.1 200 OK\r\n".to_vec(), b"a: b\r\n".repeat(200), b"\r\n".to_vec()].concat();
    let answers: Vec<(&str, &str, Vec<u8>, &str)> = vec![
        ("garbage", "http", b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(), "can't be read"),
        ("a TLS alert", "http", vec![0x15, 3, 3, 0, 2, 2, 40], "can't be read"),
        ("nothing", "http", vec![], "closed"),
        ("half a head", "http", b"HTTP/1.1 200 OK\r\nx: ".to_vec(), "closed"),
        ("a redirect", "http", b"HTTP/1.1 302 F\r\nlocation: http://evil.test/\r\n\r\n".to_vec(), "status 302"),
        ("a refusal", "http", b"HTTP/1.1 403 No\r\ncontent-length: 2\r\n\r\nno".to_vec(), "(403)"),
        ("other credentials", "http", b"HTTP/1.1 407 Who\r\n\r\n".to_vec(), "(407)"),
        ("no upstream", "http", b"HTTP/1.1 503 Down\r\n\r\n".to_vec(), "(503)"),
        ("an interim answer", "http", b"HTTP/1.1 100 Continue\r\n\r\n".to_vec(), "status 100"),
        ("a huge head", "http", huge, "longer than"),
        ("a great many fields", "http", many, "longer than"),
        ("bytes too early", "http", b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\n\r\n".to_vec(), "nobody asked"),
        ("HTTP from SOCKS", "socks5", b"HTTP/1.1 400 Bad\r\n\r\n".to_vec(), "can't be read"),
        ("no method", "socks5", vec![5, 0xff], "(407)"),
        ("a refused password", "socks5", vec![5, 2, 1, 1], "(407)"),
        ("a method of its own", "socks5", vec![5, 9], "can't be read"),
        ("a ruleset", "socks5", vec![5, 0, 5, 2, 0, 1, 0, 0, 0, 0, 0, 0], "(403)"),
        ("an unknown code", "socks5", vec![5, 0, 5, 99, 0, 1, 0, 0, 0, 0, 0, 0], "code 99"),
        ("half a reply", "socks5", vec![5, 0, 5, 0, 0, 3, 200, 1], "closed"),
        ("an unknown kind of address", "socks5", vec![5, 0, 5, 0, 0, 2], "can't be read"),
    ];
    for (name, scheme, answer, said) in answers {
        let at = saying(answer, false).await;
        let world = behind(&url(scheme, at), None).start().await;
        let answer = world.agent().ask(HOST, world.get("/")).await;
        assert_eq!((answer.status.as_u16(), answer.code()), (502, "upstream_unreachable"), "{name}");
        assert!(answer.text().contains(said), "{name}: {}", answer.text());
        assert!(!answer.text().contains(PASSWORD), "{name}");
        assert!(world.records_of("intent").is_empty(), "{name}: a key was about to be used");
    }
}

#[tokio::test]
async fn silent_proxy_is_given_up() {
    for scheme in ["http", "https", "socks5"] {
        let at = saying(vec![], true).await;
        let proxy = Proxy::parse(&url(scheme, at)).expect("a proxy");
        let build = World::build().settings(move |s| {
            s.upstream.resolve.clear();
            s.upstream.egress.proxy = Some(proxy);
            s.upstream.deadlines.proxy = Duration::from_millis(200);
            s.upstream.deadlines.tls = Duration::from_millis(200);
        });
        let (world, since) = (build.start().await, Instant::now());
        let answer = world.agent().ask(HOST, world.get("/")).await;
        assert_eq!(answer.code(), "upstream_timeout", "{scheme}: {}", answer.text());
        assert!(since.elapsed() < Duration::from_secs(3), "{scheme}");
    }
}

#[tokio::test]
async fn credentials_may_lie_in_a_file() {
    let corporate = Corporate::start(None).await;
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("credentials");
    std::fs::write(&file, format!("{USER}:{PASSWORD}\n")).expect("written");
    let (to, url) = (Arc::clone(&corporate.to), format!("http://{}", corporate.at));
    let build = World::build().settings(move |s| {
        to.set(*s.upstream.resolve.values().next().expect("pinned")).expect("set once");
        s.upstream.resolve.clear();
        s.upstream.egress.proxy = Proxy::parse(&url).ok();
        s.proxy_credentials = Some(file);
    });
    let world = build.start().await;
    assert_eq!(world.agent().ask(HOST, world.get("/")).await.status, 200);
    assert_eq!(corporate.asked().len(), 1);
}

#[tokio::test]
async fn node_is_not_its_own_way_out() {
    let own: SocketAddr = "127.0.0.1:9".parse().expect("an address");
    let build = World::build().settings(move |s| {
        s.upstream.resolve.clear();
        s.upstream.own_addresses.push(own);
        s.upstream.egress.proxy = Proxy::parse("http://localhost:9").ok();
    });
    let world = build.start().await;
    let answer = world.agent().ask(HOST, world.get("/")).await;
    assert!(answer.text().contains("is sallyport itself"), "{}", answer.text());
}
