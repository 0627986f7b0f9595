//! `sallyport access`

use clap::Subcommand;
use serde_json::json;

use super::client::Client;
use super::output::{self, say};

#[derive(Subcommand)]
pub enum Command {
    /// Ask for keys as a tool; what policy approves becomes a session at once
    Request {
        /// The tool
        #[arg(long)]
        tool: String,
        /// A key, by name; repeat for several
        #[arg(long = "key", required = true, value_name = "KEY")]
        keys: Vec<String>,
        /// Why the keys are needed
        #[arg(long)]
        justification: String,
        /// development, staging or production [default: development]
        #[arg(long)]
        environment: Option<String>,
        /// For how long, such as 30m or 8h
        #[arg(long, default_value = "1h", value_name = "DURATION", value_parser = super::seconds)]
        lasts: u32,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List access requests
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

const PATH: &str = "/api/v1/mcp/access-requests";

pub async fn run(client: &Client, command: Command) -> anyhow::Result<()> {
    match command {
        Command::Request { tool, keys, justification, environment, lasts, json } => {
            let body = super::given(json!({
                "tool": tool,
                "keys": keys,
                "justification": justification,
                "environment": environment,
                "durationSeconds": lasts,
            }));
            let answer = client.post(PATH, &body).await?;
            if json {
                return output::show(&answer, true);
            }
            output::show(&answer["request"], false)?;
            if answer["started"].is_object() {
                say!("\nThe session that it bought:\n");
                output::show(&answer["started"], false)?;
            }
            Ok(())
        }
        Command::List { json } => {
            let columns = [
                ("ID", "id"),
                ("STATE", "state"),
                ("KEYS", "keys"),
                ("ENVIRONMENT", "environment"),
                ("DECIDED BY", "decidedBy"),
                ("JUSTIFICATION", "justification"),
            ];
            output::list(client.all(PATH).await?, json, &columns, "There are no access requests.")
        }
    }
}
