//! `sallyport store`

use std::path::Path;

use clap::Subcommand;

use super::output::{self, say};
use crate::app::Home;
use crate::config::Config;
use crate::store::Store;

#[derive(Subcommand)]
pub enum Command {
    /// Show where the store is and which versions of its schema are applied
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Bring the schema up to date; `serve` does it by itself at start
    Migrate {
        /// Only say what would be applied
        #[arg(long)]
        dry_run: bool,
    },
}

pub async fn run(
    dir: &Path,
    config: &Config,
    home: impl FnOnce() -> anyhow::Result<(Home, Config)>,
    command: Command,
) -> anyhow::Result<()> {
    let status = Store::status(&config.store, dir).await?;
    match command {
        Command::Status { json } => output::show(&serde_json::to_value(&status)?, json),
        Command::Migrate { dry_run } => {
            let versions = status.pending.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            if status.pending.is_empty() {
                say!("{} is up to date.", status.place);
            } else if dry_run {
                say!("{} would get version {versions}.", status.place);
            } else {
                let (home, config) = home()?;
                Store::open(config.store, home.dir(), home.keyring()).await?;
                say!("{} got version {versions}.", status.place);
            }
            Ok(())
        }
    }
}
