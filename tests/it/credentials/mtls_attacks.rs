//! Who may not come by a connection that showed a client certificate.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use sallyport::model::{KeyKind, Secret};
use sallyport::vault::key::{Key, KeyState};

use super::Computed;
use super::mtls::{Authority, build, get};
use crate::support::upstream::Clients;
use crate::support::world::OTHER;
use crate::support::{World, soon};

fn bearer(token: &str) -> Request<Full<Bytes>> {
    let request = Request::get("/").header("host", OTHER).header("authorization", format!("Bearer {token}"));
    request.body(Full::new(Bytes::new())).expect("a request")
}

/// Waits until so many connections are left.
async fn open(world: &World, count: usize) {
    let gone = async {
        while world.upstream.open() != count {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon("connections that are closed", gone).await;
}

#[tokio::test]
async fn connection_that_showed_a_certificate_is_shared_by_requests_of_that_key_alone() {
    for alpn in [vec!["http/1.1"], vec!["h2", "http/1.1"], vec!["h2"]] {
        let authority = Authority::new();
        let (one, two) = (authority.client(|_| {}), authority.client(|_| {}));
        let world = build(Clients::Known(authority.der())).upstream(|setup| setup.alpn = alpn);
        let world = world.settings(|settings| settings.cores = 1).start().await;
        let plain = Computed::add(&world, KeyKind::Secret, "sk-without-a-certificate");
        let (first, second) =
            (Computed::add(&world, KeyKind::Mtls, &one.pem()), Computed::add(&world, KeyKind::Mtls, &two.pem()));
        // Each kind of connection is there before the others are asked for, in every order.
        for _ in 0..2 {
            for (request, shown) in [
                (get(first.token()), Some(&one.der)),
                (bearer(plain.token()), None),
                (get(second.token()), Some(&two.der)),
                (bearer(plain.token()), None),
                (get(first.token()), Some(&one.der)),
            ] {
                let answer = world.agent().ask(OTHER, request).await;
                assert_eq!(answer.status, 200, "{}", answer.text());
                assert_eq!(world.upstream.received().pop().expect("received").certificate.as_ref(), shown);
            }
        }
        assert_eq!(world.upstream.open(), 3, "each is used again");
        assert_eq!(world.records_of("intent").len(), 10, "and each use is recorded");
    }
}

#[tokio::test]
async fn nobody_without_a_token_of_its_own_session_gets_the_connection() {
    let authority = Authority::new();
    let client = authority.client(|_| {});
    let world = build(Clients::Known(authority.der())).start().await;
    let computed = Computed::add(&world, KeyKind::Mtls, &client.pem());
    assert_eq!(world.agent().ask(OTHER, get(computed.token())).await.status, 200);
    // The session of another agent, which doesn't have the key.
    assert_eq!(world.known_agent().ask(OTHER, get(computed.token())).await.code(), "token_misplaced");
    assert_eq!(world.agent().ask(OTHER, get(world.token())).await.code(), "host_not_allowed");
    let strange = sallyport::model::ProxyToken::generate(Default::default(), &Default::default()).expect("random");
    assert_eq!(world.agent().ask(OTHER, get(strange.expose())).await.code(), "token_unknown");
    // In a slot that the key doesn't have, and as what it isn't.
    assert_eq!(world.agent().ask(OTHER, bearer(computed.token())).await.code(), "token_misplaced");
    assert_eq!(world.agent().ask(OTHER, get("some-other-text")).await.code(), "credential_unregistered");
    let empty = Request::get("/").header("host", OTHER).body(Full::new(Bytes::new())).expect("a request");
    let answer = world.agent().ask(OTHER, empty).await;
    // Policy lets an empty slot pass, without the key.
    assert_eq!(answer.status, 200);
    let seen = world.upstream.received();
    assert_eq!(seen.iter().filter(|received| received.certificate.is_some()).count(), 1);
    assert_eq!((seen.len(), world.records_of("intent").len()), (2, 1));
    let mut twice = get(computed.token());
    twice.headers_mut().append("x-client-certificate", computed.token().parse().expect("a value"));
    assert_eq!(world.agent().ask(OTHER, twice).await.code(), "bad_request");
}

#[tokio::test]
async fn two_certificates_and_one_in_clear_text_are_refused() {
    let authority = Authority::new();
    let world = build(Clients::Known(authority.der())).start().await;
    let first = Computed::add(&world, KeyKind::Mtls, &authority.client(|_| {}).pem());
    let second = Computed::with_slots(&world, KeyKind::Mtls, &authority.client(|_| {}).pem(), &["bearer"]);
    let keys = [first.key.clone(), second.key.clone()];
    let hour = Duration::from_secs(3600);
    let both = world.node.start_session(None, first.key.environment, &keys, hour).expect("a session");
    let (_, one) = world.node.mint(&both, &first.key).expect("a token");
    let (_, two) = world.node.mint(&both, &second.key).expect("a token");
    let mut request = get(one.expose());
    let value = format!("Bearer {}", two.expose()).parse().expect("a value");
    request.headers_mut().insert("authorization", value);
    let answer = world.agent().ask(OTHER, request).await;
    assert_eq!(answer.code(), "bad_request");
    assert!(answer.text().contains("two client certificates"), "{}", answer.text());
    assert_eq!((world.upstream.connections(), world.records_of("intent").len()), (0, 0));

    let mut clear = world.agent().bare().await;
    let head =
        format!("GET http://{OTHER}/ HTTP/1.1\r\nhost: {OTHER}\r\nx-client-certificate: {}\r\n\r\n", first.token());
    clear.send(head.as_bytes()).await;
    let said = clear.head().await;
    assert!(said.contains("host_not_allowed"), "{said}");
}

#[tokio::test]
async fn rotated_certificate_is_shown_on_a_connection_of_its_own_and_the_old_one_is_closed() {
    for alpn in [vec!["http/1.1"], vec!["h2"]] {
        let authority = Authority::new();
        let (old, new) = (authority.client(|_| {}), authority.client(|_| {}));
        let world = build(Clients::Only(authority.der())).upstream(|setup| setup.alpn = alpn);
        let world = world.settings(|settings| settings.cores = 1).start().await;
        let computed = Computed::add(&world, KeyKind::Mtls, &old.pem());
        assert_eq!(world.agent().ask(OTHER, get(computed.token())).await.status, 200);
        let key = Key { version: 2, given: 2, ..computed.key.clone() };
        let document = Secret::new(new.pem().into_bytes());
        let document = sallyport::credential::document(KeyKind::Mtls, document).expect("taken");
        let shared = world.node.shared();
        let sealed = shared.vault.seal(&key, 2, &document).expect("sealed");
        shared.vault.load(&key, &sealed).expect("loaded");
        shared.registry.put_keys([key]);
        assert_eq!(world.agent().ask(OTHER, get(computed.token())).await.status, 200);
        let seen: Vec<_> = world.upstream.received().into_iter().filter_map(|received| received.certificate).collect();
        assert_eq!(seen, [old.der, new.der]);
        let versions: Vec<_> = world.records_of("intent").iter().map(|intent| intent["version"].clone()).collect();
        assert_eq!(versions, [1, 2], "the audit says which");
        open(&world, 1).await;
    }
}

#[tokio::test]
async fn revoked_token_session_or_key_gets_nothing_and_a_disabled_keys_connections_are_closed() {
    for (what, code) in [(0, "token_revoked"), (1, "session_revoked"), (2, "key_disabled")] {
        let authority = Authority::new();
        let world = build(Clients::Only(authority.der())).settings(|settings| settings.cores = 1).start().await;
        let computed = Computed::add(&world, KeyKind::Mtls, &authority.client(|_| {}).pem());
        assert_eq!(world.agent().ask(OTHER, get(computed.token())).await.status, 200);
        match what {
            0 => {
                let token = world.node.shared().registry.token(&computed.value.hash()).expect("a token");
                assert_eq!(token.session.id, computed.started.session.id);
                let (record, value) = world.node.mint(&computed.started, &computed.key).expect("a token");
                assert_eq!(world.agent().ask(OTHER, get(value.expose())).await.status, 200);
                world.node.revoke_token(&record, "test");
                assert_eq!(world.agent().ask(OTHER, get(value.expose())).await.code(), code);
            }
            1 => {
                world.node.revoke_session(&computed.started.session, "test");
                assert_eq!(world.agent().ask(OTHER, get(computed.token())).await.code(), code);
            }
            _ => {
                world.node.set_key_state(&computed.key, KeyState::Disabled);
                assert_eq!(world.agent().ask(OTHER, get(computed.token())).await.code(), code);
                open(&world, 0).await;
                world.node.set_key_state(&computed.key, KeyState::Enabled);
                assert_eq!(world.agent().ask(OTHER, get(computed.token())).await.status, 200);
                assert_eq!(world.upstream.connections(), 2);
            }
        }
    }
}

#[tokio::test]
async fn connection_in_the_pool_is_no_way_around_a_policy_that_changed() {
    let authority = Authority::new();
    let world = build(Clients::Known(authority.der())).settings(|settings| settings.cores = 1).start().await;
    let computed = Computed::add(&world, KeyKind::Mtls, &authority.client(|_| {}).pem());
    assert_eq!(world.agent().ask(OTHER, get(computed.token())).await.status, 200);
    let policies = world.home.policy_dir();
    for file in std::fs::read_dir(&policies).expect("readable") {
        std::fs::remove_file(file.expect("readable").path()).expect("removed");
    }
    std::fs::write(policies.join("none.yaml"), "version: 1\nname: nothing\n").expect("written");
    world.node.policies().reload().expect("reloaded");
    assert_eq!(world.agent().ask(OTHER, get(computed.token())).await.code(), "policy_denied");
    assert_eq!((world.upstream.received().len(), world.records_of("intent").len()), (1, 1));
}
