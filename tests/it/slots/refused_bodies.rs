//! Attacks on the slots in a request's body, and what is too much.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::channel::Channel;

use super::post;
use crate::support::World;
use crate::support::world::HOST;

const FORM: &str = "application/x-www-form-urlencoded";
const JSON: &str = "application/json";
const PARTS: &str = "multipart/form-data; boundary=B0";

#[tokio::test]
async fn body_that_parsers_could_read_differently_is_refused() {
    let world = World::build().slots(&["json:/key", "json:/a/key", "form:key", "multipart:key"]).start().await;
    let part = "content-disposition: form-data; name=\"key\"\r\n\r\n<T>\r\n";
    let coded: String = world.token().bytes().map(|b| format!("%{b:02x}")).collect();
    let units: String = world.token().bytes().map(|b| format!("\\u{b:04x}")).collect();
    for (kind, body, code) in [
        (JSON, r#"{"key":"<T>","key":"<T>"}"#.to_owned(), "bad_request"),
        (JSON, r#"{"key":"x","\u006bey":"<T>"}"#.to_owned(), "bad_request"),
        (JSON, r#"{"a":{"key":"<T>"},"a":{}}"#.to_owned(), "bad_request"),
        (JSON, r#"{"key":"<T>"} {"key":"<T>"}"#.to_owned(), "bad_request"),
        (JSON, r#"{"key":"<T>",}"#.to_owned(), "bad_request"),
        (JSON, r#"{'key':'<T>'}"#.to_owned(), "bad_request"),
        (JSON, "\u{feff}{\"key\":\"<T>\"}".to_owned(), "bad_request"),
        (JSON, "{\"key\":\"<T>\n\"}".to_owned(), "bad_request"),
        (JSON, "[".repeat(1000), "bad_request"),
        (JSON, r#"{"key":"x<T>"}"#.to_owned(), "token_misplaced"),
        (JSON, r#"{"key":"<T>\n"}"#.to_owned(), "token_misplaced"),
        (JSON, r#"{"key":["<T>"]}"#.to_owned(), "token_misplaced"),
        (JSON, r#"{"key":{"key":"<T>"}}"#.to_owned(), "token_misplaced"),
        (JSON, format!("{{\"key\":\"{units}\"}}"), "credential_unregistered"),
        (JSON, r#"{"key":"a-real-key"}"#.to_owned(), "credential_unregistered"),
        (JSON, r#"{"key":7}"#.to_owned(), "credential_unregistered"),
        (FORM, "key=<T>&key=<T>".to_owned(), "bad_request"),
        (FORM, "key=x&%6bey=<T>".to_owned(), "bad_request"),
        (FORM, "key=<T>%0d%0a".to_owned(), "token_misplaced"),
        (FORM, "key=<T>\r\n".to_owned(), "token_misplaced"),
        (FORM, "key=<T>;x=1".to_owned(), "token_misplaced"),
        (FORM, format!("key={coded}"), "credential_unregistered"),
        (FORM, "key=a-real-key".to_owned(), "credential_unregistered"),
        (PARTS, format!("--B0\r\n{part}--B0\r\n{part}--B0--"), "bad_request"),
        (PARTS, format!("x\r\n--B0\r\n{part}--B0--"), "bad_request"),
        (PARTS, format!("--B0\r\n{part}--B0--\r\n--B0\r\n{part}--B0--"), "bad_request"),
        (PARTS, format!("--B0\r\n{part}--B0 \r\n--B0--"), "bad_request"),
        (PARTS, format!("--B0\r\n{part}--B0X--"), "bad_request"),
        (PARTS, format!("--B0\n{}--B0--\n", part.replace("\r\n", "\n")), "bad_request"),
        (PARTS, format!("--B0\r\n{part}"), "bad_request"),
        (PARTS, format!("--B0\r\n{}--B0--", part.replace("\"key\"", "\"key\"; name=\"x\"")), "bad_request"),
        (PARTS, format!("--B0\r\n{}--B0--", part.replace("\"key\"", "\"x\\\"; name=key")), "bad_request"),
        (PARTS, format!("--B0\r\n{}--B0--", part.replace("<T>", "<T>\r\n")), "token_misplaced"),
        (PARTS, format!("--B0\r\n{}--B0--", part.replace("<T>", "a-real-key")), "credential_unregistered"),
    ] {
        let sent = post("/v1", kind, body.replace("<T>", world.token()));
        for http2 in [false, true] {
            let answer = sent.to(&world, http2).await;
            assert_eq!(answer.code(), code, "{body}: {}", answer.text());
            assert!(!answer.text().contains(world.token()), "{}", answer.text());
        }
    }
    assert!(world.upstream.received().is_empty(), "{:?}", world.upstream.received());
    assert!(world.records_of("intent").is_empty());
    world.nothing_leaked(&[]).await;
}

#[tokio::test]
async fn body_that_can_not_be_searched_passes_where_its_credential_is_in_the_head() {
    let world = World::build().slots(&["json:/key", "bearer"]).start().await;
    for (name, value, body, code) in [
        ("x-x", "1", "{\"key\":", ""),
        ("x-x", "1", "{} {}", ""),
        ("x-x", "1", "{\"key\": \"<T>\"", "bad_request"),
        ("content-encoding", "gzip", "\u{1f}\u{8b}...", ""),
        ("content-encoding", "identity", "{}", ""),
    ] {
        let sent = post("/v1", JSON, body.replace("<T>", world.token()));
        let sent = sent.field(name, value).field("authorization", world.bearer());
        let answer = sent.to(&world, true).await;
        assert_eq!(answer.code(), code, "{body}: {}", answer.text());
        if code.is_empty() {
            let received = world.upstream.received().pop().expect("it came");
            assert_eq!(received.body, body);
            assert_eq!(received.header("authorization"), format!("Bearer {}", world.secret));
        }
    }
    let before = world.upstream.received().len();
    for coding in ["gzip", "br", "identity, gzip", "x"] {
        let sent = post("/v1", JSON, "....").field("content-encoding", coding);
        let answer = sent.to(&world, false).await;
        assert_eq!((answer.status.as_u16(), answer.code()), (400, "bad_request"), "{coding}");
        assert!(answer.text().contains("Content-Encoding"), "{}", answer.text());
    }
    assert_eq!(world.upstream.received().len(), before);
}

#[tokio::test]
async fn body_over_the_limit_is_refused_before_any_key_is_used() {
    let world = World::build()
        .slots(&["json:/key", "bearer"])
        .settings(|s| s.proxy.limits.body_slot_bytes = 1000)
        .start()
        .await;
    let body = |len: usize| {
        let head = format!("{{\"key\":\"{}\",\"x\":\"", world.token());
        let fill = "x".repeat(len - head.len() - 2);
        format!("{head}{fill}\"}}")
    };
    for http2 in [false, true] {
        assert_eq!(post("/v1", JSON, body(1000)).to(&world, http2).await.status, 200);
        let answer = post("/v1", JSON, body(1001)).field("authorization", world.bearer()).to(&world, http2).await;
        assert_eq!((answer.status.as_u16(), answer.code()), (413, "too_large"), "{}", answer.text());
        assert!(answer.text().contains("1000 bytes") && answer.text().contains("proxy.limits.body_slot"));
        // One whose length isn't told is read up to the limit.
        let (mut send, channel) = Channel::<Bytes>::new(1);
        let text = body(5000);
        let feeding = tokio::spawn(async move {
            for piece in text.as_bytes().chunks(300).map(Bytes::copy_from_slice) {
                if send.send_data(piece).await.is_err() {
                    break;
                }
            }
        });
        let request = match http2 {
            true => Request::post(format!("https://{HOST}/")),
            false => Request::post("/").header("host", HOST),
        };
        let request = request.header("content-type", JSON).body(channel).expect("a request");
        let agent = world.agent();
        let mut agent = if http2 { agent.http2(HOST).await } else { agent.http1(HOST).await };
        let answer = agent.ask(request).await;
        assert_eq!((answer.status.as_u16(), answer.code()), (413, "too_large"), "{}", answer.text());
        feeding.await.expect("fed");
        // Another kind of body is none of this limit's.
        let other = post("/v1", "text/plain", "x".repeat(5000)).field("authorization", world.bearer());
        assert_eq!(other.to(&world, http2).await.status, 200);
    }
    assert_eq!(world.upstream.received().len(), 4);
    assert_eq!(world.records_of("intent").len(), 4);
}

#[tokio::test]
async fn bodies_that_are_held_at_once_have_a_bound_together() {
    let world = World::build()
        .slots(&["json:/key"])
        .settings(|s| {
            s.cores = 1;
            s.proxy.limits.body_slots_bytes = 1000;
        })
        .start()
        .await;
    let body = format!("{{\"key\":\"{}\",\"x\":\"{}\"}}", world.token(), "x".repeat(700));
    let mut first = world.agent().inside(HOST, b"http/1.1").await;
    let head = format!("POST / HTTP/1.1\r\nhost: {HOST}\r\ncontent-type: {JSON}\r\ncontent-length: {}\r\n", body.len());
    first.send(format!("{head}expect: 100-continue\r\n\r\n")).await;
    assert!(first.head().await.starts_with("HTTP/1.1 100"));
    first.send(&body[..body.len() - 1]).await;
    // The first one's bytes may be read a moment later than they are sent.
    let refused = crate::support::soon("a refusal", async {
        loop {
            let answer = post("/v1", JSON, body.clone()).to(&world, false).await;
            if answer.status != 200 {
                break answer;
            }
        }
    });
    let refused = refused.await;
    assert_eq!((refused.status.as_u16(), refused.code()), (503, "overloaded"), "{}", refused.text());
    first.send(&body[body.len() - 1..]).await;
    assert_eq!(first.reply().await.expect("an answer").status, 200, "what was being read goes on");
    assert_eq!(post("/v1", JSON, body.clone()).to(&world, false).await.status, 200, "and there is room again");
}

#[tokio::test]
async fn secret_that_can_not_stand_in_its_body_is_never_sent() {
    let world = World::build().slots(&["multipart:key"]).secret("--B0-secret-0123").start().await;
    let part = format!("--B0\r\ncontent-disposition: form-data; name=\"key\"\r\n\r\n{}\r\n--B0--\r\n", world.token());
    let answer = post("/v1", PARTS, part).to(&world, false).await;
    assert_eq!((answer.status.as_u16(), answer.code()), (500, "internal"));
    assert!(world.upstream.received().is_empty());
    world.nothing_leaked(&[answer]).await;
}

#[tokio::test]
async fn type_of_a_body_can_not_be_taken_away_behind_the_search() {
    let world = World::build().slots(&["form:key"]).start().await;
    let body = format!("key={}", world.token());
    for name in ["content-type", "content-encoding", "content-length"] {
        let head = format!(
            "POST / HTTP/1.1\r\nhost: {HOST}\r\ncontent-type: {FORM}\r\ncontent-length: {}\r\nconnection: {name}\r\n\r\n",
            body.len()
        );
        let got = world.agent().raw(HOST, format!("{head}{body}").as_bytes()).await;
        assert!(got.starts_with("HTTP/1.1 400"), "{name}: {got}");
    }
    let head = format!("POST / HTTP/1.1\r\nhost: {HOST}\r\ncontent-type: {FORM}\r\ncontent-length: 500\r\n\r\n{body}");
    let mut cut = world.agent().inside(HOST, b"http/1.1").await;
    cut.send(head).await;
    cut.finish().await;
    let _ = cut.rest().await;
    assert!(world.upstream.received().is_empty());
    assert!(world.records_of("intent").is_empty(), "half a body opens nothing");
}

#[tokio::test]
async fn body_that_trickles_is_not_waited_for_longer_than_the_deadline() {
    let deadline = Duration::from_millis(300);
    let build = World::build().slots(&["json:/key"]);
    let world = build.settings(move |s| s.proxy.deadlines.body_slot = deadline).start().await;
    for http2 in [false, true] {
        let (mut send, channel) = Channel::<Bytes>::new(1);
        let trickling = tokio::spawn(async move {
            // Each piece comes long before `proxy.deadlines.idle_body`.
            while send.send_data(Bytes::from_static(b" ")).await.is_ok() {
                tokio::time::sleep(deadline / 10).await;
            }
        });
        let request = match http2 {
            true => Request::post(format!("https://{HOST}/")),
            false => Request::post("/").header("host", HOST),
        };
        let request = request.header("content-type", JSON).body(channel).expect("a request");
        let agent = world.agent();
        let mut agent = if http2 { agent.http2(HOST).await } else { agent.http1(HOST).await };
        let answer = agent.ask(request).await;
        assert_eq!((answer.status.as_u16(), answer.code()), (400, "bad_request"), "{}", answer.text());
        assert!(answer.text().contains("proxy.deadlines.body_slot"), "{}", answer.text());
        trickling.await.expect("it ended");
    }
    assert!(world.upstream.received().is_empty());
}
