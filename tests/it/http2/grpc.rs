//! gRPC as its clients write it: calls, their trailers, and refusals that they can read.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Request;
use http_body_util::channel::Channel;
use http_body_util::{BodyExt as _, Full};

use crate::support::agent::whole;
use crate::support::world::{HOST, OTHER};
use crate::support::{Received, Reply, World, emitted, soon};

/// A message with its prefix: uncompressed, and its length.
fn message(text: &[u8]) -> Bytes {
    let length = u32::try_from(text.len()).expect("short").to_be_bytes();
    [&[0], &length[..], text].concat().into()
}

fn call<B>(world: &World, host: &str, body: B) -> Request<B> {
    let request = Request::post(format!("https://{host}/test.Talk/unary")).header("authorization", world.bearer());
    let request = request.header("content-type", "application/grpc+proto").header("te", "trailers");
    request.header("grpc-timeout", "99999999H").header("grpc-accept-encoding", "gzip").body(body).expect("a request")
}

fn key(received: &Received) -> String {
    received.header("authorization").to_owned()
}

#[tokio::test]
async fn call_passes_with_its_metadata_and_the_key_comes_back_in_none_of_it() {
    let world = World::build().answer(|r| {
        let reply = Reply::pieces([message(&r.body[5..]), message(key(r).as_bytes())]);
        let reply = reply.with("content-type", "application/grpc+proto").with("x-first", &key(r));
        let reply = reply.with("x-coded-bin", &STANDARD.encode(key(r))).trailer("grpc-status", "9");
        let message = format!("for {}", key(r).replace('%', "%25").replace(' ', "%20"));
        reply.trailer("grpc-message", &message).trailer("x-late-bin", &STANDARD.encode(format!("..{}", key(r))))
    });
    let world = world.start().await;
    let mut request = call(&world, HOST, Full::new(message(b"hello")));
    let inert = STANDARD.encode(world.token());
    request.headers_mut().insert("x-token-bin", inert.parse().expect("a value"));
    let answer = world.agent().http2(HOST).await.ask(request).await;
    let mask = format!("Bearer {}", "*".repeat(world.secret.len()));
    assert_eq!(answer.body, [message(b"hello"), message(mask.as_bytes())].concat());
    assert_eq!(answer.header("x-first"), mask);
    let trailers = answer.trailers.clone().expect("trailers");
    assert_eq!(trailers["grpc-status"], "9");
    assert_eq!(trailers["grpc-message"], format!("for Bearer%20{}", &mask[7..]));
    let received = world.upstream.only();
    assert_eq!(key(&received), format!("Bearer {}", world.secret));
    for (name, value) in [("te", "trailers"), ("grpc-timeout", "99999999H"), ("x-token-bin", &inert)] {
        assert_eq!(received.header(name), value, "{name}");
    }
    for name in ["x-coded-bin", "x-late-bin"] {
        let value = answer.headers.get(name).or(trailers.get(name)).expect("it came").as_bytes();
        assert!(value.windows(3).any(|w| w == b"***"), "{name}: {value:?}");
        let readable = STANDARD.decode(value).unwrap_or_default();
        assert_eq!(emitted::find(&readable, &world.secret), None, "{name}");
    }
    world.nothing_leaked(&[answer]).await;
}

#[tokio::test]
async fn failure_without_any_message_passes() {
    let failed = |_: &_| {
        let reply = Reply::pieces(Vec::<Bytes>::new()).with("content-type", "application/grpc");
        reply.with("grpc-status", "5").with("grpc-message", "no such thing")
    };
    let world = World::build().answer(failed).start().await;
    let answer = world.agent().http2(HOST).await.ask(call(&world, HOST, Full::new(message(b"")))).await;
    assert_eq!((answer.status.as_u16(), answer.header("grpc-status"), answer.body.len()), (200, "5", 0));
    assert_eq!(answer.header("grpc-message"), "no such thing");
}

#[tokio::test]
async fn refusal_stands_where_clients_look_for_it() {
    let world = World::start().await;
    for (host, authorization, code, status) in [
        (HOST, "Bearer sk-a-stray-real-key".to_owned(), "credential_unregistered", "7"),
        (OTHER, world.bearer(), "host_not_allowed", "7"),
    ] {
        let mut request = call(&world, host, Full::new(message(b"x")));
        request.headers_mut().insert("authorization", authorization.parse().expect("a value"));
        let answer = world.agent().http2(host).await.ask(request).await;
        assert_eq!((answer.status.as_u16(), answer.code(), answer.header("grpc-status")), (200, code, status));
        assert!(answer.header("grpc-message").starts_with(code), "{answer:?}");
        assert!(answer.body.is_empty() && answer.whole && answer.header("content-type") == "application/grpc");
    }
    // The record says what it was.
    assert!(world.upstream.received().is_empty());
    let denied = world.stopped("denied").await;
    assert_eq!(denied.len(), 2, "{denied:?}");
}

#[tokio::test]
async fn message_of_two_gigabytes_is_announced_and_nothing_is_set_aside_for_it() {
    let world = World::build().streaming(|request: Request<hyper::body::Incoming>| async move {
        let mut body = request.into_body();
        let first = body.frame().await.expect("a frame").expect("whole").into_data().expect("data");
        http::Response::new(Full::new(first).map_err(|never| match never {}).boxed_unsync())
    });
    let world = world.start().await;
    let (mut send, body) = Channel::<Bytes>::new(1);
    send.send_data(Bytes::from_static(&[0, 0x7f, 0xff, 0xff, 0xff, b'x'])).await.expect("sent");
    let mut agent = world.agent().http2(HOST).await;
    let reply = soon("a reply", agent.send(call(&world, HOST, body))).await.expect("an answer");
    assert_eq!(whole(reply).await.body, &[0, 0x7f, 0xff, 0xff, 0xff, b'x'][..], "its beginning has arrived");
    drop(send);
}
