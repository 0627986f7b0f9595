//! A real gRPC client and a real gRPC service, with sallyport between them.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use super::{OPENAI, Services, python, script};
use crate::support::upstream::{Setup, Upstream, certificate};

/// The service, which ends with its standard input.
struct Service {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Service {
    fn start() -> (Self, Upstream) {
        let setup = Setup { host: "api.openai.com".to_owned(), ..Setup::default() };
        let (leaf, key, ca_pem) = certificate(&setup);
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (chain, private) = (dir.path().join("chain.pem"), dir.path().join("key.pem"));
        std::fs::write(&chain, leaf.pem()).expect("written");
        std::fs::write(&private, key.serialize_pem()).expect("written");
        let mut command = Command::new(python());
        command.arg(script("grpc_serve.py")).args([&chain, &private]).env_clear();
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
        let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut port = String::new();
        output.read_line(&mut port).expect("readable");
        let port: u16 = port.trim().parse().expect("a port");
        (Self { child, output }, Upstream::elsewhere(([127, 0, 0, 1], port).into(), ca_pem))
    }

    /// Ends it; the calls that it got, and their credentials.
    fn calls(mut self) -> Vec<String> {
        drop(self.child.stdin.take());
        self.child.kill().expect("it ends");
        self.child.wait().expect("it ended");
        self.output.lines().map(|line| line.expect("text")).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the clients that tests/run installs"]
async fn grpc_for_python_makes_all_four_kinds_of_calls() {
    let (service, upstream) = Service::start();
    let services = Services::of(upstream);
    let said = services.run(&[&python(), &script("grpc_call.py")]).await;
    let mask = "*".repeat(OPENAI.len());
    for expected in [
        format!("unary: hello Bearer {mask} Bearer {mask} Bearer {mask} OK"),
        "up: a b".to_owned(),
        format!("down: first second Bearer {mask}"),
        "talk: <0> <1> <2> <3> <4> OK".to_owned(),
        format!("big: {}", (3 << 20) + " Bearer ".len() + OPENAI.len()),
        format!("error: fails RESOURCE_EXHAUSTED no more for Bearer {mask}"),
        // A refusal of ours, in words that gRPC's clients look for.
        "error: unary PERMISSION_DENIED credential_unregistered: ".to_owned(),
        "left: True".to_owned(),
    ] {
        assert!(said.contains(&expected), "{expected}: {said}");
    }
    let calls = service.calls();
    assert_eq!(calls.len(), 10, "{calls:?}");
    assert!(calls.iter().all(|call| call.ends_with(&format!(" Bearer {OPENAI}"))), "{calls:?}");
}
