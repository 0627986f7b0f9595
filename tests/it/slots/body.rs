//! Slots in a request's body: form, JSON, multipart.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::channel::Channel;
use http_body_util::{BodyExt as _, Full};
use sallyport::model::Environment;

use super::{percent, post, with_another};
use crate::support::world::HOST;
use crate::support::{Raw, World, soon};

const FORM: &str = "application/x-www-form-urlencoded";
const JSON: &str = "application/json";
const PARTS: &str = "multipart/form-data; boundary=\"b 0\"";

fn json_text(secret: &str) -> String {
    serde_json::to_string(secret).expect("JSON").trim_matches('"').to_owned()
}

/// A part for each field, as browsers send them.
fn parts(fields: &[(&str, &str)]) -> String {
    let part = |(name, value): &(&str, &str)| {
        format!("--b 0\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
    };
    fields.iter().map(part).collect::<String>() + "--b 0--\r\n"
}

#[tokio::test]
async fn every_slot_of_a_body_gets_the_key_in_its_encoding_and_the_rest_stays() {
    let world = World::build().slots(&["form:client_secret", "json:/auth/0/api~1key", "multipart:token"]).start().await;
    let cases = [
        (FORM, "client_secret=<T>".to_owned(), percent(&world.secret)),
        (FORM, "a=%2f+x&client%5fsecret=<T>&b=&&c=%zz".to_owned(), percent(&world.secret)),
        (
            "Application/X-WWW-Form-Urlencoded; charset=UTF-8",
            "client_secret=<T>&x=1".to_owned(),
            percent(&world.secret),
        ),
        (JSON, r#"{"auth":[{"api/key":"<T>"}]}"#.to_owned(), json_text(&world.secret)),
        (
            "application/vnd.api+json; charset=utf-8",
            " {\"x\" : 1.0e5, \"x\":[ ], \"auth\":[{ \"\\u0061pi\\/key\" :\t\"<T>\"},{}]}\n".to_owned(),
            json_text(&world.secret),
        ),
        (PARTS, parts(&[("token", "<T>")]), world.secret.clone()),
        (PARTS, parts(&[("a", "1\r\n\r\n--b 1"), ("token", "<T>"), ("file", "\0\u{1}\n")]), world.secret.clone()),
    ];
    for (kind, body, coded) in &cases {
        for http2 in [false, true] {
            let sent = body.replace("<T>", world.token());
            let answer = post("/v1", kind, sent).to(&world, http2).await;
            assert_eq!(answer.status, 200, "{body}: {}", answer.text());
            let received = world.upstream.received().pop().expect("it came");
            assert_eq!(String::from_utf8_lossy(&received.body), body.replace("<T>", coded), "{kind}");
            assert_eq!(received.header("content-length"), body.replace("<T>", coded).len().to_string());
            assert_eq!(received.header("content-type"), *kind);
        }
    }
    let slots: Vec<_> =
        world.records_of("intent").iter().map(|r| r["slot"].as_str().unwrap_or("").to_owned()).collect();
    assert_eq!(slots.len(), cases.len() * 2);
    assert!(slots.contains(&"json:/auth/0/api~1key".to_owned()), "{slots:?}");
    let metrics = world.node.metrics();
    for label in ["form", "json", "multipart"] {
        assert!(metrics.contains(&format!("slot=\"{label}\"")), "{label}");
    }
    world.nothing_leaked(&[]).await;
}

#[tokio::test]
async fn body_in_chunks_is_put_together_and_its_trailers_arrive() {
    for protocol in ["http/1.1", "h2"] {
        let world = World::build().slots(&["json:/key"]).upstream(|u| u.alpn = vec![protocol]).start().await;
        for http2 in [false, true] {
            for trailing in [false, true] {
                let text = format!("{{\"key\": \"{}\", \"x\": 1}}", world.token());
                let (mut send, body) = Channel::<Bytes>::new(1);
                let feeding = tokio::spawn(async move {
                    for piece in text.as_bytes().chunks(15).map(Bytes::copy_from_slice) {
                        send.send_data(piece).await.expect("sent");
                    }
                    if trailing {
                        let mut trailers = HeaderMap::new();
                        trailers.insert("x-sum", "7".parse().expect("a value"));
                        send.send_trailers(trailers).await.expect("sent");
                    }
                });
                let request = match http2 {
                    true => Request::post(format!("https://{HOST}/")),
                    false => Request::post("/").header("host", HOST),
                };
                let request = request.header("content-type", JSON).header("trailer", "x-sum").body(body);
                let agent = world.agent();
                let mut agent = if http2 { agent.http2(HOST).await } else { agent.http1(HOST).await };
                assert_eq!(agent.ask(request.expect("a request")).await.status, 200);
                feeding.await.expect("fed");
                let received = world.upstream.received().pop().expect("it came");
                let expected = format!("{{\"key\": \"{}\", \"x\": 1}}", json_text(&world.secret));
                assert_eq!(received.body, expected, "{protocol} {http2} {trailing}");
                let sum = received.trailers.as_ref().and_then(|t| t.get("x-sum")).map(|v| v.as_bytes().to_vec());
                assert_eq!(sum, trailing.then(|| b"7".to_vec()), "{protocol} {http2} {trailing}");
            }
        }
        world.nothing_leaked(&[]).await;
    }
}

#[tokio::test]
async fn two_keys_stand_in_one_form_and_a_third_place_is_the_head() {
    let world = World::build().slots(&["form:client_id", "bearer"]).start().await;
    let tokens = with_another(&world, &["form:client_secret"], "client-secret+0123");
    let (id, secret) = (tokens[0].expose(), tokens[1].expose());
    for body in ["client_id=<1>&client_secret=<2>", "client_secret=<2>&x=1&client_id=<1>&y"] {
        let sent = post("/token", FORM, body.replace("<1>", id).replace("<2>", secret));
        let answer = sent.field("authorization", format!("Bearer {id}")).to(&world, true).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let received = world.upstream.received().pop().expect("it came");
        let expected = body.replace("<1>", &percent(&world.secret)).replace("<2>", "client-secret%2B0123");
        assert_eq!(received.body, expected);
        assert_eq!(received.header("authorization"), format!("Bearer {}", world.secret));
    }
    assert_eq!(world.records_of("intent").len(), 6);
    // One that a policy or a session doesn't allow takes the others with it.
    let hour = Duration::from_secs(3600);
    let keys = std::slice::from_ref(&world.key);
    let other = world.node.start_session(None, Environment::Development, keys, hour).expect("a session");
    let (_, strange) = world.node.mint(&other, &world.key).expect("a token");
    let body = format!("client_id={}&client_secret={secret}", strange.expose());
    assert_eq!(post("/token", FORM, body).to(&world, false).await.code(), "token_misplaced");
    let sent = post("/token", FORM, format!("client_secret={secret}"));
    let answer = sent.field("authorization", format!("Bearer {}", strange.expose())).to(&world, false).await;
    assert_eq!(answer.code(), "token_misplaced");
    assert_eq!(world.upstream.received().len(), 2);
    assert_eq!(world.records_of("intent").len(), 6);
    world.nothing_leaked(&[]).await;
}

#[tokio::test]
async fn body_without_a_slot_in_it_streams_though_its_host_has_one() {
    let world = World::build()
        .slots(&["json:/key", "bearer"])
        .streaming(|mut request| async move {
            // It answers when the first piece is there, before the others are sent.
            let first = request.body_mut().frame().await.and_then(Result::ok).and_then(|f| f.into_data().ok());
            let rest = request.into_body().map_err(std::io::Error::other).boxed_unsync();
            let mut response = Response::new(rest);
            let first = first.map(|f| String::from_utf8_lossy(&f).into_owned()).unwrap_or_default();
            response.headers_mut().insert("x-first", first.parse().expect("a value"));
            response
        })
        .start()
        .await;
    for http2 in [false, true] {
        let (mut send, body) = Channel::<Bytes>::new(1);
        let mut request = world.post(http2, body);
        request.headers_mut().insert("content-type", "application/x-ndjson".parse().expect("a value"));
        let agent = world.agent();
        let mut agent = if http2 { agent.http2(HOST).await } else { agent.http1(HOST).await };
        send.send_data("one".into()).await.expect("sent");
        let response = soon("the answer to half a request", agent.send(request)).await.expect("an answer");
        assert_eq!(response.headers()["x-first"], "one");
        send.send_data("two".into()).await.expect("sent");
        drop(send);
        assert_eq!(crate::support::agent::whole(response).await.text(), "two");
    }
}

#[tokio::test]
async fn token_elsewhere_in_a_body_is_text_and_is_counted() {
    let world = World::build().slots(&["json:/key", "form:key", "multipart:key", "bearer"]).start().await;
    let times = || world.node.shared().registry.token(&world.token.hash).expect("known").times_inert();
    let file = "--b 0\r\ncontent-disposition: form-data; name=\"key\"; filename=\"a\"\r\n\r\n<T>\r\n--b 0--\r\n";
    for (kind, body, read) in [
        (JSON, r#"{"messages":[{"content":"my key is <T>"}]}"#, true),
        (JSON, r#"{"a":{"key":"<T>"}}"#, true),
        (JSON, r#"{"a":"{\"key\":\"<T>\"}"}"#, true),
        (JSON, r#"["<T>"]"#, true),
        (FORM, "note=<T>", true),
        (FORM, "a=key=<T>", true),
        (FORM, "a;key=<T>", true),
        (PARTS, file, true),
        ("text/plain", "key=<T>", false),
        ("application/json, text/plain", r#"{"key":"<T>"}"#, false),
        ("multipart/mixed; boundary=\"b 0\"", file, false),
        ("multipart/form-data; boundary=x; boundary=\"b 0\"", file, false),
    ] {
        let before = times();
        let sent = body.replace("<T>", world.token());
        let answer = post("/v1", kind, sent.clone()).field("authorization", world.bearer()).to(&world, false).await;
        assert_eq!(answer.status, 200, "{body}: {}", answer.text());
        assert_eq!(world.upstream.received().pop().expect("it came").body, sent);
        assert_eq!(times() - before, u32::from(read), "{kind} {body}");
    }
    // Without a token in the head there is none in a slot, so the session's policy decides.
    let sent = post("/v1", JSON, format!("{{\"x\":\"{}\"}}", world.token()));
    assert_eq!(sent.to(&world, false).await.status, 200);
    assert_eq!(sent.through(&world.known_agent(), false).await.status, 200);
    let none = |r: &crate::support::Received| !String::from_utf8_lossy(&r.body).contains(&world.secret[..20]);
    assert!(world.upstream.received().iter().all(none));
    world.nothing_leaked(&[]).await;
}

#[tokio::test]
async fn upstream_that_keeps_closing_gets_whole_requests_with_the_key_or_none() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let received = Arc::clone(&seen);
    let script = move |mut raw: Raw, _| {
        let received = Arc::clone(&received);
        async move {
            let head = raw.head().await;
            let len = head.to_ascii_lowercase().split_once("content-length: ").map(|(_, rest)| rest.to_owned());
            let Some(len) = len.and_then(|rest| rest.lines().next()?.trim().parse().ok()) else { return };
            let body = String::from_utf8(raw.exactly(len).await).expect("text");
            received.lock().expect("not poisoned").push((head, body));
            raw.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
            raw.finish().await;
        }
    };
    let world = World::build().slots(&["json:/key", "query:k", "header:x-key", "cookie:c"]);
    let world = world.secret("sk-live/0123456789+x").script(script).start().await;
    let token = world.token();
    let mut agent = world.agent().http1(HOST).await;
    let mut answered = 0;
    for _ in 0..60 {
        let request = Request::post(format!("/v1?k={token}")).header("host", HOST).header("content-type", JSON);
        let request = request.header("x-key", token).header("cookie", format!("a=1; c={token}"));
        let body = Full::new(Bytes::from(format!("{{\"key\":\"{token}\"}}")));
        let answer = agent.ask(request.body(body).expect("a request")).await;
        assert!(answer.status == 200 || answer.code() == "upstream_unreachable", "{}", answer.text());
        answered += usize::from(answer.status == 200);
    }
    let seen = seen.lock().expect("not poisoned").clone();
    assert!(answered > 0 && seen.len() >= answered);
    for (head, body) in &seen {
        assert!(head.starts_with("POST /v1?k=sk-live%2F0123456789%2Bx HTTP/1.1\r\n"), "{head}");
        assert!(head.contains("x-key: sk-live/0123456789+x\r\n"), "{head}");
        assert!(head.contains("cookie: a=1; c=sk-live/0123456789+x\r\n"), "{head}");
        assert_eq!(body, "{\"key\":\"sk-live/0123456789+x\"}");
    }
    // Each try has records of its own.
    assert!(world.records_of("intent").len() >= seen.len() * 4);
    world.nothing_leaked(&[]).await;
}
