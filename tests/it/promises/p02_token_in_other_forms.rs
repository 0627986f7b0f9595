//! 2. A token is worthless elsewhere: cut up, coded, in names, in paths.

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use http_body_util::channel::Channel;

use crate::support::World;
use crate::support::agent::basic;
use crate::support::world::HOST;

#[tokio::test]
async fn token_that_is_no_token_as_it_stands_is_a_strange_credential() {
    let world = World::build().slots(&["bearer", "header:x-api-key"]).start().await;
    let token = world.token();
    let (front, back) = token.split_at(20);
    let cases: Vec<Vec<(&str, String)>> = vec![
        vec![("authorization", format!("Bearer {front}")), ("authorization", back.to_owned())],
        vec![("authorization", format!("Bearer {}", STANDARD.encode(token)))],
        vec![("authorization", format!("Bearer {}", hex::encode(token)))],
        vec![("authorization", format!("Bearer {front} {back}"))],
        vec![("authorization", format!("Bearer {}", token.to_uppercase()))],
        vec![("authorization", format!("Bearer {}", token.replace("spt_", "spt%5F")))],
        vec![("x-api-key", front.to_owned()), ("x-api-key", back.to_owned())],
        vec![("x-api-key", STANDARD.encode(token))],
    ];
    for fields in cases {
        let mut request = Request::get("/").header("host", HOST);
        for (name, value) in &fields {
            request = request.header(*name, value);
        }
        let answer = world.agent().ask(HOST, request.body(Full::new(Bytes::new())).expect("a request")).await;
        assert_eq!((answer.status.as_u16(), answer.code()), (403, "credential_unregistered"), "{fields:?}");
    }
    assert!(world.upstream.received().is_empty());
}

#[tokio::test]
async fn token_in_a_body_is_text_however_the_body_comes() {
    let world = World::start().await;
    let text = format!("{{\"key\": \"{}\"}}", world.token());
    let mut coded = Vec::new();
    write!(coded, "{}", STANDARD.encode(&text)).expect("written");
    for body in [text.clone().into_bytes(), coded] {
        assert_eq!(world.agent().ask(HOST, world.request("POST", "/", body.clone())).await.status, 200);
        assert_eq!(world.upstream.received().pop().expect("received").body, body);
    }
    // A chunk boundary in the middle of the token, over both protocols.
    for http2 in [false, true] {
        let mut agent = if http2 { world.agent().http2(HOST).await } else { world.agent().http1(HOST).await };
        let (mut send, body) = Channel::<Bytes>::new(1);
        let pieces: Vec<Bytes> = text.as_bytes().chunks(15).map(Bytes::copy_from_slice).collect();
        let feeding = tokio::spawn(async move {
            for piece in pieces {
                send.send_data(piece).await.expect("sent");
            }
        });
        assert_eq!(agent.ask(world.post(http2, body)).await.status, 200);
        feeding.await.expect("fed");
        assert_eq!(world.upstream.received().pop().expect("received").body, text);
    }
}

#[tokio::test]
async fn token_in_a_path_or_a_name_is_text_and_is_not_recorded() {
    let world = World::start().await;
    let path = format!("/v1/{0}/x/{0}", world.token());
    assert_eq!(world.agent().ask(HOST, world.get(&path)).await.status, 200);
    assert_eq!(world.upstream.only().path, path);
    let mut request = world.get("/v1/x");
    let name: http::HeaderName = world.token().to_lowercase().parse().expect("a name");
    request.headers_mut().insert(name.clone(), "1".parse().expect("a value"));
    assert_eq!(world.agent().ask(HOST, request).await.status, 200);
    assert_eq!(world.upstream.received()[1].header(name.as_str()), "1");
    let intent = world.records_of("intent").remove(0);
    let recorded = intent["path"].as_str().expect("text");
    assert!(recorded.starts_with("/v1/") && recorded.contains("/x/"), "{recorded}");
    world.nothing_leaked(&[]).await;
}

#[tokio::test]
async fn credentials_in_trailers_and_hop_by_hop_fields_do_not_arrive() {
    let world = World::build().slots(&["bearer", "header:x-api-key"]).start().await;
    // What the Connection field names is dropped, but never the field of a slot.
    for name in ["authorization", "x-api-key"] {
        let value = if name == "authorization" { world.bearer() } else { world.token().to_owned() };
        let head = format!("GET / HTTP/1.1\r\nhost: {HOST}\r\n{name}: {value}\r\nconnection: {name}\r\n\r\n");
        let mut raw = world.agent().inside(HOST, b"http/1.1").await;
        raw.send(head).await;
        let reply = raw.reply().await.expect("an answer");
        assert_eq!((reply.status, reply.code.as_str()), (400, "bad_request"), "{name}: {}", reply.head);
    }
    assert!(world.upstream.received().is_empty());
    let head = world.head("/").replace("\r\n\r\n", "\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n");
    let trailers = format!(
        "x-sum: 1\r\nauthorization: {}\r\nhost: evil.test\r\ncontent-length: 9\r\ntransfer-encoding: chunked\r\nx-api-key: {}\r\n",
        world.bearer(),
        world.token()
    );
    let mut raw = world.agent().inside(HOST, b"http/1.1").await;
    raw.send(format!("{head}2\r\nok\r\n0\r\n{trailers}\r\n")).await;
    assert_eq!(raw.reply().await.expect("an answer").status, 200);
    let received = world.upstream.only();
    assert_eq!((received.authority.as_str(), &received.body[..]), (HOST, &b"ok"[..]));
    let trailers = received.trailers.unwrap_or_default();
    for name in ["authorization", "host", "content-length", "transfer-encoding"] {
        assert!(!trailers.contains_key(name), "{trailers:?}");
    }
    let late = trailers.get("x-api-key").map(|v| v.as_bytes());
    assert!(late.is_none() || late == Some(world.token().as_bytes()), "a trailer is no slot: {trailers:?}");
}

#[tokio::test]
async fn crumbs_of_cookies_arrive_as_one_field_where_there_is_no_http2() {
    for protocol in ["h2", "http/1.1"] {
        let world = World::build().upstream(|u| u.alpn = vec![protocol]).start().await;
        let mut request = world.get2("/");
        for crumb in ["a=1", "b=2", "c=3"] {
            request.headers_mut().append("cookie", crumb.parse().expect("a value"));
        }
        assert_eq!(world.agent().http2(HOST).await.ask(request).await.status, 200);
        let received = world.upstream.only();
        let cookies: Vec<_> = received.headers.get_all("cookie").iter().filter_map(|v| v.to_str().ok()).collect();
        // RFC 9113 section 8.2.3.
        assert_eq!(cookies.join("; "), "a=1; b=2; c=3");
        assert!(protocol == "h2" || cookies.len() == 1, "{protocol}: {cookies:?}");
    }
}

#[tokio::test]
async fn absolute_form_takes_the_key_only_to_its_own_host_and_over_tls() {
    let world = World::build().settings(|s| s.proxy.require_auth = true).start().await;
    let pair = basic(&world.started.session.id.to_string(), world.started.secret.expose());
    let ask = async |url: &str, host: &str, credentials: &str| {
        let mut raw = world.agent().bare().await;
        let head =
            format!("GET {url} HTTP/1.1\r\nhost: {host}\r\nauthorization: {}\r\n{credentials}\r\n", world.bearer());
        raw.send(head).await;
        let reply = raw.reply().await.expect("an answer");
        (reply.status, reply.code)
    };
    let with = format!("proxy-authorization: {pair}\r\n");
    assert_eq!(ask(&format!("https://{HOST}/v1"), HOST, "").await, (407, "proxy_auth_required".to_owned()));
    let wrong = "proxy-authorization: Basic eDp5\r\n";
    assert_eq!(ask(&format!("https://{HOST}/v1"), HOST, wrong).await, (407, "proxy_auth_required".to_owned()));
    assert_eq!(ask(&format!("https://{HOST}/v1"), "evil.test", &with).await, (421, "authority_mismatch".to_owned()));
    assert_eq!(ask(&format!("http://{HOST}/v1"), HOST, &with).await, (403, "host_not_allowed".to_owned()));
    assert_eq!(ask(&format!("ftp://{HOST}/v1"), HOST, &with).await, (400, "bad_request".to_owned()));
    assert_eq!(ask(&format!("https://x@{HOST}/v1"), HOST, &with).await.0, 400);
    assert!(world.upstream.received().is_empty(), "{:?}", world.upstream.received());
    assert_eq!(ask(&format!("https://{HOST}/v1"), HOST, &with).await, (200, String::new()));
    let received = world.upstream.only();
    assert_eq!((received.path.as_str(), received.header("proxy-authorization")), ("/v1", ""));
    assert_eq!(received.header("authorization"), format!("Bearer {}", world.secret));
}
