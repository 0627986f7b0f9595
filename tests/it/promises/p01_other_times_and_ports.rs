//! 1. The agent never sees a key: neither later nor through another port.

use std::sync::Mutex;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use sallyport::model::{Authority, Cleartext, Destination, HostPattern, Secret};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::world::{HOST, OTHER};
use crate::support::{Reply, World, emitted};

const LATER: &str = "sk-stored-afterwards-7c";

fn bind(world: &World, host: &str) {
    let destination = Destination {
        hosts: vec![HostPattern::parse(host).expect("a host")],
        slots: world.key.destination.slots.clone(),
        cleartext: Cleartext::Never,
    };
    let secret = Secret::new(LATER.as_bytes().to_vec());
    let name = "later".parse().expect("a name");
    let shape = world.key.shape.clone();
    let (provider, environment) = (&world.key.provider, world.key.environment);
    world.node.add_key(&name, provider, environment, destination, shape, &secret).expect("a key");
}

fn once(reply: Reply) -> impl Fn(&crate::support::Received) -> Reply + Send + Sync {
    let reply = Mutex::new(Some(reply));
    move |_| reply.lock().expect("not poisoned").take().expect("one request")
}

fn plain(host: &str) -> Request<Full<Bytes>> {
    Request::get("/").header("host", host).body(Full::default()).expect("a request")
}

#[tokio::test]
async fn reply_that_began_before_a_key_was_stored_is_searched_for_it() {
    for host in [HOST, OTHER] {
        let (send, reply) = Reply::live();
        let names = format!("{HOST},{OTHER}");
        let world = World::build().upstream(|u| u.host = names).answer(once(reply)).start().await;
        let request = if host == HOST { world.get("/") } else { plain(host) };
        let mut response = world.agent().http1(host).await.send(request).await.expect("an answer");
        send.send("sk-sto".into()).await.expect("sent");
        if host == OTHER {
            response.body_mut().frame().await.expect("a frame").expect("whole");
        }
        bind(&world, host);
        send.send(format!("a {LATER} b").into()).await.expect("sent");
        drop(send);
        let rest = response.into_body().collect().await.expect("whole").to_bytes();
        assert_eq!(emitted::find(&rest, LATER), None, "{host}");
        assert!(rest.ends_with(format!("a {} b", "*".repeat(LATER.len())).as_bytes()), "{host}: {rest:?}");
    }
}

#[tokio::test]
async fn reply_that_is_coded_ends_where_a_key_is_bound_to_its_host() {
    let (send, reply) = Reply::live();
    let answer = once(reply.with("content-encoding", "gzip"));
    let world = World::build().upstream(|u| u.host = OTHER.to_owned()).answer(answer).start().await;
    let mut response = world.agent().http1(OTHER).await.send(plain(OTHER)).await.expect("an answer");
    send.send("coded".into()).await.expect("sent");
    response.body_mut().frame().await.expect("a frame").expect("whole");
    bind(&world, OTHER);
    send.send("what can't be searched".into()).await.expect("sent");
    let last = response.body_mut().frame().await;
    assert!(matches!(last, Some(Err(_))), "{last:?}");
}

#[tokio::test]
async fn key_is_masked_on_every_port_of_its_host() {
    let world = World::build()
        .answer(|_| Reply::text(format!("stored: {LATER}")))
        .settings(|settings| {
            let pins = &mut settings.upstream.resolve;
            let here = pins[&Authority::parse(HOST, 443).expect("an authority")];
            pins.insert(Authority::parse(HOST, 8443).expect("an authority"), here);
        })
        .start()
        .await;
    bind(&world, HOST);
    let authority = format!("{HOST}:8443");
    let stream = world.agent().tls(&authority, HOST, &[b"http/1.1"]).await;
    let answer = crate::support::agent::http1_on(stream).await.ask(plain(&authority)).await;
    assert_eq!(answer.text(), format!("stored: {}", "*".repeat(LATER.len())));
}

#[tokio::test]
async fn key_is_masked_in_clear_text_of_its_host() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let here = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let _ = stream.read(&mut [0; 4096]).await;
        let reply = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{LATER}", LATER.len());
        stream.write_all(reply.as_bytes()).await.expect("written");
    });
    let world = World::build()
        .settings(move |settings| {
            settings.upstream.resolve.insert(Authority::parse(HOST, 80).expect("an authority"), here);
        })
        .start()
        .await;
    bind(&world, HOST);
    let mut agent = world.agent().bare().await;
    agent.send(format!("GET http://{HOST}/ HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n")).await;
    let got = agent.rest().await;
    assert!(String::from_utf8_lossy(&got).contains("***"), "{}", String::from_utf8_lossy(&got));
    assert_eq!(emitted::find(&got, LATER), None);
}
