//! 7. Nothing at rest in clear.

use std::sync::Arc;

use sallyport::app::{Home, Node, NodeSettings};
use sallyport::model::SystemClock;
use sallyport::store::{Settings, Store};

use crate::support::binary::Place;
use crate::support::emitted;

const KEY: &str = "sk_live_at_rest_0123456789abcdef";

fn everything(dir: &std::path::Path, out: &mut Vec<u8>) {
    for path in std::fs::read_dir(dir).expect("readable").map(|e| e.expect("readable").path()) {
        if path.is_dir() {
            everything(&path, out);
        } else {
            out.extend(std::fs::read(&path).unwrap_or_default());
        }
    }
}

#[test]
fn no_file_holds_a_key_a_token_a_password_or_the_key_of_the_ca() {
    let place = Place::new();
    place.add_key(&["stripe"], KEY);
    let session = place.json(&["sessions", "start", "--key", "stripe"]);
    let token = place.json(&["tokens", "mint", session["id"].as_str().expect("an id"), "stripe"]);
    let mut all = Vec::new();
    everything(&place.data, &mut all);
    assert_eq!(emitted::find(&all, KEY), None);
    assert_eq!(emitted::find(&all, session["proxyPassword"].as_str().expect("a password")), None);
    assert_eq!(emitted::find(&all, token["value"].as_str().expect("a value")), None);
    assert!(memchr::memmem::find(&all, b"PRIVATE KEY").is_none());
}

/// Changes rows behind sallyport's back.
async fn change(place: &Place, sql: &'static str) {
    use sqlx::ConnectOptions as _;
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(place.data.join("sallyport.db"));
    let mut connection = options.connect().await.expect("the database opens");
    let done = sqlx::query(sql).execute(&mut connection).await.expect("changed");
    assert_eq!(done.rows_affected(), 1, "{sql}");
}

#[tokio::test(flavor = "multi_thread")]
async fn row_that_was_changed_in_the_database_is_refused_and_noted() {
    let place = Place::new();
    place.add_key(&["stripe"], KEY);
    let session = place.json(&["sessions", "start", "--key", "stripe"]);
    place.ok(&["tokens", "mint", session["id"].as_str().expect("an id"), "stripe"]);
    for (sql, back, command) in [
        (
            "update keys set destination = replace(destination, 'api.stripe.com', 'evil.test')",
            "update keys set destination = replace(destination, 'evil.test', 'api.stripe.com')",
            &["keys", "show", "stripe"][..],
        ),
        ("update tokens set revoked_at = 1", "update tokens set revoked_at = null", &["tokens", "list"]),
        (
            "update sessions set expires_at = expires_at + 1",
            "update sessions set expires_at = expires_at - 1",
            &["sessions", "list"],
        ),
    ] {
        change(&place, sql).await;
        let said = place.fails(command);
        assert!(said.contains("not written by sallyport"), "{sql}: {said}");
        change(&place, back).await;
        place.ok(command);
    }
    // A node starts without such a row, and says so.
    change(&place, "update keys set destination = replace(destination, 'api.stripe.com', 'evil.test')").await;
    let home = Home::open(&place.data, Arc::new(SystemClock)).expect("a data directory");
    let store = Store::open(Settings::default(), home.dir(), home.keyring()).await.expect("a store");
    let node = Node::start(&home, &store, NodeSettings::default()).await.expect("a node");
    let evil = sallyport::model::Authority::parse("evil.test", 443).expect("an authority");
    assert!(!node.shared().registry.is_named(&evil.host), "the key isn't pointed elsewhere");
    assert!(node.metrics().contains("sallyport_security_events_total{kind=\"tampered_row\"} 1"));
    node.stop(std::time::Duration::from_secs(1)).await;
    let events = place.ok(&["audit", "query", "--kind", "security"]);
    assert!(events.contains("tampered_row"), "{events}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sealed_version_of_one_key_does_not_open_as_another() {
    let place = Place::new();
    place.add_key(&["one", "--host", "one.test"], KEY);
    place.add_key(&["two", "--host", "two.test"], "sk-of-the-other-key");
    // Even with a good row MAC a moved secret doesn't open; here the MAC is the first to refuse it.
    change(
        &place,
        "update key_versions set sealed = (select v.sealed from key_versions v join keys k on k.id = v.key_id where k.name = 'one'),
            wrapped_dek = (select v.wrapped_dek from key_versions v join keys k on k.id = v.key_id where k.name = 'one')
            where key_id = (select id from keys where name = 'two')",
    )
    .await;
    let home = Home::open(&place.data, Arc::new(SystemClock)).expect("a data directory");
    let store = Store::open(Settings::default(), home.dir(), home.keyring()).await.expect("a store");
    let mut settings = NodeSettings::default();
    let nobody = "127.0.0.1:1".parse().expect("an address");
    for host in ["one.test", "two.test"] {
        let authority = sallyport::model::Authority::parse(host, 80).expect("an authority");
        settings.upstream.resolve.insert(authority, nobody);
    }
    let node = Node::start(&home, &store, settings).await.expect("a node");
    // The host is refused: it isn't open as one without a key.
    let proxy = node.forward.expect("it listens");
    for (host, code) in [("one.test", "upstream_unreachable"), ("two.test", "internal")] {
        let mut agent = crate::support::Raw::new(tokio::net::TcpStream::connect(proxy).await.expect("it listens"));
        agent.send(format!("GET http://{host}/ HTTP/1.1\r\nhost: {host}\r\n\r\n")).await;
        assert_eq!(agent.reply().await.expect("an answer").code, code, "{host}");
    }
    node.stop(std::time::Duration::from_secs(1)).await;
}
