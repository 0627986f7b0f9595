//! `sallyport run`.

mod launch;
mod taken;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::json;

use launch::{Isolation, isolation, wait};
use taken::{Fate, PLACEHOLDER, Taken, caller_environment, give_way, take_keys, unlisted, variable_of};

use super::client::Client;
use crate::app::{Home, NewKey, Node, server};
use crate::config::Config;
use crate::credential::aws;
use crate::model::{Authority, Environment, Name, OrgId, ProxyToken, Secret, Timestamp};
use crate::providers::Library;
use crate::proxy::listener::Kind;
use crate::run::files::PublicFiles;
use crate::run::{Swap, environment};
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

impl Args {
    /// Whether what was taken for the command may be one.
    pub fn check(&self) -> anyhow::Result<()> {
        match self.command.first().filter(|first| first.starts_with('-')) {
            None => Ok(()),
            Some(option) => {
                bail!("{option} is no option of `sallyport run`, and no command begins so; see `sallyport run --help`")
            }
        }
    }
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
    let mut taken = take_keys(&caller, &providers);
    let store = Store::open(config.store.clone(), home.dir(), home.keyring()).await?;
    let stored = stored_keys(&store, &args.keys, home.clock().now()).await?;
    give_way(&mut taken, &stored, &providers);
    if stored.is_empty() && !taken.iter().any(|one| matches!(one.fate, Fate::Goes(_))) {
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
    // No balancer stands between the command and its proxy.
    settings.proxy.balancers.clear();
    settings.upstream.resolve.extend(args.resolve.iter().cloned());
    let node = Node::start(home, &store, settings).await?;
    let code = supervise(home, &node, &caller, &taken, &stored, &args, config).await;
    node.stop(Duration::from_secs(5)).await;
    code
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
        let Fate::Goes(destination) = &one.fate else { continue };
        let name = one.variables[0].to_ascii_lowercase();
        if client.get(&format!("/api/v1/api-keys/{name}")).await.is_ok() {
            eprintln!("sallyport: {name} is stored already; `sallyport keys rotate {name}` gives it a new value");
            continue;
        }
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
    let (mut usable, mut swaps) = (Vec::new(), Vec::new());
    for one in taken {
        if let Some(told) = one.told() {
            eprintln!("sallyport: {told}");
        }
        if let Fate::Here(_) = one.fate {
            swaps.push(Swap { variables: one.variables.clone(), token: PLACEHOLDER.to_owned() });
        }
        let Fate::Goes(destination) = one.fate.clone() else { continue };
        usable.push(one);
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
    let mut tokens = Vec::new();
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
    let public = PublicFiles::write(home.ca_pem(), caller)?;
    let proxy = node.forward.context("the proxy isn't listening")?;
    let proxy_url = format!("http://{}:{}@{proxy}", started.session.id, started.secret.expose());
    let open = if public.for_jvm() { Some(open_proxy(node, proxy, args.isolate)?) } else { None };
    let around = public.around(&proxy_url, open, &started.session.id.to_string());
    let secrets: Vec<&str> =
        taken.iter().flat_map(|t| t.parts.iter().chain([&t.value])).map(|part| part.expose().as_str()).collect();
    let (child, warnings) = environment(caller.iter().cloned(), &swaps, &secrets, &around);
    for warning in warnings {
        eprintln!("sallyport: {warning}");
    }
    let Isolation { command, handover } = isolation(home, config, args, [Some(proxy), open])?;
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

/// A proxy that asks for no credentials, for clients that can't send any; keys need a token there as
/// well. In a network of the command's own it is made inside, where every port is free.
fn open_proxy(node: &Node, proxy: SocketAddr, inside: bool) -> anyhow::Result<SocketAddr> {
    if inside {
        return Ok(SocketAddr::new(proxy.ip(), if proxy.port() == u16::MAX { 1024 } else { proxy.port() + 1 }));
    }
    let listener = std::net::TcpListener::bind((proxy.ip(), 0)).context("listening for the JVM")?;
    listener.set_nonblocking(true)?;
    let at = listener.local_addr()?;
    node.listen(listener, Kind::ForwardOpen)?;
    Ok(at)
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
