//! Refresh tokens that their server replaces each time.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use sallyport::app::{Node, NodeSettings};
use sallyport::model::{
    Cleartext, Destination, Environment, HostPattern, KeyId, KeyKind, ManualClock, OrgId, ProxyToken, Secret,
    TokenShape,
};
use sallyport::store::{Find, Settings, Store};
use sallyport::vault::key::{Key, KeyState, SealedVersion};
use serde_json::json;

use super::minted::{SECRET, TOKEN_PATH, access, call, clock, field, fresh, later, to_api, to_endpoint, world};
use crate::support::world::{Build, OTHER};
use crate::support::{Agent, Received, Reply, World, soon};

/// The refresh token with this number.
fn refresh(number: usize) -> String {
    format!("refresh-token/{number:04}+0123456789")
}

/// A server that takes each refresh token once, and remembers if an old one was shown again.
struct Server {
    number: usize,
    reused: bool,
    /// How long an access token lasts, in seconds.
    lasts: u64,
}

impl Server {
    fn new(lasts: u64) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self { number: 0, reused: false, lasts }))
    }

    fn answer(&mut self, received: &Received) -> Reply {
        if field(received, "refresh_token") != refresh(self.number) {
            self.reused = true;
            return Reply::text("{\"error\":\"invalid_grant\"}").status(400);
        }
        self.number += 1;
        let answer = json!({
            "access_token": access(self.number), "token_type": "Bearer", "expires_in": self.lasts,
            "refresh_token": refresh(self.number),
        });
        Reply::text(answer.to_string())
    }
}

fn strict(server: &Arc<Mutex<Server>>, clock: &Arc<ManualClock>) -> Build {
    let server = Arc::clone(server);
    world(move |_, received| server.lock().expect("not poisoned").answer(received)).clock(clock.clone())
}

/// How long an access token lasts.
const LASTS: Duration = Duration::from_secs(3);

fn document() -> String {
    json!({
        "token_url": format!("https://{OTHER}{TOKEN_PATH}"), "client_id": "me", "client_secret": SECRET,
        "refresh_token": refresh(0), "scopes": ["read"],
    })
    .to_string()
}

/// Stores a key, and waits until the node has it.
async fn stored(world: &World) -> Key {
    let shared = world.node.shared();
    let now = shared.clock.now();
    let key = Key {
        id: KeyId::generate(),
        org: OrgId::DEFAULT,
        project: world.key.project,
        environment: Environment::Development,
        name: "rotating".parse().expect("a name"),
        provider: "custom".parse().expect("a name"),
        kind: KeyKind::RefreshToken,
        token_endpoint: Some(format!("https://{OTHER}{TOKEN_PATH}").parse().expect("an endpoint")),
        destination: Destination {
            hosts: vec![HostPattern::parse(OTHER).expect("a host")],
            slots: KeyKind::RefreshToken.usual_slots(),
            cleartext: Cleartext::Never,
        },
        shape: TokenShape::default(),
        state: KeyState::Enabled,
        version: 1,
        given: 1,
        created_at: now,
        updated_at: now,
        expires_at: None,
    };
    let sealed = shared.vault.seal(&key, 1, &Secret::new(document().into_bytes())).expect("sealed");
    let batch = world.store.batch(OrgId::DEFAULT).at(now).insert(&key).insert(&sealed);
    let number = world.store.commit(batch).await.expect("stored");
    let mut reached = world.node.reached();
    soon("the node's memory", reached.wait_for(|at| *at >= number)).await.expect("it follows");
    key
}

fn token(node: &Node, key: &Key) -> ProxyToken {
    let keys = std::slice::from_ref(key);
    let hour = Duration::from_secs(3600);
    let started = node.start_session(None, Environment::Development, keys, hour).expect("a session");
    node.mint(&started, key).expect("a token").1
}

async fn versions(store: &Store, key: &Key) -> (u32, Vec<u32>) {
    let now: Key = store.get(OrgId::DEFAULT, key.id).await.expect("readable").expect("there");
    let find = Find::all().with("key_id", key.id);
    let all: Vec<SealedVersion> = store.find(OrgId::DEFAULT, find).await.expect("readable");
    let mut numbers: Vec<u32> = all.iter().map(|version| version.version).collect();
    numbers.sort_unstable();
    (now.version, numbers)
}

#[tokio::test]
async fn each_refresh_token_is_stored_as_a_version_before_its_access_token_is_used() {
    let (server, clock) = (Server::new(3), clock());
    let world = strict(&server, &clock).start().await;
    let key = stored(&world).await;
    let value = token(&world.node, &key);
    for _ in 0..5 {
        let answer = world.agent().ask(OTHER, call(value.expose())).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        later(&world, &clock, LASTS).await;
    }
    assert!(!server.lock().expect("not poisoned").reused);
    let (version, kept) = versions(&world.store, &key).await;
    let number = server.lock().expect("not poisoned").number;
    assert_eq!(version as usize, number + 1);
    assert_eq!(kept.len(), 3, "spent refresh tokens are removed: {kept:?}");
    assert_eq!(field(&to_endpoint(&world)[0], "client_secret"), "", "it is in the Authorization header");
    // A node that starts anew goes on with the last of them.
    let again = Node::start(&world.home, &world.store, settings(&world)).await.expect("a node");
    let value = token(&again, &key);
    let agent = Agent { proxy: again.forward.expect("it listens"), ..world.agent() };
    let answer = agent.ask(OTHER, call(value.expose())).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    again.stop(Duration::from_secs(5)).await;
    let real: Vec<_> = (0..=number + 1).map(refresh).collect();
    world.nothing_leaked(&[]).await;
    let emitted = crate::support::emitted::all();
    for secret in &real {
        assert_eq!(crate::support::emitted::find(&emitted, secret), None);
    }
}

/// What a second node needs to reach the same upstream.
fn settings(world: &World) -> NodeSettings {
    let root = world.home.dir().with_extension("pem");
    std::fs::write(&root, &world.upstream.ca_pem).expect("written");
    let mut settings = NodeSettings { extra_ca: vec![root], ..NodeSettings::default() };
    let authority = sallyport::model::Authority::parse(OTHER, 443).expect("an authority");
    settings.upstream.resolve.insert(authority, world.upstream.addr);
    settings
}

async fn two_nodes_share_one_refresh_token(store: Settings) {
    let (server, clock) = (Server::new(3), clock());
    let world = strict(&server, &clock).store(store).start().await;
    let key = stored(&world).await;
    let other = Node::start(&world.home, &world.store, settings(&world)).await.expect("a node");
    let (first, second) = (token(&world.node, &key), token(&other, &key));
    let here = world.agent();
    let there = Agent { proxy: other.forward.expect("it listens"), ..world.agent() };
    for _ in 0..4 {
        let asking = [(&here, &first), (&there, &second), (&here, &first), (&there, &second)];
        let asking: Vec<_> = asking
            .into_iter()
            .map(|(agent, value)| {
                let (agent, request) = (agent.clone(), call(value.expose()));
                tokio::spawn(async move { agent.ask(OTHER, request).await })
            })
            .collect();
        for asked in asking {
            let answer = asked.await.expect("joined");
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
        later(&world, &clock, LASTS).await;
        fresh(&other).await;
    }
    assert_eq!(server.lock().expect("not poisoned").number, 8, "each node has its own access tokens");
    assert!(!server.lock().expect("not poisoned").reused, "no refresh token was shown twice");
    assert_eq!(to_api(&world).len(), 16);
    other.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_on_one_sqlite_use_up_one_refresh_token_at_a_time() {
    two_nodes_share_one_refresh_token(Settings::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_on_one_postgres_use_up_one_refresh_token_at_a_time() {
    let Some(database) = crate::support::postgres::Database::fresh().await else { return };
    two_nodes_share_one_refresh_token(database.settings()).await;
}

#[tokio::test]
async fn key_in_memory_alone_rotates_there() {
    let (server, clock) = (Server::new(3), clock());
    let world = strict(&server, &clock).start().await;
    let key = super::Computed::add(&world, KeyKind::RefreshToken, &document());
    for number in 1..4 {
        let answer = world.agent().ask(OTHER, call(key.token())).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(server.lock().expect("not poisoned").number, number);
        later(&world, &clock, LASTS).await;
    }
    assert!(!server.lock().expect("not poisoned").reused);
}

#[tokio::test(flavor = "multi_thread")]
async fn access_token_of_one_node_outlasts_what_another_rotates() {
    let server = Server::new(3600);
    let world = strict(&server, &clock()).start().await;
    let key = stored(&world).await;
    let other = Node::start(&world.home, &world.store, settings(&world)).await.expect("a node");
    let (first, second) = (token(&world.node, &key), token(&other, &key));
    let there = Agent { proxy: other.forward.expect("it listens"), ..world.agent() };
    for _ in 0..4 {
        for (agent, value) in [(&world.agent(), &first), (&there, &second)] {
            let answer = agent.ask(OTHER, call(value.expose())).await;
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
    }
    assert_eq!(server.lock().expect("not poisoned").number, 2, "one for each node");
    other.stop(Duration::from_secs(5)).await;
}
