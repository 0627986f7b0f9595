//! A data directory, a store, a node, an upstream, a key, a session and a token.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use sallyport::app::{Home, Node, NodeSettings, Started};
use sallyport::model::{
    Authority, Cleartext, Clock, Destination, Environment, HostPattern, ProxyToken, Secret, SessionId, Slot,
    SystemClock, TokenShape,
};
use sallyport::session::records::Token;
use sallyport::store::{Settings, Store};
use sallyport::vault::key::Key;
use tempfile::TempDir;

use super::agent::{Agent, basic};
use super::upstream::{Answer, Reply, Script, Setup, Streamed, Streaming, Upstream};
use super::{Raw, Received, emitted};

/// The host that the key belongs to.
pub const HOST: &str = "api.upstream.test";
/// A host that no key belongs to; the same upstream answers.
pub const OTHER: &str = "other.upstream.test";

/// Everything that a test needs.
pub struct World {
    _dir: TempDir,
    pub home: Home,
    pub store: Store,
    pub node: Node,
    pub upstream: Upstream,
    pub secret: String,
    pub key: Key,
    pub started: Started,
    pub token: Token,
    pub value: ProxyToken,
}

/// Changes the node's settings, knowing the upstream's address.
type Change = Box<dyn FnOnce(&mut NodeSettings, SocketAddr)>;

/// How a world differs from the usual.
pub struct Build {
    answer: Answer,
    setup: Setup,
    raw: Option<(&'static [u8], bool)>,
    script: Option<Script>,
    streaming: Option<Streaming>,
    slots: Vec<Slot>,
    secret: Option<String>,
    policy: Option<&'static str>,
    settings: Change,
    store: Settings,
    clock: Arc<dyn Clock>,
}

impl Build {
    pub fn answer(mut self, answer: impl Fn(&Received) -> Reply + Send + Sync + 'static) -> Self {
        self.answer = Arc::new(answer);
        self
    }

    pub fn upstream(mut self, change: impl FnOnce(&mut Setup)) -> Self {
        change(&mut self.setup);
        self
    }

    /// The upstream answers each request with these bytes.
    pub fn raw(mut self, answer: &'static [u8], close: bool) -> Self {
        self.raw = Some((answer, close));
        self
    }

    /// The upstream's connections are in the test's hands; the number counts them from 1.
    pub fn script<F: Future<Output = ()> + Send + 'static>(
        mut self,
        script: impl Fn(Raw, usize) -> F + Send + Sync + 'static,
    ) -> Self {
        self.setup.alpn = vec!["http/1.1"];
        self.script = Some(Arc::new(move |stream, number| Box::pin(script(Raw::new(stream), number))));
        self
    }

    /// The upstream answers requests while they still arrive.
    pub fn streaming<F: Future<Output = Response<Streamed>> + Send + 'static>(
        mut self,
        answer: impl Fn(Request<Incoming>) -> F + Send + Sync + 'static,
    ) -> Self {
        self.streaming = Some(Arc::new(move |request| Box::pin(answer(request))));
        self
    }

    pub fn slots(mut self, slots: &[&str]) -> Self {
        self.slots = slots.iter().map(|s| s.parse().expect("a slot")).collect();
        self
    }

    /// The key's value, instead of one with characters that places encode.
    pub fn secret(mut self, secret: &str) -> Self {
        self.secret = Some(secret.to_owned());
        self
    }

    /// The only policy.
    pub fn policy(mut self, yaml: &'static str) -> Self {
        self.policy = Some(yaml);
        self
    }

    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    pub fn store(mut self, settings: Settings) -> Self {
        self.store = settings;
        self
    }

    pub fn settings(self, change: impl FnOnce(&mut NodeSettings) + 'static) -> Self {
        self.settings_of(|settings, _| change(settings))
    }

    /// The same, with the upstream's address.
    pub fn settings_of(mut self, change: impl FnOnce(&mut NodeSettings, SocketAddr) + 'static) -> Self {
        self.settings = Box::new(change);
        self
    }

    pub async fn start(self) -> World {
        emitted::capture();
        let dir = TempDir::new().expect("a temporary directory");
        let home = Home::open(&dir.path().join("data"), self.clock).expect("a data directory");
        if let Some(policy) = self.policy {
            for file in std::fs::read_dir(home.policy_dir()).expect("readable") {
                std::fs::remove_file(file.expect("readable").path()).expect("removed");
            }
            std::fs::write(home.policy_dir().join("only.yaml"), policy).expect("written");
        }
        let upstream = match (self.raw, self.script, self.streaming) {
            (Some((answer, close)), ..) => Upstream::raw(answer, close).await,
            (_, Some(script), _) => Upstream::script(&self.setup, script).await,
            (.., Some(streaming)) => Upstream::streaming(&self.setup, streaming).await,
            _ => Upstream::start(&self.setup, self.answer).await,
        };
        let root = dir.path().join("upstream-ca.pem");
        std::fs::write(&root, &upstream.ca_pem).expect("written");
        let store = Store::open(self.store, home.dir(), home.keyring()).await.expect("a store");
        let mut settings = NodeSettings { extra_ca: vec![root], ..NodeSettings::default() };
        for host in [HOST, OTHER] {
            let authority = Authority::parse(host, 443).expect("an authority");
            settings.upstream.resolve.insert(authority, upstream.addr);
        }
        settings.routes.insert("upstream".into(), format!("https://{HOST}"));
        (self.settings)(&mut settings, upstream.addr);
        let node = Node::start(&home, &store, settings).await.expect("a node");
        let usual = || format!("sk-live/{}+\"{}", hex::encode(SessionId::generate().as_bytes()), "x&y");
        let secret = self.secret.unwrap_or_else(usual);
        let destination = Destination {
            hosts: vec![HostPattern::parse(HOST).expect("a host")],
            slots: self.slots,
            cleartext: Cleartext::Never,
        };
        let custom = "custom".parse().expect("a name");
        let bytes = Secret::new(secret.as_bytes().to_vec());
        let key = node
            .add_key(
                &"upstream_key".parse().expect("a name"),
                &custom,
                Environment::Development,
                destination,
                TokenShape::default(),
                &bytes,
            )
            .expect("a key");
        let hour = Duration::from_secs(3600);
        let started =
            node.start_session(None, Environment::Development, std::slice::from_ref(&key), hour).expect("a session");
        let (token, value) = node.mint(&started, &key).expect("a token");
        World { _dir: dir, home, store, node, upstream, secret, key, started, token, value }
    }
}

impl World {
    pub fn build() -> Build {
        Build {
            answer: Arc::new(|_| Reply::text("hello")),
            setup: Setup::default(),
            raw: None,
            script: None,
            streaming: None,
            slots: vec![Slot::Bearer],
            secret: None,
            policy: None,
            settings: Box::new(|_, _| {}),
            store: Settings::default(),
            clock: Arc::new(SystemClock),
        }
    }

    pub async fn start() -> Self {
        Self::build().start().await
    }

    /// An agent without proxy credentials.
    pub fn agent(&self) -> Agent {
        Agent {
            proxy: self.node.forward.expect("it listens"),
            credentials: None,
            ca_pem: self.home.ca_pem().to_owned(),
        }
    }

    /// An agent with the session's proxy credentials.
    pub fn known_agent(&self) -> Agent {
        let credentials = basic(&self.started.session.id.to_string(), self.started.secret.expose());
        Agent { credentials: Some(credentials), ..self.agent() }
    }

    pub fn token(&self) -> &str {
        self.value.expose()
    }

    pub fn bearer(&self) -> String {
        format!("Bearer {}", self.token())
    }

    /// A GET with the token in its bearer slot.
    pub fn get(&self, path: &str) -> Request<Full<Bytes>> {
        self.request("GET", path, "")
    }

    pub fn request(&self, method: &str, path: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
        Request::builder()
            .method(method)
            .uri(path)
            .header("host", HOST)
            .header("authorization", self.bearer())
            .body(Full::new(body.into()))
            .expect("a request")
    }

    /// The same for HTTP/2, whose target is whole.
    pub fn get2(&self, path: &str) -> Request<Full<Bytes>> {
        Request::get(format!("https://{HOST}{path}"))
            .header("authorization", self.bearer())
            .body(Full::new(Bytes::new()))
            .expect("a request")
    }

    /// A POST with a body of any kind, over HTTP/2 or HTTP/1.1.
    pub fn post<B>(&self, http2: bool, body: B) -> Request<B> {
        let request = match http2 {
            true => Request::post(format!("https://{HOST}/")),
            false => Request::post("/").header("host", HOST),
        };
        request.header("authorization", self.bearer()).body(body).expect("a request")
    }

    /// The head of a GET with the token, as text.
    pub fn head(&self, path: &str) -> String {
        format!("GET {path} HTTP/1.1\r\nhost: {HOST}\r\nauthorization: {}\r\n\r\n", self.bearer())
    }

    /// The records of the audit, oldest first.
    pub fn records(&self) -> Vec<serde_json::Value> {
        let filter = sallyport::audit::Filter { limit: 10_000, ..Default::default() };
        sallyport::audit::query(&self.home.audit_dir(), &filter).expect("readable")
    }

    pub fn records_of(&self, kind: &str) -> Vec<serde_json::Value> {
        self.records().into_iter().filter(|r| r["kind"] == kind).collect()
    }

    /// Stops the node, which writes what waited; the records of a kind, oldest first.
    pub async fn stopped(self, kind: &str) -> Vec<serde_json::Value> {
        self.stopped_all().await.into_iter().filter(|record| record["kind"] == kind).collect()
    }

    /// The same of all kinds.
    pub async fn stopped_all(self) -> Vec<serde_json::Value> {
        self.node.stop(Duration::from_secs(5)).await;
        let filter = sallyport::audit::Filter { limit: 10_000, ..Default::default() };
        sallyport::audit::query(&self.home.audit_dir(), &filter).expect("readable")
    }

    /// Stops the node, and checks that the secret stands nowhere: not in these answers, not in a log,
    /// a metric, an audit record or any other file; and that the audit verifies.
    pub async fn nothing_leaked(self, answers: &[super::Answer]) {
        let mut emitted = self.node.metrics().into_bytes();
        for answer in answers {
            emitted.extend_from_slice(format!("{:?} {:?}", answer.headers, answer.trailers).as_bytes());
            emitted.extend_from_slice(&answer.body);
        }
        self.node.stop(Duration::from_secs(5)).await;
        emitted.extend_from_slice(&emitted::all());
        files(self.home.dir(), &mut emitted);
        assert_eq!(emitted::find(&emitted, &self.secret), None);
        assert_eq!(emitted::find(&emitted, self.value.expose()), None, "the token is logged or echoed");
        let report = sallyport::audit::verify(&self.home.audit_dir(), &self.home.audit_keys()).expect("readable");
        assert!(report.troubles.is_empty(), "{:?}", report.troubles);
    }
}

fn files(dir: &std::path::Path, out: &mut Vec<u8>) {
    for path in std::fs::read_dir(dir).expect("readable").map(|e| e.expect("readable").path()) {
        if path.is_dir() {
            files(&path, out);
        } else {
            out.extend(std::fs::read(&path).unwrap_or_default());
        }
    }
}
