//! `sallyport ca`

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Subcommand;
use serde_json::json;

use super::output::{self, put, say};
use crate::app::Home;
use crate::tls::trust;

#[derive(Subcommand)]
pub enum Command {
    /// Print the CA certificate, and where it is
    Show {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Write the public CA files where agents can read them: ca.pem, and ca-bundle.pem with the system's roots
    Export {
        /// The directory; made if it isn't there
        #[arg(long = "ca-dir", value_name = "DIR")]
        dir: PathBuf,
        /// Put the authorities of this PEM file into the bundle too
        #[arg(long, value_name = "FILE")]
        with: Option<PathBuf>,
    },
}

pub fn run(home: &Home, command: Command) -> anyhow::Result<()> {
    match command {
        Command::Show { json } => {
            let path = home.dir().join("ca.pem");
            if json {
                let ends = home.ca()?.not_after().to_string();
                return output::show(&json!({ "file": path, "expiresAt": ends, "pem": home.ca_pem() }), true);
            }
            put(format_args!("{}", home.ca_pem()));
            eprintln!("It is in {}; agents also find it with the system's roots in ca-bundle.pem.", path.display());
            Ok(())
        }
        Command::Export { dir, with } => {
            std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
            let bundle = trust::bundle_pem(with.as_deref(), home.ca_pem())?;
            for (name, text) in [("ca.pem", home.ca_pem()), ("ca-bundle.pem", bundle.as_str())] {
                let path = dir.join(name);
                std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
                say!("{}", path.display());
            }
            Ok(())
        }
    }
}
