//! `sallyport init` and `sallyport config`

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Subcommand;

use super::output::{put, say};
use crate::app::{Home, KekChoice, server};
use crate::config::{self, Config};
use crate::model::{Secret, SystemClock};
use crate::store::Store;

#[derive(clap::Args)]
pub struct Init {
    /// Derive the key-encryption key from a passphrase instead of keeping it in a file; it is asked for, or
    /// taken from SALLYPORT_PASSPHRASE
    #[arg(long)]
    passphrase: bool,
}

/// The shortest passphrase, in characters.
const MIN_PASSPHRASE: usize = 12;

pub async fn init(dir: &Path, args: Init, both: impl FnOnce() -> anyhow::Result<(Home, Config)>) -> anyhow::Result<()> {
    let fresh = !Home::exists(dir);
    if args.passphrase {
        if !fresh {
            bail!(
                "{} is there already, and keeps the key-encryption key that it was made with; give another --data-dir",
                dir.display()
            );
        }
        Home::create(dir, &SystemClock, KekChoice::Passphrase(passphrase()?))?;
    }
    let (home, config) = both()?;
    let store = Store::open(config.store, home.dir(), home.keyring()).await?;
    server::bootstrap(&home, &store).await?;
    crate::app::default_project(&store, home.clock().now()).await?;
    let dir = home.dir().display();
    if !fresh {
        say!("{dir} is there already, and whole.");
        return Ok(());
    }
    say!("{dir} is made. It holds:");
    for (name, what) in [
        ("kek", "what the key-encryption key comes from: keep a copy elsewhere"),
        ("kek.salt", "what the key-encryption key comes from, with the passphrase: keep a copy of both elsewhere"),
        ("ca.pem", "the certificate that agents have to trust"),
        ("ca-bundle.pem", "the same with the system's roots"),
        ("admin.token", "the admin API's first token"),
        ("policies/", "what agents may do"),
    ] {
        if home.dir().join(name).exists() {
            say!("  {name:<14} {what}");
        }
    }
    if let Some(from) =
        ["SALLYPORT_KEK", "SALLYPORT_KEK_FILE"].into_iter().find(|name| std::env::var_os(name).is_some())
        && !args.passphrase
    {
        say!(
            "\nThe key-encryption key is that of {from}: every command needs it, and nothing opens the keys without it."
        );
    }
    say!("\nNext: sallyport keys add NAME --provider PROVIDER, then sallyport serve");
    Ok(())
}

fn passphrase() -> anyhow::Result<Secret<String>> {
    let text = match std::env::var("SALLYPORT_PASSPHRASE") {
        Ok(text) => text,
        Err(_) => {
            let ask = |prompt| crate::app::ask_passphrase(prompt).context("nothing was made");
            let first = ask("Passphrase: ")?;
            let second = ask("Once more: ")?;
            if first != second {
                bail!("the two passphrases differ; nothing was made");
            }
            first
        }
    };
    if text.chars().count() < MIN_PASSPHRASE {
        bail!("the passphrase is shorter than {MIN_PASSPHRASE} characters; nothing was made");
    }
    Ok(Secret::new(text))
}

#[derive(Subcommand)]
pub enum ConfigCommand {
    /// Print every setting with its default and what it is for
    Default,
    /// Check the configuration; all mistakes are told at once
    Check {
        /// The file [default: that of the data directory]
        file: Option<PathBuf>,
    },
}

pub fn config(command: ConfigCommand, dir: &Path, named: Option<PathBuf>) -> anyhow::Result<ExitCode> {
    match command {
        ConfigCommand::Default => _ = put(format_args!("{}", config::DEFAULT)),
        ConfigCommand::Check { file } => {
            let (_, source) = match server::configuration(dir, file.or(named)) {
                Ok(read) => read,
                Err(why) => {
                    say!("{why:#}");
                    return Ok(ExitCode::FAILURE);
                }
            };
            if let Err(problems) = crate::providers::Library::load(&dir.join("providers")) {
                say!("{}", super::lines(&problems));
                return Ok(ExitCode::FAILURE);
            }
            match source.file {
                Some(file) => say!("{}: right", file.display()),
                None => say!("There is no configuration file in {}; the defaults hold.", dir.display()),
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
