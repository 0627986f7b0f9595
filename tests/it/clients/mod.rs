//! Real clients through `sallyport run` and `sallyport serve`: the upstream sees the real key, the client
//! never does, and a stream arrives as it is sent.
//!
//! They need the folders that `tests/run` fills, so they run only from there.

mod browser;
mod bystanders;
mod calls;
mod coded;
mod gateway;
mod git;
mod grpc;
mod running;
mod standin;

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::support::binary::Place;
use crate::support::upstream::{Setup, Upstream};
use crate::support::{Received, Reply, apart, emitted};

use running::Running;
use standin::Stream;

pub const OPENAI: &str = "sk-proj-real-openai-0123456789abcdef";
const ANTHROPIC: &str = "sk-ant-api03-real-anthropic-0123456789";
const STRIPE: &str = "sk_test_real_stripe_0123456789abcdef";
const GITHUB: &str = "ghp_realgithub0123456789abcdefghijklm";
const GEMINI: &str = "AIzaSyRealGemini0123456789abcdefghijklm";

/// What holds the keys when `sallyport run` is called.
const KEYS: [(&str, &str); 5] = [
    ("OPENAI_API_KEY", OPENAI),
    ("ANTHROPIC_API_KEY", ANTHROPIC),
    ("STRIPE_API_KEY", STRIPE),
    ("GITHUB_TOKEN", GITHUB),
    ("GEMINI_API_KEY", GEMINI),
];

/// The services, and a host that no key is for.
const HOSTS: [&str; 7] = [
    "api.openai.com",
    "api.anthropic.com",
    "api.stripe.com",
    "github.com",
    "api.github.com",
    "generativelanguage.googleapis.com",
    PACKAGES,
];

/// What a stream says, one word after the other.
const WORDS: [&str; 3] = ["first-word", "second-word", "third-word"];

/// Where packages and pages are, with no key.
const PACKAGES: &str = "packages.example.test";

/// Where `tests/run` put the clients.
pub fn clients() -> PathBuf {
    PathBuf::from(std::env::var_os("SALLYPORT_TEST_CLIENTS").expect("run by tests/run, which installs the clients"))
}

pub fn script(name: &str) -> String {
    format!("{}/tests/clients/{name}", env!("CARGO_MANIFEST_DIR"))
}

pub fn python() -> String {
    clients().join("python/bin/python").to_string_lossy().into_owned()
}

pub fn node() -> String {
    clients().join("node/node_modules/.bin/node").to_string_lossy().into_owned()
}

/// Runs a test in a network of its own: a client that went around the proxy would reach nothing.
fn apart(module: &str, test: &str, work: impl Future<Output = ()>) {
    let name = format!("{module}::{test}");
    if apart::inside(name.split_once("::").expect("a path").1, "ip link set lo up") {
        apart::run(work);
    }
}

/// A place whose upstream stands in for every service.
pub struct Services {
    pub place: Place,
    pub upstream: Upstream,
    pub ca: PathBuf,
}

impl Services {
    async fn start(answer: impl Fn(&Received) -> Reply + Send + Sync + 'static) -> Self {
        let setup = Setup { host: HOSTS.join(","), ..Setup::default() };
        Self::of(Upstream::start(&setup, Arc::new(answer)).await)
    }

    /// The stand-in, whose streams say what the test lets them say.
    async fn live() -> (Self, mpsc::UnboundedReceiver<Stream>) {
        let (send, streams) = mpsc::unbounded_channel();
        let answer = move |received: &Received| match standin::stream(received) {
            None => standin::answer(received),
            Some((stream, reply)) => {
                send.send(stream).expect("the test listens");
                reply
            }
        };
        (Self::start(answer).await, streams)
    }

    /// The same before this upstream.
    pub fn of(upstream: Upstream) -> Self {
        let place = Place::new();
        let ca = place.data.with_extension("pem");
        std::fs::write(&ca, &upstream.ca_pem).expect("written");
        Self { place, upstream, ca }
    }

    /// `sallyport run` with every key in its caller's environment.
    fn command(&self, command: &[&str]) -> Command {
        let ca = self.ca.to_str().expect("text");
        let pins: Vec<_> = HOSTS.iter().map(|host| format!("--resolve={host}:443={}", self.upstream.addr)).collect();
        let mut arguments = vec!["run", "--extra-ca", ca];
        arguments.extend(pins.iter().map(String::as_str));
        arguments.push("--");
        arguments.extend_from_slice(command);
        let mut run = self.place.command(&arguments);
        run.envs(KEYS).env("A_COPY_OF_IT", format!("x{OPENAI}y"));
        run.env("NODE_CLIENTS", clients().join("node")).env("PYTHONDONTWRITEBYTECODE", "1");
        run
    }

    /// The command while it runs.
    fn running(&self, command: &[&str]) -> Running {
        Running::start(self.command(command))
    }

    /// What the command said, which ended well.
    pub async fn run(&self, command: &[&str]) -> String {
        let said = self.running(command).end().await;
        keeps_its_keys(&said);
        said
    }

    fn received(&self, path: &str) -> Vec<Received> {
        let all: Vec<_> = self.upstream.received().into_iter().filter(|r| r.path == path).collect();
        assert!(!all.is_empty(), "nothing at {path}: {:?}", self.upstream.received());
        all
    }
}

/// Nothing of a key stands in what a client said.
fn keeps_its_keys(said: &str) {
    for (variable, key) in KEYS {
        assert_eq!(emitted::find(said.as_bytes(), key), None, "{variable}");
    }
}
