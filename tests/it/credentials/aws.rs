//! Requests that an agent signs with its stand-ins: what the upstream gets is signed with the real pair,
//! and what was changed after it was signed isn't sent. Signing and verifying are written anew here.

use aws_lc_rs::{digest, hmac};
use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::Full;
use sallyport::model::KeyKind;

use super::Computed;
use crate::support::world::OTHER;
use crate::support::{Agent, Answer, Received, Reply, World, emitted};

const ID: &str = "AKIAREALREALREALREAL";
const SECRET: &str = "real+secret/of-forty-characters-01234567";
const SESSION_TOKEN: &str = "real-session-token-0123456789/abcdef==";
pub(super) const PAIR: &str =
    r#"{"access_key_id": "AKIAREALREALREALREAL", "secret_access_key": "real+secret/of-forty-characters-01234567"}"#;

pub(super) fn sha(bytes: &[u8]) -> String {
    hex::encode(digest::digest(&digest::SHA256, bytes))
}

fn key(secret: &str, scope: &str) -> hmac::Key {
    let start = hmac::Key::new(hmac::HMAC_SHA256, format!("AWS4{secret}").as_bytes());
    scope
        .split('/')
        .fold(start, |key, part| hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&key, part.as_bytes()).as_ref()))
}

fn signature(secret: &str, scope: &str, text: &str) -> String {
    hex::encode(hmac::sign(&key(secret, scope), text.as_bytes()))
}

/// What is signed. Paths, queries and values are written in their normal form here.
#[derive(Clone)]
pub(super) struct Request4 {
    pub method: &'static str,
    pub path: String,
    pub query: String,
    pub headers: Vec<(String, String)>,
    pub payload: String,
    pub time: String,
    pub scope: String,
}

impl Request4 {
    fn text(&self) -> String {
        let mut headers = self.headers.clone();
        headers.sort();
        let fields: String = headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        let names: Vec<_> = headers.iter().map(|(name, _)| name.as_str()).collect();
        let names = names.join(";");
        let canonical = [self.method, &self.path, &self.query, &fields, &names, &self.payload].join("\n");
        format!("AWS4-HMAC-SHA256\n{}\n{}\n{}", self.time, self.scope, sha(canonical.as_bytes()))
    }

    fn names(&self) -> String {
        let mut names: Vec<_> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        names.join(";")
    }
}

pub(super) fn now(world: &World) -> String {
    let millis = world.home.clock().now().millis();
    jiff::Timestamp::from_millisecond(millis).expect("a time").strftime("%Y%m%dT%H%M%SZ").to_string()
}

/// A request to S3 that isn't signed yet.
fn plain(world: &World, method: &'static str, path: &str, payload: &str) -> Request4 {
    let time = now(world);
    let scope = format!("{}/eu-west-1/s3/aws4_request", &time[..8]);
    let field = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let headers = vec![field("host", OTHER), field("x-amz-content-sha256", payload), field("x-amz-date", &time)];
    Request4 { method, path: path.to_owned(), query: String::new(), headers, payload: payload.to_owned(), time, scope }
}

pub(super) fn signed(request: &Request4, id: &str, secret: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    let uri =
        if request.query.is_empty() { request.path.clone() } else { format!("{}?{}", request.path, request.query) };
    let mut build = Request::builder().method(request.method).uri(uri);
    for (name, value) in &request.headers {
        build = build.header(name, value);
    }
    let signature = signature(secret, &request.scope, &request.text());
    let authorization = format!(
        "AWS4-HMAC-SHA256 Credential={id}/{}, SignedHeaders={}, Signature={signature}",
        request.scope,
        request.names()
    );
    build.header("authorization", authorization).body(Full::new(body.into())).expect("a request")
}

fn part<'a>(text: &'a str, before: &str) -> &'a str {
    let rest = text.split(before).nth(1).unwrap_or_else(|| panic!("no {before} in {text}"));
    rest.split([',', '&']).next().expect("a part")
}

/// Whether the upstream got a request that was signed with the real pair, as it arrived.
fn verify(received: &Received) -> String {
    let authorization = received.header("authorization");
    let names = part(authorization, "SignedHeaders=");
    let (path, query) = received.path.split_once('?').unwrap_or((&received.path, ""));
    let request = Request4 {
        method: Box::leak(received.method.clone().into_boxed_str()),
        path: path.to_owned(),
        query: query.to_owned(),
        headers: names.split(';').map(|name| (name.to_owned(), value(&received.headers, name, received))).collect(),
        payload: received.header("x-amz-content-sha256").to_owned(),
        time: received.header("x-amz-date").to_owned(),
        scope: part(authorization, "Credential=").strip_prefix(&format!("{ID}/")).expect("the real id").to_owned(),
    };
    let seed = signature(SECRET, &request.scope, &request.text());
    assert_eq!(part(authorization, "Signature="), seed, "{received:?}");
    seed
}

fn value(headers: &HeaderMap, name: &str, received: &Received) -> String {
    match name {
        "host" => received.authority.clone(),
        name => headers[name].to_str().expect("text").to_owned(),
    }
}

pub(super) async fn world() -> World {
    let echo = |received: &Received| {
        let token = received.header("x-amz-security-token");
        Reply::text(format!("{ID} {SECRET} {token}")).with("x-seen", received.header("authorization"))
    };
    World::build().upstream(|u| u.host = OTHER.to_owned()).answer(echo).start().await
}

pub(super) async fn ask(world: &World, request: Request<Full<Bytes>>) -> Answer {
    world.agent().ask(OTHER, request).await
}

#[tokio::test]
async fn request_is_signed_anew_with_the_real_pair_as_it_is_sent() {
    let world = world().await;
    let computed = Computed::add(&world, KeyKind::Aws, PAIR);
    let mut request = plain(&world, "PUT", "/bucket/a%20b/c%2Bd~", &sha(b"hello"));
    request.query = "acl=&tagging=x%2Fy".to_owned();
    for (name, value) in
        [("accept-encoding", "gzip"), ("range", "bytes=0-9"), ("te", "trailers"), ("x-amz-acl", "private")]
    {
        request.headers.push((name.to_owned(), value.to_owned()));
    }
    let answer = ask(&world, signed(&request, computed.token(), &computed.secret, "hello")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let received = world.upstream.received().pop().expect("received");
    assert_eq!(received.path, "/bucket/a%20b/c%2Bd~?acl=&tagging=x%2Fy");
    assert_eq!((&received.body[..], received.header("range")), (&b"hello"[..], ""));
    verify(&received);
    // The secret is masked in the reply, and the public name isn't.
    assert!(answer.text().starts_with(&format!("{ID} ****")), "{}", answer.text());
    assert!(answer.header("x-seen").contains(ID));
    for text in [answer.text(), format!("{:?}", answer.headers)] {
        assert_eq!(emitted::find(text.as_bytes(), SECRET), None);
    }
    world.nothing_leaked(&[answer]).await;
}

#[tokio::test]
async fn session_token_of_a_temporary_pair_travels_in_place_of_the_agents_and_is_masked() {
    let world = world().await;
    let temporary = PAIR.replace('}', &format!(r#","session_token":"{SESSION_TOKEN}"}}"#));
    let computed = Computed::add(&world, KeyKind::Aws, &temporary);
    let request = plain(&world, "GET", "/bucket/x", "UNSIGNED-PAYLOAD");
    let mut with_token = request.clone();
    with_token.headers.push(("x-amz-security-token".to_owned(), computed.token().to_owned()));
    for request in [request, with_token] {
        let answer = ask(&world, signed(&request, computed.token(), &computed.secret, "")).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let received = world.upstream.received().pop().expect("received");
        assert_eq!(received.header("x-amz-security-token"), SESSION_TOKEN);
        assert!(part(received.header("authorization"), "SignedHeaders=").contains("x-amz-security-token"));
        verify(&received);
        assert_eq!(emitted::find(answer.text().as_bytes(), SESSION_TOKEN), None);
    }
    let own = Computed::add(&world, KeyKind::Aws, PAIR);
    let mut request = plain(&world, "GET", "/bucket/x", "UNSIGNED-PAYLOAD");
    request.headers.push(("x-amz-security-token".to_owned(), own.token().to_owned()));
    let answer = ask(&world, signed(&request, own.token(), &own.secret, "")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let received = world.upstream.received().pop().expect("received");
    assert_eq!(received.header("x-amz-security-token"), "", "a lasting pair has none");
    verify(&received);
}

#[tokio::test]
async fn what_was_changed_after_it_was_signed_is_not_sent() {
    let world = world().await;
    let bounded = PAIR.replace('}', r#","regions":["eu-west-1"],"services":["s3"]}"#);
    let computed = Computed::add(&world, KeyKind::Aws, &bounded);
    let other = Computed::add(&world, KeyKind::Aws, PAIR);
    let (id, secret) = (computed.token(), computed.secret.as_str());
    let request = || plain(&world, "GET", "/bucket/x", "UNSIGNED-PAYLOAD");
    let scoped = |region: &str, service: &str| {
        let mut request = request();
        request.scope = format!("{}/{region}/{service}/aws4_request", &request.time[..8]);
        request
    };
    let with = |name: &str, value: &str| {
        let mut request = request();
        request.headers.push((name.to_owned(), value.to_owned()));
        request
    };
    let good = || signed(&with("x-amz-acl", "private"), id, secret, "");
    assert_eq!(ask(&world, good()).await.status, 200);
    let before = world.upstream.received().len();

    let change = |name: &'static str, value: &str| {
        let mut request = good();
        request.headers_mut().insert(name, value.parse().expect("a value"));
        request
    };
    let mut removed = good();
    removed.headers_mut().remove("x-amz-acl");
    let mut other_path = good();
    *other_path.uri_mut() = "/bucket/y".parse().expect("a path");
    let mut other_query = good();
    *other_query.uri_mut() = "/bucket/x?acl".parse().expect("a path");
    let mut other_method = good();
    *other_method.method_mut() = http::Method::DELETE;
    let mut hostless = request();
    hostless.headers.retain(|(name, _)| name != "host");
    let mut hostless = signed(&hostless, id, secret, "");
    hostless.headers_mut().insert("host", OTHER.parse().expect("a value"));
    let mut old = request();
    let time = jiff::Timestamp::from_millisecond(world.home.clock().now().millis() - 3_600_000).expect("a time");
    old.time = time.strftime("%Y%m%dT%H%M%SZ").to_string();
    old.scope = format!("{}/eu-west-1/s3/aws4_request", &old.time[..8]);
    old.headers[2].1.clone_from(&old.time);
    let chained = |text: &str| change("authorization", text);
    for (what, request, status, code) in [
        ("a header has another value", change("x-amz-acl", "public-read"), 403, "signature_mismatch"),
        ("a header was taken out", removed, 400, "bad_request"),
        ("a header was put in", change("x-amz-grant-read", "everybody"), 400, "bad_request"),
        ("another path", other_path, 403, "signature_mismatch"),
        ("another query", other_query, 403, "signature_mismatch"),
        ("another method", other_method, 403, "signature_mismatch"),
        ("the host isn't signed", hostless, 400, "bad_request"),
        ("an hour old", signed(&old, id, secret, ""), 403, "signature_mismatch"),
        ("another secret", signed(&request(), id, "guessed", ""), 403, "signature_mismatch"),
        ("the token as its secret", signed(&request(), id, id, ""), 403, "signature_mismatch"),
        ("another token's secret", signed(&request(), id, &other.secret, ""), 403, "signature_mismatch"),
        (
            "a real pair of the agent's",
            signed(&request(), "AKIAIOSFODNN7EXAMPLE", "x", ""),
            403,
            "credential_unregistered",
        ),
        ("another region", signed(&scoped("us-east-1", "s3"), id, secret, ""), 403, "policy_denied"),
        ("another service", signed(&scoped("eu-west-1", "s3-outposts"), id, secret, ""), 403, "policy_denied"),
        (
            "another's session token",
            signed(&with("x-amz-security-token", other.token()), id, secret, ""),
            403,
            "token_misplaced",
        ),
        (
            "a real session token",
            signed(&with("x-amz-security-token", "IQoJb3JpZ2lu"), id, secret, ""),
            403,
            "credential_unregistered",
        ),
        ("as bearer", chained(&format!("Bearer {id}")), 403, "token_misplaced"),
        ("no signature", chained(&format!("AWS4-HMAC-SHA256 Credential={id}/x")), 400, "bad_request"),
        ("two in one", chained(&format!("AWS4-HMAC-SHA256 Credential=x{id}/x")), 403, "token_misplaced"),
    ] {
        let answer = ask(&world, request).await;
        assert_eq!((answer.status.as_u16(), answer.code()), (status, code), "{what}: {}", answer.text());
        assert!(!answer.text().contains(SECRET) && !answer.text().contains(secret), "{what}");
    }
    assert_eq!(world.upstream.received().len(), before, "nothing was sent on");
}

fn presigned(request: &Request4, id: &str, secret: &str, extra: &str) -> String {
    let mut request = request.clone();
    request.headers.retain(|(name, _)| name == "host");
    let credential = format!("{id}/{}", request.scope).replace('/', "%2F");
    request.query = format!(
        "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={credential}&X-Amz-Date={}&X-Amz-Expires=60{extra}&X-Amz-SignedHeaders=host",
        request.time
    );
    let signature = signature(secret, &request.scope, &request.text());
    format!("{}?{}&X-Amz-Signature={signature}", request.path, request.query)
}

#[tokio::test]
async fn presigned_url_is_signed_anew_and_worth_nothing_but_its_request() {
    let world = world().await;
    let computed = Computed::add(&world, KeyKind::Aws, PAIR);
    let other = Computed::add(&world, KeyKind::Aws, PAIR);
    let request = plain(&world, "GET", "/bucket/x", "UNSIGNED-PAYLOAD");
    let url = presigned(&request, computed.token(), &computed.secret, "");
    let get = |url: &str| Request::get(url).header("host", OTHER).body(Full::default()).expect("a request");
    let answer = ask(&world, get(&url)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let received = world.upstream.received().pop().expect("received");
    assert!(received.path.contains(&format!("X-Amz-Credential={ID}%2F")) && !received.path.contains("spt_"));
    let (path, query) = received.path.split_once('?').expect("a query");
    let mut sorted: Vec<_> = query.split('&').filter(|pair| !pair.starts_with("X-Amz-Signature=")).collect();
    sorted.sort_unstable();
    let mut again = Request4 { path: path.to_owned(), query: sorted.join("&"), ..request.clone() };
    again.headers.retain(|(name, _)| name == "host");
    assert_eq!(part(query, "X-Amz-Signature="), signature(SECRET, &again.scope, &again.text()));

    let before = world.upstream.received().len();
    let with_token = |token: &str| {
        let extra = format!("&X-Amz-Security-Token={token}");
        presigned(&request, computed.token(), &computed.secret, &extra)
    };
    let mut ended = request.clone();
    let time = jiff::Timestamp::from_millisecond(world.home.clock().now().millis() - 61_000).expect("a time");
    ended.time = time.strftime("%Y%m%dT%H%M%SZ").to_string();
    ended.scope = format!("{}/eu-west-1/s3/aws4_request", &ended.time[..8]);
    for (what, url, code) in [
        ("another object", url.replace("/bucket/x", "/bucket/y"), "signature_mismatch"),
        ("a longer life", url.replace("Expires=60", "Expires=600"), "signature_mismatch"),
        ("a life beyond all bounds", url.replace("Expires=60", "Expires=999999999"), "bad_request"),
        ("a parameter more", url.replace("&X-Amz-Date", "&response-content-type=x&X-Amz-Date"), "signature_mismatch"),
        ("over", presigned(&ended, computed.token(), &computed.secret, ""), "signature_mismatch"),
        ("another's session token", with_token(other.token()), "token_misplaced"),
        ("another's secret", presigned(&request, computed.token(), &other.secret, ""), "signature_mismatch"),
        ("a real pair", presigned(&request, "AKIAIOSFODNN7EXAMPLE", "x", ""), "credential_unregistered"),
    ] {
        let answer = ask(&world, get(&url)).await;
        assert_eq!(answer.code(), code, "{what}: {}", answer.text());
    }
    // A token of another session than that of the proxy credentials.
    let known = Agent { credentials: world.known_agent().credentials, ..world.agent() };
    assert_eq!(known.ask(OTHER, get(&url)).await.code(), "token_misplaced");
    assert_eq!(world.upstream.received().len(), before, "nothing was sent on");
}

/// The chunks of a body, signed from this seed on.
fn chunks(secret: &str, request: &Request4, seed: &str, pieces: &[&[u8]]) -> Vec<u8> {
    let (mut out, mut previous) = (Vec::new(), seed.to_owned());
    for piece in pieces.iter().chain([&&b""[..]]) {
        let text = ["AWS4-HMAC-SHA256-PAYLOAD", &request.time, &request.scope, &previous, &sha(b""), &sha(piece)];
        previous = signature(secret, &request.scope, &text.join("\n"));
        out.extend_from_slice(format!("{:x};chunk-signature={previous}\r\n", piece.len()).as_bytes());
        out.extend_from_slice(piece);
        out.extend_from_slice(b"\r\n");
    }
    out
}

#[tokio::test]
async fn body_in_signed_chunks_is_signed_anew_while_it_passes() {
    let world = world().await;
    let computed = Computed::add(&world, KeyKind::Aws, PAIR);
    let (first, second) = (vec![b'a'; 65536], vec![b'b'; 1000]);
    let pieces: [&[u8]; 2] = [&first, &second];
    let mut request = plain(&world, "PUT", "/bucket/x", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD");
    request.headers.push(("x-amz-decoded-content-length".to_owned(), "66536".to_owned()));
    let seed = signature(&computed.secret, &request.scope, &request.text());
    let body = chunks(&computed.secret, &request, &seed, &pieces);
    let put = |body: Vec<u8>| signed(&request, computed.token(), &computed.secret, body);

    let answer = ask(&world, put(body.clone())).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let received = world.upstream.received().pop().expect("received");
    let real = verify(&received);
    assert_eq!(received.body, chunks(SECRET, &request, &real, &pieces));
    assert_eq!(received.header("content-length"), body.len().to_string());

    let before = world.upstream.received().len();
    let mut changed = body.clone();
    changed[40_000] = b'c';
    let swapped = chunks(&computed.secret, &request, &seed, &[&second, &first]);
    let mut reordered = body.clone();
    let len = first.len() + 64 + "10000;chunk-signature=\r\n\r\n".len();
    reordered.rotate_left(len);
    let longer = chunks(&computed.secret, &request, &seed, &[&first, &second, b"more"]);
    let shorter = chunks(&computed.secret, &request, &seed, &[&first]);
    let guessed = chunks("guessed", &request, &seed, &pieces);
    assert_eq!(ask(&world, put(swapped)).await.status, 200, "the agent may cut its body as it likes");
    for (what, body, code) in [
        ("a byte was changed", changed, "signature_mismatch"),
        ("chunks were put elsewhere", reordered, "signature_mismatch"),
        ("chunks of another secret", guessed, "signature_mismatch"),
        ("longer than declared", longer, "bad_request"),
        ("shorter than declared", shorter, "bad_request"),
        ("no chunks at all", vec![b'x'; 70_000], "bad_request"),
    ] {
        let answer = ask(&world, put(body)).await;
        assert_eq!(answer.code(), code, "{what}: {}", answer.text());
    }
    assert_eq!(world.upstream.received().len(), before + 1, "no other arrived whole");
}

#[tokio::test]
async fn body_whose_hash_is_not_declared_is_held_up_to_a_limit() {
    let world = World::build().upstream(|u| u.host = OTHER.to_owned());
    let world = world.settings(|settings| settings.proxy.limits.signed_body = 1000).start().await;
    let computed = Computed::add(&world, KeyKind::Aws, PAIR);
    let request = |body: &[u8]| {
        let mut request = plain(&world, "POST", "/", &sha(body));
        request.headers.retain(|(name, _)| name != "x-amz-content-sha256");
        request.scope = format!("{}/eu-west-1/dynamodb/aws4_request", &request.time[..8]);
        request
    };
    let body = vec![b'x'; 1000];
    let answer = ask(&world, signed(&request(&body), computed.token(), &computed.secret, body.clone())).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let received = world.upstream.received().pop().expect("received");
    let mut again = request(&body);
    again.time = received.header("x-amz-date").to_owned();
    again.headers = vec![("host".to_owned(), OTHER.to_owned()), ("x-amz-date".to_owned(), again.time.clone())];
    let expected = signature(SECRET, &again.scope, &again.text());
    assert_eq!(part(received.header("authorization"), "Signature="), expected);

    let other = ask(&world, signed(&request(&body), computed.token(), &computed.secret, "another body")).await;
    assert_eq!(other.code(), "signature_mismatch");
    let long = vec![b'x'; 1001];
    let long = ask(&world, signed(&request(&long), computed.token(), &computed.secret, long)).await;
    assert_eq!((long.status.as_u16(), long.code()), (413, "too_large"));
    assert_eq!(world.upstream.received().len(), 1);
}
