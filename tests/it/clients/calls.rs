//! Each client calls its service as its documentation says, with nothing set but what `sallyport run` sets.

use super::standin::key_of;
use super::{
    ANTHROPIC, GEMINI, GITHUB, OPENAI, STRIPE, Services, WORDS, apart, clients, keeps_its_keys, node, python, script,
};

/// The command asks once and prints `answer:` with what came.
async fn calls(command: &[&str], key: &str) {
    let (services, _streams) = Services::live().await;
    let said = services.run(command).await;
    assert!(said.contains("answer: hello ***"), "{said}");
    had(&services, key, 1);
}

/// The command asks once, then for a stream, and prints what comes of it as it comes. The stand-in sends no
/// word before the client has printed the one before.
async fn calls_and_streams(command: &[&str], key: &str) {
    let (services, mut streams) = Services::live().await;
    let mut run = services.running(command);
    let stream = run.meanwhile("a stream", streams.recv()).await.expect("a stream");
    stream.begin().await;
    for word in WORDS {
        stream.say(word).await;
        run.until(&format!("{word} ***")).await;
    }
    stream.end().await;
    let said = run.end().await;
    keeps_its_keys(&said);
    assert!(said.contains("answer: hello ***"), "{said}");
    had(&services, key, 2);
}

/// The upstream saw this key, and no other, in each of so many requests.
fn had(services: &Services, key: &str, times: usize) {
    let seen: Vec<_> = services.upstream.received().iter().map(key_of).collect();
    assert_eq!(seen, vec![key; times]);
}

fn framework() -> String {
    clients().join("frameworks/bin/python").to_string_lossy().into_owned()
}

/// A test for each row: its name, what is checked, the command, the key.
macro_rules! clients {
    ($($name:ident: $check:ident, $program:expr, $($argument:expr),+ => $key:expr;)+) => {$(
        #[test]
        #[ignore = "needs the clients that tests/run installs"]
        fn $name() {
            apart(module_path!(), stringify!($name), $check(&[&$program, $(&$argument),+], $key));
        }
    )+};
}

clients! {
    openai_for_python: calls_and_streams, python(), script("sdks.py"), "openai" => OPENAI;
    anthropic_for_python: calls_and_streams, python(), script("sdks.py"), "anthropic" => ANTHROPIC;
    google_genai_for_python: calls_and_streams, python(), script("sdks.py"), "google" => GEMINI;
    stripe_for_python: calls, python(), script("sdks.py"), "stripe" => STRIPE;
    pygithub: calls, python(), script("sdks.py"), "github" => GITHUB;
    requests: calls_and_streams, python(), script("sdks.py"), "requests" => OPENAI;
    httpx: calls_and_streams, python(), script("sdks.py"), "httpx" => OPENAI;
    aiohttp: calls_and_streams, python(), script("sdks.py"), "aiohttp" => OPENAI;
    langchain: calls_and_streams, framework(), script("frameworks.py"), "langchain" => OPENAI;
    llamaindex: calls_and_streams, framework(), script("frameworks.py"), "llamaindex" => OPENAI;
    haystack: calls_and_streams, framework(), script("frameworks.py"), "haystack" => OPENAI;
    autogen: calls_and_streams, framework(), script("frameworks.py"), "autogen" => OPENAI;
    openai_for_node: calls_and_streams, node(), script("sdks.mjs"), "openai" => OPENAI;
    anthropic_for_node: calls_and_streams, node(), script("sdks.mjs"), "anthropic" => ANTHROPIC;
    stripe_for_node: calls, node(), script("sdks.mjs"), "stripe" => STRIPE;
    octokit: calls, node(), script("sdks.mjs"), "octokit" => GITHUB;
    fetch_of_node: calls_and_streams, node(), script("sdks.mjs"), "fetch" => OPENAI;
    undici: calls_and_streams, node(), script("sdks.mjs"), "undici" => OPENAI;
    axios: calls_and_streams, node(), script("sdks.mjs"), "axios" => OPENAI;
    curl: calls_and_streams, "sh", script("tools.sh"), "curl" => OPENAI;
    wget: calls_and_streams, "sh", script("tools.sh"), "wget" => OPENAI;
    http_client_of_java: calls_and_streams, "java", script("Calls.java") => OPENAI;
    net_http_of_go: calls_and_streams, "go", "run", script("calls.go") => OPENAI;
}
