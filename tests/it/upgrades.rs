//! Requests that ask to switch to another protocol than WebSocket: by a rule that names it, and not otherwise.

use std::time::{Duration, Instant};

use sallyport::vault::key::KeyState;
use tokio::sync::mpsc;

use crate::support::world::{Build, HOST, OTHER};
use crate::support::{Raw, World, soon};

const NAMED: &str = "
version: 1
name: containers
rules:
  - name: attach
    allow: { methods: [POST], paths: [\"/containers/*/attach\"], upgrades: [tcp, \"SPDY/3.1\"] }
  - name: others
    allow: { methods: [GET, POST] }
  - name: never
    deny: { paths: [\"/containers/secret/attach\"] }
";

/// A world whose upstream switches to what it is asked for, and the connections that it switched.
pub fn build() -> (Build, mpsc::UnboundedReceiver<(String, Raw)>) {
    let (send, receive) = mpsc::unbounded_channel();
    let build = World::build().policy(NAMED).script(move |mut raw: Raw, _| {
        let send = send.clone();
        async move {
            let head = raw.head().await;
            let asked = head.lines().find_map(|line| line.to_lowercase().strip_prefix("upgrade: ").map(str::to_owned));
            match asked {
                Some(asked) => {
                    let accepts =
                        format!("HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: {asked}\r\n\r\nhello");
                    raw.send(accepts).await;
                }
                None => raw.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await,
            }
            let _ = send.send((head, raw));
            std::future::pending::<()>().await;
        }
    });
    (build, receive)
}

fn head(world: &World, path: &str, protocol: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: {}\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\
         Content-Length: 0\r\n\r\n",
        world.bearer()
    )
}

pub async fn ask(world: &World, path: &str, protocol: &str) -> Raw {
    let mut raw = world.agent().inside(HOST, b"http/1.1").await;
    raw.send(head(world, path, protocol)).await;
    raw
}

#[tokio::test]
async fn protocol_that_a_rule_names_is_carried_both_ways_with_the_key_and_searched_for_it() {
    let (build, mut switched) = build();
    let world = build.start().await;
    for protocol in ["tcp", "TCP", "SPDY/3.1"] {
        let mut agent = ask(&world, "/containers/x/attach?stream=1", protocol).await;
        let said = agent.head().await;
        assert!(said.starts_with("HTTP/1.1 101 "), "{said}");
        assert!(said.to_lowercase().contains(&format!("upgrade: {}\r\n", protocol.to_lowercase())), "{said}");
        assert_eq!(agent.exactly(5).await, b"hello", "what came right behind the head");
        let (asked, mut upstream) = soon("the upstream is asked", switched.recv()).await.expect("asked");
        assert!(asked.starts_with("POST /containers/x/attach?stream=1 HTTP/1.1\r\n"), "{asked}");
        assert!(asked.contains(&format!("Bearer {}", world.secret)) && !asked.contains(world.token()), "{asked}");
        agent.send(b"\x00\xff from the agent").await;
        assert_eq!(upstream.exactly(17).await, b"\x00\xff from the agent");
        // The key is split over two pieces.
        let (front, back) = world.secret.split_at(9);
        upstream.send(format!("<{front}")).await;
        assert_eq!(agent.exactly(1).await, b"<");
        upstream.send(format!("{back}> and more")).await;
        let masked = format!("{}> and more", "*".repeat(world.secret.len()));
        assert_eq!(String::from_utf8_lossy(&agent.exactly(masked.len()).await), masked);
        // Either side may say that it has said all.
        agent.send(b"last").await;
        agent.finish().await;
        assert_eq!(upstream.rest().await, b"last");
        upstream.send(b"the end").await;
        upstream.finish().await;
        assert_eq!(agent.rest().await, b"the end");
    }
    assert_eq!(world.records_of("intent").len(), 3);
    world.nothing_leaked(&[]).await;
}

#[tokio::test]
async fn protocol_that_no_rule_names_goes_nowhere() {
    let (build, mut switched) = build();
    let world = build.start().await;
    for (path, protocol, code) in [
        ("/containers/x/attach", "foo", "policy_denied"),
        ("/containers/x/attach", "h2c", "policy_denied"),
        ("/other", "tcp", "policy_denied"),
        ("/containers/secret/attach", "tcp", "policy_denied"),
        ("/containers/x/attach", "tcp, foo", "bad_request"),
        ("/containers/x/attach", "t cp", "bad_request"),
        ("/containers/x/attach", "", "bad_request"),
    ] {
        let reply = ask(&world, path, protocol).await.reply().await.expect("an answer");
        assert_eq!(reply.code, code, "{path} {protocol}: {}", String::from_utf8_lossy(&reply.body));
    }
    for change in [("Content-Length: 0", "Content-Length: 3"), ("Connection: Upgrade", "Connection: close")] {
        let mut raw = world.agent().inside(HOST, b"http/1.1").await;
        raw.send(head(&world, "/containers/x/attach", "tcp").replace(change.0, change.1)).await;
        assert_eq!(raw.reply().await.expect("an answer").code, "bad_request", "{change:?}");
    }
    // Without a token, and where no key is.
    let without = |host: &str| {
        format!("POST /containers/x/attach HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\n")
    };
    for (host, code) in [(HOST, "policy_denied"), (OTHER, "bad_request")] {
        let mut raw = world.agent().inside(host, b"http/1.1").await;
        raw.send(without(host)).await;
        assert_eq!(raw.reply().await.expect("an answer").code, code, "{host}");
    }
    assert!(switched.try_recv().is_err(), "nothing was sent");
    // A rule that names protocols is about requests for them alone.
    let reply = {
        let mut raw = world.agent().inside(HOST, b"http/1.1").await;
        raw.send(head(&world, "/containers/x/attach", "tcp").replace("Connection: Upgrade\r\nUpgrade: tcp\r\n", ""))
            .await;
        raw.reply().await.expect("an answer")
    };
    assert_eq!((reply.status, &reply.body[..]), (200, &b"ok"[..]), "{}", reply.head);
}

#[tokio::test]
async fn carried_connection_ends_with_its_token_session_or_key_and_with_its_rule() {
    for how in ["token", "session", "key", "policy"] {
        let (build, mut switched) = build();
        let world = build.start().await;
        let mut agent = ask(&world, "/containers/x/attach", "tcp").await;
        agent.head().await;
        agent.exactly(5).await;
        let (_, mut upstream) = soon("the upstream is asked", switched.recv()).await.expect("asked");
        match how {
            "token" => world.node.revoke_token(&world.token, "test"),
            "session" => world.node.revoke_session(&world.started.session, "test"),
            "key" => world.node.set_key_state(&world.key, KeyState::Disabled),
            _ => {
                let file = world.home.policy_dir().join("only.yaml");
                std::fs::write(file, NAMED.replace("tcp, ", "")).expect("written");
                world.node.policies().reload().expect("reloaded");
            }
        }
        let began = Instant::now();
        assert!(agent.rest().await.is_empty() && upstream.rest().await.is_empty(), "{how}");
        assert!(began.elapsed() < Duration::from_secs(1), "{how}: {:?}", began.elapsed());
        let outcome = world.stopped("outcome").await.pop().expect("an outcome");
        assert_eq!(outcome["outcome"], "aborted", "{how}");
    }
}

#[tokio::test]
async fn policy_that_names_what_no_rule_could_see_is_refused() {
    for (upgrades, why) in [("[h2c]", "h2c"), ("[\"a b\"]", "is no protocol"), ("[\"\"]", "is no protocol")] {
        let world = World::start().await;
        let text = format!("version: 1\nname: bad\nrules: [{{ name: all, allow: {{ upgrades: {upgrades} }} }}]\n");
        std::fs::write(world.home.policy_dir().join("bad.yaml"), text).expect("written");
        let problems = world.node.policies().reload().expect_err("refused");
        assert!(format!("{problems:?}").contains(why), "{problems:?}");
    }
}
