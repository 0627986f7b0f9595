//! Runs a test in namespaces of its own, from which nothing can leave.

use std::process::Command;

/// Whether this process is the inner one. The outer one runs it, in fresh user, mount and network
/// namespaces and after `setup` (a shell script, in which `$0` is a scratch directory), and checks
/// that it passed.
pub fn inside(test: &str, setup: &str) -> bool {
    if std::env::var_os("SALLYPORT_TEST_APART").is_some() {
        return true;
    }
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let script = format!("set -e\n{setup}\nexec \"$1\" --include-ignored --exact \"$2\" --nocapture");
    let status = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "--net", "sh", "-c", &script])
        .arg(scratch.path())
        .arg(std::env::current_exe().expect("this program"))
        .arg(test)
        .env("SALLYPORT_TEST_APART", "1")
        .status()
        .expect("unshare runs");
    assert!(status.success());
    false
}

/// A runtime for the inner process.
pub fn run(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(work);
}
