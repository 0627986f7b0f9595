//! `sallyport env`

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::client::Client;
use super::output::say;
use crate::app::Home;
use crate::config::Config;
use crate::credential::aws;
use crate::run::files::NODE_PROXY;
use crate::run::{Jvm, Surroundings, environment, truststore};

#[derive(clap::Args)]
pub struct Args {
    /// A key that the shell's programs may use, by name; repeat for several
    #[arg(long = "key", required = true, value_name = "KEY")]
    keys: Vec<String>,
    /// The tool that the session is for
    #[arg(long)]
    tool: Option<String>,
    /// development, staging or production [default: development]
    #[arg(long)]
    environment: Option<String>,
    /// How long the session lasts, such as 30m or 8h
    #[arg(long, default_value = "8h", value_name = "DURATION", value_parser = super::seconds)]
    lasts: u32,
    /// Print JSON instead of lines for `eval`
    #[arg(long)]
    json: bool,
}

/// Starts a session on the running node, mints a token for each key, and prints the variables.
pub async fn run(
    client: &Client,
    both: impl FnOnce() -> anyhow::Result<(Home, Config)>,
    args: Args,
) -> anyhow::Result<()> {
    let (home, _) = both()?;
    let status = client.get("/api/v1/status").await?;
    ensure!(status["serving"] == true, "no node runs on this data directory; start one with `sallyport serve`");
    let proxy = status["listens"]["proxy"].as_str();
    let proxy =
        proxy.context("the node has no forward listener (listen.proxy is off), so there is no proxy to name")?;
    let body = super::given(json!({
        "keys": args.keys,
        "tool": args.tool,
        "environment": args.environment,
        "durationSeconds": args.lasts,
    }));
    let providers = providers(client, &args).await?;
    let known = super::providers::all(client).await?;
    let started = client.post("/api/v1/mcp/sessions", &body).await?;
    let text = |value: &Value, field: &str| value[field].as_str().unwrap_or_default().to_owned();
    let id = text(&started, "id");
    let url = format!("http://{}:{}@{proxy}", text(&started, "proxyUser"), text(&started, "proxyPassword"));
    let bundle = std::fs::read_to_string(home.dir().join("ca-bundle.pem")).context("reading ca-bundle.pem")?;
    home.put("ca-bundle.p12", &truststore::pkcs12(&bundle))?;
    home.put("node-proxy.cjs", NODE_PROXY.as_bytes())?;
    let around = Surroundings {
        proxy_url: url,
        bundle: home.dir().join("ca-bundle.pem"),
        ca: home.dir().join("ca.pem"),
        jvm: Some(Jvm { trust_store: home.dir().join("ca-bundle.p12"), proxy: proxy.parse()? }),
        wgetrc: None,
        node: Some(home.dir().join("node-proxy.cjs")),
        session: id.clone(),
    };
    // What was set here before is no option of the caller's.
    let kept = std::env::var("NODE_OPTIONS").ok().filter(|value| !value.contains("node-proxy.cjs"));
    let kept = kept.map(|value| ("NODE_OPTIONS".to_owned(), value));
    let (mut variables, _) = environment(kept, &[], &[], &around);
    let mut held = Vec::new();
    for name in &args.keys {
        let path = format!("/api/v1/mcp/sessions/{id}/keys/{}/proxy-token", super::segment(name));
        let minted = client.post(&path, &json!({})).await?;
        let value = text(&minted, "value");
        if let Some(secret) = minted["signingSecret"].as_str() {
            variables.insert(aws::ID.to_owned(), value);
            variables.insert(aws::SECRET.to_owned(), secret.to_owned());
            continue;
        }
        let usual = providers.get(name).and_then(|of| known.iter().find(|p| p["name"] == of.as_str()));
        let usual: Vec<String> =
            usual.map(|p| p["variables"].clone()).map_or(Ok(Vec::new()), serde_json::from_value)?;
        let variable = variable_of(&usual, name);
        let before = variables.insert(variable.clone(), value);
        if before.is_some_and(|before| held.contains(&before)) {
            eprintln!("sallyport: {variable} holds the token for {name}; another of the keys belongs there too");
        }
        held.extend(variables.get(&variable).cloned());
    }
    print(&variables, args.json)
}

/// The provider of each key of the session's project and environment, by the key's name. The same
/// name may stand for other keys elsewhere.
async fn providers(client: &Client, args: &Args) -> anyhow::Result<BTreeMap<String, String>> {
    let project = match &args.tool {
        Some(tool) => client.get(&format!("/api/v1/mcp/tools/{}", super::segment(tool))).await?["project"].clone(),
        None => json!("default"),
    };
    let project = super::segment(project.as_str().unwrap_or_default());
    let environment = super::segment(args.environment.as_deref().unwrap_or("development"));
    let keys = client.all(&format!("/api/v1/api-keys?project={project}&environment={environment}")).await?;
    let text = |key: &Value, field: &str| key[field].as_str().unwrap_or_default().to_owned();
    Ok(keys.iter().map(|key| (text(key, "name"), text(key, "provider"))).collect())
}

/// The variable in which a key's token belongs: the first of its provider's, or the key's name in
/// capitals if that is another of these, or there are none.
pub fn variable_of(usual: &[String], name: &str) -> String {
    let own: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect();
    match usual.first() {
        Some(first) if !usual.contains(&own) => first.clone(),
        _ => own,
    }
}

fn print(variables: &BTreeMap<String, String>, json: bool) -> anyhow::Result<()> {
    if json {
        say!("{}", serde_json::to_string_pretty(variables)?);
        return Ok(());
    }
    for (name, value) in variables {
        say!("export {name}='{}'", value.replace('\'', r"'\''"));
    }
    Ok(())
}
