//! The OpenAI SDK through the gateway.

use std::process::Command;

use super::{OPENAI, Services, clients, node, script, standin};
use crate::support::binary::Serve;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the clients that tests/run installs"]
async fn node_calls_through_the_gateway() {
    let services = Services::start(standin::answer).await;
    let place = &services.place;
    place.ok(&["init"]);
    place.add_key(&["openai"], OPENAI);
    let configuration = format!(
        "upstream: {{ extra_ca: [{:?}], resolve: {{ \"api.openai.com:443\": \"{}\" }} }}",
        services.ca, services.upstream.addr
    );
    let serve = Serve::start(place, &configuration);
    let session = place.json(&["sessions", "start", "--key", "openai"]);
    let token = place.json(&["tokens", "mint", session["id"].as_str().expect("an id"), "openai"]);
    let output = Command::new(node())
        .arg(script("gateway.mjs"))
        .env_clear()
        .env("NODE_CLIENTS", clients().join("node"))
        .env("OPENAI_BASE_URL", format!("http://{}/openai/v1", serve.gateway))
        .env("OPENAI_API_KEY", token["value"].as_str().expect("a value"))
        .output();
    let output = output.expect("node runs");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("answer: hello"), "{said}");
    assert_eq!(services.received("/v1/chat/completions")[0].header("authorization"), format!("Bearer {OPENAI}"));
}
