//! Rows that were removed while a node could not hear of it: what they stood for doesn't live on in
//! its memory.

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use sallyport::config::Config;
use sallyport::model::OrgId;
use sallyport::store::Settings;
use serde_json::json;
use sqlx::{Connection as _, SqliteConnection};

use crate::support::door::{Door, text};
use crate::support::postgres::Database;
use crate::support::world::HOST;
use crate::support::{Answer, World, soon};

/// A token as the API minted it.
struct Minted {
    session: String,
    id: String,
    value: String,
}

async fn mint(door: &Door, key: &str) -> Minted {
    let session = text(&door.call("POST", "/api/v1/mcp/sessions", &json!({"keys": [key]})).await, "id");
    let path = format!("/api/v1/mcp/sessions/{session}/keys/{key}/proxy-token");
    let token = door.call("POST", &path, &json!({})).await;
    Minted { session, id: text(&token, "id"), value: text(&token, "value") }
}

async fn ask(world: &World, minted: &Minted) -> Option<Answer> {
    let request = Request::get("/").header("host", HOST).header("authorization", format!("Bearer {}", minted.value));
    world.agent().try_ask(HOST, request.body(Full::new(Bytes::new())).expect("a request")).await
}

async fn until(world: &World, minted: &Minted, code: &'static str) {
    let asking = async {
        // What ends may end an exchange of this very loop.
        while ask(world, minted).await.is_none_or(|answer| answer.code() != code) {
            tokio::task::yield_now().await;
        }
    };
    soon(code, asking).await;
}

/// `remove` takes what these statements name out of the database, and the changes that tell of it.
async fn gone(store: Settings, remove: impl AsyncFnOnce(&World, [String; 3])) {
    let world = World::build().store(store.clone()).start().await;
    let door = Door::open(&world.home, &Config { store, ..Config::default() }).await;
    for name in ["kept", "lost"] {
        let key = json!({"name": name, "value": format!("sk-{name}-0123456789"), "hosts": [HOST]});
        door.call("POST", "/api/v1/api-keys", &key).await;
    }
    let kept = mint(&door, "kept").await;
    let (of_session, of_token, of_key) =
        (mint(&door, "kept").await, mint(&door, "kept").await, mint(&door, "lost").await);
    for minted in [&kept, &of_session, &of_token, &of_key] {
        until(&world, minted, "").await;
    }
    remove(
        &world,
        [
            format!("delete from sessions where id = '{}'", of_session.session),
            format!("delete from tokens where id = '{}'", of_token.id),
            "delete from keys where name = 'lost'".to_owned(),
        ],
    )
    .await;
    until(&world, &of_session, "session_revoked").await;
    until(&world, &of_token, "token_revoked").await;
    // A key takes its tokens along.
    until(&world, &of_key, "token_revoked").await;
    assert!(ask(&world, &kept).await.is_some_and(|answer| answer.status == 200), "what is there stays");
    // What comes later is heard of again.
    until(&world, &mint(&door, "kept").await, "").await;
}

#[tokio::test]
async fn what_is_gone_from_sqlite_behind_a_gap_ends() {
    gone(Settings::default(), async |world, statements| {
        let file = world.home.dir().join("sallyport.db");
        let mut database = SqliteConnection::connect(&format!("sqlite:{}", file.display())).await.expect("open");
        let all = format!(
            "pragma foreign_keys = on; begin immediate; {}; delete from changes; \
             update change_counter set number = number + 9, pruned = number + 9; commit;",
            statements.join("; ")
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(all)).execute(&mut database).await.expect("done");
    })
    .await;
}

#[tokio::test]
async fn what_is_gone_from_postgresql_behind_a_gap_ends() {
    let Some(database) = Database::fresh().await else { return };
    gone(database.settings(), async |_, statements| {
        let org = OrgId::DEFAULT;
        let all = format!(
            "begin; set local role sallyport_app; set local sallyport.org = '{org}'; {}; \
             set local role sallyport_feed; delete from changes; \
             update change_counter set number = number + 9, pruned = number + 9; commit",
            statements.join("; ")
        );
        database.sql(&all).await;
    })
    .await;
}
