//! Requests with the head of the one before them: what was decided about that one holds for as long as nothing it
//! was decided by has changed, and not a byte differs but in the value of `Content-Length`.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use http::Request;
use http_body_util::Full;
use rustix::process::Signal;
use sallyport::model::{Clock, SystemClock, Timestamp};
use sallyport::vault::key::KeyState;
use tokio::net::{TcpListener, TcpStream};

use crate::support::agent::{Agent, http1_on};
use crate::support::binary::{Place, Serve};
use crate::support::upstream::{Setup, Upstream};
use crate::support::world::{HOST, OTHER};
use crate::support::{Raw, Reply, World, soon};

/// Runs ahead by so many milliseconds.
#[derive(Default)]
struct Ahead(AtomicI64);

impl Clock for Ahead {
    fn now(&self) -> Timestamp {
        Timestamp(SystemClock.now().millis() + self.0.load(Ordering::SeqCst))
    }
}

/// Sends this head so often that it is one that was kept, and is sure that it goes through.
async fn known(raw: &mut Raw, head: &str) {
    for _ in 0..3 {
        raw.send(head).await;
        let reply = raw.reply().await.expect("a reply");
        assert_eq!(reply.status, 200, "{}", String::from_utf8_lossy(&reply.body));
    }
}

/// The status and code of the reply to this head.
async fn said(raw: &mut Raw, head: &str) -> (u16, String) {
    raw.send(head).await;
    let reply = raw.reply().await.expect("a reply");
    (reply.status, reply.code)
}

#[tokio::test]
async fn what_ended_since_the_last_request_is_refused() {
    for (what, code) in [
        ("token", "token_revoked"),
        ("session", "session_revoked"),
        ("key", "key_disabled"),
        ("time", "session_expired"),
        ("policy", "policy_denied"),
    ] {
        let clock = Arc::new(Ahead::default());
        let policy = "version: 1\nname: p\nrules: [{ name: all, allow: {} }]\n";
        let world = World::build().policy(policy).clock(Arc::clone(&clock) as Arc<dyn Clock>).start().await;
        let mut both =
            [world.agent().inside(HOST, b"http/1.1").await, world.known_agent().inside(HOST, b"http/1.1").await];
        for raw in &mut both {
            known(raw, &world.head("/")).await;
        }
        let before = world.upstream.received().len();
        match what {
            "token" => world.node.revoke_token(&world.token, "test"),
            "session" => world.node.revoke_session(&world.started.session, "test"),
            "key" => world.node.set_key_state(&world.key, KeyState::Disabled),
            "time" => clock.0.store(2 * 3600 * 1000, Ordering::SeqCst),
            _ => {
                let path = world.home.policy_dir().join("only.yaml");
                std::fs::write(path, policy.replace("allow", "deny")).expect("written");
                world.node.policies().reload().expect("taken");
            }
        }
        for raw in &mut both {
            assert_eq!(said(raw, &world.head("/")).await, (403, code.to_owned()), "{what}");
        }
        assert_eq!(world.upstream.received().len(), before, "{what}");
        drop(both);
        let intents = world.stopped("intent").await;
        assert_eq!(intents.len(), before, "{what}: no use of the key but those that were recorded");
    }
}

#[tokio::test]
async fn key_that_is_enabled_again_is_used_again() {
    let world = World::start().await;
    let mut raw = world.agent().inside(HOST, b"http/1.1").await;
    known(&mut raw, &world.head("/")).await;
    for _ in 0..3 {
        world.node.set_key_state(&world.key, KeyState::Disabled);
        assert_eq!(said(&mut raw, &world.head("/")).await.1, "key_disabled");
        world.node.set_key_state(&world.key, KeyState::Enabled);
        assert_eq!(said(&mut raw, &world.head("/")).await.0, 200);
    }
}

#[tokio::test]
async fn head_that_differs_in_anything_is_decided_on_anew() {
    const ONLY: &str =
        "version: 1\nname: only\nrules:\n  - { name: a, allow: { methods: [GET, POST], paths: [\"/open/*\"] } }\n";
    let world = World::build().policy(ONLY).start().await;
    let (_, other) = world.node.mint(&world.started, &world.key).expect("a token");
    let good = format!(
        "POST /open/a HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 0\r\nauthorization: {}\r\nx-one: 1\r\n\r\n",
        world.bearer()
    );
    let mut mistyped = world.token().to_owned();
    let last = mistyped.pop().expect("a character");
    mistyped.push(if last == 'a' { 'b' } else { 'a' });
    let change = |from: &str, to: &str| {
        assert!(good.contains(from), "{from}");
        good.replace(from, to)
    };
    for (head, status, code) in [
        (change("POST", "PUT"), 403, "policy_denied"),
        (change("/open/a", "/shut/a"), 403, "policy_denied"),
        (change("/open/a", "/open/a/../../b"), 403, "policy_denied"),
        (change("/open/a", "/opena"), 403, "policy_denied"),
        (change(HOST, OTHER), 421, "authority_mismatch"),
        (change(world.token(), &mistyped), 403, "credential_unregistered"),
        (change("x-one: 1", &format!("x-one: 1\r\nauthorization: Bearer {}", other.expose())), 400, "bad_request"),
        (change("x-one: 1", "x-http-method: DELETE"), 403, "policy_denied"),
        (change("x-one: 1", "content-length: 5"), 400, ""),
        (change("content-length: 0", "content-length: 0, 0"), 400, ""),
        (change("content-length: 0", "content-length: +0"), 400, ""),
        (change("content-length: 0", "content-length: 99999999999999999999999"), 400, ""),
        (change("content-length: 0", "content-length: "), 400, ""),
    ] {
        let mut raw = world.agent().inside(HOST, b"http/1.1").await;
        known(&mut raw, &good).await;
        let before = world.upstream.received().len();
        raw.send(&head).await;
        let reply = raw.reply().await.expect("a reply");
        assert_eq!(reply.status, status, "{head}{}", String::from_utf8_lossy(&reply.body));
        if !code.is_empty() {
            assert_eq!(reply.code, code, "{head}");
        }
        assert_eq!(world.upstream.received().len(), before, "{head}");
    }
    // What is allowed arrives as it is, whatever came before it.
    let mut raw = world.agent().inside(HOST, b"http/1.1").await;
    for _ in 0..3 {
        known(&mut raw, &good).await;
        for (head, path, one) in [
            (change("/open/a", "/open/b"), "/open/b", "1"),
            (change("x-one: 1", "x-one: 2"), "/open/a", "2"),
            (change(world.token(), other.expose()), "/open/a", "1"),
        ] {
            assert_eq!(said(&mut raw, &head).await.0, 200, "{head}");
            let received = world.upstream.received().pop().expect("received");
            assert_eq!((received.path.as_str(), received.header("x-one")), (path, one));
            assert_eq!(received.header("authorization"), format!("Bearer {}", world.secret));
        }
    }
}

#[tokio::test]
async fn each_body_arrives_with_its_own_length() {
    let echo = |asked: &crate::support::Received| {
        Reply::text(format!("{} {}", asked.header("content-length"), asked.body.len()))
    };
    for behind in [true, false] {
        let world = World::build().answer(echo).start().await;
        let mut raw = world.agent().inside(HOST, b"http/1.1").await;
        let token = format!("Authorization: {}\r\n", world.bearer());
        for (length, len) in
            [("3", 3), ("3", 3), ("12", 12), ("0", 0), ("012", 12), ("0003", 3), ("70000", 70000), ("1", 1), ("12", 12)]
        {
            let length = format!("Content-Length: {length}\r\n");
            let fields = if behind { format!("{token}{length}") } else { format!("{length}{token}") };
            raw.send(format!("POST / HTTP/1.1\r\nHost: {HOST}\r\n{fields}X: y\r\n\r\n{}", "b".repeat(len))).await;
            let reply = raw.reply().await.expect("a reply");
            let value = length.trim_start_matches("Content-Length: ").trim();
            assert_eq!(String::from_utf8_lossy(&reply.body), format!("{value} {len}"), "{behind}");
            let received = world.upstream.received().pop().expect("received");
            assert_eq!(received.header("authorization"), format!("Bearer {}", world.secret));
            assert_eq!((received.header("x"), received.body.len()), ("y", len));
        }
        drop(raw);
        world.nothing_leaked(&[]).await;
    }
}

#[tokio::test]
async fn request_like_the_last_one_may_come_in_any_pieces() {
    let world = World::build().answer(|asked| Reply::text(asked.body.len().to_string())).start().await;
    let mut raw = world.agent().inside(HOST, b"http/1.1").await;
    let head = |len: usize| {
        format!("POST / HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: {len}\r\nauthorization: {}\r\n\r\n", world.bearer())
    };
    let two = head(10) + "0123456789" + &head(7) + "0123456";
    raw.send(&two).await;
    for cut in (1..two.len()).step_by(7) {
        let (first, rest) = two.split_at(cut);
        raw.send(first).await;
        raw.send(rest).await;
        for len in ["10", "7"] {
            assert_eq!(raw.reply().await.expect("a reply").body, len.as_bytes(), "{cut}");
        }
    }
}

#[tokio::test]
async fn node_that_hears_of_no_revocations_uses_no_key_for_what_it_knows_either() {
    let clock = Arc::new(Ahead::default());
    let build = World::build().clock(Arc::clone(&clock) as Arc<dyn Clock>);
    let world = build.settings(|s| s.max_staleness = Duration::from_secs(60)).start().await;
    let mut raw = world.agent().inside(HOST, b"http/1.1").await;
    known(&mut raw, &world.head("/")).await;
    let asking = async {
        loop {
            // Until the node has asked its store again, it may have slept.
            clock.0.fetch_add(61_000, Ordering::SeqCst);
            let (status, code) = said(&mut raw, &world.head("/")).await;
            if status != 200 {
                return (status, code);
            }
        }
    };
    assert_eq!(soon("the refusal", asking).await, (503, "store_unavailable".to_owned()));
    drop(raw);
    let sent = world.upstream.received().len();
    assert_eq!(world.stopped("intent").await.len(), sent, "what isn't sent isn't recorded as if it were about to be");
}

#[tokio::test]
async fn token_that_was_forgotten_with_its_session_is_unknown_whatever_clocks_say_later() {
    let clock = Arc::new(Ahead::default());
    let world = World::build().clock(Arc::clone(&clock) as Arc<dyn Clock>).start().await;
    let mut raw = world.agent().inside(HOST, b"http/1.1").await;
    let mut inside = world.known_agent().inside(HOST, b"http/1.1").await;
    known(&mut raw, &world.head("/")).await;
    known(&mut inside, &world.head("/")).await;
    clock.0.store(3 * 3600 * 1000, Ordering::SeqCst);
    world.node.shared().registry.sweep(clock.now(), Duration::from_secs(3600));
    clock.0.store(0, Ordering::SeqCst);
    assert_eq!(said(&mut raw, &world.head("/")).await, (403, "token_unknown".to_owned()));
    assert_eq!(said(&mut inside, &world.head("/")).await, (403, "session_revoked".to_owned()));
    assert_eq!(world.upstream.received().len(), 6);
}

#[tokio::test]
async fn route_that_changed_holds_from_the_next_request() {
    let world = World::build()
        .upstream(|u| u.host = format!("{HOST},{OTHER}"))
        .answer(|asked| Reply::text(asked.path.clone()))
        .settings(|s| {
            s.gateway = Some(([127, 0, 0, 1], 0).into());
            s.routes.insert("free".into(), format!("https://{OTHER}"));
        })
        .start()
        .await;
    for head in [world.head("/upstream/x"), format!("GET /free/x HTTP/1.1\r\nhost: {HOST}\r\n\r\n")] {
        let mut raw = Raw::new(TcpStream::connect(world.node.gateway.expect("it listens")).await.expect("connected"));
        known(&mut raw, &head).await;
        let routes = &world.node.shared().routes;
        let mut changed = (*routes.load_full()).clone();
        changed.values_mut().for_each(|route| route.base_path = "/two".to_owned());
        let before = routes.swap(Arc::new(changed));
        raw.send(&head).await;
        assert_eq!(raw.reply().await.expect("a reply").body, b"/two/x", "{head}");
        routes.store(before);
    }
}

#[tokio::test]
async fn what_is_masked_in_replies_counts_for_the_session_of_each_request() {
    let echo = |asked: &crate::support::Received| Reply::text([asked.header("authorization"); 3].join(" "));
    let world = World::build().answer(echo).settings(|s| s.proxy.limits.masked = 7).start().await;
    let mut raw = world.agent().inside(HOST, b"http/1.1").await;
    for _ in 0..2 {
        assert_eq!(said(&mut raw, &world.head("/")).await.0, 200);
    }
    // The third is over the limit, and cut.
    let mut other = world.agent().inside(HOST, b"http/1.1").await;
    other.send(world.head("/")).await;
    other.rest().await;
    assert_eq!(said(&mut raw, &world.head("/")).await, (429, "rate_limited".to_owned()));
    assert_eq!(world.upstream.received().len(), 3);
}

#[tokio::test]
async fn policies_that_were_replaced_are_gone_though_a_connection_knows_them() {
    let world = World::start().await;
    let mut raw = world.agent().inside(HOST, b"http/1.1").await;
    known(&mut raw, &world.head("/")).await;
    let old = Arc::downgrade(&world.node.policies().current());
    world.node.policies().reload().expect("taken");
    assert!(old.upgrade().is_none());
    known(&mut raw, &world.head("/")).await;
    let line = "sallyport_injections_total{provider=\"custom\",slot=\"bearer\"} 6";
    assert!(world.node.metrics().contains(line), "each use is counted: {}", world.node.metrics());
}

#[tokio::test(flavor = "multi_thread")]
async fn log_line_says_whose_request_it_was_though_the_one_before_it_went_wrong() {
    let place = Place::new();
    place.ok(&["init"]);
    let setup = Setup { host: HOST.to_owned(), ..Setup::default() };
    let upstream = Upstream::start(&setup, Arc::new(|asked| Reply::text(asked.path.clone()))).await;
    place.add_key(&["mine", "--host", HOST], "the-first-secret-0123456789");
    let ca = place.data.with_extension("pem");
    std::fs::write(&ca, &upstream.ca_pem).expect("written");
    // Nothing listens there yet.
    let port = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let at = port.local_addr().expect("an address");
    drop(port);
    let more = format!("upstream: {{ extra_ca: [{ca:?}], resolve: {{ \"{HOST}:443\": \"{at}\" }} }}\n");
    let mut serve = Serve::start(&place, &more);
    let session = place.json(&["sessions", "start", "--key", "mine"]);
    let id = session["id"].as_str().expect("an id");
    let minted = place.json(&["tokens", "mint", id, "mine"]);
    let bearer = minted["value"].as_str().expect("a value");
    let head = |body: &str| {
        let len = body.len();
        format!(
            "POST /x HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: {len}\r\nauthorization: Bearer {bearer}\r\n\r\n{body}"
        )
    };
    let ca_pem = std::fs::read_to_string(place.data.join("ca.pem")).expect("readable");
    let agent = Agent { proxy: serve.proxy, credentials: None, ca_pem };
    let mut raw = agent.inside(HOST, b"http/1.1").await;
    assert_eq!(said(&mut raw, &head("abc")).await, (502, "upstream_unreachable".to_owned()));
    serve.wait_for("http.status=502");
    let port = TcpListener::bind(at).await.expect("the port");
    let to = upstream.addr;
    tokio::spawn(async move {
        while let Ok((mut one, _)) = port.accept().await {
            tokio::spawn(async move {
                let mut other = TcpStream::connect(to).await.expect("connected");
                let _ = tokio::io::copy_bidirectional(&mut one, &mut other).await;
            });
        }
    });
    for body in ["abc", "abcd", ""] {
        assert_eq!(said(&mut raw, &head(body)).await.0, 200);
        let line = serve.wait_for("http.status=200");
        let who = format!("mode=\"forward\" session.id=\"{id}\" http.method=\"POST\" upstream.authority={HOST}:443 ");
        let sizes = format!(" bytes_in={} bytes_out=2 ", body.len());
        assert!(line.contains(&who) && line.contains(&sizes), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rotated_key_and_changed_route_hold_from_the_next_request() {
    let place = Place::new();
    place.ok(&["init"]);
    let setup = Setup { host: format!("{HOST},{OTHER}"), ..Setup::default() };
    let upstream = Upstream::start(&setup, Arc::new(|asked| Reply::text(asked.path.clone()))).await;
    place.add_key(&["mine", "--host", HOST], "the-first-secret-0123456789");
    let ca = place.data.with_extension("pem");
    std::fs::write(&ca, &upstream.ca_pem).expect("written");
    let at = upstream.addr;
    let more = format!(
        "upstream: {{ extra_ca: [{ca:?}], resolve: {{ \"{HOST}:443\": \"{at}\", \"{OTHER}:443\": \"{at}\" }} }}\n"
    );
    std::fs::create_dir(place.data.join("providers")).expect("made");
    let routes = |path: &str| {
        let of = |name: &str, host: &str| {
            format!(
                "- {{ name: {name}, hosts: [{host}], slots: [bearer], env: [A_{name}], base: \"https://{host}{path}\" }}\n"
            )
        };
        std::fs::write(place.data.join("providers/own.yaml"), of("there", HOST) + &of("free", OTHER)).expect("written");
    };
    routes("/one");
    let mut serve = Serve::start(&place, &more);
    let session = place.json(&["sessions", "start", "--key", "mine"]);
    let minted = place.json(&["tokens", "mint", session["id"].as_str().expect("an id"), "mine"]);
    let bearer = format!("Bearer {}", minted["value"].as_str().expect("a value"));
    let request = |path: &str| {
        let request = Request::get(path).header("host", HOST).header("authorization", &bearer);
        request.body(Full::new(bytes::Bytes::new())).expect("a request")
    };
    let ca_pem = std::fs::read_to_string(place.data.join("ca.pem")).expect("readable");
    let agent = Agent { proxy: serve.proxy, credentials: None, ca_pem };
    let mut forward = agent.http1(HOST).await;
    let at = serve.gateway;
    let through = || async move { http1_on(TcpStream::connect(at).await.expect("connected")).await };
    let (mut gateway, mut keyless) = (through().await, through().await);
    let free = || {
        let request = Request::get("/free/x").header("host", HOST);
        request.body(Full::new(bytes::Bytes::new())).expect("a request")
    };
    for _ in 0..3 {
        assert_eq!(soon("a reply", keyless.ask(free())).await.text(), "/one/x");
        assert_eq!(soon("a reply", forward.ask(request("/x"))).await.text(), "/x");
        assert_eq!(soon("a reply", gateway.ask(request("/there/x"))).await.text(), "/one/x");
    }
    let sent = || upstream.received().pop().expect("received").header("authorization").to_owned();
    assert_eq!(sent(), "Bearer the-first-secret-0123456789");
    let output = place.with_input(&["keys", "rotate", "mine"], "the-second-secret-0123456789");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let rotated = async {
        loop {
            // The node hears of the new value a moment later.
            assert_eq!(forward.ask(request("/x")).await.status, 200);
            if sent() == "Bearer the-second-secret-0123456789" {
                return;
            }
        }
    };
    soon("the new value", rotated).await;
    assert_eq!(gateway.ask(request("/there/x")).await.text(), "/one/x");
    assert_eq!(sent(), "Bearer the-second-secret-0123456789");
    routes("/two");
    serve.signal(Signal::HUP);
    serve.wait_for("reloaded");
    assert_eq!(gateway.ask(request("/there/x")).await.text(), "/two/x");
    assert_eq!(keyless.ask(free()).await.text(), "/two/x");
}
