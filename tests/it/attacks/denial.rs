//! Floods against a node of its own, whose memory is looked at, and which serves everybody else meanwhile.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;

use crate::support::agent::Agent;
use crate::support::binary::{Place, Serve};
use crate::support::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, RST_STREAM, SETTINGS, fields, frame, open, request, until,
};
use crate::support::upstream::{Setup, Upstream};
use crate::support::world::OTHER;
use crate::support::{Raw, World, soon};

const HOST: &str = "api.flood.test";
/// What a flood may cost, in KiB.
const ROOM: u64 = 64 * 1024;

/// A node and its upstream.
struct Node {
    serve: Serve,
    agent: Agent,
    bearer: String,
    _place: Place,
    _upstream: Upstream,
}

/// Answers by what is asked for: heads and bodies without end, nothing at all, or a word.
async fn upstream() -> Upstream {
    let script = |stream, _| -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
        let mut raw = Raw::new(stream);
        Box::pin(async move {
            loop {
                let head = raw.head().await;
                let (first, again) = match head.split(' ').nth(1) {
                    None => return,
                    Some("/head") => ("HTTP/1.1 200 OK\r\n", format!("x: {}\r\n", "y".repeat(4000)).repeat(16)),
                    Some("/body") => ("HTTP/1.1 200 OK\r\ncontent-length: 536870912\r\n\r\n", "z".repeat(65_536)),
                    Some("/never") => return std::future::pending().await,
                    Some(_) => ("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ngood", String::new()),
                };
                raw.send(first).await;
                for _ in 0..8192 {
                    if again.is_empty() {
                        break;
                    }
                    if !matches!(tokio::time::timeout(Duration::from_secs(8), raw.try_send(&again)).await, Ok(Ok(()))) {
                        return;
                    }
                }
            }
        })
    };
    let setup = Setup { host: HOST.to_owned(), alpn: vec!["http/1.1"], ..Setup::default() };
    Upstream::script(&setup, std::sync::Arc::new(script)).await
}

impl Node {
    async fn start() -> Self {
        let upstream = upstream().await;
        let place = Place::new();
        place.ok(&["init"]);
        place.add_key(&["flooded", "--host", HOST], "sk-flooded-0123456789abcdef");
        let ca = place.data.with_extension("pem");
        std::fs::write(&ca, &upstream.ca_pem).expect("written");
        let configuration =
            format!("upstream: {{ extra_ca: [{ca:?}], resolve: {{ \"{HOST}:443\": \"{}\" }} }}", upstream.addr);
        let session = place.json(&["sessions", "start", "--key", "flooded"]);
        let token = place.json(&["tokens", "mint", session["id"].as_str().expect("an id"), "flooded"]);
        let bearer = format!("Bearer {}", token["value"].as_str().expect("a value"));
        let serve = Serve::start(&place, &configuration);
        let ca_pem = std::fs::read_to_string(place.data.join("ca.pem")).expect("readable");
        let agent = Agent { proxy: serve.proxy, credentials: None, ca_pem };
        Self { serve, agent, bearer, _place: place, _upstream: upstream }
    }

    /// A line of the process's status, in KiB.
    fn memory(&self, what: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.serve.child.id())).expect("it runs");
        let line = status.lines().find(|line| line.starts_with(what)).expect("a line");
        line.split_whitespace().nth(1).expect("a number").parse().expect("a number")
    }

    fn get(&self, path: &str) -> Request<Full<Bytes>> {
        let request = Request::get(path).header("host", HOST).header("authorization", &self.bearer);
        request.body(Full::default()).expect("a request")
    }

    fn block(&self, path: &str) -> Vec<u8> {
        request(HOST, path, &[(b"authorization", self.bearer.as_bytes())])
    }

    async fn http2(&self) -> Raw {
        let mut raw = self.agent.inside(HOST, b"h2").await;
        open(&mut raw).await;
        raw
    }

    /// Sends the same bytes over and over, until the connection ends or isn't read any more.
    async fn flood(&self, first: &[u8], again: &[u8], times: usize) {
        let mut raw = self.http2().await;
        raw.send(first).await;
        for _ in 0..times {
            match tokio::time::timeout(Duration::from_millis(300), raw.try_send(again)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return,
            }
        }
    }

    async fn attack(&self, what: &str, held: &mut Vec<Raw>) {
        let block = self.block("/never");
        match what {
            "a head without end" => {
                let piece = frame(CONTINUATION, 0, 1, &fields(&[(b"y", &[b'z'; 16_000])]));
                self.flood(&frame(HEADERS, END_STREAM, 1, &block), &piece, 4000).await;
            }
            "200,000 empty pieces of a head" => {
                let pieces = frame(CONTINUATION, 0, 1, &[]).repeat(100);
                self.flood(&frame(HEADERS, END_STREAM, 1, &block), &pieces, 2000).await;
            }
            "200,000 settings" => self.flood(&[], &frame(SETTINGS, 0, 0, &[]).repeat(100), 2000).await,
            "200,000 empty pieces of a body" => {
                self.flood(&frame(HEADERS, END_HEADERS, 1, &block), &frame(DATA, 0, 1, &[]).repeat(100), 2000).await;
            }
            "heads that unpack into megabytes" => {
                let mut bomb = self.block("/");
                bomb.extend([0x40, 1, b'x', 127, 0xbd, 0x1d]);
                bomb.extend([b'y'; 3900]);
                bomb.extend(vec![0xbe; 10_000]);
                for _ in 0..60 {
                    let mut raw = self.http2().await;
                    raw.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, &bomb)).await;
                    until(&mut raw, |f| matches!(f.kind, HEADERS | RST_STREAM)).await;
                }
            }
            "5,000 streams at once" => {
                let mut raw = self.http2().await;
                let mut refused = 0;
                for n in 0..5000u32 {
                    raw.send(frame(HEADERS, END_HEADERS | END_STREAM, n * 2 + 1, &block)).await;
                    if n >= 200 {
                        match until(&mut raw, |f| f.kind == RST_STREAM || f.kind == crate::support::frames::GOAWAY)
                            .await
                        {
                            Some(f) if f.kind == RST_STREAM && f.error() == 7 => refused += 1,
                            _ => break,
                        }
                    }
                }
                assert!(refused > 0, "streams past the limit are refused");
                held.push(raw);
            }
            "900 idle connections" => {
                for _ in 0..900 {
                    held.push(self.agent.bare().await);
                }
            }
            "300 tunnels in which nothing is asked" => {
                for _ in 0..300 {
                    held.push(self.agent.inside(HOST, b"h2").await);
                }
            }
            "400 names" => {
                let began = Instant::now();
                for n in 0..400 {
                    let name = format!("host-{n}.flood.test");
                    self.agent.tls(&format!("{name}:443"), &name, &[b"http/1.1"]).await;
                }
                assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
            }
            "300 agents that leave in the middle of a reply" => {
                for _ in 0..300 {
                    let mut raw = self.agent.inside(HOST, b"http/1.1").await;
                    raw.send(format!("GET /body HTTP/1.1\r\nhost: {HOST}\r\nauthorization: {}\r\n\r\n", self.bearer))
                        .await;
                    raw.head().await;
                }
            }
            "a reply's head without end" => {
                let answer = self.agent.ask(HOST, self.get("/head")).await;
                assert_eq!((answer.status.as_u16(), answer.code()), (502, "upstream_unreachable"));
            }
            "replies of 512 MiB that nobody reads" => {
                for protocol in [&b"http/1.1"[..], b"h2"] {
                    let mut raw = self.agent.inside(HOST, protocol).await;
                    if protocol == b"h2" {
                        open(&mut raw).await;
                        raw.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, &self.block("/body"))).await;
                    } else {
                        let head =
                            format!("GET /body HTTP/1.1\r\nhost: {HOST}\r\nauthorization: {}\r\n\r\n", self.bearer);
                        raw.send(head).await;
                    }
                    raw.exactly(9).await;
                    held.push(raw);
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            other => panic!("{other}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_cost_a_bounded_amount_of_memory_and_keep_nobody_waiting() {
    let node = Node::start().await;
    for _ in 0..20 {
        assert_eq!(node.agent.ask(HOST, node.get("/")).await.text(), "good");
    }
    for what in [
        "a head without end",
        "200,000 empty pieces of a head",
        "200,000 settings",
        "200,000 empty pieces of a body",
        "heads that unpack into megabytes",
        "5,000 streams at once",
        "a reply's head without end",
        "replies of 512 MiB that nobody reads",
        "300 agents that leave in the middle of a reply",
        "400 names",
        "300 tunnels in which nothing is asked",
        "900 idle connections",
    ] {
        let (mut held, before) = (Vec::new(), node.memory("VmRSS"));
        node.attack(what, &mut held).await;
        let began = Instant::now();
        let answer = soon(what, node.agent.ask(HOST, node.get("/"))).await;
        assert_eq!(answer.text(), "good", "{what}");
        assert!(began.elapsed() < Duration::from_secs(5), "{what}: {:?}", began.elapsed());
        let peak = node.memory("VmHWM");
        eprintln!("{what}: {} KiB", peak.saturating_sub(before));
        assert!(peak < before + ROOM, "{what}: {before} KiB before, {peak} KiB at most");
    }
}

#[tokio::test]
async fn hosts_paths_and_tokens_make_no_metrics() {
    let world = World::start().await;
    let ask = async |n: u32| {
        let mut request = world.get(&format!("/path-{n}"));
        request.headers_mut().insert("user-agent", format!("agent-{n}").parse().expect("a value"));
        assert_eq!(world.agent().ask(crate::support::HOST, request).await.status, 200);
        let strange = format!("host-{n}.upstream.test");
        let stream = world.agent().tls(&format!("{strange}:443"), &strange, &[b"http/1.1"]).await;
        let guess =
            Request::get(format!("/{n}")).header("host", &strange).header("authorization", format!("Bearer x{n}"));
        crate::support::agent::http1_on::<_, Full<Bytes>>(stream)
            .await
            .ask(guess.body(Full::default()).expect("a request"))
            .await
    };
    let series = || -> std::collections::BTreeSet<String> {
        let text = world.node.metrics();
        text.lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|l| Some(l.rsplit_once(' ')?.0.to_owned()))
            .collect()
    };
    for n in 0..5 {
        ask(n).await;
    }
    let before = series();
    for n in 5..40 {
        ask(n).await;
    }
    let more: Vec<_> = series().difference(&before).cloned().collect();
    // What any request may bring with it for the first time.
    assert!(more.len() < 10, "{more:?}");
    let text = world.node.metrics();
    assert!(!text.contains("upstream.test") && !text.contains(OTHER) && !text.contains("path-"), "{text}");
}
