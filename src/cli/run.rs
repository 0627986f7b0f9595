//! `sallyport run`.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::signal::unix::{SignalKind, signal};

use crate::app::{Home, Node, NodeSettings};
use crate::model::{Authority, Environment, Secret};
use crate::providers::{self, Provider};
use crate::run::{Surroundings, Swap, environment};
use crate::store::Store;

#[derive(clap::Args)]
pub struct Args {
    /// How long the session lasts at most, in minutes
    #[arg(long, default_value_t = 480, value_name = "MINUTES")]
    lasts: u64,
    /// Trust the authorities in this PEM file too, for upstreams of your own
    #[arg(long, value_name = "FILE")]
    extra_ca: Vec<PathBuf>,
    /// Pin an upstream to an address, such as api.openai.com:443=127.0.0.1:9443
    #[arg(long, value_name = "HOST:PORT=ADDRESS", value_parser = parse_pin)]
    resolve: Vec<(Authority, SocketAddr)>,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<String>,
}

fn parse_pin(text: &str) -> Result<(Authority, SocketAddr), String> {
    let (authority, address) = text.split_once('=').ok_or("write it as HOST:PORT=ADDRESS:PORT")?;
    let authority = Authority::parse(authority, 443).map_err(|e| e.to_string())?;
    Ok((authority, address.parse().map_err(|_| "the address isn't IP:PORT")?))
}

pub async fn run(home: &Home, args: Args) -> anyhow::Result<ExitCode> {
    let caller = caller_environment()?;
    let taken = take_keys(&caller)?;
    if taken.is_empty() {
        eprintln!(
            "sallyport: no key was found in the environment; `sallyport providers` lists the variables that are known"
        );
    }
    let mut settings = NodeSettings { extra_ca: args.extra_ca, ..NodeSettings::default() };
    settings.proxy.require_auth = true;
    settings.upstream.resolve = args.resolve.into_iter().collect();
    let store = Store::open(crate::store::Settings::default(), home.dir(), home.keyring()).await?;
    let node = Node::start(home, &store, settings).await?;
    let code = supervise(home, &node, &caller, &taken, args.lasts, &args.command).await;
    node.stop(Duration::from_secs(5)).await;
    code
}

/// The caller's environment. A variable that isn't UTF-8 can't be searched for keys, so it stays
/// behind.
fn caller_environment() -> anyhow::Result<Vec<(String, String)>> {
    Ok(std::env::vars_os().filter_map(|(n, v)| Some((n.into_string().ok()?, v.into_string().ok()?))).collect())
}

struct Taken {
    provider: Provider,
    variables: Vec<String>,
    value: Secret<String>,
}

/// The keys that providers' variables hold. Two variables of one provider with one value are one key.
fn take_keys(caller: &[(String, String)]) -> anyhow::Result<Vec<Taken>> {
    let mut all: Vec<Taken> = Vec::new();
    for provider in providers::all()? {
        for variable in &provider.env {
            let Some((_, value)) = caller.iter().find(|(name, value)| name == variable && !value.is_empty()) else {
                continue;
            };
            match all.iter_mut().find(|t| t.provider.name == provider.name && t.value.expose() == value) {
                Some(taken) => taken.variables.push(variable.clone()),
                None => all.push(Taken {
                    provider: provider.clone(),
                    variables: vec![variable.clone()],
                    value: Secret::new(value.clone()),
                }),
            }
        }
    }
    Ok(all)
}

async fn supervise(
    home: &Home,
    node: &Node,
    caller: &[(String, String)],
    taken: &[Taken],
    minutes: u64,
    command: &[String],
) -> anyhow::Result<ExitCode> {
    let mut keys = Vec::new();
    for one in taken {
        let name = one.variables[0].to_ascii_lowercase().parse()?;
        let secret = Secret::new(one.value.expose().clone().into_bytes());
        let provider = &one.provider;
        let environment = Environment::Development;
        let key = node.add_key(&name, &provider.name, environment, provider.destination(), provider.shape(), &secret);
        keys.push(key.with_context(|| format!("taking {} from the environment", one.variables[0]))?);
    }
    let lasts = Duration::from_secs(minutes.saturating_mul(60));
    let started = node.start_session(Some(&"run".parse()?), Environment::Development, &keys, lasts)?;
    let mut swaps = Vec::new();
    for (one, key) in taken.iter().zip(&keys) {
        let (_, token) = node.mint(&started, key)?;
        swaps.push(Swap { variables: one.variables.clone(), token: token.expose().to_owned() });
        eprintln!("sallyport: {} is replaced by a proxy token for {}", one.variables.join(" and "), one.provider.title);
    }
    let public = PublicFiles::write(home, caller)?;
    let proxy = node.forward.context("the proxy isn't listening")?;
    let proxy_url = format!("http://{}:{}@{proxy}", started.session.id, started.secret.expose());
    let around = Surroundings {
        proxy_url: &proxy_url,
        bundle: &public.bundle,
        ca: &public.ca,
        session: &started.session.id.to_string(),
    };
    let secrets: Vec<&str> = taken.iter().map(|t| t.value.expose().as_str()).collect();
    let (child, warnings) = environment(caller.iter().cloned(), &swaps, &secrets, &around);
    for warning in warnings {
        eprintln!("sallyport: {warning}");
    }
    eprintln!(
        "sallyport: the command runs as your user, so it could read the data directory {}. Keys taken from the\n\
         environment are not in it. To keep stored keys from the command, run sallyport as a user of its own.",
        home.dir().display()
    );
    let code = wait(command, child).await;
    node.revoke_session(&started.session, "run");
    code
}

/// The public CA files, outside the data directory, for the command's clients.
struct PublicFiles {
    dir: PathBuf,
    bundle: PathBuf,
    ca: PathBuf,
}

impl PublicFiles {
    fn write(home: &Home, caller: &[(String, String)]) -> anyhow::Result<Self> {
        let corporate = ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"]
            .into_iter()
            .find_map(|name| caller.iter().find(|(n, v)| n == name && !v.is_empty()))
            .map(|(_, value)| PathBuf::from(value))
            .filter(|path| path.is_file());
        let dir = std::env::temp_dir().join(format!("sallyport-ca-{}", crate::model::SessionId::generate()));
        std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o755)
            .create(&dir)
            .with_context(|| format!("making {}", dir.display()))?;
        let files = Self { bundle: dir.join("ca-bundle.pem"), ca: dir.join("ca.pem"), dir };
        std::fs::write(&files.bundle, crate::tls::trust::bundle_pem(corporate.as_deref(), home.ca_pem())?)?;
        std::fs::write(&files.ca, home.ca_pem())?;
        Ok(files)
    }
}

impl Drop for PublicFiles {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Runs the command and passes signals to it. Its exit code is ours; 128 and the signal's number if
/// one ended it, as shells have it.
async fn wait(command: &[String], environment: impl IntoIterator<Item = (String, String)>) -> anyhow::Result<ExitCode> {
    use std::os::unix::process::ExitStatusExt as _;
    let Some((program, arguments)) = command.split_first() else { bail!("no command") };
    let environment: HashMap<String, String> = environment.into_iter().collect();
    let mut child = tokio::process::Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(environment)
        .spawn()
        .with_context(|| format!("starting {program:?}: is it installed and in PATH?"))?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut quit = signal(SignalKind::quit())?;
    loop {
        // A terminal sends interrupt and quit to the whole process group, so the command has them
        // already; the others come to us alone and are passed on.
        let pass = tokio::select! {
            status = child.wait() => {
                let status = status.context("waiting for the command")?;
                let code = status.code().or_else(|| status.signal().map(|s| 128 + s)).unwrap_or(1);
                return Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)));
            }
            _ = terminate.recv() => Some(rustix::process::Signal::TERM),
            _ = hangup.recv() => Some(rustix::process::Signal::HUP),
            _ = interrupt.recv() => None,
            _ = quit.recv() => None,
        };
        if let (Some(pass), Some(pid)) =
            (pass, child.id().and_then(|id| rustix::process::Pid::from_raw(id.cast_signed())))
        {
            let _ = rustix::process::kill_process(pid, pass);
        }
    }
}
