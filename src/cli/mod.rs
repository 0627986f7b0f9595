//! The command line: one file a group of commands.

mod access;
mod audit;
mod ca;
mod client;
mod connect;
mod doctor;
mod env;
mod keys;
mod output;
mod policy;
mod projects;
mod providers;
mod run;
mod secret;
mod serve;
mod sessions;
mod status;
mod store;
mod tools;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand};
use serde_json::Value;

use crate::app::{Home, server};
use crate::config::Config;
use crate::model::SystemClock;
use client::Client;

/// Lets agents call APIs without holding the keys.
#[derive(Parser)]
#[command(
    version,
    about,
    max_term_width = 100,
    after_help = "Begin with `sallyport demo`, then `sallyport run -- COMMAND`."
)]
struct Cli {
    /// The data directory [default: $SALLYPORT_DATA_DIR, or $XDG_DATA_HOME/sallyport]
    #[arg(long, global = true, value_name = "DIR", help_heading = "Everywhere")]
    data_dir: Option<PathBuf>,
    /// The configuration file [default: sallyport.yaml in the data directory]
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "SALLYPORT_CONFIG",
        hide_env = true,
        help_heading = "Everywhere"
    )]
    config: Option<PathBuf>,
    /// What is logged to standard error: error, warn, info, debug, or a filter
    #[arg(long, global = true, value_name = "LEVEL", help_heading = "Everywhere")]
    log: Option<String>,
    #[command(flatten)]
    server: client::Server,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show it all at once, offline: a request, three refusals, the audit chain
    Demo,
    /// Run a command whose API keys are replaced by proxy tokens
    Run(run::Args),
    /// Make the data directory: key-encryption key, CA, store, policies
    Init(serve::Init),
    /// Run the proxy, the gateway and the admin API
    Serve,
    /// Print what a shell needs to go through a running `serve`: proxy, CA and tokens
    Env(env::Args),
    /// Projects: groups of keys, tools and sessions
    #[command(subcommand)]
    Projects(projects::Command),
    /// Keys: the upstream credentials that agents never see
    #[command(subcommand)]
    Keys(keys::Command),
    /// Tools: registered agent programs and their bounds
    #[command(subcommand)]
    Tools(tools::Command),
    /// Access requests: a tool asks for keys
    #[command(subcommand)]
    Access(access::Command),
    /// Sessions: for how long an agent may use which keys
    #[command(subcommand)]
    Sessions(sessions::Command),
    /// Proxy tokens: what agents hold in place of keys
    #[command(subcommand)]
    Tokens(sessions::Tokens),
    /// Policies: check them, or ask which rule decides a request
    #[command(subcommand)]
    Policy(policy::Command),
    /// The audit: read it, follow it, verify its chains
    ///
    /// Its files in the data directory are JSON lines. In them an intent to use a key may say `like` and the number
    /// (`seq`) of an earlier record of the same file, in place of who uses which key under which rule, and an outcome
    /// names its `intent` by number. `query` and `tail` show all of it; `time` is in milliseconds since 1970.
    #[command(subcommand)]
    Audit(audit::Command),
    /// The services that sallyport knows
    #[command(subcommand)]
    Providers(providers::Command),
    /// The CA that agents have to trust
    #[command(subcommand)]
    Ca(ca::Command),
    /// The configuration: print the commented defaults, check a file
    #[command(subcommand)]
    Config(serve::ConfigCommand),
    /// The store: its schema, and what would be migrated
    #[command(subcommand)]
    Store(store::Command),
    /// Whether a node runs and how it stands
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Look for what is wrong with this installation, and which promises hold here
    Doctor {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
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
    if let Some(code) = crate::run::isolate::entered() {
        return code;
    }
    let cli = Cli::parse();
    harden();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(why) => return failed(&anyhow::anyhow!("the runtime can't start: {why}")),
    };
    let ended = runtime.block_on(dispatch(cli));
    crate::telemetry::flush();
    match ended {
        Ok(_) if let Some(why) = output::lost() => failed(&anyhow::anyhow!("writing standard output: {why}")),
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
        eprintln!("sallyport: the process can't be made undumpable: programs of the same user may read its memory");
    }
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
}

async fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    let Cli { data_dir, config: file, log, server, command } = cli;
    let level = log.as_deref().unwrap_or(match command {
        // A line of ours in the middle of a command's own screen would garble it.
        Command::Demo | Command::Completions { .. } | Command::Run(_) => "error",
        _ => "warn",
    });
    if let Some(filter) = &log {
        crate::telemetry::check_filter(filter).map_err(|how| anyhow::anyhow!("--log: {how}"))?;
    }
    if !matches!(command, Command::Serve) {
        crate::telemetry::init_logs(level, false);
    }
    let dir = || data_dir.clone().map_or_else(Home::default_dir, Ok);
    let makes =
        matches!(&command, Command::Init(_) | Command::Run(_) | Command::Serve | Command::Keys(keys::Command::Add(_)));
    let tells = matches!(&command, Command::Serve | Command::Keys(_));
    let home = || {
        let dir = dir()?;
        if !makes && !Home::exists(&dir) {
            anyhow::bail!("there is no data directory at {}; `sallyport init` makes one", dir.display());
        }
        let fresh = !Home::exists(&dir);
        let home = Home::open(&dir, Arc::new(SystemClock))?;
        if tells && fresh {
            eprintln!("sallyport: {} is made, with a key-encryption key and a CA of its own", dir.display());
        }
        Ok(home)
    };
    let config = || server::configuration(&dir()?, file.clone());
    let both = || -> anyhow::Result<(Home, Config)> {
        let (config, _) = config()?;
        Ok((home()?, config))
    };
    let client = async || Client::new(&server, both).await;
    let local = match &command {
        Command::Env(_) => "env",
        Command::Audit(_) => "audit",
        Command::Store(_) => "store",
        Command::Policy(policy::Command::Check { .. }) => "policy check",
        _ => "",
    };
    if server.is_given() && !local.is_empty() {
        anyhow::bail!(
            "`sallyport {local}` reads the data directory of this machine and asks no other node: leave out --server \
             (or SALLYPORT_SERVER), or run it where that node runs"
        );
    }
    match command {
        Command::Demo => crate::demo::run(&|text| _ = output::put(text)).await?,
        Command::Run(args) => {
            args.check()?;
            let (home, config) = both()?;
            return run::run(&home, &config, args).await;
        }
        Command::Init(args) => serve::init(&dir()?, args, both).await?,
        Command::Serve => {
            let (config, source) = config()?;
            crate::telemetry::init_logs(log.as_deref().unwrap_or(&config.log), config.log_json);
            server::serve(&home()?, config, source).await?;
        }
        Command::Env(args) => env::run(&client().await?, both, args).await?,
        Command::Projects(command) => projects::run(&client().await?, command).await?,
        Command::Keys(command) => keys::run(&client().await?, || Ok(config()?.0), command).await?,
        Command::Tools(command) => tools::run(&client().await?, command).await?,
        Command::Access(command) => access::run(&client().await?, command).await?,
        Command::Sessions(command) => sessions::run(&client().await?, command).await?,
        Command::Tokens(command) => sessions::tokens(&client().await?, command).await?,
        Command::Policy(policy::Command::Check { dir: Some(dir) }) => return policy::check(&dir),
        Command::Policy(policy::Command::Check { dir: None }) => return policy::check(&home()?.policy_dir()),
        Command::Policy(policy::Command::Explain(question)) => policy::explain(&client().await?, question).await?,
        Command::Audit(command) => return audit::run(&home, &dir, || Ok(config()?.0.tail), &command),
        Command::Providers(command) => {
            let node = if server.is_given() { Some(client().await?) } else { None };
            providers::run(command, node.as_ref(), dir().ok().as_deref()).await?;
        }
        Command::Ca(command) => ca::run(&home()?, command)?,
        Command::Config(command) => return serve::config(command, &dir()?, file),
        Command::Store(command) => store::run(&dir()?, &config()?.0, both, command).await?,
        Command::Status { json } => status::run(&client().await?, json).await?,
        Command::Doctor { json } => return doctor::run(&dir()?, config, json).await,
        Command::Completions { shell } => {
            let mut command = <Cli as clap::CommandFactory>::command();
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut command, "sallyport", &mut script);
            output::put(format_args!("{}", String::from_utf8(script)?));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A path segment or query value, percent-encoded (RFC 3986 section 2.1).
fn segment(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// Everything that is wrong, a line each.
fn lines(problems: &[impl ToString]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// Only the fields that were given.
fn given(mut body: Value) -> Value {
    if let Value::Object(fields) = &mut body {
        fields.retain(|_, value| !value.is_null());
    }
    body
}

/// The same for an edit, which has to change something.
fn changes(body: Value) -> anyhow::Result<Value> {
    let body = given(body);
    anyhow::ensure!(body != serde_json::json!({}), "nothing to change was given; `--help` shows what can be");
    Ok(body)
}

/// A duration such as `30m`, in seconds.
fn seconds(text: &str) -> Result<u32, String> {
    const HOW: &str = "write a number with a unit, such as 90s, 30m, 8h or 7d";
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number: u32 = text[..digits].parse().map_err(|_| HOW)?;
    let unit = match &text[digits..] {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(HOW.to_owned()),
    };
    number.checked_mul(unit).ok_or_else(|| "it is too long".to_owned())
}

#[cfg(test)]
mod tests {
    #[test]
    fn command_line_is_well_formed() {
        <super::Cli as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(super::seconds("30m"), Ok(1800));
        assert!(super::seconds("30").is_err());
        assert!(super::seconds("4294967295d").is_err());
        assert!(super::seconds("h").is_err());
    }

    #[test]
    fn segments_can_not_leave_their_place() {
        assert_eq!(super::segment("../x?y#z"), "..%2Fx%3Fy%23z");
    }
}
