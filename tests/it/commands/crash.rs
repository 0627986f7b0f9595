//! 11. Nothing is lost: `kill -9` under load, then everything that was acknowledged is there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::support::Reply;
use crate::support::agent::Agent;
use crate::support::binary::{Place, Serve};
use crate::support::upstream::{Setup, Upstream};

const KEY: &str = "sk-crash-0123456789abcdef";
const HOST: &str = "api.crash.test";

#[tokio::test(flavor = "multi_thread")]
async fn killed_under_load_it_restarts_with_everything_that_was_acknowledged() {
    let setup = Setup { host: HOST.to_owned(), ..Setup::default() };
    let upstream = Upstream::start(&setup, Arc::new(|_| Reply::text("ok"))).await;
    let place = Place::new();
    place.ok(&["init"]);
    place.add_key(&["crash", "--host", HOST], KEY);
    let ca = place.data.with_extension("pem");
    std::fs::write(&ca, &upstream.ca_pem).expect("written");
    let configuration =
        format!("upstream: {{ extra_ca: [{ca:?}], resolve: {{ \"{HOST}:443\": \"{}\" }} }}", upstream.addr);
    let session = place.json(&["sessions", "start", "--key", "crash"]);
    let id = session["id"].as_str().expect("an id");
    let kept = place.json(&["tokens", "mint", id, "crash"]);
    let ended = place.json(&["tokens", "mint", id, "crash"]);
    let text = |token: &serde_json::Value, field: &str| token[field].as_str().expect("text").to_owned();
    for round in 0..3 {
        let mut serve = Serve::start(&place, &configuration);
        let agent = Agent {
            proxy: serve.proxy,
            credentials: None,
            ca_pem: std::fs::read_to_string(place.data.join("ca.pem")).expect("readable"),
        };
        let request = |token: &str| {
            let request =
                http::Request::get("/").header("host", HOST).header("authorization", format!("Bearer {token}"));
            request.body(http_body_util::Full::new(bytes::Bytes::new())).expect("a request")
        };
        if round > 0 {
            let answer = agent.ask(HOST, request(&text(&ended, "value"))).await;
            assert_eq!(answer.code(), "token_revoked", "what was revoked stays revoked");
        }
        let (done, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let load: Vec<_> = (0..4)
            .map(|_| {
                let (agent, done, stop, value) =
                    (agent.clone(), Arc::clone(&done), Arc::clone(&stop), text(&kept, "value"));
                tokio::spawn(async move {
                    let mut sender = agent.http1::<http_body_util::Full<bytes::Bytes>>(HOST).await;
                    while !stop.load(Ordering::SeqCst) {
                        let request = http::Request::get("/")
                            .header("host", HOST)
                            .header("authorization", format!("Bearer {value}"));
                        let request = request.body(http_body_util::Full::new(bytes::Bytes::new())).expect("a request");
                        match sender.send(request).await {
                            Ok(answer) => {
                                let answer = crate::support::agent::whole(answer).await;
                                assert_eq!(answer.status, 200, "{}", answer.text());
                                done.fetch_add(1, Ordering::SeqCst);
                            }
                            Err(_) => return,
                        }
                    }
                })
            })
            .collect();
        let enough = async {
            while done.load(Ordering::SeqCst) < 200 {
                assert!(load.iter().any(|l| !l.is_finished()), "{:#?}", serve.log);
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(60), enough).await.expect("requests are answered");
        if round == 0 {
            place.ok(&["tokens", "revoke", &text(&ended, "id")]);
            place.add_key(&["late", "--host", "late.test"], "sk-late-0123456789");
        }
        serve.child.kill().expect("killed");
        serve.child.wait().expect("ended");
        stop.store(true, Ordering::SeqCst);
        for one in load {
            one.await.expect("joined");
        }
        let uses = upstream.received().iter().filter(|r| r.header("authorization").contains(KEY)).count();
        let said = place.ok(&["audit", "verify"]);
        assert!(said.contains("all whole"), "{said}");
        let records = place.ok(&["audit", "query", "--kind", "intent", "--limit", "1000000", "--json"]);
        let intents = records.lines().filter(|line| line.contains("\"intent\"")).count();
        assert!(intents >= uses && uses > 0, "{intents} records for {uses} uses");
    }
    assert_eq!(place.json(&["keys", "list"]).as_array().map(Vec::len), Some(2), "a key that was acknowledged is there");
}
