//! A node for the load generator: one key for the loopback upstream, one session, one proxy token, and as
//! many other tokens, keys and rules as are asked for.
//!
//! It prints nothing and writes `authorization` into its directory once it can be used: the header
//! that the load sends. Everything is on as shipped: policy, audit, metrics, scrubbing and, with
//! `--log info`, the line of each exchange. No key is bound to `free.bench.test`, which leads to the
//! same upstream.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use sallyport::app::{Home, Node, NodeSettings};
use sallyport::model::{
    Authority, Cleartext, Clock, Destination, Environment, HostPattern, KeyId, KeyKind, Name, OrgId, Secret, Slot,
    SystemClock, TokenShape,
};
use sallyport::store::{self, Store};
use sallyport::vault::key::{Key, KeyState};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
struct Args {
    /// The data directory; made fresh.
    #[arg(long)]
    dir: PathBuf,
    /// The root that the upstream's certificate hangs from.
    #[arg(long)]
    ca: PathBuf,
    /// The upstream's address; it is reached as `localhost`.
    #[arg(long, default_value = "127.0.0.1:9443")]
    upstream: std::net::SocketAddr,
    /// The key that is put in.
    #[arg(long)]
    key: String,
    /// The first of three ports: forward, gateway over TLS, gateway in clear.
    #[arg(long, default_value_t = 7801)]
    port: u16,
    /// How many other live tokens there are.
    #[arg(long, default_value_t = 0)]
    tokens: usize,
    /// How many other keys there are, each with a host of its own.
    #[arg(long, default_value_t = 0)]
    keys: usize,
    /// How many rules the policies have; twenty of them are about the key.
    #[arg(long, default_value_t = 1000)]
    rules: usize,
    /// The filter of the logs.
    #[arg(long, default_value = "info")]
    log: String,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    sallyport::telemetry::init_logs(&args.log, false);
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let home = Home::open(&args.dir, clock)?;
    write_policies(&home.policy_dir(), args.rules)?;
    let at = |port: u16| Some(std::net::SocketAddr::from(([127, 0, 0, 1], port)));
    let (upstream, port) = (args.upstream, args.upstream.port());
    let mut settings = NodeSettings {
        forward: at(args.port),
        gateway_tls: at(args.port + 1),
        gateway: at(args.port + 2),
        extra_ca: vec![args.ca],
        routes: BTreeMap::from([
            ("up".to_owned(), format!("https://localhost:{port}")),
            ("free".to_owned(), format!("https://free.bench.test:{port}")),
        ]),
        ..NodeSettings::default()
    };
    settings.upstream.resolve = BTreeMap::from([
        (Authority::parse("localhost", port)?, upstream),
        (Authority::parse("free.bench.test", port)?, upstream),
    ]);
    let store = Store::open(store::Settings::default(), home.dir(), home.keyring()).await?;
    let node = Node::start(&home, &store, settings).await?;

    let key = node.add_key(
        &KEY.parse()?,
        &"custom".parse()?,
        Environment::Production,
        destination(&format!("localhost:{port}"))?,
        TokenShape::default(),
        &Secret::new(args.key.into_bytes()),
    )?;
    let others = other_keys(&node, &key, args.keys)?;
    let day = Duration::from_secs(86_400);
    let start = |key: &Key| node.start_session(None, Environment::Production, std::slice::from_ref(key), day);
    let (_, token) = node.mint(&start(&key)?, &key)?;
    // A hundred tokens a session, so that sessions grow with them.
    for (number, first) in (0..args.tokens).step_by(100).enumerate() {
        let key = others.get(number % others.len().max(1)).unwrap_or(&key);
        let started = start(key)?;
        for _ in first..args.tokens.min(first + 100) {
            node.mint(&started, key)?;
        }
    }
    home.put("authorization", format!("Bearer {}", token.expose()).as_bytes())
        .context("writing the token for the load")?;
    let mut ended = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    ended.recv().await;
    node.stop(Duration::from_secs(1)).await;
    Ok(())
}

/// The key's name.
const KEY: &str = "bench";
/// How many rules a document has.
const RULES: usize = 20;

/// Documents of twenty rules, one for the key and the others for others. Rules that deny come first, so
/// that all are looked at.
fn write_policies(dir: &Path, rules: usize) -> anyhow::Result<()> {
    for (number, first) in (0..rules).step_by(RULES).enumerate() {
        let key = if number == 0 { KEY.to_owned() } else { other(number) };
        let mut text = format!("version: 1\nname: rules-{number}\napplies_to: {{ keys: [{key}] }}\nrules:\n");
        for rule in 1..RULES.min(rules - first) {
            writeln!(text, "  - {{ name: not-{rule}, deny: {{ paths: [\"/admin-{rule}/**\"] }} }}")?;
        }
        writeln!(
            text,
            "  - {{ name: use, allow: {{ methods: [GET, POST], \
             paths: [/json, /chat, \"/bytes/*\", /upload, /sse] }} }}"
        )?;
        fs::write(dir.join(format!("rules-{number}.yaml")), text)?;
    }
    Ok(())
}

/// Takes so many keys into memory at once, as a store's are when a node starts.
fn other_keys(node: &Node, like: &Key, count: usize) -> anyhow::Result<Vec<Key>> {
    let mut keys = Vec::with_capacity(count);
    for number in 1..=count {
        let key = Key {
            id: KeyId::generate(),
            org: OrgId::DEFAULT,
            kind: KeyKind::Secret,
            name: other(number).parse::<Name>()?,
            destination: destination(&format!("host-{number}.bench.test"))?,
            state: KeyState::Enabled,
            ..like.clone()
        };
        let sealed = node.shared().vault.seal(&key, 1, &Secret::new(format!("secret-of-{number:010}").into_bytes()))?;
        node.shared().vault.load(&key, &sealed)?;
        keys.push(key);
    }
    node.shared().registry.put_keys(keys.iter().cloned());
    Ok(keys)
}

fn other(number: usize) -> String {
    format!("other-{number}")
}

fn destination(host: &str) -> anyhow::Result<Destination> {
    Ok(Destination { hosts: vec![HostPattern::parse(host)?], slots: vec![Slot::Bearer], cleartext: Cleartext::Never })
}
