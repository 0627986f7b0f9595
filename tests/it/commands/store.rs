//! 11. Nothing is lost: a store that somebody else holds, or that can't be written.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use serde_json::json;

use crate::support::agent::{Agent, http1_on, whole};
use crate::support::binary::{Place, Serve};
use crate::support::upstream::{Setup, Upstream};
use crate::support::{Answer, Reply, apart, soon};

const HOST: &str = "api.store.test";
const KEY: &str = "sk-store-0123456789abcdef";

/// Another process that holds the database's write lock until it is dropped or told to end.
struct Writer(Child);

impl Writer {
    fn hold(place: &Place) -> Self {
        const HOLD: &str = "import sqlite3, sys\n\
            database = sqlite3.connect(sys.argv[1], isolation_level=None)\n\
            database.execute('begin immediate')\n\
            print('held', flush=True)\n\
            sys.stdin.readline()\n\
            database.execute('commit')\n";
        let mut command = Command::new("python3");
        command.args(["-c", HOLD]).arg(place.data.join("sallyport.db"));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("python3 runs");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("read");
        assert_eq!(line, "held\n");
        Self(child)
    }

    fn release(mut self) {
        self.0.stdin.take().expect("a pipe").write_all(b"\n").expect("written");
        assert!(self.0.wait().expect("ended").success());
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn store_that_another_process_writes_to_is_read_and_refuses_writes_in_time() {
    let setup = Setup { host: HOST.to_owned(), ..Setup::default() };
    let upstream = Upstream::start(&setup, Arc::new(|_| Reply::text("ok"))).await;
    let place = Place::new();
    place.ok(&["init"]);
    place.add_key(&["stored", "--host", HOST], KEY);
    let ca = place.data.with_extension("pem");
    std::fs::write(&ca, &upstream.ca_pem).expect("written");
    // What is tidied up needs the lock too, and keeps nobody from following the store.
    let mut serve = Serve::start(
        &place,
        &format!(
            "upstream: {{ extra_ca: [{ca:?}], resolve: {{ \"{HOST}:443\": \"{}\" }} }}\n\
             store: {{ timeout: 2s, max_staleness: 1500ms, tidy: 100ms }}",
            upstream.addr
        ),
    );
    let (proxy, admin) = (serve.proxy, serve.admin);
    let token = std::fs::read_to_string(place.data.join("admin.token")).expect("readable").trim().to_owned();
    let call = async |method: &str, path: &str, body: serde_json::Value| -> Answer {
        let stream = tokio::net::TcpStream::connect(admin).await.expect("connected");
        let request = Request::builder().method(method).uri(path).header("host", "localhost");
        let request =
            request.header("content-type", "application/json").header("authorization", format!("Bearer {token}"));
        let request = request.body(Full::new(Bytes::from(body.to_string()))).expect("a request");
        whole(http1_on(stream).await.send(request).await.expect("an answer")).await
    };
    let read = |answer: &Answer| serde_json::from_slice::<serde_json::Value>(&answer.body).expect("JSON");
    let start = json!({"keys": ["stored"]});
    let session = read(&call("POST", "/api/v1/mcp/sessions", start.clone()).await);
    let id = session["id"].as_str().expect("an id");
    let minted = read(&call("POST", &format!("/api/v1/mcp/sessions/{id}/keys/stored/proxy-token"), json!({})).await);
    let value = minted["value"].as_str().expect("a value").to_owned();
    let ca_pem = std::fs::read_to_string(place.data.join("ca.pem")).expect("readable");
    let agent = Agent { proxy, credentials: None, ca_pem };
    let ask = async || {
        let request = Request::get("/").header("host", HOST).header("authorization", format!("Bearer {value}"));
        agent.ask(HOST, request.body(Full::new(Bytes::new())).expect("a request")).await
    };
    assert_eq!(ask().await.status, 200);

    let writer = Writer::hold(&place);
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(10) {
        assert_eq!(ask().await.status, 200, "after {:?}", began.elapsed());
        assert_eq!(call("GET", "/api/v1/mcp/sessions", json!({})).await.status, 200);
        let asked = Instant::now();
        let refused = call("POST", "/api/v1/mcp/sessions", start.clone()).await;
        assert_eq!(refused.status, 503, "{}", refused.text());
        assert!(refused.text().contains("store_unavailable"), "{}", refused.text());
        assert!(asked.elapsed() < Duration::from_secs(6), "{:?}", asked.elapsed());
    }
    // Warnings that say so may come before.
    while !serve.wait_for("locked").contains("ERROR") {}
    // One that waits as the lock is given up is carried out.
    let waiting = call("POST", "/api/v1/mcp/sessions", start.clone());
    let release = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        tokio::task::block_in_place(|| writer.release());
    };
    let (waited, ()) = soon("both", async { tokio::join!(waiting, release) }).await;
    assert_eq!(waited.status, 201, "{}", waited.text());
    let sessions = read(&call("GET", "/api/v1/mcp/sessions", json!({})).await);
    assert_eq!(sessions["items"].as_array().map(Vec::len), Some(2), "what was refused was not done: {sessions}");
    assert_eq!(ask().await.status, 200);
    assert_eq!(serve.stop(), Some(0));
    assert!(place.ok(&["audit", "verify"]).contains("all whole"));
}

#[test]
fn data_directory_that_can_not_be_written_is_told_by_every_command() {
    const NAME: &str = "commands::store::data_directory_that_can_not_be_written_is_told_by_every_command";
    if !apart::inside(NAME, "ip link set lo up; mount -t tmpfs none \"$0\"; export TMPDIR=\"$0\"") {
        return;
    }
    let place = Place::new();
    place.ok(&["init"]);
    place.add_key(&["stored", "--host", HOST], KEY);
    let remount = |how: &str| {
        let done = Command::new("mount").arg("-o").arg(how).arg(std::env::temp_dir()).status().expect("mount runs");
        assert!(done.success(), "{how}");
    };
    remount("remount,ro");
    for arguments in
        [&["serve"][..], &["sessions", "start", "--key", "stored"], &["keys", "delete", "stored", "--yes"], &["init"]]
    {
        let output = place.command(arguments).output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        let told = ["read-only", "readonly", "Read-only"].iter().any(|word| said.contains(word));
        assert!(told && !said.contains("panicked"), "{arguments:?}: {said}");
        assert!(!said.contains(KEY), "{said}");
    }
    remount("remount,rw");
    let keys = place.json(&["keys", "list"]);
    assert_eq!(keys.as_array().map(Vec::len), Some(1), "nothing was lost: {keys}");
    place.ok(&["sessions", "start", "--key", "stored"]);
    assert!(place.ok(&["audit", "verify"]).contains("all whole"));
}
