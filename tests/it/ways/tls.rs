//! TLS to the proxy itself, and identity by nothing but the proxy's credentials.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use super::{curl, run};
use crate::support::world::HOST;
use crate::support::{Raw, World};

async fn behind_tls() -> World {
    let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    World::build().settings(move |s| s.forward_tls = Some(any)).start().await
}

#[tokio::test]
async fn curl_reaches_the_proxy_itself_over_tls() {
    let world = behind_tls().await;
    let proxy = world.node.forward_tls.expect("it listens");
    let ca = world.home.dir().join("ca.pem");
    let ca = ca.to_str().expect("text");
    let user = format!("{}:{}", world.started.session.id, world.started.secret.expose());
    let (header, url) = (format!("Authorization: {}", world.bearer()), format!("https://{HOST}/v1/models"));
    let proxy = format!("https://{proxy}");
    let start = ["--proxy-cacert", ca, "--proxy", &proxy, "-H", &header];
    for version in ["--http1.1", "--http2"] {
        let said = curl(&world, &[&start[..], &["--proxy-user", &user, version, &url]].concat()).await;
        assert_eq!(said.text, "hello");
    }
    assert!(world.upstream.received().iter().all(|r| r.header("authorization").contains(&world.secret)));
    // Credentials are always required there, for each way to ask.
    let before = world.upstream.received().len();
    for more in [&["-v", &url][..], &["-v", "http://plain.upstream.test/"]] {
        let said = curl(&world, &[&start[..], more].concat()).await;
        assert!(said.text.contains(" 407 "), "{}", said.text);
    }
    assert_eq!(world.upstream.received().len(), before);
    world.nothing_leaked(&[]).await;
}

#[tokio::test]
async fn https_in_absolute_form_is_served_on_loopback_and_behind_tls() {
    let world = behind_tls().await;
    let credentials = world.known_agent().credentials.expect("they are there");
    let head = format!(
        "GET https://{HOST}/v1/x?y=1 HTTP/1.1\r\nhost: {HOST}\r\nauthorization: {}\r\nproxy-authorization: {credentials}\r\n\r\n",
        world.bearer()
    );
    let stream = tokio::net::TcpStream::connect(world.node.forward_tls.expect("it listens")).await.expect("connected");
    let stream = world.agent().tls_on(stream, "proxy.test", &[b"http/1.1"]).await.expect("TLS");
    for mut raw in [world.agent().bare().await, Raw::new(stream)] {
        raw.send(&head).await;
        let reply = raw.reply().await.expect("an answer");
        assert_eq!((reply.status, &reply.body[..]), (200, &b"hello"[..]), "{}", reply.head);
    }
    for received in world.upstream.received() {
        assert_eq!(received.header("authorization"), format!("Bearer {}", world.secret));
        assert_eq!((received.path.as_str(), received.authority.as_str()), ("/v1/x?y=1", HOST));
        assert!(!received.headers.contains_key("proxy-authorization"));
    }
}

/// Puts the key in for whoever shows the session's proxy credentials.
const INJECT: &str = "version: 1
name: inject
rules: [{ name: reads, allow: { methods: [GET, POST], paths: [\"/**\"] } }]
without_token: inject
";

#[tokio::test]
async fn credentials_of_the_proxy_are_enough_for_curl_and_git_which_ask_twice() {
    let world = World::build().policy(INJECT).settings(|s| s.proxy.require_auth = true).start().await;
    let proxy = world.node.forward.expect("it listens");
    let user = format!("{}:{}", world.started.session.id, world.started.secret.expose());
    let url = format!("https://{HOST}/repo.git/info/refs?service=git-upload-pack");
    // --proxy-anyauth asks without credentials first, and again on the same connection.
    let at = format!("http://{proxy}");
    let start = ["--proxy", &at, "--proxy-anyauth", "-v", "--proxy-user", &user];
    let said = curl(&world, &[&start[..], &[&url]].concat()).await;
    assert!(said.ok && said.text.contains("hello") && said.text.contains(" 407 "), "{}", said.text);
    let connected = said.text.matches("Connected to").count();
    assert_eq!(connected, 1, "the connection is kept for the retry: {}", said.text);
    assert_eq!(world.upstream.only().header("authorization"), format!("Bearer {}", world.secret));
    let mut git = Command::new("git");
    let ca = world.home.dir().join("ca.pem");
    git.args(["-c", &format!("http.proxy=http://{user}@{proxy}"), "-c", "http.proxyAuthMethod=anyauth"]);
    git.args(["ls-remote", &format!("https://{HOST}/repo.git")]).env("GIT_SSL_CAINFO", ca);
    git.env("GIT_TERMINAL_PROMPT", "0").env("GIT_CURL_VERBOSE", "1");
    let said = run(git, world.home.dir()).await;
    // What the upstream answers is no repository; what matters is that it was asked, with the key.
    assert!(said.text.contains(" 407 "), "{}", said.text);
    let received = world.upstream.received();
    assert!(received.len() > 1, "{}", said.text);
    assert_eq!(received[1].path, "/repo.git/info/refs?service=git-upload-pack");
    assert_eq!(received[1].header("authorization"), format!("Bearer {}", world.secret));
    world.nothing_leaked(&[]).await;
}

fn clients() -> PathBuf {
    PathBuf::from(std::env::var_os("SALLYPORT_TEST_CLIENTS").expect("run by tests/run, which installs the clients"))
}

#[tokio::test]
#[ignore = "needs the clients that tests/run installs"]
async fn python_reaches_the_proxy_over_tls_and_socks() {
    let world = behind_tls().await;
    let user = format!("{}:{}", world.started.session.id, world.started.secret.expose());
    let (tls, plain) = (world.node.forward_tls.expect("it listens"), world.node.forward.expect("it listens"));
    for proxy in [format!("https://{user}@{tls}"), format!("socks5h://{user}@{plain}")] {
        let mut python = Command::new(clients().join("python/bin/python"));
        python.arg(format!("{}/tests/clients/ways.py", env!("CARGO_MANIFEST_DIR")));
        python.args([&format!("https://{HOST}/v1/models"), &proxy, &world.bearer()]);
        python.arg(world.home.dir().join("ca.pem")).env("PYTHONDONTWRITEBYTECODE", "1");
        let said = run(python, world.home.dir()).await;
        assert!(said.ok && said.text.trim() == "requests: 200 hello\nhttpx: 200 hello", "{proxy}: {}", said.text);
    }
    assert_eq!(world.upstream.received().len(), 4);
    assert!(world.upstream.received().iter().all(|r| r.header("authorization").contains(&world.secret)));
}

#[tokio::test]
#[ignore = "needs the clients that tests/run installs"]
async fn node_reaches_the_proxy_over_tls() {
    let world = behind_tls().await;
    let user = format!("{}:{}", world.started.session.id, world.started.secret.expose());
    let proxy = format!("https://{user}@{}", world.node.forward_tls.expect("it listens"));
    let mut node = Command::new(clients().join("node/node_modules/.bin/node"));
    node.arg(format!("{}/tests/clients/ways.mjs", env!("CARGO_MANIFEST_DIR")));
    node.args([&format!("https://{HOST}/v1/models"), &world.bearer()]).env("NODE_USE_ENV_PROXY", "1");
    node.env("NODE_EXTRA_CA_CERTS", world.home.dir().join("ca.pem")).env("https_proxy", proxy);
    let said = run(node, world.home.dir()).await;
    assert!(said.ok && said.text.starts_with("fetch: 200 hello"), "{}", said.text);
    assert_eq!(world.upstream.only().header("authorization"), format!("Bearer {}", world.secret));
}

#[tokio::test]
async fn curl_shows_why_a_long_upload_over_http2_is_refused() {
    let world = World::start().await;
    let dir = tempfile::TempDir::new().expect("a temporary directory");
    let body = dir.path().join("body");
    std::fs::write(&body, vec![b'x'; 8 << 20]).expect("written");
    let (body, url) = (format!("@{}", body.display()), format!("https://{HOST}/v1/files"));
    let proxy = format!("http://{}", world.node.forward.expect("it listens"));
    let own_key = "Authorization: Bearer sk-of-the-agents-own-0123456789";
    for _ in 0..3 {
        let arguments = ["--http2", "--proxy", &proxy, "-H", own_key, "--data-binary", &body, &url];
        let said = curl(&world, &arguments).await;
        assert!(said.ok && said.text.contains("credential_unregistered"), "{}", said.text);
    }
    assert!(world.upstream.received().is_empty());
}
