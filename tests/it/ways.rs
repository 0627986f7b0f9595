//! Ways in and ways out: how agents reach sallyport, and how sallyport reaches upstreams.

mod balanced;
mod bound;
mod out;
mod socks;
mod tls;
mod unread;

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::support::World;

/// What curl wrote to both its outputs, and whether it succeeded.
pub struct Curled {
    pub text: String,
    pub ok: bool,
}

/// curl of its own configuration and environment, which trusts our CA alone.
pub async fn curl(world: &World, arguments: &[&str]) -> Curled {
    let dir = TempDir::new().expect("a temporary directory");
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, world.home.ca_pem()).expect("written");
    let mut curl = Command::new("curl");
    curl.args(["--disable", "--silent", "--show-error", "--max-time", "20", "--cacert"]).arg(&ca).args(arguments);
    run(curl, dir.path()).await
}

/// Runs a command that finds no proxy in its environment but what it was given.
pub async fn run(mut command: Command, home: &Path) -> Curled {
    for name in ["http_proxy", "https_proxy", "all_proxy", "no_proxy", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"] {
        if !command.get_envs().any(|(set, _)| set == name) {
            command.env_remove(name);
        }
    }
    command.env("HOME", home);
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("joined").expect("it runs");
    let text = [output.stdout, output.stderr].concat();
    Curled { text: String::from_utf8_lossy(&text).into_owned(), ok: output.status.success() }
}
