//! `sallyport run`.

use std::collections::HashMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use super::client::Client;
use crate::app::{Home, NewKey, Node, server};
use crate::config::Config;
use crate::credential::aws;
use crate::model::{Authority, BaseUrl, Destination, Environment, KeyKind, Name, OrgId, ProxyToken, Secret, Timestamp};
use crate::providers::{Library, Provider};
use crate::run::isolate::{Handover, Way};
use crate::run::{Surroundings, Swap, environment, isolate};
use crate::store::{Find, Store};
use crate::vault::key::Key;

#[derive(clap::Args)]
pub struct Args {
    /// Let the command use this stored key too, by name; repeat for several
    #[arg(long = "key", value_name = "KEY")]
    keys: Vec<String>,
    /// Store the keys that are taken from the environment, for later runs without it
    #[arg(long)]
    save: bool,
    /// How long the session lasts at most, such as 30m or 8h
    #[arg(long, default_value = "8h", value_name = "DURATION", value_parser = super::seconds)]
    lasts: u32,
    /// Give the command a network of its own, in which the proxy is the only way out, or don't run it (Linux)
    #[arg(long, conflicts_with = "no_isolation")]
    isolate: bool,
    /// Don't hide the data directory and other processes from the command
    #[arg(long)]
    no_isolation: bool,
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

pub async fn run(home: &Home, config: &Config, args: Args) -> anyhow::Result<ExitCode> {
    let caller = caller_environment();
    let providers = Library::load(&home.provider_dir()).map_err(|problems| anyhow::anyhow!(super::lines(&problems)))?;
    let providers = providers.current();
    let taken = take_keys(&caller, &providers);
    let store = Store::open(config.store.clone(), home.dir(), home.keyring()).await?;
    let stored = stored_keys(&store, &args.keys, home.clock().now()).await?;
    let taken: Vec<_> = taken.into_iter().filter(|one| !named_anyway(one, &stored, &providers)).collect();
    if taken.is_empty() && stored.is_empty() {
        let all: Vec<Key> = store.find(OrgId::DEFAULT, Find::all().limit(1)).await?;
        eprintln!(
            "sallyport: the command gets no token: {}",
            if all.is_empty() {
                "no variable holds a key that is known; see `sallyport providers list`"
            } else {
                "choose among the stored keys with --key NAME; see `sallyport keys list`"
            }
        );
    }
    let strange = unlisted(&caller, &taken);
    if !strange.is_empty() {
        eprintln!("sallyport: passed on as they are, though they look like credentials: {}", strange.join(", "));
    }
    if args.save {
        save(home, config, &taken).await?;
    }
    let mut settings = config.node.clone();
    settings.forward = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
    (settings.forward_tls, settings.gateway, settings.gateway_tls) = (None, None, None);
    settings.cores = 1;
    settings.extra_ca.extend(args.extra_ca.iter().cloned());
    settings.proxy.require_auth = true;
    settings.upstream.resolve.extend(args.resolve.iter().cloned());
    let node = Node::start(home, &store, settings).await?;
    let code = supervise(home, &node, &caller, &taken, &stored, &args, config).await;
    node.stop(Duration::from_secs(5)).await;
    code
}

/// Whether a stored key was asked for that belongs in the same variable: it is meant, then.
fn named_anyway(one: &Taken, stored: &[Key], providers: &[Provider]) -> bool {
    stored.iter().any(|key| one.variables.contains(&variable_of(key, providers)))
}

/// The variable in which a stored key's token belongs.
fn variable_of(key: &Key, providers: &[Provider]) -> String {
    let usual = providers.iter().find(|p| p.name == key.provider).map_or(&[][..], |p| &p.env);
    super::env::variable_of(usual, key.name.as_str())
}

/// Variables that look like credentials and belong to no provider.
fn unlisted(caller: &[(String, String)], taken: &[Taken]) -> Vec<String> {
    let looks =
        |name: &str| ["_KEY", "_TOKEN", "_SECRET", "_PASSWORD", "_CREDENTIALS"].iter().any(|end| name.ends_with(end));
    let ours =
        |name: &str| name.starts_with("SALLYPORT_") || taken.iter().any(|t| t.variables.iter().any(|v| v == name));
    let all = caller.iter().filter(|(name, value)| looks(name) && !ours(name) && value.len() >= 8);
    // What holds a key that was taken isn't passed on at all.
    let copies = |value: &str| {
        let mut parts = taken.iter().flat_map(|t| t.parts.iter().chain([&t.value]));
        parts.any(|part| value.contains(part.expose().as_str()))
    };
    all.filter(|(_, value)| !copies(value)).map(|(name, _)| name.clone()).collect()
}

/// Stored keys by name, in the default project and environment.
async fn stored_keys(store: &Store, names: &[String], now: Timestamp) -> anyhow::Result<Vec<Key>> {
    let mut keys = Vec::new();
    for name in names {
        let parsed: Name = name.parse().with_context(|| format!("--key {name}"))?;
        let wanted = Find::all().with("name", &parsed).with("environment", Environment::Development);
        let mut found: Vec<Key> = store.find(OrgId::DEFAULT, wanted.limit(2)).await?;
        match (found.pop(), found.is_empty()) {
            (Some(key), true) => match key.out_of_use(now) {
                Some(why) => bail!("{why}"),
                None => keys.push(key),
            },
            (None, _) => bail!("there is no key {name}; `sallyport keys list` shows those that are stored"),
            (Some(_), false) => bail!("several projects have a key {name}; rename one"),
        }
    }
    Ok(keys)
}

/// Stores keys from the environment through the admin API, so that it is recorded like any other.
async fn save(home: &Home, config: &Config, taken: &[Taken]) -> anyhow::Result<()> {
    let client = Client::in_process(crate::admin::router(server::admin_alone(home, config).await?));
    for one in taken {
        let name = one.variables[0].to_ascii_lowercase();
        if client.get(&format!("/api/v1/api-keys/{name}")).await.is_ok() {
            eprintln!("sallyport: {name} is stored already; `sallyport keys rotate {name}` gives it a new value");
            continue;
        }
        let Ok(destination) = &one.destination else { continue };
        let body = json!({
            "name": name,
            "provider": one.provider.name,
            "kind": one.provider.kind,
            "hosts": destination.hosts,
            "value": one.value.expose(),
        });
        client.post("/api/v1/api-keys", &body).await.with_context(|| format!("storing {name}"))?;
        eprintln!("sallyport: {name} is stored; from now on `sallyport run --key {name}` does without the variable");
    }
    Ok(())
}

/// The caller's environment. A variable that isn't UTF-8 can't be searched for keys, so it stays
/// behind.
fn caller_environment() -> Vec<(String, String)> {
    std::env::vars_os().filter_map(|(n, v)| Some((n.into_string().ok()?, v.into_string().ok()?))).collect()
}

/// A key from the caller's environment.
struct Taken {
    provider: Provider,
    variables: Vec<String>,
    value: Secret<String>,
    /// What of it must not be passed on, where the value is put together from several variables.
    parts: Vec<Secret<String>>,
    /// Where it may go; why it can't be used, if that isn't known.
    destination: Result<Destination, String>,
}

/// The keys that providers' variables hold. Two variables of one provider with one value are one key.
/// What belongs to a service on this machine isn't taken: it is reached without the proxy.
fn take_keys(caller: &[(String, String)], providers: &[Provider]) -> Vec<Taken> {
    let value = |name: &String| caller.iter().find(|(n, v)| n == name && !v.is_empty()).map(|(_, value)| value);
    let mut all: Vec<Taken> = Vec::new();
    for provider in providers {
        let address = provider.address_env.iter().find_map(|name| Some((name, value(name)?)));
        let own = address.map(|(name, text)| BaseUrl::parse_bare(text).map_err(|why| format!("{name} holds {why}")));
        if matches!(&own, Some(Ok(own)) if own.authority.host.is_loopback()) {
            continue;
        }
        for variable in &provider.env {
            let Some(found) = value(variable) else { continue };
            let pair = if provider.kind == KeyKind::Aws { pair(found, &value) } else { None };
            let (variables, value, parts) = match (provider.kind, pair) {
                (KeyKind::Aws, None) => continue,
                (_, Some(pair)) => pair,
                (_, None) => (vec![variable.clone()], found.clone(), Vec::new()),
            };
            match all.iter_mut().find(|t| t.provider.name == provider.name && t.value.expose() == &value) {
                Some(taken) => taken.variables.push(variable.clone()),
                None => all.push(Taken {
                    variables,
                    value: Secret::new(value),
                    parts,
                    destination: match &own {
                        Some(Err(why)) => Err(why.clone()),
                        Some(Ok(own)) => provider.destination(Some(own)).map_err(|why| why.to_string()),
                        None => provider.destination(None).map_err(|why| why.to_string()),
                    },
                    provider: provider.clone(),
                }),
            }
        }
    }
    all
}

/// An AWS access key pair: its variables, its document and what of it is secret.
fn pair<'a>(
    id: &str,
    value: &impl Fn(&String) -> Option<&'a String>,
) -> Option<(Vec<String>, String, Vec<Secret<String>>)> {
    let (secret, token) = (value(&aws::SECRET.to_owned())?, value(&aws::SESSION_TOKEN.to_owned()));
    let mut variables = vec![aws::ID.to_owned(), aws::SECRET.to_owned()];
    variables.extend(token.map(|_| aws::SESSION_TOKEN.to_owned()));
    let document = aws::document(id, secret, token.map(String::as_str)).expose().clone();
    let parts = [Some(secret), token].into_iter().flatten().map(|part| Secret::new(part.clone())).collect();
    Some((variables, document, parts))
}

/// The tokens of a key in their variables. Whoever signs with one has a secret beside it.
fn swaps_of(node: &Node, key: &Key, variables: Vec<String>, token: &ProxyToken) -> Vec<Swap> {
    let swap = |variable: String, token: &str| Swap { variables: vec![variable], token: token.to_owned() };
    if !key.kind.is_signed_with() {
        return vec![Swap { variables, token: token.expose().to_owned() }];
    }
    let stand_in = node.shared().vault.stand_in(&token.hash());
    let session = variables.into_iter().find(|name| name == aws::SESSION_TOKEN);
    let pair = [swap(aws::ID.to_owned(), token.expose()), swap(aws::SECRET.to_owned(), stand_in.expose())];
    pair.into_iter().chain(session.map(|name| swap(name, token.expose()))).collect()
}

async fn supervise(
    home: &Home,
    node: &Node,
    caller: &[(String, String)],
    taken: &[Taken],
    stored: &[Key],
    args: &Args,
    config: &Config,
) -> anyhow::Result<ExitCode> {
    let mut keys = Vec::new();
    let (usable, useless): (Vec<_>, Vec<_>) = taken.iter().partition(|one| one.destination.is_ok());
    for one in useless {
        let (variables, why) = (one.variables.join(" and "), one.destination.as_ref().err().map_or("", String::as_str));
        eprintln!("sallyport: {variables} is not passed on: {why}");
    }
    for one in &usable {
        let Ok(destination) = one.destination.clone() else { continue };
        let name = one.variables[0].to_ascii_lowercase().parse()?;
        let secret = Secret::new(one.value.expose().clone().into_bytes());
        let provider = &one.provider;
        let environment = Environment::Development;
        let new = NewKey {
            name,
            provider: provider.name.clone(),
            kind: provider.kind,
            environment,
            destination,
            shape: provider.shape.clone(),
        };
        let key = node.add_key_of(new, &secret);
        keys.push(key.with_context(|| format!("taking {} from the environment", one.variables[0]))?);
    }
    keys.extend(stored.iter().cloned());
    let lasts = Duration::from_secs(args.lasts.into());
    let started = node.start_session(Some(&"run".parse()?), Environment::Development, &keys, lasts)?;
    let (mut swaps, mut tokens) = (Vec::new(), Vec::new());
    for (at, key) in keys.iter().enumerate() {
        let (minted, token) = node.mint(&started, key)?;
        tokens.push(minted);
        let variables = match usable.get(at) {
            Some(one) => one.variables.clone(),
            None => vec![variable_of(key, &node.providers().current())],
        };
        eprintln!("sallyport: {} holds a proxy token for {}", variables.join(" and "), key.name);
        swaps.extend(swaps_of(node, key, variables, &token));
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
    let secrets: Vec<&str> =
        taken.iter().flat_map(|t| t.parts.iter().chain([&t.value])).map(|part| part.expose().as_str()).collect();
    let (child, warnings) = environment(caller.iter().cloned(), &swaps, &secrets, &around);
    for warning in warnings {
        eprintln!("sallyport: {warning}");
    }
    let Isolation { command, handover } = isolation(home, config, args, proxy.port())?;
    let code = wait(node, &command, handover, child).await;
    for (key, token) in keys.iter().zip(&tokens) {
        let times = node.shared().registry.token(&token.hash).map_or(0, |live| live.times_inert());
        if let Some(hint) = out_of_place(key, times) {
            eprintln!("sallyport: {hint}");
        }
    }
    node.revoke_session(&started.session, "run");
    code
}

/// How the command runs.
struct Isolation {
    /// The command, with the stages of its isolation in front of it.
    command: Vec<OsString>,
    /// Where the listening socket of its own network arrives, if it has one.
    handover: Option<Handover>,
}

fn isolation(home: &Home, config: &Config, args: &Args, port: u16) -> anyhow::Result<Isolation> {
    let mut hidden = hidden(home, config);
    if args.isolate {
        isolate::network_available().map_err(|why| {
            anyhow::anyhow!(
                "the command can't be given a network of its own here: {why}. Nothing was run; see `sallyport doctor`"
            )
        })?;
        let handover = Handover::new()?;
        let way = Way { socket: handover.socket(), port };
        hidden.extend(isolate::other_ways_out());
        let command = isolate::wrapped(Some(&way), &hidden, &args.command);
        return Ok(Isolation { command, handover: Some(handover) });
    }
    let isolated = if args.no_isolation { Err("--no-isolation".to_owned()) } else { isolate::available() };
    let command = match isolated {
        Ok(()) => {
            if let Some(weakness) = isolate::weakness() {
                eprintln!("sallyport: {weakness}");
            }
            isolate::wrapped(None, &hidden, &args.command)
        }
        Err(why) => {
            eprintln!("sallyport: {}; see `sallyport doctor`", isolate::consequence(&why));
            args.command.iter().map(OsString::from).collect()
        }
    };
    Ok(Isolation { command, handover: None })
}

/// What to say of a token that was sent where it isn't swapped: whoever sent it sees only that the
/// service got no key.
fn out_of_place(key: &Key, times: u32) -> Option<String> {
    let often = match times {
        0 => return None,
        1 => "once".to_owned(),
        times => format!("{times} times"),
    };
    let slots: Vec<_> = key.destination.slots.iter().map(ToString::to_string).collect();
    let hosts: Vec<_> = key.destination.hosts.iter().map(ToString::to_string).collect();
    let (name, slots, hosts) = (&key.name, slots.join(", "), hosts.join(", "));
    Some(format!(
        "the token for {name} was sent {often} outside its slots, so the service didn't get the key there. \
         Its slots: {slots}. Its hosts: {hosts}"
    ))
}

/// What the command must not see: the data directory, and what of it was put elsewhere.
fn hidden(home: &Home, config: &Config) -> Vec<PathBuf> {
    let mut all = vec![home.dir().to_owned()];
    let elsewhere = ["SALLYPORT_KEK_FILE", "SALLYPORT_CONFIG", "SALLYPORT_ADMIN_TOKEN_FILE"];
    all.extend(elsewhere.iter().filter_map(std::env::var_os).map(PathBuf::from));
    all.extend(config.file.clone());
    if let Some(file) = config.store.url.strip_prefix("sqlite:") {
        let file = home.dir().join(file.trim_start_matches("//"));
        for companion in ["", "-wal", "-shm"] {
            all.push(PathBuf::from(format!("{}{companion}", file.display())));
        }
    }
    // What a link in the data directory leads to lies elsewhere; policies are for everybody.
    let entries = std::fs::read_dir(home.dir()).into_iter().flatten().flatten();
    let links = entries.map(|entry| entry.path()).filter(|path| path.is_symlink() && !path.ends_with("policies"));
    all.extend(links.filter_map(|path| path.canonicalize().ok()));
    // What lies in the data directory is covered with it.
    all.retain(|path| path == home.dir() || !path.starts_with(home.dir()));
    all
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
async fn wait(
    node: &Node,
    command: &[OsString],
    handover: Option<Handover>,
    environment: impl IntoIterator<Item = (String, String)>,
) -> anyhow::Result<ExitCode> {
    use std::os::unix::process::ExitStatusExt as _;
    let Some((program, arguments)) = command.split_first() else { bail!("no command") };
    let environment: HashMap<String, String> = environment.into_iter().collect();
    // Before the command starts: a signal that comes early is passed on too.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut quit = signal(SignalKind::quit())?;
    let child = tokio::process::Command::new(program).args(arguments).env_clear().envs(environment).spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(why) => {
            // As shells have it (POSIX, XCU 2.8.2).
            let code = if why.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 };
            eprintln!("sallyport: starting {program:?}: {why}. Is it installed and in PATH?");
            return Ok(ExitCode::from(code));
        }
    };
    // The command's network has its listening socket once the first stage is there.
    let pid = child.id();
    let mut arriving = Box::pin(async {
        match (handover, pid) {
            (Some(handover), Some(pid)) => handover.receive(pid).await.and_then(|l| Ok(node.listen(l)?)),
            _ => std::future::pending().await,
        }
    });
    let mut arrived = false;
    loop {
        // A terminal sends interrupt and quit to the whole process group, so the command has them
        // already; the others come to us alone and are passed on.
        let pass = tokio::select! {
            status = child.wait() => {
                let status = status.context("waiting for the command")?;
                let code = status.code().or_else(|| status.signal().map(|s| 128 + s)).unwrap_or(1);
                return Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)));
            }
            came = &mut arriving, if !arrived => {
                arrived = true;
                if let Err(why) = came {
                    eprintln!("sallyport: the command has no way to the proxy: {why:#}");
                }
                None
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
