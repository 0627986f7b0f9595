//! `sallyport audit`.

use std::process::ExitCode;

use clap::Subcommand;

use crate::app::Home;
use crate::audit::{Filter, query, verify};

#[derive(Subcommand)]
pub enum Command {
    /// Check every chain; names the first bad record
    Verify {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print records as JSON lines, oldest first
    Query {
        /// Only this kind: intent, outcome, denied, admin, security, start, stop, checkpoint
        #[arg(long)]
        kind: Option<String>,
        /// Only this session
        #[arg(long)]
        session: Option<String>,
        /// Only this key, by name
        #[arg(long)]
        key: Option<String>,
        /// Only this request, by the id that the agent was shown
        #[arg(long)]
        request: Option<String>,
        /// At most so many, the newest
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
}

pub fn run(home: &Home, command: &Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Verify { json } => {
            let report = verify(&home.audit_dir(), &home.audit_keys())?;
            if *json {
                let troubles: Vec<_> = report
                    .troubles
                    .iter()
                    .map(|t| serde_json::json!({ "file": t.file, "line": t.line, "seq": t.seq, "why": t.why }))
                    .collect();
                let value = serde_json::json!({ "chains": report.chains, "records": report.records, "signatures": report.signatures, "troubles": troubles });
                println!("{value}");
            } else if report.troubles.is_empty() {
                println!(
                    "{} chains, {} records, {} signatures: all whole",
                    report.chains, report.records, report.signatures
                );
            }
            for trouble in report.troubles.iter().filter(|_| !json) {
                println!("{}:{}: record {}: {}", trouble.file.display(), trouble.line, trouble.seq, trouble.why);
            }
            Ok(if report.troubles.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Command::Query { kind, session, key, request, limit } => {
            let filter = Filter {
                kind: kind.clone(),
                session: session.clone(),
                key: key.clone(),
                exchange: request.clone(),
                since: None,
                limit: *limit,
            };
            for record in query(&home.audit_dir(), &filter)? {
                println!("{record}");
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}
