//! The command line.

mod audit;
mod policy;
mod run;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand};

use crate::app::Home;
use crate::model::SystemClock;

/// Lets agents call APIs without holding the keys.
#[derive(Parser)]
#[command(version, about, max_term_width = 100)]
struct Cli {
    /// The data directory [default: $SALLYPORT_DATA_DIR, or $XDG_DATA_HOME/sallyport]
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// What is logged to standard error: error, warn, info, debug, or a filter
    /// [default: info for serve, error for demo, warn for all else]
    #[arg(long, global = true, value_name = "LEVEL")]
    log: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show it all at once: a stand-in API, a request, three refusals, the audit chain
    Demo,
    /// Run a command whose API keys are replaced by proxy tokens
    Run(run::Args),
    /// Make the data directory: key-encryption key, CA, policies
    Init,
    /// Check policies, or ask which rule decides a request
    #[command(subcommand)]
    Policy(policy::Command),
    /// Read and verify the audit chains
    #[command(subcommand)]
    Audit(audit::Command),
    /// Show the services that sallyport knows
    Providers {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the CA certificate that agents have to trust
    Ca,
    /// Print a shell's completion script
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Reads the command line and does what it says. Exit code 0 is success, 1 failure, 2 misuse; `run`
/// has its command's.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let level = cli.log.as_deref().unwrap_or(match cli.command {
        Command::Demo => "error",
        _ => "warn",
    });
    crate::telemetry::init_logs(level, false);
    harden();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build() {
        Ok(runtime) => runtime,
        Err(why) => return failed(&anyhow::anyhow!("the runtime can't start: {why}")),
    };
    match runtime.block_on(dispatch(cli)) {
        Ok(code) => code,
        Err(why) => failed(&why),
    }
}

fn failed(why: &anyhow::Error) -> ExitCode {
    eprintln!("sallyport: {why:#}");
    ExitCode::FAILURE
}

/// No core dumps, and no other process of the same user may look into this one.
fn harden() {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    if set_dumpable_behavior(DumpableBehavior::NotDumpable).is_err() {
        tracing::warn!("the process can't be made undumpable: programs of the same user may read its memory");
    }
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
}

async fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    let dir = || cli.data_dir.clone().map_or_else(Home::default_dir, Ok);
    let home = || Home::open(&dir()?, Arc::new(SystemClock));
    match cli.command {
        Command::Demo => crate::demo::run().await?,
        Command::Run(args) => return run::run(&home()?, args).await,
        Command::Init => {
            let home = home()?;
            println!("The data directory is {}.", home.dir().display());
        }
        Command::Policy(command) => return policy::run(&home()?, command),
        Command::Audit(command) => return audit::run(&home()?, &command),
        Command::Providers { json } => providers(json)?,
        Command::Ca => print!("{}", home()?.ca_pem()),
        Command::Completions { shell } => {
            clap_complete::generate(
                shell,
                &mut <Cli as clap::CommandFactory>::command(),
                "sallyport",
                &mut std::io::stdout(),
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn providers(json: bool) -> anyhow::Result<()> {
    let all = crate::providers::all()?;
    if json {
        let rows: Vec<_> = all
            .iter()
            .map(|p| serde_json::json!({ "name": p.name, "title": p.title, "variables": p.env, "destination": p.destination(), "base": p.base }))
            .collect();
        println!("{}", serde_json::to_string_pretty(&rows)?);
        return Ok(());
    }
    for provider in all {
        println!("{:<12} {:<16} {}", provider.name, provider.title, provider.env.join(", "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn command_line_is_well_formed() {
        <super::Cli as clap::CommandFactory>::command().debug_assert();
    }
}
