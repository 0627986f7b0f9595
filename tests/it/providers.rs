//! Every template of a service, through the proxy and through its gateway route: the key arrives in
//! each slot at each host, and nowhere else.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use sallyport::app::Started;
use sallyport::model::{Authority, BaseUrl, Destination, Environment, KeyKind, Secret};
use sallyport::providers::{Library, Provider};
use sallyport::vault::key::Key;
use tokio::net::TcpStream;

use crate::support::agent::{Sender, basic, http1_on};
use crate::support::world::{HOST, OTHER};
use crate::support::{Received, World};

const SECRET: &str = "a-real-key-0123456789/+x";

/// The templates that have a key which is put in as it is.
fn keyed() -> Vec<Provider> {
    let library = Library::bundled(std::path::Path::new("/nowhere"));
    library.current().iter().filter(|p| !p.env.is_empty() && p.kind == KeyKind::Secret).cloned().collect()
}

/// Where the key may go; services that everybody has elsewhere are at their example's address.
fn destination(provider: &Provider) -> Destination {
    let own = provider.example.as_ref().map(|text| BaseUrl::parse(&text.to_ascii_lowercase()).expect("an address"));
    provider.destination(own.as_ref()).expect("a destination")
}

/// A host that the pattern means.
fn one_of(pattern: &str) -> Authority {
    let name = match (pattern.strip_prefix("**."), pattern.strip_prefix("*.")) {
        (Some(rest), _) => format!("a.b.{rest}"),
        (_, Some(rest)) => format!("a.{rest}"),
        _ => pattern.to_owned(),
    };
    Authority::parse(&name, 443).expect("an authority")
}

fn places(destination: &Destination) -> Vec<Authority> {
    destination.hosts.iter().map(|pattern| one_of(&pattern.to_string())).collect()
}

/// A world in which one upstream stands in for every service.
async fn world() -> World {
    let mut all: Vec<_> = keyed().iter().flat_map(|p| places(&destination(p))).collect();
    all.extend(keyed().into_iter().filter_map(|p| Some(p.base?.authority)));
    let mut names: Vec<_> = all.iter().map(|a| a.host.to_string()).collect();
    names.extend([HOST.to_owned(), OTHER.to_owned()]);
    names.sort();
    names.dedup();
    let world = World::build().upstream(move |setup| setup.host = names.join(","));
    world
        .settings_of(move |settings, upstream| {
            settings.gateway = Some(([127, 0, 0, 1], 0).into());
            settings.upstream.resolve.extend(all.iter().map(|authority| (authority.clone(), upstream)));
        })
        .start()
        .await
}

/// A key of the service, a session that may use it, and a token.
fn key_of(world: &World, provider: &Provider) -> (Key, Started, String) {
    let secret = Secret::new(SECRET.as_bytes().to_vec());
    let name = &provider.name;
    let key = world
        .node
        .add_key(name, name, Environment::Development, destination(provider), provider.shape.clone(), &secret)
        .expect("a key");
    let hour = Duration::from_secs(3600);
    let started =
        world.node.start_session(None, Environment::Development, std::slice::from_ref(&key), hour).expect("a session");
    let (_, token) = world.node.mint(&started, &key).expect("a token");
    (key, started, token.expose().to_owned())
}

/// A request's parts with the credential in the slot: the path, and a header.
fn with(slot: &str, path: &str, credential: &str) -> (String, Option<(String, String)>) {
    let header = |name: &str, value: String| (path.to_owned(), Some((name.to_owned(), value)));
    match slot.split_once(':') {
        None if slot == "bearer" => header("authorization", format!("Bearer {credential}")),
        Some(("header", name)) => header(name, credential.to_owned()),
        Some(("basic", "user")) => header("authorization", basic(credential, "x")),
        Some(("basic", "password")) => header("authorization", basic("x", credential)),
        _ => panic!("a slot that this test doesn't know: {slot}"),
    }
}

fn request(host: &str, slot: &str, path: &str, token: &str) -> Request<Full<Bytes>> {
    let (path, header) = with(slot, path, token);
    let mut request = Request::get(path).header("host", host);
    if let Some((name, value)) = header {
        request = request.header(name, value);
    }
    request.body(Full::default()).expect("a request")
}

/// Whether what the upstream received holds the real key in the slot, and the token nowhere.
fn arrived(what: &str, received: &Received, slot: &str, path: &str, token: &str) {
    let (path, header) = with(slot, path, SECRET);
    assert_eq!(received.path, path, "{what}");
    if let Some((name, value)) = header {
        assert_eq!(received.header(&name), value, "{what}");
    }
    assert!(!format!("{received:?}").contains(token), "{what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn key_of_every_service_arrives_in_every_slot_at_every_host() {
    let world = world().await;
    let agent = world.agent();
    for provider in keyed() {
        let (key, started, token) = key_of(&world, &provider);
        assert!(token.starts_with(&provider.shape.prefix), "{}", provider.name);
        for authority in places(&key.destination) {
            let host = authority.host.to_string();
            let stream = agent.tls(&authority.to_string(), &host, &[b"http/1.1"]).await;
            let mut sender: Sender<Full<Bytes>> = http1_on(stream).await;
            let named = if authority.port == 443 { host } else { authority.to_string() };
            for slot in &key.destination.slots {
                let (slot, what) = (slot.to_string(), format!("{} {slot} at {authority}", provider.name));
                let answer = sender.ask(request(&named, &slot, "/v1/x", &token)).await;
                assert_eq!(answer.status, 200, "{what}: {}", answer.text());
                let received = world.upstream.received().pop().expect("received");
                assert_eq!(received.authority, named, "{what}");
                arrived(&what, &received, &slot, "/v1/x", &token);
            }
        }
        // Two services may share a host; the next one has it for itself.
        world.node.revoke_session(&started.session, "test");
        world.node.set_key_state(&key, sallyport::vault::key::KeyState::Disabled);
    }
    world.nothing_leaked(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn gateway_route_of_every_service_leads_to_its_base_with_the_key() {
    let world = world().await;
    let stream = TcpStream::connect(world.node.gateway.expect("it listens")).await.expect("connected");
    let mut sender: Sender<Full<Bytes>> = http1_on(stream).await;
    let mut routes = 0;
    for provider in keyed() {
        let Some(base) = &provider.base else { continue };
        let (key, _, token) = key_of(&world, &provider);
        let slot = key.destination.slots[0].to_string();
        let answer = sender.ask(request("127.0.0.1", &slot, &format!("/{}/v1/x?q=1", provider.name), &token)).await;
        assert_eq!(answer.status, 200, "{}: {}", provider.name, answer.text());
        let received = world.upstream.received().pop().expect("received");
        assert_eq!(received.authority, base.authority.host.to_string(), "{}", provider.name);
        arrived(provider.name.as_str(), &received, &slot, &format!("{}/v1/x?q=1", base.path), &token);
        routes += 1;
    }
    assert!(routes >= 65, "{routes}");
    world.nothing_leaked(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn token_of_every_service_is_refused_at_a_host_that_is_not_its_own() {
    let world = world().await;
    let mut sender: Sender<Full<Bytes>> = world.agent().http1(OTHER).await;
    for provider in keyed() {
        let (key, _, token) = key_of(&world, &provider);
        for slot in &key.destination.slots {
            let answer = sender.ask(request(OTHER, &slot.to_string(), "/v1/x", &token)).await;
            assert_eq!(answer.code(), "host_not_allowed", "{} {slot}: {}", provider.name, answer.text());
        }
    }
    assert!(world.upstream.received().is_empty());
}
