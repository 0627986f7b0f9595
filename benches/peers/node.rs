//! A node for the load generator: one key for the loopback upstream, one session, one proxy token.
//!
//! It prints nothing and writes `authorization` into its directory once it can be used: the header
//! that the load sends. Everything is on as shipped: policy, audit, metrics, scrubbing and, with
//! `--log info`, the line of each exchange.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use sallyport::app::{Home, Node, NodeSettings};
use sallyport::model::{
    Authority, Cleartext, Clock, Destination, Environment, HostPattern, Secret, Slot, SystemClock, TokenShape,
};
use sallyport::store::{self, Store};

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
    let at = |port: u16| Some(std::net::SocketAddr::from(([127, 0, 0, 1], port)));
    let mut settings = NodeSettings {
        forward: at(args.port),
        gateway_tls: at(args.port + 1),
        gateway: at(args.port + 2),
        extra_ca: vec![args.ca],
        routes: BTreeMap::from([("up".to_owned(), format!("https://localhost:{}", args.upstream.port()))]),
        ..NodeSettings::default()
    };
    let authority = Authority::parse("localhost", args.upstream.port())?;
    settings.upstream.resolve = BTreeMap::from([(authority, args.upstream)]);
    let store = Store::open(store::Settings::default(), home.dir(), home.keyring()).await?;
    let node = Node::start(&home, &store, settings).await?;

    let destination = Destination {
        hosts: vec![HostPattern::parse(&format!("localhost:{}", args.upstream.port()))?],
        slots: vec![Slot::Bearer],
        cleartext: Cleartext::Never,
    };
    let key = node.add_key(
        &"bench".parse()?,
        &"custom".parse()?,
        Environment::Development,
        destination,
        TokenShape::default(),
        &Secret::new(args.key.into_bytes()),
    )?;
    let keys = std::slice::from_ref(&key);
    let day = Duration::from_secs(86_400);
    let (_, token) = node.mint(&node.start_session(None, Environment::Development, keys, day)?, &key)?;
    // A hundred tokens a session, so that sessions grow with them.
    for first in (0..args.tokens).step_by(100) {
        let started = node.start_session(None, Environment::Development, keys, day)?;
        for _ in first..args.tokens.min(first + 100) {
            node.mint(&started, &key)?;
        }
    }
    home.put("authorization", format!("Bearer {}", token.expose()).as_bytes())
        .context("writing the token for the load")?;
    let mut ended = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    ended.recv().await;
    node.stop(Duration::from_secs(1)).await;
    Ok(())
}
