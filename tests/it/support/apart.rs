//! Runs a test in namespaces of its own, from which nothing can leave.

use std::process::Command;

/// Whether this process is the inner one. The outer one runs it, in fresh user, mount and network
/// namespaces and after `setup` (a shell script, in which `$0` is a scratch directory), and checks
/// that it passed.
pub fn inside(test: &str, setup: &str) -> bool {
    if let Some(trace) = std::env::var_os("SALLYPORT_TEST_APART") {
        std::fs::write(trace, test).expect("written");
        return true;
    }
    let trace = tempfile::NamedTempFile::new().expect("a temporary file");
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let script = format!("set -e\n{setup}\nexec \"$1\" --include-ignored --exact \"$2\" --nocapture");
    let status = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "--net", "sh", "-c", &script])
        .arg(scratch.path())
        .arg(std::env::current_exe().expect("this program"))
        .arg(test)
        .env("SALLYPORT_TEST_APART", trace.path())
        .status()
        .expect("unshare runs");
    assert!(status.success());
    assert_eq!(std::fs::read_to_string(trace.path()).expect("readable"), test, "no test of this name was run");
    false
}

/// A runtime for the inner process.
pub fn run(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(work);
}
