//! Attacks on the slots in a request's head.

use std::time::Duration;

use sallyport::model::Environment;

use super::{get, with_another};
use crate::support::World;
use crate::support::world::{HOST, OTHER};

#[tokio::test]
async fn token_in_a_place_that_its_key_does_not_name_stays_text() {
    let world = World::build().slots(&["query:key", "cookie:sid", "path:/bot{}"]).start().await;
    let token = world.token();
    for (path, cookie) in [
        ("/v1?key=<T>&other=<T>", "a=1"),
        ("/v1?key=<T>&Key=<T>", "a=1"),
        ("/v1?key=<T>&a=key=<T>", "a=1"),
        ("/v1?key=<T>&a?key=<T>", "a=1"),
        ("/v1?key=<T>", "other=<T>"),
        ("/v1?key=<T>", "a=sid=<T>"),
        ("/x/bot<T>/y?key=<T>", "a=1"),
        ("/Bot<T>/y?key=<T>", "a=1"),
    ] {
        let before = world.node.shared().registry.token(&world.token.hash).expect("known").times_inert();
        let answer =
            get(path.replace("<T>", token)).field("cookie", cookie.replace("<T>", token)).to(&world, false).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        let received = world.upstream.received().pop().expect("it came");
        let expected = path.replacen("?key=<T>", &format!("?key={}", super::percent(&world.secret)), 1);
        assert_eq!(received.path, expected.replace("<T>", token));
        assert_eq!(received.header("cookie"), cookie.replace("<T>", token));
        let after = world.node.shared().registry.token(&world.token.hash).expect("known").times_inert();
        let elsewhere = path.matches("<T>").count() + cookie.matches("<T>").count() > 1;
        assert_eq!(after - before, u32::from(elsewhere), "{path} {cookie}");
    }
    world.nothing_leaked(&[]).await;
}

#[tokio::test]
async fn slot_that_holds_more_or_less_than_a_token_is_refused() {
    let world = World::build().slots(&["query:key", "cookie:sid", "path:/bot{}"]).start().await;
    let token = world.token();
    let coded: String = token.bytes().map(|b| format!("%{b:02x}")).collect();
    for (path, cookie, code) in [
        ("/v1?key=x<T>", "", "token_misplaced"),
        ("/v1?key=<T>x", "", "token_misplaced"),
        ("/v1?key=<T>;a=1", "", "token_misplaced"),
        ("/v1?key=<T>%00", "", "token_misplaced"),
        ("/v1?key=<T><T>", "", "token_misplaced"),
        ("/v1?key=<C>", "", "credential_unregistered"),
        ("/v1?key=a-real-key", "", "credential_unregistered"),
        ("/v1?key=", "", "credential_unregistered"),
        ("/v1?key", "", "credential_unregistered"),
        ("/v1?key=<T>&key=<T>", "", "bad_request"),
        ("/v1?key=<T>&key=", "", "bad_request"),
        ("/v1?key=x&k%65y=<T>", "", "bad_request"),
        ("/v1?key=<T>", "sid=a-real-session", "credential_unregistered"),
        ("/v1", "sid=<T>; sid=<T>", "bad_request"),
        ("/v1", "sid=x<T>", "token_misplaced"),
        ("/v1", "sid=<C>", "credential_unregistered"),
        ("/bot<T>x/y", "", "token_misplaced"),
        ("/botx<T>/y", "", "token_misplaced"),
        ("/bot<C>/y", "", "credential_unregistered"),
        ("/bota-real-key/y", "", "credential_unregistered"),
    ] {
        let mut request = get(path.replace("<T>", token).replace("<C>", &coded));
        if !cookie.is_empty() {
            request = request.field("cookie", cookie.replace("<T>", token).replace("<C>", &coded));
        }
        for http2 in [false, true] {
            let answer = request.to(&world, http2).await;
            assert_eq!(answer.code(), code, "{path} {cookie}: {}", answer.text());
        }
    }
    assert!(world.upstream.received().is_empty());
    assert!(world.records_of("intent").is_empty());
    world.nothing_leaked(&[]).await;
}

#[tokio::test]
async fn key_is_put_into_no_path_that_servers_could_read_differently() {
    let world = World::build().slots(&["path:/bot{}"]).start().await;
    for rest in ["/../x", "/%2e%2e/x", "/./x", "//x", "/a%2fb", "/a;b", "/%5cx", "/%00", "/%zz", "/\\x"] {
        let head = format!("GET /bot{}{rest} HTTP/1.1\r\nhost: {HOST}\r\n\r\n", world.token());
        let got = world.agent().raw(HOST, head.as_bytes()).await;
        assert!(got.starts_with("HTTP/1.1 400"), "{rest}: {got}");
        assert!(!got.contains(world.token()), "{got}");
    }
    for path in ["/../bot<T>/x", "/./bot<T>/x", "//bot<T>/x", "/%62ot<T>/x", "/b%6ft<T>"] {
        let head = format!("GET {} HTTP/1.1\r\nhost: {HOST}\r\n\r\n", path.replace("<T>", world.token()));
        let _ = world.known_agent().raw(HOST, head.as_bytes()).await;
    }
    let secret = super::percent(&world.secret);
    assert!(world.upstream.received().iter().all(|r| !r.path.contains(&secret)), "{:?}", world.upstream.received());
    assert!(world.records_of("intent").is_empty());
    world.nothing_leaked(&[]).await;
}

#[tokio::test]
async fn tokens_of_two_sessions_or_of_another_host_are_refused_in_every_slot() {
    let world = World::build().slots(&["query:key", "bearer"]).start().await;
    let hour = Duration::from_secs(3600);
    let keys = std::slice::from_ref(&world.key);
    let other = world.node.start_session(None, Environment::Development, keys, hour).expect("a session");
    let (_, strange) = world.node.mint(&other, &world.key).expect("a token");
    let both = get(format!("/v1?key={}", strange.expose())).field("authorization", world.bearer());
    assert_eq!(both.to(&world, false).await.code(), "token_misplaced");
    let alone = get(format!("/v1?key={}", strange.expose()));
    assert_eq!(alone.through(&world.known_agent(), false).await.code(), "token_misplaced");
    assert_eq!(alone.to(&world, false).await.status, 200);
    // A key that is bound to another host, in a slot of this one.
    let tokens = with_another(&world, &["cookie:sid"], "another-key-0123");
    let wrong = get(format!("/v1?key={}", tokens[1].expose())).to(&world, false).await;
    assert_eq!(
        (wrong.code(), wrong.text().contains("query:key is not a slot of key another_key")),
        ("token_misplaced", true)
    );
    // A host that no key names has no slots: the token is text there.
    let path = format!("/v1?key={}", world.token());
    let request = http::Request::get(&path).header("host", OTHER).body(http_body_util::Full::default());
    let build = World::build().slots(&["query:key"]).upstream(|u| u.host = OTHER.to_owned());
    let elsewhere = build.start().await;
    assert_eq!(elsewhere.agent().ask(OTHER, request.expect("a request")).await.status, 200);
    assert_eq!(elsewhere.upstream.only().path, path);
}

#[tokio::test]
async fn secret_that_can_not_stand_in_its_slot_is_never_sent() {
    let world = World::build().slots(&["cookie:sid"]).secret("abc; admin=1; x=0123").start().await;
    let answer = get("/").field("cookie", format!("sid={}", world.token())).to(&world, false).await;
    assert_eq!((answer.status.as_u16(), answer.code()), (500, "internal"));
    assert!(answer.text().contains("no cookie can have"), "{}", answer.text());
    assert!(world.upstream.received().is_empty());
    world.nothing_leaked(&[answer]).await;
}
