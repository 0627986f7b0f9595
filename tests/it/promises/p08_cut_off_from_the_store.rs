//! 8. Revoked means now: a node that can't hear of revocations injects nothing.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use sallyport::config::Config;
use sallyport::model::{Clock, OrgId, SystemClock, Timestamp};
use sallyport::store::{Settings, Store};
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::store::project;
use crate::support::door::{Door, text};
use crate::support::forwarder::{Forwarder, Line, To};
use crate::support::postgres::Database;
use crate::support::world::{Build, HOST, OTHER};
use crate::support::{Answer, World, soon};

/// `store.max_staleness` in these tests.
const LIMIT: Duration = Duration::from_secs(2);
const SECOND: Duration = Duration::from_secs(1);

fn build(store: Settings) -> Build {
    let build = World::build().store(Settings { timeout: SECOND, answer: SECOND, ..store });
    build.upstream(|u| u.host = format!("{HOST},{OTHER}")).settings(|s| s.max_staleness = LIMIT)
}

/// Asks until the answer is as wanted.
async fn until(world: &World, what: &str, wanted: impl Fn(&Answer) -> bool) -> Answer {
    let asking = async {
        loop {
            let answer = world.agent().try_ask(HOST, world.get("/")).await;
            if let Some(answer) = answer.filter(&wanted) {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    soon(what, asking).await
}

/// The node serves with its key, refuses while it is cut off, and serves again.
async fn refuses_until_it_is_back(world: World, cut: impl AsyncFnOnce(), back: impl AsyncFnOnce()) {
    let mut answers = vec![world.agent().ask(HOST, world.get("/")).await];
    assert_eq!(answers[0].status, 200);
    cut().await;
    let began = Instant::now();
    let answer = world.agent().ask(HOST, world.get("/")).await;
    assert_eq!(answer.status, 200, "a short absence costs nothing: {}", answer.text());
    let refused = until(&world, "the refusal", |answer| answer.status != 200).await;
    assert_eq!((refused.status.as_u16(), refused.code()), (503, "store_unavailable"), "{}", refused.text());
    assert!(refused.text().contains("the store"), "{}", refused.text());
    assert!(began.elapsed() < LIMIT + SECOND, "{:?}", began.elapsed());
    let injected =
        || world.upstream.received().iter().filter(|r| r.header("authorization").contains("sk-live")).count();
    // The last one may have been recorded just before the limit, and refused behind it.
    let (before, recorded) = (injected(), world.records_of("intent").len());
    while began.elapsed() < LIMIT + 2 * SECOND {
        let answer = world.agent().ask(HOST, world.get("/")).await;
        assert_eq!(answer.code(), "store_unavailable");
        answers.push(answer);
        // What needs no key goes on.
        let plain = Request::get("/").header("host", OTHER).body(Full::new(Bytes::new())).expect("a request");
        assert_eq!(world.agent().ask(OTHER, plain).await.status, 200);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(injected(), before);
    assert_eq!(world.records_of("intent").len(), recorded, "nothing was opened");
    back().await;
    answers.push(until(&world, "the store to be back", |answer| answer.status == 200).await);
    world.nothing_leaked(&answers).await;
}

#[tokio::test]
async fn node_cut_off_from_postgresql_injects_nothing_until_it_is_back() {
    for line in [Line::Cut, Line::Silent, Line::Faltering] {
        let Some(database) = Database::fresh().await else { return };
        let between = Forwarder::start(To::Unix(database.file())).await;
        let world = build(database.through(between.addr.port())).start().await;
        refuses_until_it_is_back(world, async || between.set(line), async || between.set(Line::Open)).await;
    }
}

/// The machine's clock, which somebody sets back.
#[derive(Default)]
struct SetBack(AtomicI64);

impl Clock for SetBack {
    fn now(&self) -> Timestamp {
        Timestamp(SystemClock.now().millis() - self.0.load(Ordering::SeqCst))
    }
}

#[tokio::test]
async fn clock_that_is_set_back_does_not_hide_that_the_store_is_gone() {
    let Some(database) = Database::fresh().await else { return };
    let between = Forwarder::start(To::Unix(database.file())).await;
    let clock = Arc::new(SetBack::default());
    let world = build(database.through(between.addr.port())).clock(Arc::clone(&clock) as Arc<dyn Clock>).start().await;
    let cut = async || {
        between.set(Line::Cut);
        clock.0.store(60_000, Ordering::SeqCst);
    };
    refuses_until_it_is_back(world, cut, async || between.set(Line::Open)).await;
}

/// Takes every lock of the file's write-ahead log, as another process, until its standard input ends.
const LOCK_ALL: &str = "import fcntl, sys\n\
    shm = open(sys.argv[1] + '-shm', 'r+b')\n\
    fcntl.lockf(shm, fcntl.LOCK_EX, 8, 120)\n\
    print('locked', flush=True)\n\
    sys.stdin.read()\n";

#[tokio::test]
async fn node_whose_sqlite_file_is_locked_injects_nothing_until_it_is_free() {
    let world = build(Settings::default()).start().await;
    let file = world.home.dir().join("sallyport.db");
    let mut python = tokio::process::Command::new("python3");
    let python = python.arg("-c").arg(LOCK_ALL).arg(file).stdin(Stdio::piped()).stdout(Stdio::piped());
    let holder = std::cell::RefCell::new(None);
    let cut = async || {
        let mut child = python.kill_on_drop(true).spawn().expect("python3 runs");
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        assert_eq!(soon("the lock", lines.next_line()).await.expect("read").as_deref(), Some("locked"));
        holder.replace(Some(child));
    };
    let back = async || {
        let mut child = holder.take().expect("it holds the lock");
        drop(child.stdin.take());
        assert!(soon("its end", child.wait()).await.expect("ended").success());
    };
    refuses_until_it_is_back(world, cut, back).await;
}

#[tokio::test]
async fn what_was_revoked_while_a_node_was_cut_off_is_not_used_once_more() {
    for line in [Line::Cut, Line::Silent, Line::Faltering] {
        let Some(database) = Database::fresh().await else { return };
        let between = Forwarder::start(To::Unix(database.file())).await;
        let world = build(database.through(between.addr.port())).start().await;
        let other = Door::open(&world.home, &Config { store: database.settings(), ..Config::default() }).await;
        let key = json!({"name": "stored", "value": "sk-stored-0123456789", "hosts": [HOST]});
        other.call("POST", "/api/v1/api-keys", &key).await;
        let session = text(&other.call("POST", "/api/v1/mcp/sessions", &json!({"keys": ["stored"]})).await, "id");
        let mint = format!("/api/v1/mcp/sessions/{session}/keys/stored/proxy-token");
        let value = text(&other.call("POST", &mint, &json!({})).await, "value");
        let ask = async || {
            let request = Request::get("/").header("host", HOST).header("authorization", format!("Bearer {value}"));
            world.agent().ask(HOST, request.body(Full::new(Bytes::new())).expect("a request")).await
        };
        let reaches = async |wanted: &'static str| {
            let asking = async {
                loop {
                    match ask().await {
                        answer if answer.code() == wanted => return,
                        answer => assert!(answer.status != 200 || wanted == "store_unavailable", "{}", answer.text()),
                    }
                    tokio::task::yield_now().await;
                }
            };
            soon(wanted, asking).await;
        };
        // Its session comes with the change feed.
        soon("the token", async { while ask().await.status != 200 {} }).await;
        between.set(line);
        reaches("store_unavailable").await;
        // More changes than one page of the feed holds, and the revocation behind them.
        let store = Store::open(database.settings(), world.home.dir(), world.home.keyring()).await.expect("a store");
        let projects = (0..1500).map(|n| project(OrgId::DEFAULT, &format!("p{n}")));
        let batch = projects.fold(store.batch(OrgId::DEFAULT), |batch, project| batch.insert(&project));
        store.commit(batch).await.expect("committed");
        other.call("DELETE", &format!("/api/v1/mcp/sessions/{session}"), &json!({})).await;
        between.set(Line::Open);
        reaches("session_revoked").await;
    }
}
