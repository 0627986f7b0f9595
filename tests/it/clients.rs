//! Real clients through `sallyport run` and `sallyport serve`: the upstream sees the real key, and the
//! client never does.
//!
//! They need the folders that `tests/run` fills, so they run only from there.

mod grpc;

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use crate::support::binary::{Place, Serve};
use crate::support::upstream::{Setup, Upstream};
use crate::support::{Received, Reply, emitted};

pub const OPENAI: &str = "sk-proj-real-openai-0123456789abcdef";
const ANTHROPIC: &str = "sk-ant-api03-real-anthropic-0123456789";
const STRIPE: &str = "sk_test_real_stripe_0123456789abcdef";
const GITHUB: &str = "ghp_realgithub0123456789abcdefghijklm";

/// Where `tests/run` put the clients.
pub fn clients() -> PathBuf {
    PathBuf::from(std::env::var_os("SALLYPORT_TEST_CLIENTS").expect("run by tests/run, which installs the clients"))
}

pub fn script(name: &str) -> String {
    format!("{}/tests/clients/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// What the services answer; each echoes the key that it received, as careless services do.
fn services(received: &Received) -> Reply {
    let json = |text: String| Reply::text(text).with("content-type", "application/json");
    let seen = received.header("authorization");
    match received.path.as_str() {
        "/v1/chat/completions"
            if received.body.windows(13).any(|w| w == b"\"stream\":true" || w == b"\"stream\": tru") =>
        {
            let piece = |text: &str| {
                format!(
                    "data: {{\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n"
                )
            };
            Reply::pieces([piece("str"), piece("eamed"), "data: [DONE]\n\n".to_owned()])
                .with("content-type", "text/event-stream")
        }
        "/v1/chat/completions" => json(format!(
            "{{\"id\":\"c\",\"object\":\"chat.completion\",\"created\":1,\"model\":\"m\",\"choices\":[{{\"index\":0,\"finish_reason\":\"stop\",\"message\":{{\"role\":\"assistant\",\"content\":\"hello\"}}}}],\"seen\":\"{seen}\"}}"
        )),
        "/v1/models" => json(format!("{{\"object\":\"list\",\"data\":[],\"seen\":\"{seen}\"}}")),
        "/v1/messages" => json(format!(
            "{{\"id\":\"m\",\"type\":\"message\",\"role\":\"assistant\",\"model\":\"m\",\"content\":[{{\"type\":\"text\",\"text\":\"hello\"}}],\"stop_reason\":\"end_turn\",\"stop_sequence\":null,\"usage\":{{\"input_tokens\":1,\"output_tokens\":1}},\"seen\":\"{}\"}}",
            received.header("x-api-key")
        )),
        "/v1/charges" => json(format!("{{\"id\":\"ch_1\",\"object\":\"charge\",\"seen\":\"{seen}\"}}")),
        _ => json("{\"error\":{\"message\":\"not found\"}}".to_owned()).status(404),
    }
}

/// A place whose upstream stands in for every service.
pub struct Services {
    pub place: Place,
    pub upstream: Upstream,
    pub ca: PathBuf,
}

const HOSTS: &[&str] = &["api.openai.com", "api.anthropic.com", "api.stripe.com", "github.com", "api.github.com"];

impl Services {
    async fn start(answer: impl Fn(&Received) -> Reply + Send + Sync + 'static) -> Self {
        let setup = Setup { host: HOSTS.join(","), ..Setup::default() };
        Self::of(Upstream::start(&setup, Arc::new(answer)).await)
    }

    /// The same before this upstream.
    pub fn of(upstream: Upstream) -> Self {
        let place = Place::new();
        let ca = place.data.with_extension("pem");
        std::fs::write(&ca, &upstream.ca_pem).expect("written");
        Self { place, upstream, ca }
    }

    /// `sallyport run` with every key in its caller's environment.
    pub async fn run(&self, command: &[&str]) -> String {
        let ca = self.ca.to_str().expect("text");
        let pins: Vec<_> = HOSTS.iter().map(|host| format!("--resolve={host}:443={}", self.upstream.addr)).collect();
        let mut arguments = vec!["run", "--extra-ca", ca];
        arguments.extend(pins.iter().map(String::as_str));
        arguments.push("--");
        arguments.extend_from_slice(command);
        let mut run = self.place.command(&arguments);
        run.env("OPENAI_API_KEY", OPENAI).env("ANTHROPIC_API_KEY", ANTHROPIC).env("STRIPE_API_KEY", STRIPE);
        run.env("GITHUB_TOKEN", GITHUB).env("A_COPY_OF_IT", format!("x{OPENAI}y"));
        run.env("NODE_CLIENTS", clients().join("node")).env("PYTHONDONTWRITEBYTECODE", "1");
        let output = tokio::task::spawn_blocking(move || run.output().expect("it runs")).await.expect("joined");
        let all = [&output.stdout[..], &output.stderr[..]].concat();
        let text = String::from_utf8_lossy(&all).into_owned();
        assert!(output.status.success(), "{command:?}: {text}");
        for key in [OPENAI, ANTHROPIC, STRIPE, GITHUB] {
            assert_eq!(emitted::find(&all, key), None, "{command:?}");
        }
        text
    }

    fn received(&self, path: &str) -> Vec<Received> {
        let all: Vec<_> = self.upstream.received().into_iter().filter(|r| r.path == path).collect();
        assert!(!all.is_empty(), "nothing at {path}: {:?}", self.upstream.received());
        all
    }
}

pub fn python() -> String {
    clients().join("python/bin/python").to_string_lossy().into_owned()
}

pub fn node() -> String {
    clients().join("node/node_modules/.bin/node").to_string_lossy().into_owned()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the clients that tests/run installs"]
async fn openai_for_python_calls_and_streams() {
    let services = Services::start(services).await;
    let said = services.run(&[&python(), &script("chat_openai.py")]).await;
    assert!(said.contains("answer: hello / streamed"), "{said}");
    for received in services.received("/v1/chat/completions") {
        assert_eq!(received.header("authorization"), format!("Bearer {OPENAI}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the clients that tests/run installs"]
async fn anthropic_for_python_calls() {
    let services = Services::start(services).await;
    let said = services.run(&[&python(), &script("chat_anthropic.py")]).await;
    assert!(said.contains("answer: hello"), "{said}");
    let received = services.received("/v1/messages").remove(0);
    let seen = format!("{}{}", received.header("x-api-key"), received.header("authorization"));
    assert_eq!(seen.trim_start_matches("Bearer "), ANTHROPIC, "in one of its two slots");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the clients that tests/run installs"]
async fn stripe_for_python_charges() {
    let services = Services::start(services).await;
    let said = services.run(&[&python(), &script("charge_stripe.py")]).await;
    assert!(said.contains("answer: ch_1"), "{said}");
    let seen = services.received("/v1/charges")[0].header("authorization").to_owned();
    let basic = crate::support::agent::basic(STRIPE, "");
    assert!(seen == format!("Bearer {STRIPE}") || seen == basic, "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the clients that tests/run installs"]
async fn requests_and_httpx_get() {
    let services = Services::start(services).await;
    let said = services.run(&[&python(), &script("fetch.py")]).await;
    assert!(said.contains("answer: list list"), "{said}");
    let all = services.received("/v1/models");
    assert_eq!(all.len(), 2);
    assert!(all.iter().all(|r| r.header("authorization") == format!("Bearer {OPENAI}")));
}

/// The list of models with the key that was sent, in the last coding that the client asks for.
fn coded(received: &Received) -> Reply {
    let text = format!("{{\"object\":\"list\",\"data\":[],\"seen\":\"{}\"}}", received.header("authorization"));
    let reply = match received.path.as_str() {
        "/v1/models" => crate::support::coded::as_asked(received, text.as_bytes()),
        _ => return services(received),
    };
    reply.with("content-type", "application/json").with("etag", "\"1\"")
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the clients that tests/run installs"]
async fn coded_replies_are_read_by_every_client() {
    let services = Services::start(coded).await;
    let said = services.run(&[&python(), &script("fetch.py")]).await;
    assert!(said.contains("answer: list list"), "{said}");
    let said = services.run(&[&node(), &script("chat.mjs")]).await;
    assert!(said.contains("answer: hello list"), "{said}");
    for option in ["--http1.1", "--http2"] {
        let call = format!(
            "curl -sSi --compressed {option} -H \"Authorization: Bearer $OPENAI_API_KEY\" https://api.openai.com/v1/models"
        );
        let said = services.run(&["sh", "-c", &call]).await;
        assert!(said.contains("\"object\":\"list\"") && said.contains("***"), "{said}");
        assert!(!said.to_lowercase().contains("content-encoding"), "{said}");
    }
    let asked: Vec<_> =
        services.received("/v1/models").iter().map(|r| r.header("accept-encoding").to_owned()).collect();
    assert!(asked.len() == 5 && asked.iter().all(|codings| codings.contains("gzip")), "{asked:?}");
    assert!(asked.iter().any(|codings| codings.ends_with("zstd")), "{asked:?}");
    assert!(asked.iter().any(|codings| codings.contains("br")), "{asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the clients that tests/run installs"]
async fn openai_and_fetch_for_node_call() {
    let services = Services::start(services).await;
    let said = services.run(&[&node(), &script("chat.mjs")]).await;
    assert!(said.contains("answer: hello list"), "{said}");
    assert_eq!(services.received("/v1/chat/completions")[0].header("authorization"), format!("Bearer {OPENAI}"));
    assert_eq!(services.received("/v1/models")[0].header("authorization"), format!("Bearer {OPENAI}"));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the clients that tests/run installs"]
async fn curl_speaks_both_protocols() {
    let services = Services::start(services).await;
    for (option, version) in [("--http1.1", http::Version::HTTP_11), ("--http2", http::Version::HTTP_2)] {
        let call = format!(
            "curl -sS {option} -w '%{{http_version}} %{{http_code}}' -H \"Authorization: Bearer $OPENAI_API_KEY\" https://api.openai.com/v1/models"
        );
        let said = services.run(&["sh", "-c", &call]).await;
        assert!(said.contains(if option == "--http2" { "2 200" } else { "1.1 200" }), "{said}");
        let received = services.upstream.received().pop().expect("received");
        assert_eq!(received.version, version);
        assert_eq!(received.header("authorization"), format!("Bearer {OPENAI}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the clients that tests/run installs"]
async fn node_calls_through_the_gateway() {
    let services = Services::start(services).await;
    let place = &services.place;
    place.ok(&["init"]);
    place.add_key(&["openai"], OPENAI);
    let configuration = format!(
        "upstream: {{ extra_ca: [{:?}], resolve: {{ \"api.openai.com:443\": \"{}\" }} }}",
        services.ca, services.upstream.addr
    );
    let serve = Serve::start(place, &configuration);
    let session = place.json(&["sessions", "start", "--key", "openai"]);
    let token = place.json(&["tokens", "mint", session["id"].as_str().expect("an id"), "openai"]);
    let output = Command::new(node())
        .arg(script("gateway.mjs"))
        .env_clear()
        .env("NODE_CLIENTS", clients().join("node"))
        .env("OPENAI_BASE_URL", format!("http://{}/openai/v1", serve.gateway))
        .env("OPENAI_API_KEY", token["value"].as_str().expect("a value"))
        .output();
    let output = output.expect("node runs");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("answer: hello"), "{said}");
    assert_eq!(services.received("/v1/chat/completions")[0].header("authorization"), format!("Bearer {OPENAI}"));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the clients that tests/run installs"]
async fn token_outside_its_slots_is_told_of_when_the_command_ends() {
    let services = Services::start(services).await;
    let call = |header: &str| format!("curl -sS -H \"{header}: $OPENAI_API_KEY\" https://api.openai.com/v1/models");
    let said = services.run(&["sh", "-c", &format!("{0}; {0}?key=$OPENAI_API_KEY", call("x-key"))]).await;
    let hint =
        "the token for openai_api_key was sent 3 times outside its slots, so the service didn't get the key there";
    assert!(said.contains(hint), "{said}");
    assert!(said.contains("Its slots: bearer, ") && said.contains("Its hosts: api.openai.com"), "{said}");
    let said = services.run(&["sh", "-c", &call("authorization: bearer ").replace(": $", "$")]).await;
    assert!(!said.contains("outside its slots"), "{said}");
}

/// Answers as git's own HTTP server does, to those who show the real key.
fn git_server(root: PathBuf) -> impl Fn(&Received) -> Reply + Send + Sync + 'static {
    move |received| {
        use std::io::Write as _;
        let pair = crate::support::agent::basic("x-access-token", GITHUB);
        if received.header("authorization") != pair {
            return Reply::text("no").status(401).with("www-authenticate", "Basic realm=\"git\"");
        }
        let (path, query) = received.path.split_once('?').unwrap_or((&received.path, ""));
        let mut cgi = Command::new("git");
        cgi.arg("http-backend").env("GIT_PROJECT_ROOT", &root).env("GIT_HTTP_EXPORT_ALL", "1");
        cgi.env("PATH_INFO", path).env("QUERY_STRING", query).env("REQUEST_METHOD", &received.method);
        cgi.env("REMOTE_USER", "x").env("CONTENT_TYPE", received.header("content-type"));
        cgi.env("HTTP_CONTENT_ENCODING", received.header("content-encoding"));
        cgi.env("HTTP_GIT_PROTOCOL", received.header("git-protocol"));
        cgi.env("CONTENT_LENGTH", received.body.len().to_string());
        let mut child = cgi
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("git http-backend runs");
        let (mut input, body) = (child.stdin.take().expect("a pipe"), received.body.clone());
        let writer = std::thread::spawn(move || input.write_all(&body));
        let output = child.wait_with_output().expect("it ends").stdout;
        let _ = writer.join();
        let end = output.windows(4).position(|w| w == b"\r\n\r\n").expect("a head");
        let mut reply = Reply::text(output[end + 4..].to_vec());
        for line in String::from_utf8_lossy(&output[..end]).lines() {
            match line.split_once(": ") {
                Some(("Status", status)) => reply = reply.status(status[..3].parse().expect("a status")),
                Some(("Content-Type", kind)) => reply = reply.with("content-type", kind),
                _ => {}
            }
        }
        reply
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the clients that tests/run installs"]
async fn git_clones_and_pushes() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let bare = root.path().join("me/repo.git");
    let made = Command::new("git").args(["init", "-q", "--bare", "-b", "main"]).arg(&bare).status().expect("git runs");
    assert!(made.success());
    let set = Command::new("git").arg("-C").arg(&bare).args(["config", "http.receivepack", "true"]).status();
    assert!(set.expect("git runs").success());
    let services = Services::start(git_server(root.path().to_owned())).await;
    let work = root.path().join("work");
    let script = format!(
        "set -e; export GIT_CONFIG_GLOBAL=/dev/null\n\
         git clone -q https://x-access-token:$GITHUB_TOKEN@github.com/me/repo.git {work}\n\
         cd {work}; git config user.email a@b.test; git config user.name a\n\
         head -c 3000000 /dev/urandom > big; git add big; git commit -qm one; git push -q origin HEAD:main\n\
         git ls-remote origin; cat .git/config",
        work = work.display()
    );
    let said = services.run(&["sh", "-c", &script]).await;
    assert!(said.contains("refs/heads/main"), "{said}");
    let log = Command::new("git").arg("-C").arg(&bare).args(["log", "--oneline", "main"]).output().expect("git runs");
    assert!(String::from_utf8_lossy(&log.stdout).contains("one"));
}
