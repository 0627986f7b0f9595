//! `sallyport policy`.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Subcommand;

use crate::app::Home;
use crate::model::{Environment, ExchangeId, KeyId, Name, OrgId, SessionId, Slot};
use crate::policy::{Facts, Library, parse_request};

#[derive(Subcommand)]
pub enum Command {
    /// Compile the policies of the data directory and run their cases
    Check,
    /// Say which rule decides a request, and why
    Explain {
        /// The request, such as "POST https://api.stripe.com/v1/charges"
        request: String,
        /// The key's name
        #[arg(long)]
        key: Name,
        /// The tool's name
        #[arg(long)]
        tool: Option<Name>,
        /// The environment
        #[arg(long, default_value = "development")]
        environment: Environment,
        /// The project's name
        #[arg(long, default_value = "default")]
        project: Name,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

pub fn run(home: &Home, command: Command) -> anyhow::Result<ExitCode> {
    let library = match Library::load(&home.policy_dir()) {
        Ok(library) => library,
        Err(problems) => {
            for problem in problems {
                println!("{problem}");
            }
            return Ok(ExitCode::FAILURE);
        }
    };
    match command {
        Command::Check => println!("{}: all whole, and every case holds", home.policy_dir().display()),
        Command::Explain { request, key, tool, environment, project, json } => {
            let (method, scheme, authority, path) =
                parse_request(&request).context("write the request as \"METHOD https://host/path\"")?;
            let explanation = library.current().explain(&Facts {
                exchange: ExchangeId::generate(),
                session: SessionId::generate(),
                org: OrgId::DEFAULT,
                project: &project,
                environment,
                tool: tool.as_ref(),
                key: KeyId::generate(),
                key_name: &key,
                key_version: 1,
                scheme,
                authority: &authority,
                method: &method,
                path: &path,
                slot: &Slot::Bearer,
            });
            if json {
                println!("{}", serde_json::to_string_pretty(&explanation)?);
            } else {
                println!("{}: {}", explanation.decision, explanation.reason);
                if let Some(rule) = &explanation.decided_by {
                    println!("decided by {rule}");
                }
                for rule in &explanation.rules {
                    println!("  {rule}");
                }
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
