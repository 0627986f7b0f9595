//! `sallyport policy`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;
use serde_json::json;

use super::client::Client;
use super::output::{self, say};
use crate::policy::Library;

#[derive(Subcommand)]
pub enum Command {
    /// Compile policies and run their cases
    Check {
        /// The directory that they are in [default: policies in the data directory]
        #[arg(value_name = "DIR")]
        dir: Option<PathBuf>,
    },
    /// Say which rule decides a request, why, and in which slots its key may be put
    Explain(Question),
}

#[derive(clap::Args)]
pub struct Question {
    /// The request, such as "POST https://api.stripe.com/v1/charges"
    request: String,
    /// The key's name
    #[arg(long)]
    key: String,
    /// The tool's name
    #[arg(long)]
    tool: Option<String>,
    /// The environment
    #[arg(long, default_value = "development")]
    environment: String,
    /// The project's name
    #[arg(long, default_value = "default")]
    project: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn check(dir: &Path) -> anyhow::Result<ExitCode> {
    anyhow::ensure!(dir.is_dir(), "{} is no directory of policies", dir.display());
    Ok(match Library::load(dir) {
        Ok(_) => {
            say!("{}: all whole, and every case holds", dir.display());
            ExitCode::SUCCESS
        }
        Err(problems) => {
            for problem in problems {
                say!("{problem}");
            }
            ExitCode::FAILURE
        }
    })
}

pub async fn explain(client: &Client, question: Question) -> anyhow::Result<()> {
    let Question { request, key, tool, environment, project, json } = question;
    let body = super::given(json!({
        "request": request,
        "key": key,
        "tool": tool,
        "environment": environment,
        "project": project,
    }));
    let answer = client.post("/api/v1/policy/explain", &body).await?;
    if json {
        return output::show(&answer, true);
    }
    let text = |field: &str| output::cell(&answer[field]);
    say!("{} in {}: {}", text("decision"), text("environment"), text("reason"));
    if answer["decidedBy"].is_string() {
        say!("decided by {}", text("decidedBy"));
    }
    for rule in answer["rules"].as_array().into_iter().flatten() {
        say!("  {}", output::cell(rule));
    }
    let used = &answer["useOfKey"];
    let listed = |field: &str| {
        let all = used[field].as_array().into_iter().flatten();
        all.filter_map(serde_json::Value::as_str).collect::<Vec<_>>().join(", ")
    };
    if let Some(host) = used["destination"].as_str() {
        say!(
            "the key ({}) goes there as {host}; its token stands in: {}",
            output::cell(&used["kind"]),
            listed("slots")
        );
        if used["otherSlots"].as_array().is_some_and(|others| !others.is_empty()) {
            say!("not in this request: {}", listed("otherSlots"));
        }
        match (used["withoutToken"].as_str(), used["injected"].as_str()) {
            (Some("inject"), Some(what)) => say!("without a token, with proxy credentials: {what}"),
            (Some("forward"), _) => say!("without a token it is forwarded as it is, with what stands there"),
            _ => say!("without a token the key isn't used"),
        }
    }
    if answer["note"].is_string() {
        say!("{}", text("note"));
    }
    Ok(())
}
