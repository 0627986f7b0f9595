//! Real clients' WebSockets through `sallyport run` and the gateway. They need the folders that `tests/run`
//! fills.

use std::process::Command;
use std::sync::{Arc, Mutex};

use futures_util::{SinkExt as _, StreamExt as _};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};

use crate::clients::{OPENAI, Services, clients, node, python, script};
use crate::support::binary::Serve;
use crate::support::upstream::{Setup, Upstream};

/// Heads of the handshakes that came.
type Seen = Arc<Mutex<Vec<http::HeaderMap>>>;

/// Stands in for OpenAI: repeats each message, and the key behind it.
async fn realtime() -> (Services, Seen) {
    let seen = Seen::default();
    let saw = Arc::clone(&seen);
    let talk = move |stream, saw: Seen| async move {
        #[expect(clippy::result_large_err, reason = "the library's")]
        let accept = |request: &Request, mut response: Response| {
            saw.lock().expect("not poisoned").push(request.headers().clone());
            response.headers_mut().insert("sec-websocket-protocol", "realtime".parse().expect("a value"));
            Ok(response)
        };
        let Ok(mut socket) = tokio_tungstenite::accept_hdr_async(stream, accept).await else { return };
        while let Some(Ok(message)) = socket.next().await {
            let answer = match message {
                Message::Text(text) => Message::text(format!("{}|{OPENAI}", &text[..5])),
                Message::Binary(_) => message,
                _ => continue,
            };
            let _ = socket.send(answer).await;
        }
    };
    let setup = Setup { host: "api.openai.com".to_owned(), alpn: vec!["http/1.1"], ..Setup::default() };
    let upstream = Upstream::script(&setup, Arc::new(move |stream, _| Box::pin(talk(stream, Arc::clone(&saw))))).await;
    (Services::of(upstream), seen)
}

fn bearer(seen: &Seen, at: usize) -> String {
    let seen = seen.lock().expect("not poisoned");
    seen[at].get("authorization").map_or("", |v| v.to_str().expect("text")).to_owned()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the clients that tests/run installs"]
async fn websockets_for_python_talks() {
    let (services, seen) = realtime().await;
    let said = services.run(&[&python(), &script("talk.py")]).await;
    assert!(said.contains("answer: hello realtime 1000"), "{said}");
    assert_eq!(bearer(&seen, 0), format!("Bearer {OPENAI}"));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the clients that tests/run installs"]
async fn ws_and_node_itself_talk_through_the_proxy() {
    let (services, seen) = realtime().await;
    let said = services.run(&[&node(), &script("talk.mjs")]).await;
    assert!(said.contains("ws: hello realtime 1000"), "{said}");
    assert!(said.contains("node: hello realtime 1000"), "{said}");
    talked(&seen);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the clients that tests/run installs"]
async fn ws_and_node_itself_talk_through_the_gateway() {
    let (services, seen) = realtime().await;
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
    let mut client = Command::new(node());
    client.arg(script("talk.mjs")).env_clear().env("NODE_CLIENTS", clients().join("node"));
    client.env("GATEWAY", format!("ws://{}", serve.gateway));
    client.env("OPENAI_API_KEY", token["value"].as_str().expect("a value"));
    let output = tokio::task::spawn_blocking(move || client.output().expect("node runs")).await.expect("joined");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("ws: hello realtime 1000") && said.contains("node: hello realtime 1000"), "{said}");
    talked(&seen);
}

/// The service saw the real key in both handshakes.
fn talked(seen: &Seen) {
    assert_eq!(bearer(seen, 0), format!("Bearer {OPENAI}"));
    let protocols = seen.lock().expect("not poisoned")[1]["sec-websocket-protocol"].to_str().expect("text").to_owned();
    assert!(protocols.contains(&format!("openai-insecure-api-key.{OPENAI}")), "{protocols}");
}
