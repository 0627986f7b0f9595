//! `sallyport sessions` and `sallyport tokens`

use anyhow::Context as _;
use clap::Subcommand;
use serde_json::json;

use super::client::Client;
use super::output::{self, say};
use crate::credential::oauth::standin;

#[derive(Subcommand)]
pub enum Command {
    /// Start a session; prints its proxy credentials, which are shown only once
    Start {
        /// A key that it may use, by name; repeat for several
        #[arg(long = "key", required = true, value_name = "KEY")]
        keys: Vec<String>,
        /// The tool that it is for
        #[arg(long)]
        tool: Option<String>,
        /// The project [default: the tool's, or default]
        #[arg(long)]
        project: Option<String>,
        /// development, staging or production [default: development]
        #[arg(long)]
        environment: Option<String>,
        /// How long it lasts, such as 30m or 8h
        #[arg(long, default_value = "1h", value_name = "DURATION", value_parser = super::seconds)]
        lasts: u32,
        /// A network from which it may be used, such as 10.0.0.0/8; repeat for several [default: all]
        #[arg(long = "source", value_name = "NETWORK")]
        sources: Vec<String>,
        /// The SHA-256 of the client certificate without which it may not be used; agents show it on
        /// listen.proxy_tls and listen.gateway_tls
        #[arg(long, value_name = "SHA256")]
        client_cert: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List sessions
    List {
        /// Only those that are active
        #[arg(long)]
        active: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show a session
    Show {
        /// Its id
        session: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// End a session with all its tokens; running exchanges are aborted
    Revoke {
        /// Its id
        session: String,
    },
}

const PATH: &str = "/api/v1/mcp/sessions";

pub async fn run(client: &Client, command: Command) -> anyhow::Result<()> {
    match command {
        Command::Start { keys, tool, project, environment, lasts, sources, client_cert, json } => {
            let body = super::given(json!({
                "keys": keys,
                "tool": tool,
                "project": project,
                "environment": environment,
                "durationSeconds": lasts,
                "sources": sources,
                "clientCertificate": client_cert,
            }));
            let started = client.post(PATH, &body).await?;
            output::show(&started, json)?;
            if !json {
                let id = output::cell(&started["id"]);
                say!("\nThe agent needs a token for each key: sallyport tokens mint {id} KEY");
            }
            Ok(())
        }
        Command::List { active, json } => {
            let mut all = client.all(PATH).await?;
            all.retain(|s| !active || s["state"] == "active");
            let columns = [
                ("ID", "id"),
                ("STATE", "state"),
                ("ENVIRONMENT", "environment"),
                ("TOOL", "tool"),
                ("CREATED", "createdAt"),
                ("EXPIRES", "expiresAt"),
            ];
            output::list(all, json, &columns, "There are no sessions.")
        }
        Command::Show { session, json } => {
            output::show(&client.get(&format!("{PATH}/{}", super::segment(&session))).await?, json)
        }
        Command::Revoke { session } => {
            client.delete(&format!("{PATH}/{}", super::segment(&session))).await?;
            say!("The session {session} is revoked.");
            Ok(())
        }
    }
}

#[derive(Subcommand)]
pub enum Tokens {
    /// Mint a proxy token for a key of a session; it is shown only once
    Mint {
        /// The session's id
        session: String,
        /// The key's name
        key: String,
        /// How long it lives, such as 10m [default: as long as its session]
        #[arg(long, value_name = "DURATION", value_parser = super::seconds)]
        lasts: Option<u32>,
        /// Print what an SDK reads instead of the token alone: for a key of kind service_account a file for
        /// GOOGLE_APPLICATION_CREDENTIALS, with the token in it and a private key that signs for nobody
        #[arg(long, conflicts_with = "json")]
        stand_in: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List proxy tokens
    List {
        /// Only this session's
        #[arg(long)]
        session: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// End a proxy token; running exchanges are aborted
    Revoke {
        /// Its id
        token: String,
    },
}

const TOKENS: &str = "/api/v1/mcp/proxy-tokens";

pub async fn tokens(client: &Client, command: Tokens) -> anyhow::Result<()> {
    match command {
        Tokens::Mint { session, key, lasts, stand_in, json } => {
            let of_key = match stand_in {
                true => Some(client.get(&format!("/api/v1/api-keys/{}", super::segment(&key))).await?),
                false => None,
            };
            let (session, key) = (super::segment(&session), super::segment(&key));
            let life = lasts.map(|secs| format!("?durationSeconds={secs}")).unwrap_or_default();
            let path = format!("{PATH}/{session}/keys/{key}/proxy-token{life}");
            let minted = client.post(&path, &json!({})).await?;
            let Some(of_key) = of_key else { return output::show(&minted, json) };
            let read = |field: &str| of_key[field].as_str().unwrap_or_default().to_owned();
            let (kind, endpoint) = (read("kind").parse()?, read("tokenEndpoint").parse());
            let made = endpoint.ok().zip(minted["value"].as_str());
            let made = made.and_then(|(endpoint, value)| standin::stand_in(kind, &endpoint, value));
            let made = made.context("SDKs need no stand-in for a key of this kind: they are given the token itself")?;
            say!("{}", serde_json::to_string_pretty(&made)?);
            Ok(())
        }
        Tokens::List { session, json } => {
            let of = session.map(|id| format!("?session={}", super::segment(&id))).unwrap_or_default();
            let columns = [
                ("ID", "id"),
                ("KEY", "key"),
                ("SESSION", "session"),
                ("STATE", "state"),
                ("CREATED", "createdAt"),
                ("EXPIRES", "expiresAt"),
            ];
            output::list(client.all(&format!("{TOKENS}{of}")).await?, json, &columns, "There are no proxy tokens.")
        }
        Tokens::Revoke { token } => {
            client.delete(&format!("{TOKENS}/{}", super::segment(&token))).await?;
            say!("The proxy token {token} is revoked.");
            Ok(())
        }
    }
}
