//! Every template of a service, through the proxy and through its gateway route: the key arrives in
//! each slot at each host, and nowhere else.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use sallyport::app::Started;
use sallyport::model::{Authority, BaseUrl, Destination, Environment, KeyKind, Secret};
use sallyport::providers::{Library, Provider};
use sallyport::vault::key::Key;
use tokio::net::TcpStream;

use crate::support::Reply;
use crate::support::agent::{Sender, basic, http1_on};
use crate::support::binary::{Place, Serve};
use crate::support::upstream::{Setup, Upstream};
use crate::support::world::{HOST, OTHER};
use crate::support::{Received, World};

const SECRET: &str = "a-real-key-0123456789abcdef";

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

/// A request's parts with the credential in the slot: the path behind `before`, and a header.
fn with(slot: &str, before: &str, credential: &str) -> (String, Option<(String, String)>) {
    let header = |name: &str, value: String| (format!("{before}/v1/x?q=1"), Some((name.to_owned(), value)));
    match slot.split_once(':') {
        None if slot == "bearer" => header("authorization", format!("Bearer {credential}")),
        Some(("header", name)) => match name.split_once('=') {
            Some((name, template)) => header(name, template.replace("{}", credential)),
            None => header(name, credential.to_owned()),
        },
        Some(("query", name)) => (format!("{before}/v1/x?q=1&{name}={credential}"), None),
        Some(("path", template)) => (format!("{before}{}/v1/x", template.replace("{}", credential)), None),
        Some(("basic", "user")) => header("authorization", basic(credential, "x")),
        Some(("basic", "password")) => header("authorization", basic("x", credential)),
        _ => panic!("a slot that this test doesn't know: {slot}"),
    }
}

fn request(host: &str, slot: &str, before: &str, token: &str) -> Request<Full<Bytes>> {
    let (path, header) = with(slot, before, token);
    let mut request = Request::get(path).header("host", host);
    if let Some((name, value)) = header {
        request = request.header(name, value);
    }
    request.body(Full::default()).expect("a request")
}

/// Whether what the upstream received holds the real key in the slot, and the token nowhere.
fn arrived(what: &str, received: &Received, slot: &str, before: &str, token: &str) {
    let (path, header) = with(slot, before, SECRET);
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
                let answer = sender.ask(request(&named, &slot, "", &token)).await;
                assert_eq!(answer.status, 200, "{what}: {}", answer.text());
                let received = world.upstream.received().pop().expect("received");
                assert_eq!(received.authority, named, "{what}");
                arrived(&what, &received, &slot, "", &token);
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
        let answer = sender.ask(request("127.0.0.1", &slot, &format!("/{}", provider.name), &token)).await;
        assert_eq!(answer.status, 200, "{}: {}", provider.name, answer.text());
        let received = world.upstream.received().pop().expect("received");
        assert_eq!(received.authority, base.authority.host.to_string(), "{}", provider.name);
        arrived(provider.name.as_str(), &received, &slot, &base.path, &token);
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
        // In a path or a query of a host that has no slot there, a token is text.
        for slot in key.destination.slots.iter().filter(|slot| slot.header().is_some()) {
            let answer = sender.ask(request(OTHER, &slot.to_string(), "", &token)).await;
            assert_eq!(answer.code(), "host_not_allowed", "{} {slot}: {}", provider.name, answer.text());
        }
    }
    assert!(world.upstream.received().is_empty());
}

/// What `keys validate` says, with a service that answers so.
fn validated(place: &Place, configuration: &std::path::Path, key: &str) -> serde_json::Value {
    let file = configuration.to_str().expect("text");
    let output = place.run(&["keys", "validate", key, "--json", "--config", file]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!text.contains("sk-proj-real"), "{text}");
    let found: serde_json::Value = serde_json::from_str(&text)
        .unwrap_or_else(|why| panic!("{why}: {text}{}", String::from_utf8_lossy(&output.stderr)));
    assert_eq!(output.status.success(), found["result"] == "valid", "{found}");
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn key_is_validated_by_its_service_through_the_data_path() {
    const REAL: &str = "sk-proj-real-0123456789abcdef";
    let setup = Setup { host: "api.openai.com,slack.com".to_owned(), ..Setup::default() };
    let upstream = Upstream::start(
        &setup,
        Arc::new(|received: &Received| match (received.path.as_str(), received.header("authorization")) {
            ("/v1/models", auth) if auth == format!("Bearer {REAL}") => {
                Reply::text(format!("{{\"you_sent\":\"{REAL}\"}}"))
            }
            ("/api/auth.test", _) => Reply::text("{\"ok\":false,\"error\":\"invalid_auth\"}"),
            _ => Reply::text("no").status(401),
        }),
    )
    .await;
    tokio::task::spawn_blocking(move || {
        let place = Place::new();
        place.ok(&["init"]);
        place.add_key(&["openai"], REAL);
        place.add_key(&["wrong", "--provider", "openai"], "sk-proj-wrong-0123456789");
        place.add_key(&["slack"], "xoxb-0123456789");
        place.add_key(&["unknown", "--host", "a.test"], "a-key-of-nobody");
        let ca = place.data.with_extension("pem");
        std::fs::write(&ca, &upstream.ca_pem).expect("written");
        let file = place.data.with_extension("yaml");
        let pins = |at: &str| format!("\"api.openai.com:443\": \"{at}\", \"slack.com:443\": \"{at}\"");
        let write = |at: &str| {
            let text = format!("upstream: {{ extra_ca: [{ca:?}], resolve: {{ {} }} }}\n", pins(at));
            std::fs::write(&file, text).expect("written");
        };
        write(&upstream.addr.to_string());
        let found = validated(&place, &file, "openai");
        assert_eq!((&found["result"], &found["status"]), (&"valid".into(), &200.into()));
        assert_eq!(validated(&place, &file, "wrong")["result"], "refused");
        assert_eq!(validated(&place, &file, "slack")["result"], "refused", "its body says so");
        let said = place.fails(&["keys", "validate", "unknown"]);
        assert!(said.contains("no call is known"), "{said}");
        let intents = place.ok(&["audit", "query", "--kind", "intent"]);
        assert_eq!(intents.lines().count(), 3, "each use of a key is recorded: {intents}");

        let policy = "version: 1\nname: no-models\nrules: [{ name: none, deny: { paths: [\"/v1/models\"] } }]\n";
        std::fs::write(place.data.join("policies/no.yaml"), policy).expect("written");
        assert_eq!(validated(&place, &file, "openai")["result"], "not_permitted");
        std::fs::remove_file(place.data.join("policies/no.yaml")).expect("removed");
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
        write(&nobody.to_string());
        assert_eq!(validated(&place, &file, "openai")["result"], "unreachable");

        // A running node makes the call by itself.
        let pins = pins(&upstream.addr.to_string());
        let serve = Serve::start(&place, &format!("upstream: {{ extra_ca: [{ca:?}], resolve: {{ {pins} }} }}\n"));
        assert_eq!(place.json(&["keys", "validate", "openai"])["result"], "valid");
        assert_eq!(serve.stop(), Some(0));
        place.ok(&["audit", "verify"]);
    })
    .await
    .expect("joined");
}
