//! A browser, as a computer-use agent drives it.

use tokio::sync::mpsc;

use super::standin::{self, key_of};
use super::{OPENAI, PACKAGES, Services, WORDS, apart, keeps_its_keys, node, script};
use crate::support::Reply;

/// A page of another origin asks the API for leave first (Fetch, section 3.3).
fn shared(reply: Reply) -> Reply {
    reply.with("access-control-allow-origin", "*").with("access-control-allow-headers", "authorization")
}

#[test]
#[ignore = "needs the clients that tests/run installs"]
fn chromium_under_playwright_loads_a_page_that_calls_and_streams() {
    apart(module_path!(), "chromium_under_playwright_loads_a_page_that_calls_and_streams", browse());
}

async fn browse() {
    let (send, mut streams) = mpsc::unbounded_channel();
    let services = Services::start(move |received| {
        if received.authority == PACKAGES {
            return Reply::text("<title>a page</title><body>").with("content-type", "text/html");
        }
        if received.method == "OPTIONS" {
            return shared(Reply::text("").status(204));
        }
        let Some((stream, reply)) = standin::stream(received) else { return shared(standin::answer(received)) };
        send.send(stream).expect("the test listens");
        shared(reply)
    })
    .await;
    let page = format!("https://{PACKAGES}/page");
    let mut run = services.running(&["sh", &script("browse.sh"), &node(), &script("browse.mjs"), &page]);
    let stream = run.meanwhile("a stream", streams.recv()).await.expect("a stream");
    for word in WORDS {
        stream.say(word).await;
        run.until(&format!("{word} ***")).await;
    }
    stream.end().await;
    let said = run.end().await;
    keeps_its_keys(&said);
    assert!(said.contains("title: a page") && said.contains("answer: hello ***"), "{said}");
    assert!(!said.contains("failed: "), "{said}");
    let received = services.upstream.received();
    let asked: Vec<_> = received.iter().filter(|r| r.method == "GET" && r.authority == "api.openai.com").collect();
    assert_eq!(asked.iter().map(|r| key_of(r)).collect::<Vec<_>>(), [OPENAI; 2]);
    assert!(received.iter().all(|r| [PACKAGES, "api.openai.com"].contains(&r.authority.as_str())), "{received:?}");
}
