//! What calls don't show: protocols, codings, and tokens outside their slots.

use super::{OPENAI, Services, node, python, script, standin};
use crate::support::{Received, Reply};

const URL: &str = "https://api.openai.com/v1/models";

/// The list of models with the key that was sent, in the last coding that the client asks for.
fn coded(received: &Received) -> Reply {
    let text = format!("{{\"object\":\"list\",\"data\":[],\"seen\":\"{}\"}}", received.header("authorization"));
    let reply = match received.path.as_str() {
        "/v1/models" => crate::support::coded::as_asked(received, text.as_bytes()),
        _ => return standin::answer(received),
    };
    reply.with("content-type", "application/json").with("etag", "\"1\"")
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the clients that tests/run installs"]
async fn coded_replies_are_read_by_every_client() {
    let services = Services::start(coded).await;
    let said = services.run(&[&python(), &script("fetch.py")]).await;
    assert!(said.contains("answer: list list"), "{said}");
    let fetch = format!("{} {} {URL} \"Bearer $OPENAI_API_KEY\"", node(), script("ways.mjs"));
    let said = services.run(&["sh", "-c", &fetch]).await;
    assert!(said.contains("fetch: 200 {\"object\":\"list\""), "{said}");
    for option in ["--http1.1", "--http2"] {
        let call = format!("curl -sSi --compressed {option} -H \"Authorization: Bearer $OPENAI_API_KEY\" {URL}");
        let said = services.run(&["sh", "-c", &call]).await;
        assert!(said.contains("\"object\":\"list\"") && said.contains("***"), "{said}");
        assert!(!said.to_lowercase().contains("content-encoding"), "{said}");
    }
    let asked: Vec<_> =
        services.received("/v1/models").iter().map(|r| r.header("accept-encoding").to_owned()).collect();
    assert!(asked.len() == 5 && asked.iter().all(|codings| codings.contains("gzip")), "{asked:?}");
    assert!(asked.iter().any(|codings| codings.ends_with("zstd")), "{asked:?}");
    assert!(asked.iter().any(|codings| codings.contains("br")), "{asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the clients that tests/run installs"]
async fn curl_speaks_both_protocols() {
    let services = Services::start(standin::answer).await;
    for (option, version) in [("--http1.1", http::Version::HTTP_11), ("--http2", http::Version::HTTP_2)] {
        let call = format!(
            "curl -sS {option} -w '%{{http_version}} %{{http_code}}' -H \"Authorization: Bearer $OPENAI_API_KEY\" {URL}"
        );
        let said = services.run(&["sh", "-c", &call]).await;
        assert!(said.contains(if option == "--http2" { "2 200" } else { "1.1 200" }), "{said}");
        let received = services.upstream.received().pop().expect("received");
        assert_eq!(received.version, version);
        assert_eq!(received.header("authorization"), format!("Bearer {OPENAI}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the clients that tests/run installs"]
async fn curl_that_expects_100_sends_its_body_over_both_protocols() {
    let services = Services::start(standin::answer).await;
    for (option, version) in [("--http1.1", http::Version::HTTP_11), ("--http2", http::Version::HTTP_2)] {
        let call = format!(
            "curl -sS {option} -o /dev/null -w '%{{http_version}}' -H 'Expect: 100-continue' -d '{{\"model\":\"m\"}}' \
             -H 'Content-Type: application/json' -H \"Authorization: Bearer $OPENAI_API_KEY\" {URL}"
        );
        let said = services.run(&["sh", "-c", &call]).await;
        assert!(said.contains(if option == "--http2" { "2" } else { "1.1" }), "{said}");
        let received = services.upstream.received().pop().expect("received");
        assert_eq!((received.version, &received.body[..]), (version, &b"{\"model\":\"m\"}"[..]));
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the clients that tests/run installs"]
async fn token_outside_its_slots_is_told_of_when_the_command_ends() {
    let services = Services::start(standin::answer).await;
    let call = |header: &str| format!("curl -sS -H \"{header}: $OPENAI_API_KEY\" {URL}");
    let said = services.run(&["sh", "-c", &format!("{0}; {0}?key=$OPENAI_API_KEY", call("x-key"))]).await;
    let hint =
        "the token for openai_api_key was sent 3 times outside its slots, so the service didn't get the key there";
    assert!(said.contains(hint), "{said}");
    assert!(said.contains("Its slots: bearer, ") && said.contains("Its hosts: api.openai.com"), "{said}");
    let said = services.run(&["sh", "-c", &call("authorization: bearer ").replace(": $", "$")]).await;
    assert!(!said.contains("outside its slots"), "{said}");
}
