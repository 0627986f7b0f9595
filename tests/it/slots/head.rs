//! Slots in the head of a request: header, Basic, query, path, cookie.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{Sent, get, percent, with_another};
use crate::support::agent::basic;
use crate::support::{Reply, World, emitted};

/// The field of what the upstream received, whatever it is.
fn whole(world: &World, at: usize, name: &str) -> String {
    let received = &world.upstream.received()[at];
    match name {
        "path" => received.path.clone(),
        name => received.header(name).to_owned(),
    }
}

#[tokio::test]
async fn token_is_swapped_in_a_part_of_a_header_and_the_rest_of_it_stays() {
    let slots = [
        "header:authorization=GenieKey {}",
        "header:authorization=DeepL-Auth-Key {}",
        "header:authorization=Bot {}",
        "header:authorization=Klaviyo-API-Key {}",
        "header:authorization=Token token={}",
        "header:authorization=Token *secret=\"{}\"*",
        "header:authorization=Basic {}",
        "header:sec-websocket-protocol=*openai-insecure-api-key.{}*",
        "header:x-auth=*{}*",
        "basic={}",
        "basic=*/token:{}",
    ];
    let world = World::build().slots(&slots).start().await;
    let (token, secret) = (world.token(), &world.secret);
    let raw = |text: &str| (text.replace("<T>", token), text.replace("<T>", secret));
    let pair = |text: &str| {
        let (sent, arrived) = raw(text);
        (format!("Basic {}", STANDARD.encode(sent)), format!("Basic {}", STANDARD.encode(arrived)))
    };
    let cases = [
        ("authorization", raw("GenieKey <T>")),
        ("authorization", raw("DeepL-Auth-Key <T>")),
        ("authorization", raw("Bot <T>")),
        ("authorization", raw("Klaviyo-API-Key <T>")),
        ("authorization", raw("klaviyo-api-key <T>")),
        ("authorization", raw("Token token=<T>")),
        ("authorization", raw("Token id=\"7\", secret=\"<T>\", x=\"=\"")),
        ("authorization", raw("Basic <T>")),
        ("sec-websocket-protocol", raw("realtime, openai-insecure-api-key.<T>, openai-beta.realtime-v1")),
        ("x-auth", raw("<T>")),
        ("x-auth", raw("a=1,<T>;b=<2>")),
        ("authorization", pair("<T>")),
        ("authorization", pair("me@example.com/token:<T>")),
    ];
    for (at, (name, (sent, arrived))) in cases.iter().enumerate() {
        let answer = get("/v1").field(name, sent).to(&world, at % 2 == 0).await;
        assert_eq!(answer.status, 200, "{sent}: {}", answer.text());
        assert_eq!(&whole(&world, at, name), arrived);
    }
    // A header that a template names may hold anything else beside a token elsewhere.
    let other = get("/v1").field("sec-websocket-protocol", "realtime").field("authorization", format!("Bot {token}"));
    assert_eq!(other.to(&world, false).await.status, 200);
    for (name, value) in [
        ("authorization", format!("Bearer {token}")),
        ("authorization", format!("GenieKey {token} ,")),
        ("authorization", format!("GenieKey  {token}")),
        ("authorization", format!("Bot GenieKey {token}")),
        ("authorization", format!("Token token=x{token}")),
        ("authorization", token.to_owned()),
        ("sec-websocket-protocol", format!("realtime, {token}")),
        ("authorization", basic("me", token)),
    ] {
        let answer = get("/v1").field(name, &value).to(&world, false).await;
        assert_eq!((answer.status.as_u16(), answer.code()), (403, "token_misplaced"), "{value}");
    }
    let real = get("/v1").field("authorization", "GenieKey a-real-key-0123");
    assert_eq!(real.to(&world, false).await.code(), "credential_unregistered");
    assert_eq!(world.upstream.received().len(), cases.len() + 1);
    world.nothing_leaked(&[]).await;
}

#[tokio::test]
async fn query_parameter_is_swapped_and_the_rest_of_the_query_is_byte_for_byte_as_it_was() {
    let build = World::build().settings(|s| s.gateway = Some(([127, 0, 0, 1], 0).into()));
    let world = build.slots(&["query:api_key"]).start().await;
    let coded = percent(&world.secret);
    let cases = [
        "/v1/x?api_key=<T>",
        "/v1/x?a=1&api_key=<T>&b=2",
        "/v1/x?api_key=<T>&",
        "/v1/x?&&api_key=<T>",
        "/v1/%7Euser/x?X-Amz-Signature=a%2Fb%2fc+d&q=%20%zz%&api_key=<T>&sig=AbC%3D%3D&x=&y&=z&a=1&a=1",
        "/v1/x?api%5fkey=<T>&u=https://x/?y=z",
        "/?api_key=<T>",
        "/v1//x;y=1/../%2e?api_key=<T>",
    ];
    for (at, text) in cases.iter().enumerate() {
        for http2 in [false, true] {
            let answer = get(text.replace("<T>", world.token())).to(&world, http2).await;
            assert_eq!(answer.status, 200, "{text}: {}", answer.text());
            assert_eq!(whole(&world, at * 2 + usize::from(http2), "path"), text.replace("<T>", &coded));
        }
    }
    // The absolute form and a gateway's base URL lead to the same place.
    let gateway = world.node.gateway.expect("it listens");
    let mut raw = crate::support::Raw::new(tokio::net::TcpStream::connect(gateway).await.expect("a connection"));
    let head = format!("GET /upstream/v1/g?x=%2F&api_key={} HTTP/1.1\r\nhost: {gateway}\r\n\r\n", world.token());
    raw.send(head).await;
    assert_eq!(raw.reply().await.expect("an answer").status, 200);
    assert_eq!(world.upstream.received().pop().expect("it came").path, format!("/v1/g?x=%2F&api_key={coded}"));
    assert!(world.records_of("intent").iter().all(|r| r["slot"] == "query:api_key"));
    world.nothing_leaked(&[]).await;
}

#[tokio::test]
async fn segment_of_a_path_is_swapped_in_the_encoding_of_paths() {
    let policy = "version: 1\nname: telegram\nrules:\n\
        \x20 - { name: send, allow: { methods: [GET], paths: [\"/bot*/sendMessage\", \"/file/bot*/**\", \"/hooks/*/*\"] } }\n";
    let build = World::build().policy(policy).secret("7123456:AAF-x/y;z%_9$q");
    let world = build.slots(&["path:/bot{}", "path:/file/bot{}", "path:/hooks/*/{}"]).start().await;
    let coded = "7123456:AAF-x%2Fy%3Bz%25_9$q";
    let cases = ["/bot<T>/sendMessage?chat_id=1&text=%2F+a", "/file/bot<T>/photos/1.jpg", "/hooks/T00/<T>"];
    for (at, text) in cases.iter().enumerate() {
        for http2 in [false, true] {
            let answer = get(text.replace("<T>", world.token())).to(&world, http2).await;
            assert_eq!(answer.status, 200, "{text}: {}", answer.text());
            assert_eq!(whole(&world, at * 2 + usize::from(http2), "path"), text.replace("<T>", coded));
        }
    }
    let intents = world.records_of("intent");
    assert_eq!(intents[0]["path"], "/bot[token]/sendMessage");
    assert_eq!(intents[0]["slot"], "path:/bot{}");
    assert_eq!(intents.len(), cases.len() * 2);
    let not_allowed = get(format!("/bot{}/deleteWebhook", world.token())).to(&world, false).await;
    assert_eq!(not_allowed.code(), "policy_denied", "the path is decided on with the token in it");
    assert!(!not_allowed.text().contains(world.token()), "{}", not_allowed.text());
    assert_eq!(world.upstream.received().len(), cases.len() * 2);
    world.nothing_leaked(&[]).await;
}

#[tokio::test]
async fn cookie_is_swapped_among_others_in_one_field_or_in_crumbs() {
    let world = World::build().slots(&["cookie:sid"]).secret("s%3Aabcdef.0123456789+/=").start().await;
    let cases = ["sid=<T>", "a=1; sid=<T>; b=x%20y==", "a=1;sid=\"<T>\" ;b"];
    for text in cases {
        for http2 in [false, true] {
            let answer = get("/").field("cookie", text.replace("<T>", world.token())).to(&world, http2).await;
            assert_eq!(answer.status, 200, "{text}: {}", answer.text());
            let received = world.upstream.received().pop().expect("it came");
            assert_eq!(received.header("cookie"), text.replace("<T>", &world.secret));
        }
    }
    let crumbs =
        get("/").field("cookie", "a=1").field("cookie", format!("sid={}", world.token())).field("cookie", "b=2");
    assert_eq!(crumbs.to(&world, true).await.status, 200);
    let received = world.upstream.received().pop().expect("it came");
    assert_eq!(received.header("cookie"), format!("a=1; sid={}; b=2", world.secret));
    // Over HTTP/1.1 a second field is a mistake (RFC 6265 section 5.4).
    assert_eq!(crumbs.to(&world, false).await.code(), "bad_request");
    let other = get("/").field("cookie", "a=1; b=2");
    assert_eq!(other.through(&world.known_agent(), false).await.status, 200, "no credential, and none needed");
    world.nothing_leaked(&[]).await;
}

#[tokio::test]
async fn several_slots_of_one_query_are_swapped_together() {
    let world = World::build().slots(&["query:api_key"]).start().await;
    let tokens = with_another(&world, &["query:application_key"], "app-key/0123456789");
    for (text, ordered) in
        [("/v1?api_key=<1>&application_key=<2>&x=1", true), ("/v1?application_key=<2>&x=1&api_key=<1>", false)]
    {
        let path = text.replace("<1>", tokens[0].expose()).replace("<2>", tokens[1].expose());
        assert_eq!(get(path).to(&world, ordered).await.status, 200);
        let expected = text.replace("<1>", &percent(&world.secret)).replace("<2>", "app-key%2F0123456789");
        assert_eq!(world.upstream.received().pop().expect("it came").path, expected);
    }
    assert_eq!(world.records_of("intent").len(), 4, "one for each key");
}

#[tokio::test]
async fn redirect_that_echoes_the_query_has_the_key_masked() {
    let build = World::build().slots(&["query:key", "path:/bot{}"]).answer(|r| {
        let decoded = r.path.replace("%22", "\"").replace("%2F", "/").replace("%2B", "+").replace("%26", "&");
        Reply::text(format!("moved to {} or {decoded}", r.path))
            .status(302)
            .with("location", &format!("https://elsewhere.test{}", r.path))
            .with("link", &format!("<{decoded}>; rel=next"))
            .with("set-cookie", &format!("back={}", STANDARD.encode(&decoded)))
    });
    let world = build.start().await;
    let mut answers = Vec::new();
    for path in ["/v1?a=1&key=<T>&b=2", "/bot<T>/x?y=1"] {
        let answer = get(path.replace("<T>", world.token())).to(&world, false).await;
        assert_eq!(answer.status, 302);
        let coded = percent(&world.secret);
        let masked = |name: &str| answer.header(name).contains("********");
        assert!(masked("location") && masked("link") && masked("set-cookie"), "{:?}", answer.headers);
        assert!(!answer.header("location").contains(&coded[..20]), "{:?}", answer.headers);
        assert_eq!(emitted::find(&answer.body, &coded), None);
        answers.push(answer);
    }
    world.nothing_leaked(&answers).await;
}

#[tokio::test]
async fn empty_slot_is_filled_where_a_policy_says_so_and_the_slot_can_be() {
    let policy = "version: 1\nname: p\nrules: [{ name: all, allow: { methods: [GET], paths: [\"/**\"] } }]\nwithout_token: inject\n";
    let secret = "sk-fill-0123456789+x";
    let cases: &[(&str, Sent<'_>, &str, String)] = &[
        ("query:key", get("/v1?a=%2F&b"), "path", format!("/v1?a=%2F&b&key={}", percent(secret))),
        ("query:key", get("/v1"), "path", format!("/v1?key={}", percent(secret))),
        ("query:key", get("/v1?key=&a=1"), "path", format!("/v1?a=1&key={}", percent(secret))),
        ("cookie:sid", get("/v1").field("cookie", "a=1; sid=; b=2"), "cookie", format!("a=1; b=2; sid={secret}")),
        ("cookie:sid", get("/v1"), "cookie", format!("sid={secret}")),
        ("header:authorization=Bot {}", get("/v1"), "authorization", format!("Bot {secret}")),
        ("basic={}", get("/v1"), "authorization", format!("Basic {}", STANDARD.encode(secret))),
        ("header:x-api-key", get("/v1"), "x-api-key", secret.to_owned()),
    ];
    for (slot, sent, name, expected) in cases {
        let world = World::build().policy(policy).secret(secret).slots(&["path:/never/{}", slot]).start().await;
        let answer = sent.through(&world.known_agent(), false).await;
        assert_eq!(answer.status, 200, "{slot}: {}", answer.text());
        assert_eq!(&whole(&world, 0, name), expected, "{slot}");
        assert_eq!(world.records_of("intent")[0]["slot"], *slot);
        world.nothing_leaked(&[answer]).await;
    }
    for slot in ["path:/bot{}", "header:authorization=*{}*", "json:/key", "form:key", "multipart:key"] {
        let world = World::build().policy(policy).slots(&[slot]).start().await;
        let answer = get("/v1").through(&world.known_agent(), false).await;
        assert_eq!((answer.status.as_u16(), answer.code()), (403, "credential_unregistered"), "{slot}");
        assert!(answer.text().contains("can't be filled"), "{}", answer.text());
        assert!(world.upstream.received().is_empty());
    }
}
