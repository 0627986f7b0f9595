//! 8. Revoked means now.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use sallyport::config::Config;
use sallyport::vault::key::KeyState;
use serde_json::json;

use crate::support::door::{Door, text};
use crate::support::world::HOST;
use crate::support::{Reply, World};

#[derive(Debug, Clone, Copy)]
enum How {
    Token,
    Session,
    Key,
}

fn end(world: &World, how: How) {
    match how {
        How::Token => world.node.revoke_token(&world.token, "test"),
        How::Session => world.node.revoke_session(&world.started.session, "test"),
        How::Key => world.node.set_key_state(&world.key, KeyState::Disabled),
    }
}

#[tokio::test]
async fn next_request_on_an_open_connection_is_refused() {
    for (how, code) in [(How::Token, "token_revoked"), (How::Session, "session_revoked"), (How::Key, "key_disabled")] {
        let world = World::start().await;
        let mut agent = world.agent().http1(HOST).await;
        assert_eq!(agent.ask(world.get("/")).await.status, 200);
        end(&world, how);
        let answer = agent.ask(world.get("/")).await;
        assert_eq!((answer.status.as_u16(), answer.code()), (403, code), "{how:?}");
        assert_eq!(world.upstream.received().len(), 1);
    }
}

#[tokio::test]
async fn running_reply_is_cut_within_a_second_and_is_not_given_as_whole() {
    for how in [How::Token, How::Session, How::Key] {
        for http2 in [false, true] {
            let (send, reply) = Reply::live();
            let reply = std::sync::Mutex::new(Some(reply));
            let world = World::build()
                .answer(move |_| reply.lock().expect("not poisoned").take().expect("one request"))
                .start()
                .await;
            let agent = world.agent();
            let mut sender =
                if http2 { agent.http2::<Full<Bytes>>(HOST).await } else { agent.http1::<Full<Bytes>>(HOST).await };
            let request = if http2 { world.get2("/") } else { world.get("/") };
            let mut response = sender.send(request).await.expect("an answer");
            send.send("first".into()).await.expect("sent");
            let frame = response.body_mut().frame().await.expect("a frame").expect("whole");
            assert_eq!(frame.into_data().expect("data"), "first");
            let began = Instant::now();
            end(&world, how);
            let last = tokio::time::timeout(Duration::from_secs(5), response.body_mut().frame()).await;
            let took = began.elapsed();
            assert!(matches!(last, Ok(Some(Err(_)))), "{how:?}, HTTP/2 {http2}: {last:?}");
            assert!(took < Duration::from_secs(1), "{how:?}, HTTP/2 {http2}: {took:?}");
            // The upstream's side is given up as well.
            let gone = async {
                while send.send("x".into()).await.is_ok() {
                    tokio::task::yield_now().await
                }
            };
            tokio::time::timeout(Duration::from_secs(5), gone).await.expect("the upstream is left");
        }
    }
}

#[tokio::test]
async fn revocation_by_another_process_takes_effect_within_a_second() {
    let world = World::start().await;
    let other = Door::open(&world.home, &Config::default()).await;
    let key = json!({"name": "stored", "value": "sk-stored-0123456789", "hosts": [HOST]});
    other.call("POST", "/api/v1/api-keys", &key).await;
    let session = other.call("POST", "/api/v1/mcp/sessions", &json!({"keys": ["stored"]})).await;
    let id = text(&session, "id");
    let mint = format!("/api/v1/mcp/sessions/{id}/keys/stored/proxy-token");
    let token = other.call("POST", &mint, &json!({})).await;
    let ask = async || {
        let request = http::Request::get("/").header("host", HOST);
        let value = format!("Bearer {}", text(&token, "value"));
        let request = request.header("authorization", value).body(Full::new(Bytes::new())).expect("a request");
        // One that runs at that very moment is cut, perhaps before its answer begins.
        match world.agent().http1(HOST).await.send(request).await {
            Ok(reply) => Some(crate::support::agent::whole(reply).await),
            Err(_) => None,
        }
    };
    let within_a_second = async |wanted: &str| {
        let began = Instant::now();
        loop {
            let answer = ask().await;
            if answer.as_ref().is_some_and(|answer| answer.code() == wanted) {
                return;
            }
            assert!(began.elapsed() < Duration::from_secs(1), "{wanted}: {answer:?}");
        }
    };
    within_a_second("").await;
    let received = world.upstream.received().pop().expect("received");
    assert_eq!(received.header("authorization"), "Bearer sk-stored-0123456789");
    // A rotation cuts nothing, and the new value is used within a second too.
    other.call("POST", "/api/v1/api-keys/stored/rotate", &json!({"value":"sk-rotated-0123456789"})).await;
    let began = Instant::now();
    loop {
        assert_eq!(ask().await.expect("a rotation cuts nothing").status, 200);
        let received = world.upstream.received().pop().expect("received");
        if received.header("authorization") == "Bearer sk-rotated-0123456789" {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(1));
    }
    other.call("PUT", "/api/v1/api-keys/stored", &json!({"state":"disabled"})).await;
    within_a_second("key_disabled").await;
    other.call("PUT", "/api/v1/api-keys/stored", &json!({"state":"enabled"})).await;
    within_a_second("").await;
    let token = text(&token, "id");
    other.call("DELETE", &format!("/api/v1/mcp/proxy-tokens/{token}"), &json!({})).await;
    within_a_second("token_revoked").await;
    other.call("DELETE", &format!("/api/v1/mcp/sessions/{id}"), &json!({})).await;
    within_a_second("session_revoked").await;
}

#[tokio::test]
async fn session_that_has_expired_is_refused_and_its_running_reply_is_cut() {
    let (send, reply) = Reply::live();
    let reply = std::sync::Mutex::new(Some(reply));
    let world =
        World::build().answer(move |_| reply.lock().expect("not poisoned").take().expect("one request")).start().await;
    let second = Duration::from_millis(700);
    let keys = std::slice::from_ref(&world.key);
    let started = world.node.start_session(None, world.key.environment, keys, second).expect("a session");
    let (_, value) = world.node.mint(&started, &world.key).expect("a token");
    let request = || {
        let request = http::Request::get("/").header("host", HOST);
        let request = request.header("authorization", format!("Bearer {}", value.expose()));
        request.body(Full::new(Bytes::new())).expect("a request")
    };
    let mut agent = world.agent().http1(HOST).await;
    let mut response = agent.send(request()).await.expect("an answer");
    send.send("first".into()).await.expect("sent");
    assert!(response.body_mut().frame().await.expect("a frame").is_ok());
    let last = tokio::time::timeout(Duration::from_secs(3), response.body_mut().frame()).await;
    assert!(matches!(last, Ok(Some(Err(_)))), "{last:?}");
    assert_eq!(world.agent().ask(HOST, request()).await.code(), "session_expired");
}
