//! `sallyport demo`: everything at once, offline and in seconds.

pub mod client;
pub mod standin;

use std::collections::BTreeMap;
use std::fmt::Arguments;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::Request;
use http_body_util::Full;

use crate::app::{Home, Node, NodeSettings};
use crate::audit;
use crate::model::{Authority, Clock, Environment, Secret, SystemClock};
use crate::model::{Cleartext, Destination, HostPattern, Slot, TokenShape};
use crate::store::Store;

const HOST: &str = "api.standin.test";
const OTHER: &str = "api.elsewhere.test";
/// Only the made-up stand-in takes it.
const KEY: &str = "sk-standin-7d41c09b52e84f63a1";

const POLICY: &str = "version: 1
name: demo
applies_to: { keys: [standin] }
rules:
  - { name: no-admin, deny: { paths: [\"/admin/**\"] } }
";

/// Runs the demonstration and prints it with `print`.
///
/// # Errors
/// A step failed, or did not do what it shows.
pub async fn run(print: &dyn Fn(Arguments<'_>)) -> anyhow::Result<()> {
    macro_rules! say {
        ($($text:tt)*) => { print(format_args!("{}\n", format_args!($($text)*))) };
    }
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let dir = Scratch::new("demo")?;
    let home_dir = dir.0.join("data");
    let home = Home::open(&home_dir, Arc::clone(&clock))?;
    std::fs::write(home.policy_dir().join("demo.yaml"), POLICY)?;
    let api = standin::StandIn::start(HOST, Arc::clone(&clock)).await?;
    let root = dir.0.join("standin-ca.pem");
    std::fs::write(&root, &api.ca_pem)?;
    let mut settings = NodeSettings { extra_ca: vec![root], ..NodeSettings::default() };
    settings.proxy.require_auth = true;
    settings.upstream.resolve =
        BTreeMap::from([(Authority::parse(HOST, 443)?, api.addr), (Authority::parse(OTHER, 443)?, api.addr)]);
    let store = Store::open(crate::store::Settings::default(), home.dir(), home.keyring()).await?;
    let node = Node::start(&home, &store, settings).await?;
    let proxy = node.forward.context("no listener")?;
    let destination =
        Destination { hosts: vec![HostPattern::parse(HOST)?], slots: vec![Slot::Bearer], cleartext: Cleartext::Never };
    let secret = Secret::new(KEY.as_bytes().to_vec());
    let name = "standin".parse()?;
    let key =
        node.add_key(&name, &"custom".parse()?, Environment::Development, destination, TokenShape::default(), &secret)?;
    let started =
        node.start_session(None, Environment::Development, std::slice::from_ref(&key), Duration::from_secs(600))?;
    let (token, value) = node.mint(&started, &key)?;

    let pair = format!("{}:{}", started.session.id, started.secret.expose());
    let credentials = format!("Basic {}", base64::Engine::encode(&base64::engine::general_purpose::STANDARD, pair));
    let call = async |host: &str, path: &str| {
        let request = Request::post(path)
            .header("host", host)
            .header("authorization", format!("Bearer {}", value.expose()))
            .body(Full::new(Bytes::from_static(b"{\"say\":\"hello\"}")))?;
        client::through_proxy(proxy, Some(&credentials), home.ca_pem(), host, request).await
    };
    say!("A stand-in API runs on {} with a TLS root of its own, and the proxy on {proxy}.", api.addr);
    say!("The key is sealed in the vault. The agent holds a proxy token.\n");
    let reply = call(HOST, "/v1/hello").await?;
    let received = api.received().pop().context("the stand-in received nothing")?;
    let upstream_saw =
        received.headers.get("authorization").and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let body = String::from_utf8_lossy(reply.body()).into_owned();
    say!("the agent sent         POST https://{HOST}/v1/hello");
    say!("                       authorization: Bearer {}", shortened(value.expose()));
    say!("the upstream received  {} {}", received.method, received.path);
    say!("                       authorization: {upstream_saw}");
    say!("the agent got back     {} {body}", reply.status());
    say!(
        "                       x-echo: {}",
        reply.headers().get("x-echo").and_then(|v| v.to_str().ok()).unwrap_or_default()
    );
    anyhow::ensure!(upstream_saw == format!("Bearer {KEY}"), "the upstream did not receive the key");
    anyhow::ensure!(!body.contains(KEY) && !format!("{:?}", reply.headers()).contains(KEY), "the key came back");
    say!("                       (the API echoed the key; the proxy masked it)\n");

    say!("three refusals:");
    let refused = async |what: &str, host: &str, path: &str, code: &str| -> anyhow::Result<()> {
        let reply = call(host, path).await?;
        let got = reply.headers().get("sallyport-error").and_then(|v| v.to_str().ok()).unwrap_or("none").to_owned();
        say!("  {what:<15} POST https://{host}{path} -> {} {got}", reply.status().as_u16());
        anyhow::ensure!(got == code, "expected {code}");
        Ok(())
    };
    refused("wrong host", OTHER, "/v1/hello", "host_not_allowed").await?;
    refused("forbidden path", HOST, "/admin/users", "policy_denied").await?;
    node.revoke_token(&token, "demo");
    refused("revoked token", HOST, "/v1/hello", "token_revoked").await?;
    anyhow::ensure!(api.received().len() == 1, "a refused request reached the upstream");
    say!("  none of them reached the upstream\n");

    node.stop(Duration::from_secs(2)).await;
    let report = audit::verify(&home.audit_dir(), &home.audit_keys())?;
    anyhow::ensure!(report.troubles.is_empty(), "the audit chain doesn't verify: {:?}", report.troubles);
    say!("the audit chain verifies: {} records, {} signatures", report.records, report.signatures);
    let filter = audit::Filter { limit: 100, ..audit::Filter::default() };
    for record in audit::query(&home.audit_dir(), &filter)? {
        let field = |name: &str| record[name].as_str().unwrap_or_default().to_owned();
        match field("kind").as_str() {
            "intent" => say!(
                "  intent   key {} to {}{} by {}/{}",
                field("key"),
                field("authority"),
                field("path"),
                field("policy"),
                field("rule")
            ),
            "outcome" => say!("  outcome  {} {}", field("outcome"), record["status"]),
            "denied" => say!("  denied   {}", field("code")),
            _ => {}
        }
    }
    say!("\nNow with your own agent, whose keys are in your environment:\n");
    say!("  sallyport run -- COMMAND");
    Ok(())
}

fn shortened(token: &str) -> String {
    format!("{}...", token.get(..12).unwrap_or_default())
}

/// A directory that is removed in the end.
pub struct Scratch(
    /// Where it is.
    pub std::path::PathBuf,
);

impl Scratch {
    /// A directory that nobody else can enter.
    ///
    /// # Errors
    /// The temporary directory can't be written.
    pub fn new(what: &str) -> anyhow::Result<Self> {
        let dir = std::env::temp_dir().join(format!("sallyport-{what}-{}", crate::model::SessionId::generate()));
        std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700).create(&dir)?;
        Ok(Self(dir))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
