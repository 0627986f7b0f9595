//! 1. The agent never sees a key: in places that are easily forgotten.

use bytes::Bytes;
use http::HeaderName;
use http_body_util::Full;
use sallyport::model::Secret;

use crate::support::world::HOST;
use crate::support::{Raw, World};

/// A key of the same host that this request doesn't inject: small letters, so that it can be a name.
const STORED: &str = "sk-stored-elsewhere-9f";

fn store(world: &World) {
    let (provider, destination) = (&world.key.provider, world.key.destination.clone());
    let stored = Secret::new(STORED.as_bytes().to_vec());
    let name = "other_key".parse().expect("a name");
    let shape = world.key.shape.clone();
    world.node.add_key(&name, provider, world.key.environment, destination, shape, &stored).expect("a key");
}

#[tokio::test]
async fn key_is_no_name_of_a_field_or_trailer() {
    for protocol in ["h2", "http/1.1"] {
        let world = World::build().upstream(|u| u.alpn = vec![protocol]).answer(|_| {
            let mut reply = crate::support::Reply::text("x").with("x-kept", "1").trailer("x-late", "1");
            let name = HeaderName::from_static(STORED);
            reply.headers.insert(name.clone(), "1".parse().expect("a value"));
            reply.headers.insert("trailer", format!("x-late, {STORED}").parse().expect("a value"));
            if let crate::support::upstream::Body::Pieces(_, Some(trailers)) = &mut reply.body {
                trailers.insert(name, "1".parse().expect("a value"));
            }
            reply
        });
        let world = world.start().await;
        store(&world);
        let mut http1 = world.agent().http1::<Full<Bytes>>(HOST).await;
        let mut with_te = world.get("/");
        with_te.headers_mut().insert("te", "trailers".parse().expect("a value"));
        let mut http2 = world.agent().http2(HOST).await;
        for answer in [http1.ask(with_te).await, http2.ask(world.get2("/")).await] {
            assert_eq!((answer.status.as_u16(), answer.header("x-kept")), (200, "1"), "{protocol}");
            let all = format!("{:?} {:?}", answer.headers, answer.trailers);
            assert!(!all.contains(STORED), "{protocol}: {all}");
        }
    }
}

#[tokio::test]
async fn reply_coded_beneath_its_chunks_is_refused() {
    // The compressed text can't be searched, and nothing would say any more that it is compressed.
    let script = |mut raw: Raw, _| async move {
        raw.head().await;
        raw.send("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n4\r\n\x1f\x0b\x08x\r\n0\r\n\r\n").await;
        raw.rest().await;
    };
    let world = World::build().script(script).start().await;
    let answer = world.agent().ask(HOST, world.get("/")).await;
    assert_eq!((answer.status.as_u16(), answer.code()), (502, "upstream_unreachable"));
}

#[tokio::test]
async fn part_of_a_reply_is_not_asked_for() {
    let world = World::start().await;
    let mut request = world.get("/");
    for (name, value) in [("range", "bytes=0-9"), ("if-range", "\"x\""), ("accept-encoding", "gzip, br")] {
        request.headers_mut().insert(name, value.parse().expect("a value"));
    }
    assert_eq!(world.agent().ask(HOST, request).await.status, 200);
    let received = world.upstream.only();
    assert_eq!((received.header("range"), received.header("if-range")), ("", ""));
    assert_eq!(received.header("accept-encoding"), "gzip, br");
}
