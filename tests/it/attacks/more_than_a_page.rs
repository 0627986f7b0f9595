//! Lists that are longer than a page of the store are worked on to their end.

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use sallyport::config::Config;
use sallyport::model::{OrgId, Secret, SessionId, ToolId};
use sallyport::session::records::{Session, Standing, Tool};
use sallyport::store::{Find, Record, Store};
use sallyport::vault::Vault;
use sallyport::vault::key::{Key, SealedVersion};
use serde_json::json;

use crate::support::door::{Door, text};
use crate::support::world::HOST;
use crate::support::{Answer, World, soon};

const ORG: OrgId = OrgId::DEFAULT;

/// All of them, page by page.
async fn all<R: Record>(store: &Store, wanted: impl Fn() -> Find) -> Vec<R> {
    let mut all: Vec<R> = Vec::new();
    loop {
        let page = store.find(ORG, wanted().after(all.last().map(Record::row_id))).await.expect("read");
        if page.is_empty() {
            return all;
        }
        all.extend(page);
    }
}

async fn named<R: Record>(store: &Store, name: &str) -> R {
    store.find(ORG, Find::all().with("name", name)).await.expect("read").pop().expect("it is there")
}

fn with(token: &str) -> Request<Full<Bytes>> {
    let request = Request::get("/").header("host", HOST).header("authorization", format!("Bearer {token}"));
    request.body(Full::new(Bytes::new())).expect("a request")
}

/// Asks with a token until the answer is as wanted.
async fn until(world: &World, token: &str, what: &str, wanted: impl Fn(&Answer) -> bool) {
    let asking = async {
        loop {
            // What is waited for may cut an exchange of this very loop.
            if world.agent().try_ask(HOST, with(token)).await.is_some_and(|answer| wanted(&answer)) {
                return;
            }
        }
    };
    soon(what, asking).await;
}

#[tokio::test]
async fn disabled_tool_has_no_session_left_and_gets_no_token() {
    let world = World::start().await;
    let door = Door::open(&world.home, &Config::default()).await;
    let key = json!({"name": "stored", "value": "sk-stored-0123456789", "hosts": [HOST]});
    door.call("POST", "/api/v1/api-keys", &key).await;
    door.call("POST", "/api/v1/mcp/tools", &json!({"name": "worker", "keys": ["*"]})).await;
    let start = json!({"tool": "worker", "keys": ["stored"]});
    let first = text(&door.call("POST", "/api/v1/mcp/sessions", &start).await, "id");
    let mint = |session: &str| format!("/api/v1/mcp/sessions/{session}/keys/stored/proxy-token");
    let token = text(&door.call("POST", &mint(&first), &json!({})).await, "value");
    until(&world, &token, "the token", |answer| answer.status == 200).await;
    let tool: Tool = named(&world.store, "worker").await;
    // One of the same name, as another project may have it, is another.
    let namesake = Tool { id: ToolId::generate(), enabled: false, ..tool.clone() };
    world.node.shared().registry.put_tool(&namesake);
    let answer = world.agent().ask(HOST, with(&token)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let one: Session = world.store.get(ORG, &first).await.expect("read").expect("it is there");
    let more = (0..1100).map(|_| Session { id: SessionId::generate(), ..one.clone() });
    let batch = more.fold(world.store.batch(ORG), |batch, session| batch.insert(&session));
    world.store.commit(batch).await.expect("committed");

    door.call("PUT", "/api/v1/mcp/tools/worker", &json!({"enabled": false})).await;
    let sessions: Vec<Session> = all(&world.store, || Find::all().with("tool_id", tool.id)).await;
    assert_eq!(sessions.len(), 1101);
    assert_eq!(sessions.iter().filter(|s| s.standing == Standing::Active).count(), 0);
    until(&world, &token, "the end of the token", |answer| answer.code() == "session_revoked").await;
    for session in [&first, &sessions.last().expect("many").id.to_string()] {
        let (status, why) = door.ask("POST", &mint(session), &json!({})).await;
        assert_eq!((status, text(&why, "detail").as_str()), (409, "the session is revoked"));
    }
    // One that another node started at that very moment has no use of it either.
    let late = Session { id: SessionId::generate(), standing: Standing::Active, ..one.clone() };
    world.store.commit(world.store.batch(ORG).insert(&late)).await.expect("committed");
    let (status, why) = door.ask("POST", &mint(&late.id.to_string()), &json!({})).await;
    assert_eq!((status, text(&why, "detail").as_str()), (409, "the session's tool is disabled"));
    let (status, why) = door.ask("POST", "/api/v1/mcp/sessions", &start).await;
    assert_eq!((status, text(&why, "detail").as_str()), (409, "the tool is disabled"));
    // What has ended doesn't come back with the tool.
    door.call("PUT", "/api/v1/mcp/tools/worker", &json!({"enabled": true})).await;
    assert_eq!(door.ask("POST", &mint(&first), &json!({})).await.0, 409);
    until(&world, &token, "the answer", |answer| answer.code() == "session_revoked").await;
}

#[tokio::test]
async fn key_of_many_versions_is_sealed_anew_with_all_of_them() {
    const VERSIONS: u32 = 1050;
    let world = World::start().await;
    let door = Door::open(&world.home, &Config::default()).await;
    let key = json!({"name": "stored", "value": "sk-stored-0123456789", "hosts": [HOST]});
    door.call("POST", "/api/v1/api-keys", &key).await;
    let before: Key = named(&world.store, "stored").await;
    let vault = Vault::new(std::sync::Arc::clone(world.home.keyring()), std::sync::Arc::clone(world.home.clock()));
    let secret = |version: u32| format!("sk-version-{version:04}-0123456789");
    let mut batch = world.store.batch(ORG);
    for version in 2..=VERSIONS {
        let bytes = Secret::new(secret(version).into_bytes());
        batch = batch.insert(&vault.seal(&before, version, &bytes).expect("sealed"));
    }
    batch = batch.update(&before, &Key { version: VERSIONS, ..before.clone() });
    world.store.commit(batch).await.expect("committed");

    door.call("PUT", "/api/v1/api-keys/stored", &json!({"hosts": [HOST, "second.upstream.test"]})).await;
    let after: Key = named(&world.store, "stored").await;
    assert_eq!((after.destination.hosts.len(), after.version), (2, VERSIONS));
    let versions: Vec<SealedVersion> = all(&world.store, || Find::all().with("key_id", after.id)).await;
    assert_eq!(versions.len(), VERSIONS as usize);
    for version in &versions {
        // Each opens for the key as it is now, and no more for the key as it was.
        let (now, then) = (Key { version: version.version, ..after.clone() }, Key { ..before.clone() });
        assert!(vault.load_all(&now, std::slice::from_ref(version)).is_ok(), "version {}", version.version);
        let then = Key { version: version.version, ..then };
        assert!(vault.load_all(&then, std::slice::from_ref(version)).is_err(), "version {}", version.version);
    }
    let session = text(&door.call("POST", "/api/v1/mcp/sessions", &json!({"keys": ["stored"]})).await, "id");
    let mint = format!("/api/v1/mcp/sessions/{session}/keys/stored/proxy-token");
    let token = text(&door.call("POST", &mint, &json!({})).await, "value");
    until(&world, &token, "the token", |answer| answer.status == 200).await;
    let received = world.upstream.received().pop().expect("received");
    assert_eq!(received.header("authorization"), format!("Bearer {}", secret(VERSIONS)));
}
