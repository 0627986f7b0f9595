//! `sallyport tools`

use clap::Subcommand;
use serde_json::json;

use super::client::Client;
use super::output::{self, say};

#[derive(Subcommand)]
pub enum Command {
    /// Register an agent program and the most that it may ever ask for
    Register {
        /// Its name
        name: String,
        /// A key that it may ask for, by name; repeat for several, `*` for all of the project
        #[arg(long = "key", required = true, value_name = "KEY")]
        keys: Vec<String>,
        /// An environment that it may ask for; repeat for several [default: development]
        #[arg(long = "environment", value_name = "ENVIRONMENT")]
        environments: Vec<String>,
        /// The project [default: default]
        #[arg(long)]
        project: Option<String>,
        /// What it does
        #[arg(long, default_value = "")]
        description: String,
        /// The longest session that it may ask for, such as 30m or 8h
        #[arg(long, default_value = "1h", value_name = "DURATION", value_parser = super::seconds)]
        max_session: u32,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List tools
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show a tool
    Show {
        /// Its name or id
        tool: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Let a tool ask for nothing, and end its sessions
    Disable {
        /// Its name or id
        tool: String,
    },
    /// Let a disabled tool ask again
    Enable {
        /// Its name or id
        tool: String,
    },
}

const PATH: &str = "/api/v1/mcp/tools";

pub async fn run(client: &Client, command: Command) -> anyhow::Result<()> {
    match command {
        Command::Register { name, keys, environments, project, description, max_session, json } => {
            let body = super::given(json!({
                "name": name,
                "keys": keys,
                "environments": (!environments.is_empty()).then_some(environments),
                "project": project,
                "description": description,
                "maxSessionSeconds": max_session,
            }));
            let tool = client.post(PATH, &body).await?;
            output::show(&tool, json)?;
            let stored = client.all("/api/v1/api-keys").await?;
            let missing = keys.iter().filter(|key| *key != "*" && !stored.iter().any(|s| s["name"] == **key));
            for key in missing {
                eprintln!("sallyport: no key {key} is stored yet; until one is, the tool can't get it");
            }
            Ok(())
        }
        Command::List { json } => {
            let columns = [
                ("NAME", "name"),
                ("PROJECT", "project"),
                ("KEYS", "keys"),
                ("ENVIRONMENTS", "environments"),
                ("ENABLED", "enabled"),
                ("DESCRIPTION", "description"),
            ];
            output::list(client.all(PATH).await?, json, &columns, "There are no tools.")
        }
        Command::Show { tool, json } => {
            output::show(&client.get(&format!("{PATH}/{}", super::segment(&tool))).await?, json)
        }
        Command::Disable { tool } => enable(client, &tool, false).await,
        Command::Enable { tool } => enable(client, &tool, true).await,
    }
}

async fn enable(client: &Client, tool: &str, enabled: bool) -> anyhow::Result<()> {
    client.put(&format!("{PATH}/{}", super::segment(tool)), &json!({ "enabled": enabled })).await?;
    say!("The tool {tool} is {}.", if enabled { "enabled" } else { "disabled" });
    Ok(())
}
