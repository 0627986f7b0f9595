//! `sallyport policy`.

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::json;

use super::client::Client;
use super::output;
use crate::app::Home;
use crate::policy::Library;

#[derive(Subcommand)]
pub enum Command {
    /// Compile the policies of the data directory and run their cases
    Check,
    /// Say which rule decides a request, and why
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

pub fn check(home: &Home) -> ExitCode {
    match Library::load(&home.policy_dir()) {
        Ok(_) => {
            println!("{}: all whole, and every case holds", home.policy_dir().display());
            ExitCode::SUCCESS
        }
        Err(problems) => {
            for problem in problems {
                println!("{problem}");
            }
            ExitCode::FAILURE
        }
    }
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
    println!("{} in {}: {}", text("decision"), text("environment"), text("reason"));
    if answer["decidedBy"].is_string() {
        println!("decided by {}", text("decidedBy"));
    }
    for rule in answer["rules"].as_array().into_iter().flatten() {
        println!("  {}", output::cell(rule));
    }
    if answer["note"].is_string() {
        println!("{}", text("note"));
    }
    Ok(())
}
