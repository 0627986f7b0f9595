//! git, which asks without credentials first.

use std::path::PathBuf;
use std::process::Command;

use super::{GITHUB, Services};
use crate::support::{Received, Reply};

/// Answers as git's own HTTP server does, to those who show the real key.
fn git_server(root: PathBuf) -> impl Fn(&Received) -> Reply + Send + Sync + 'static {
    move |received| {
        use std::io::Write as _;
        let pair = crate::support::agent::basic("x-access-token", GITHUB);
        if received.header("authorization") != pair {
            return Reply::text("no").status(401).with("www-authenticate", "Basic realm=\"git\"");
        }
        let (path, query) = received.path.split_once('?').unwrap_or((&received.path, ""));
        let mut cgi = Command::new("git");
        cgi.arg("http-backend").env("GIT_PROJECT_ROOT", &root).env("GIT_HTTP_EXPORT_ALL", "1");
        cgi.env("PATH_INFO", path).env("QUERY_STRING", query).env("REQUEST_METHOD", &received.method);
        cgi.env("REMOTE_USER", "x").env("CONTENT_TYPE", received.header("content-type"));
        cgi.env("HTTP_CONTENT_ENCODING", received.header("content-encoding"));
        cgi.env("HTTP_GIT_PROTOCOL", received.header("git-protocol"));
        cgi.env("CONTENT_LENGTH", received.body.len().to_string());
        let mut child = cgi
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("git http-backend runs");
        let (mut input, body) = (child.stdin.take().expect("a pipe"), received.body.clone());
        let writer = std::thread::spawn(move || input.write_all(&body));
        let output = child.wait_with_output().expect("it ends").stdout;
        let _ = writer.join();
        let end = output.windows(4).position(|w| w == b"\r\n\r\n").expect("a head");
        let mut reply = Reply::text(output[end + 4..].to_vec());
        for line in String::from_utf8_lossy(&output[..end]).lines() {
            match line.split_once(": ") {
                Some(("Status", status)) => reply = reply.status(status[..3].parse().expect("a status")),
                Some(("Content-Type", kind)) => reply = reply.with("content-type", kind),
                _ => {}
            }
        }
        reply
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the clients that tests/run installs"]
async fn git_clones_and_pushes_fifty_megabytes() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let bare = root.path().join("me/repo.git");
    let made = Command::new("git").args(["init", "-q", "--bare", "-b", "main"]).arg(&bare).status().expect("git runs");
    assert!(made.success());
    let set = Command::new("git").arg("-C").arg(&bare).args(["config", "http.receivepack", "true"]).status();
    assert!(set.expect("git runs").success());
    let services = Services::start(git_server(root.path().to_owned())).await;
    let work = root.path().join("work");
    let script = format!(
        "set -e; export GIT_CONFIG_GLOBAL=/dev/null\n\
         git clone -q https://x-access-token:$GITHUB_TOKEN@github.com/me/repo.git {work}\n\
         cd {work}; git config user.email a@b.test; git config user.name a\n\
         head -c 52428800 /dev/urandom > big; git add big; git commit -qm one; git push -q origin HEAD:main\n\
         git clone -q https://x-access-token:$GITHUB_TOKEN@github.com/me/repo.git {work}.back\n\
         cmp big {work}.back/big\n\
         git ls-remote origin; cat .git/config",
        work = work.display()
    );
    let said = services.run(&["sh", "-c", &script]).await;
    assert!(said.contains("refs/heads/main"), "{said}");
    let log = Command::new("git").arg("-C").arg(&bare).args(["log", "--oneline", "main"]).output().expect("git runs");
    assert!(String::from_utf8_lossy(&log.stdout).contains("one"));
}
