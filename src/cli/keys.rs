//! `sallyport keys`

use clap::Subcommand;
use serde_json::{Value, json};

use super::client::Client;
use super::output::say;
use super::{output, secret};
use crate::config::Config;
use crate::model::Name;

#[derive(Subcommand)]
pub enum Command {
    /// Store a key; its value comes from a prompt, standard input or a file
    Add(Box<Add>),
    /// Get a key from a service by saying yes in a browser: GitHub, Google, GitLab, Slack, ...
    Connect(Box<super::connect::Args>),
    /// List keys
    List {
        /// Only this project's
        #[arg(long)]
        project: Option<String>,
        /// Only this environment's: development, staging or production
        #[arg(long)]
        environment: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show a key without its value
    Show {
        /// Its name or id
        key: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Change a key
    Edit {
        /// Its name or id
        key: String,
        /// Its new name
        #[arg(long)]
        name: Option<String>,
        /// Where it may go, instead of before; repeat for several
        #[arg(long = "host", value_name = "PATTERN")]
        hosts: Vec<String>,
        /// In which place it may be put, instead of before; repeat for several
        #[arg(long = "slot", value_name = "SLOT")]
        slots: Vec<String>,
        /// When it ends by itself, such as 2027-01-31T12:00:00Z; `never` takes an end away
        #[arg(long, value_name = "TIME")]
        expires_at: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Give a key a new value; sessions and tokens go on with it
    Rotate {
        /// Its name or id
        key: String,
        #[command(flatten)]
        value: secret::Value,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Ask a key's service whether it takes the key; fails if it doesn't
    Validate {
        /// Its name or id
        key: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Let nobody use a key until it is enabled again; running exchanges are aborted
    Disable {
        /// Its name or id
        key: String,
    },
    /// Let a disabled key be used again
    Enable {
        /// Its name or id
        key: String,
    },
    /// Delete a key with all its versions and tokens
    ///
    /// It is gone for good: `sallyport keys disable` keeps it from being used and can be undone.
    Delete {
        /// Its name or id
        key: String,
        /// Don't ask
        #[arg(long, short)]
        yes: bool,
    },
}

#[derive(clap::Args)]
pub struct Add {
    /// Its name, such as stripe_api_key
    name: String,
    /// The service it belongs to, which says where it may go; see `sallyport providers list`
    #[arg(long)]
    provider: Option<String>,
    /// Where it may go: api.example.com, *.example.com:8443; repeat for several
    #[arg(long = "host", value_name = "PATTERN")]
    hosts: Vec<String>,
    /// In which place it may be put, such as bearer, header:x-api-key, 'header:authorization=Bot {}',
    /// basic:user, basic:password, query:NAME, path:/bot{}, cookie:NAME, form:NAME, json:/POINTER,
    /// multipart:NAME; repeat for several
    #[arg(long = "slot", value_name = "SLOT")]
    slots: Vec<String>,
    /// What its value is: `secret` is put in as it is; others are documents: `basic` {"user": ...,
    /// "password": ...}, `aws` {"access_key_id": ..., "secret_access_key": ...}, `hmac` {"key": ...,
    /// "secret": ..., "template": "{timestamp}{method}{target}{body}", "timestamp": "header:NAME", "signature": "header:NAME"}; `mtls` is PEM, a
    /// client certificate and its private key, shown in the TLS handshake on requests that have a token in the
    /// header x-client-certificate, or in the slot that is named, or on which a rule injects it without one;
    /// for client_credentials, refresh_token, jwt_bearer, service_account and github_app access tokens are minted
    /// [default: secret]
    #[arg(long)]
    kind: Option<String>,
    /// The project [default: default]
    #[arg(long)]
    project: Option<String>,
    /// development, staging or production [default: development]
    #[arg(long)]
    environment: Option<String>,
    /// When it ends by itself, such as 2027-01-31T12:00:00Z
    #[arg(long, value_name = "TIME")]
    expires_at: Option<String>,
    /// The address of your own installation, such as https://gitlab.example.com: the key goes there alone
    #[arg(long, value_name = "URL", conflicts_with = "hosts")]
    base_url: Option<String>,
    /// Let it go to this machine without TLS
    #[arg(long)]
    cleartext_loopback: bool,
    #[command(flatten)]
    value: secret::Value,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

const PATH: &str = "/api/v1/api-keys";

fn at(key: &str) -> String {
    format!("{PATH}/{}", super::segment(key))
}

pub async fn run(
    client: &Client,
    config: impl FnOnce() -> anyhow::Result<Config>,
    command: Command,
) -> anyhow::Result<()> {
    match command {
        Command::Connect(args) => super::connect::run(client, &config()?, *args).await,
        Command::Add(add) => {
            let json = add.json;
            warned(&create(client, *add).await?, json)
        }
        Command::List { project, environment, json } => {
            let mut path = format!("{PATH}?");
            for (name, value) in [("project", project), ("environment", environment)] {
                if let Some(value) = value {
                    path.push_str(&format!("{name}={}&", super::segment(&value)));
                }
            }
            let columns = [
                ("NAME", "name"),
                ("PROJECT", "project"),
                ("ENVIRONMENT", "environment"),
                ("PROVIDER", "provider"),
                ("KIND", "kind"),
                ("STATE", "state"),
                ("VERSION", "version"),
                ("EXPIRES", "expiresAt"),
                ("HOSTS", "hosts"),
                ("ID", "id"),
            ];
            let none = "There are no keys. `sallyport keys add NAME --provider PROVIDER` stores one.";
            output::list(client.all(path.trim_end_matches(['&', '?'])).await?, json, &columns, none)
        }
        Command::Show { key, json } => output::show(&client.get(&at(&key)).await?, json),
        Command::Edit { key, name, hosts, slots, expires_at, json } => {
            let some = |list: Vec<String>| (!list.is_empty()).then_some(list);
            let expires_at = expires_at.map(|at| if at == "never" { String::new() } else { at });
            let body = json!({ "name": name, "hosts": some(hosts), "slots": some(slots), "expiresAt": expires_at });
            output::show(&client.put(&at(&key), &super::changes(body)?).await?, json)
        }
        Command::Rotate { key, value, json } => {
            // A key that isn't there is told before a secret is asked for.
            client.get(&at(&key)).await?;
            let value = value.read(&format!("New value of {key}"))?;
            warned(&client.post(&format!("{}/rotate", at(&key)), &json!({ "value": *value })).await?, json)
        }
        Command::Validate { key, json } => {
            let found = client.post(&format!("{}/validate", at(&key)), &json!({})).await?;
            output::show(&found, json)?;
            let detail = found["detail"].as_str().unwrap_or_default();
            anyhow::ensure!(found["result"] == "valid", "{key} isn't known to be valid: {detail}");
            Ok(())
        }
        Command::Disable { key } => set_state(client, &key, "disabled").await,
        Command::Enable { key } => set_state(client, &key, "enabled").await,
        Command::Delete { key, yes } => {
            client.get(&at(&key)).await?;
            if !yes {
                output::confirm(&format!("Delete the key {key} with all its versions and tokens, for good?"))?;
            }
            client.delete(&at(&key)).await?;
            say!("The key {key} is deleted.");
            Ok(())
        }
    }
}

async fn create(client: &Client, add: Add) -> anyhow::Result<Value> {
    let Add {
        name,
        provider,
        kind,
        hosts,
        slots,
        project,
        environment,
        expires_at,
        base_url,
        cleartext_loopback,
        value,
        ..
    } = add;
    let name: Name = name.to_ascii_lowercase().parse()?;
    // Before the prompt repeats it, and the audit keeps it.
    anyhow::ensure!(
        !name.looks_like_key(),
        "the name looks like a key: give it a name of your own, and the key itself at the prompt, by standard input or \
         with --value-file. What stands in a command line stays in the shell's history"
    );
    // OPENAI_API_KEY and openai say by themselves what they are.
    let provider = match provider {
        None if hosts.is_empty() => {
            let all = super::providers::all(client).await?;
            let reads = |p: &Value| {
                let mut variables = p["variables"].as_array().into_iter().flatten().filter_map(Value::as_str);
                variables.any(|variable| variable.eq_ignore_ascii_case(name.as_str()))
            };
            let found = all.iter().find(|p| p["name"] == name.as_str() || reads(p));
            found.and_then(|p| p["name"].as_str()).map(str::to_owned)
        }
        given => given,
    };
    anyhow::ensure!(
        provider.is_some() || !hosts.is_empty() || base_url.is_some(),
        "say where the key may go: --provider NAME (see `sallyport providers list`), or --host and --slot"
    );
    let value = value.read(&format!("Value of {name}"))?;
    let some = |list: Vec<String>| (!list.is_empty()).then_some(list);
    let body = json!({
        "name": name.as_str(),
        "provider": provider,
        "kind": kind,
        "hosts": some(hosts),
        "slots": some(slots),
        "baseUrl": base_url,
        "project": project,
        "environment": environment,
        "expiresAt": expires_at,
        "cleartext": cleartext_loopback.then_some("loopback"),
        "value": *value,
    });
    client.post(PATH, &super::given(body)).await
}

/// Shows a key, and what is doubtful about its value where people look.
fn warned(key: &Value, json: bool) -> anyhow::Result<()> {
    for warning in key["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        eprintln!("sallyport: {warning}");
    }
    output::show(key, json)
}

async fn set_state(client: &Client, key: &str, state: &str) -> anyhow::Result<()> {
    client.put(&at(key), &json!({ "state": state })).await?;
    say!("The key {key} is {state}.");
    Ok(())
}
