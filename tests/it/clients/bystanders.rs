//! Package managers, which have nothing to do with a key, go on working.

use std::path::Path;

use super::{PACKAGES, Services, apart, python, script};
use crate::support::{Received, Reply};

/// A file of the packages' directory.
fn file(root: &Path, received: &Received) -> Reply {
    let path = root.join(received.path.trim_start_matches('/'));
    let index = path.join("index.html");
    let (path, kind) = if index.is_file() { (index, "text/html") } else { (path, "application/octet-stream") };
    match std::fs::read(path) {
        Ok(bytes) => Reply::text(bytes).with("content-type", kind),
        Err(_) => Reply::text("no such file").status(404),
    }
}

async fn gets_its_package(manager: &str, packages: usize) {
    let (root, url) = (tempfile::tempdir().expect("a temporary directory"), format!("https://{PACKAGES}"));
    let made = std::process::Command::new(python()).arg(script("packages.py")).arg(root.path()).arg(&url).status();
    assert!(made.expect("python runs").success());
    let at = root.path().to_owned();
    let services = Services::start(move |received| file(&at, received)).await;
    let said = services.run(&["sh", &script("bystanders.sh"), manager, &url, &python()]).await;
    assert!(said.contains(&format!("{manager} works\n")), "{said}");
    let received = services.upstream.received();
    assert!(received.len() >= packages, "{received:?}");
    assert!(received.iter().all(|r| r.authority == PACKAGES && r.header("authorization").is_empty()), "{received:?}");
}

/// A test for each.
macro_rules! managers {
    ($($name:ident: $manager:expr, $packages:expr;)+) => {$(
        #[test]
        #[ignore = "needs the clients that tests/run installs"]
        fn $name() {
            apart(module_path!(), stringify!($name), gets_its_package($manager, $packages));
        }
    )+};
}

managers! {
    pip_installs: "pip", 2;
    npm_installs: "npm", 2;
    cargo_fetches_and_builds: "cargo", 3;
}
