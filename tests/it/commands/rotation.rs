//! 11. Nothing is lost, or it is said: `kill -9` while a refresh token is exchanged for another.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use sqlx::{Connection as _, SqliteConnection};
use tokio::sync::{Mutex, mpsc};

use crate::support::agent::{Agent, Answer};
use crate::support::binary::{Place, Serve};
use crate::support::upstream::{Setup, Streamed, Streaming, Upstream};

const HOST: &str = "api.rotation.test";

fn refresh(number: usize) -> String {
    format!("refresh-token-{number:04}-0123456789")
}

fn document(number: usize) -> String {
    let url = format!("https://{HOST}/oauth/token");
    serde_json::json!({ "token_url": url, "client_id": "me", "refresh_token": refresh(number) }).to_string()
}

/// A service whose token endpoint takes each refresh token once.
struct Service {
    /// The number of the refresh token that is good.
    good: AtomicUsize,
    /// Whether nobody may write to this database any more, from the next exchange on.
    locks: AtomicBool,
    lock: Mutex<Option<SqliteConnection>>,
    database: std::path::PathBuf,
    /// Whether a call of the API is left without an answer, and told here.
    holds: AtomicBool,
    called: mpsc::Sender<()>,
}

impl Service {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Streamed> {
        let whole = |status: u16, text: String| {
            let body = Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync();
            Response::builder().status(status).body(body).expect("a reply")
        };
        if request.uri().path() != "/oauth/token" {
            if self.holds.swap(false, Ordering::SeqCst) {
                self.called.send(()).await.expect("awaited");
                std::future::pending::<()>().await;
            }
            return whole(200, "answered".to_owned());
        }
        let body = request.into_body().collect().await.expect("whole").to_bytes();
        let good = self.good.load(Ordering::SeqCst);
        if !String::from_utf8_lossy(&body).contains(&format!("refresh_token={}", refresh(good))) {
            return whole(400, "{\"error\":\"invalid_grant\"}".to_owned());
        }
        if self.locks.swap(false, Ordering::SeqCst) {
            let url = format!("sqlite:{}", self.database.display());
            let mut connection = SqliteConnection::connect(&url).await.expect("open");
            sqlx::query("begin immediate").execute(&mut connection).await.expect("locked");
            *self.lock.lock().await = Some(connection);
        }
        self.good.store(good + 1, Ordering::SeqCst);
        let answer = serde_json::json!({
            "access_token": format!("access-token-{good:04}-0123456789"), "token_type": "Bearer", "expires_in": 3600,
            "refresh_token": refresh(good + 1),
        });
        whole(200, answer.to_string())
    }
}

struct Scene {
    place: Place,
    service: Arc<Service>,
    called: mpsc::Receiver<()>,
    configuration: String,
    token: String,
    _upstream: Upstream,
}

async fn scene() -> Scene {
    let place = Place::new();
    place.ok(&["init"]);
    let (called, calls) = mpsc::channel(1);
    let service = Arc::new(Service {
        good: AtomicUsize::new(0),
        locks: AtomicBool::new(false),
        lock: Mutex::new(None),
        database: place.data.join("sallyport.db"),
        holds: AtomicBool::new(false),
        called,
    });
    let answering = Arc::clone(&service);
    let streaming: Streaming = Arc::new(move |request| Box::pin(Arc::clone(&answering).answer(request)));
    let setup = Setup { host: HOST.to_owned(), ..Setup::default() };
    let upstream = Upstream::streaming(&setup, streaming).await;
    place.add_key(&["rotating", "--host", HOST, "--kind", "refresh_token"], &document(0));
    let ca = place.data.with_extension("pem");
    std::fs::write(&ca, &upstream.ca_pem).expect("written");
    let configuration = format!(
        "upstream: {{ extra_ca: [{ca:?}], resolve: {{ \"{HOST}:443\": \"{}\" }} }}\n\
         store: {{ timeout: 300ms }}\ncredential: {{ lease: 2s }}\n",
        upstream.addr
    );
    let session = place.json(&["sessions", "start", "--key", "rotating"]);
    let minted = place.json(&["tokens", "mint", session["id"].as_str().expect("an id"), "rotating"]);
    let token = minted["value"].as_str().expect("a value").to_owned();
    Scene { place, service, called: calls, configuration, token, _upstream: upstream }
}

impl Scene {
    fn agent(&self, serve: &Serve) -> Agent {
        let ca_pem = std::fs::read_to_string(self.place.data.join("ca.pem")).expect("readable");
        Agent { proxy: serve.proxy, credentials: None, ca_pem }
    }

    fn request(&self) -> Request<Full<Bytes>> {
        let request = Request::get("/x").header("host", HOST).header("authorization", format!("Bearer {}", self.token));
        request.body(Full::new(Bytes::new())).expect("a request")
    }

    async fn ask(&self, serve: &Serve) -> Answer {
        self.agent(serve).ask(HOST, self.request()).await
    }

    /// Asks in the background; the answer won't come.
    fn begin(&self, serve: &Serve) {
        let (agent, request) = (self.agent(serve), self.request());
        tokio::spawn(async move { agent.try_ask(HOST, request).await });
    }
}

fn kill(serve: &mut Serve) {
    serve.child.kill().expect("killed");
    serve.child.wait().expect("ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_before_the_fresh_refresh_token_is_stored_it_says_so_and_how_to_go_on() {
    let scene = scene().await;
    let mut serve = Serve::start(&scene.place, &scene.configuration);
    scene.service.locks.store(true, Ordering::SeqCst);
    scene.begin(&serve);
    let mut serve = tokio::task::spawn_blocking(move || {
        serve.wait_for("a fresh refresh token can't be stored yet");
        kill(&mut serve);
        serve
    })
    .await
    .expect("joined");
    assert!(serve.child.try_wait().expect("known").is_some());
    drop(scene.service.lock.lock().await.take());
    assert_eq!(scene.place.json(&["keys", "show", "rotating"])["version"], 1);

    let serve = Serve::start(&scene.place, &scene.configuration);
    for _ in 0..2 {
        let answer = scene.ask(&serve).await;
        assert_eq!((answer.status.as_u16(), answer.code()), (502, "credential_refused"), "{}", answer.text());
        assert!(answer.text().contains("connect the key again"), "{}", answer.text());
    }
    let said = scene.place.ok(&["audit", "verify"]);
    assert!(said.contains("all whole"), "{said}");
    let given = scene.place.with_input(&["keys", "rotate", "rotating"], &document(1));
    assert!(given.status.success(), "{}", String::from_utf8_lossy(&given.stderr));
    let mut answer = scene.ask(&serve).await;
    // The node hears of the new value a moment later.
    while answer.code() == "credential_refused" {
        answer = scene.ask(&serve).await;
    }
    assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, "answered"));
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_once_the_fresh_refresh_token_is_stored_it_goes_on_with_it() {
    let mut scene = scene().await;
    scene.service.holds.store(true, Ordering::SeqCst);
    let mut serve = Serve::start(&scene.place, &scene.configuration);
    // The access token is on its way for the first time, so the refresh token that came with it is stored.
    scene.begin(&serve);
    crate::support::soon("the API is called", scene.called.recv()).await.expect("called");
    kill(&mut serve);
    assert_eq!(scene.place.json(&["keys", "show", "rotating"])["version"], 2);
    let serve = Serve::start(&scene.place, &scene.configuration);
    let answer = scene.ask(&serve).await;
    assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, "answered"));
    assert_eq!(scene.service.good.load(Ordering::SeqCst), 2, "each refresh token was shown once");
    assert_eq!(scene.place.json(&["keys", "show", "rotating"])["version"], 3);
}
