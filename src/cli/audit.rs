//! `sallyport audit`.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Subcommand;
use serde_json::Value;

use super::output::{cell, count, put, say};
use crate::app::Home;
use crate::audit::{
    Filter, Follow, Report, acts_on_display, names_another, public_key, query, verify, verify_signatures,
};
use crate::model::Timestamp;

#[derive(Subcommand)]
pub enum Command {
    /// Check every chain; names the first bad record
    Verify {
        /// Check with the public key in this file alone: what a signature follows, not what comes
        /// after the last one. Needs no key-encryption key
        #[arg(long, value_name = "FILE")]
        public_key: Option<PathBuf>,
        /// With --public-key, check the chains in this directory, such as a copy [default: audit in the data directory]
        #[arg(long, value_name = "DIR", requires = "public_key")]
        chains: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the public key that checks the signatures, for `verify --public-key`
    PublicKey,
    /// Print records, oldest first
    Query {
        #[command(flatten)]
        which: Which,
        /// At most so many, the newest
        #[arg(long, default_value_t = 100)]
        limit: usize,
        /// Print JSON lines
        #[arg(long)]
        json: bool,
    },
    /// Print the newest records, and those that come until it is interrupted
    Tail {
        #[command(flatten)]
        which: Which,
        /// How many to begin with
        #[arg(long, short = 'n', default_value_t = 10)]
        lines: usize,
        /// Print JSON lines
        #[arg(long)]
        json: bool,
    },
}

/// Which records.
#[derive(clap::Args)]
pub struct Which {
    /// Only this kind
    #[arg(long, value_parser = ["intent", "outcome", "denied", "admin", "security", "start", "stop", "checkpoint"])]
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
    /// Only from this time on: a date and time such as 2026-01-31T12:00:00Z, or how long ago, such as 30m
    #[arg(long, value_name = "WHEN")]
    since: Option<String>,
}

impl Which {
    fn filter(&self, now: Timestamp, limit: usize) -> anyhow::Result<Filter> {
        Ok(Filter {
            kind: self.kind.clone(),
            session: self.session.clone(),
            key: self.key.clone(),
            exchange: self.request.clone(),
            since: self.since.as_deref().map(|text| since(text, now)).transpose()?,
            limit,
        })
    }
}

/// A date and time, or how long ago, in milliseconds since the epoch.
fn since(text: &str, now: Timestamp) -> anyhow::Result<i64> {
    if let Ok(ago) = super::seconds(text) {
        return Ok(now.millis().saturating_sub(i64::from(ago) * 1000));
    }
    let at: jiff::Timestamp = text
        .parse()
        .ok()
        .context("--since is a date and time such as 2026-01-31T12:00:00Z, or how long ago, such as 30m")?;
    Ok(at.as_millisecond())
}

/// Runs a command; `looks` tells how often the chains are looked at for what came.
pub fn run(
    home: &dyn Fn() -> anyhow::Result<Home>,
    dir: &dyn Fn() -> anyhow::Result<PathBuf>,
    looks: impl Fn() -> anyhow::Result<Duration>,
    command: &Command,
) -> anyhow::Result<ExitCode> {
    match command {
        Command::Verify { public_key: Some(file), chains, json } => {
            let chains = chains.clone().map_or_else(|| Ok::<_, anyhow::Error>(dir()?.join("audit")), Ok)?;
            Ok(report(&verify_signatures(&chains, read_key(file)?)?, *json, false))
        }
        Command::Verify { json, .. } => {
            let home = home()?;
            Ok(report(&verify(&home.audit_dir(), &home.audit_keys())?, *json, true))
        }
        Command::PublicKey => {
            say!("{}", hex::encode(public_key(&home()?.audit_keys())?));
            Ok(ExitCode::SUCCESS)
        }
        Command::Query { which, limit, json } => {
            let home = home()?;
            let found = query(&home.audit_dir(), &which.filter(home.clock().now(), *limit)?)?;
            if found.is_empty() {
                eprintln!("sallyport: no record fits");
            }
            print(&found, *json);
            if found.len() == *limit {
                eprintln!("sallyport: these are the newest {limit}; a higher --limit shows more");
            }
            Ok(untold(&found))
        }
        Command::Tail { which, lines, json } => {
            let home = home()?;
            tail(&home.audit_dir(), which.filter(home.clock().now(), *lines)?, looks()?, *json)
        }
    }
}

fn read_key(file: &Path) -> anyhow::Result<[u8; 32]> {
    let text = std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    let mut key = [0; 32];
    hex::decode_to_slice(text.trim(), &mut key).with_context(|| {
        format!("{} is no public key: expected what `sallyport audit public-key` prints", file.display())
    })?;
    Ok(key)
}

/// Tells what a check found; with the public key alone (not `keyed`) what no signature follows isn't checked.
fn report(report: &Report, json: bool, keyed: bool) -> ExitCode {
    let Report { chains, records, signatures, unsigned, troubles } = report;
    if json {
        let troubles: Vec<_> = troubles
            .iter()
            .map(|t| serde_json::json!({ "file": t.file, "line": t.line, "seq": t.seq, "why": t.why }))
            .collect();
        let value = serde_json::json!({
            "chains": chains, "records": records, "signatures": signatures, "unsigned": unsigned, "troubles": troubles
        });
        say!("{value}");
    } else {
        if troubles.is_empty() {
            let found = if keyed || *unsigned == 0 {
                "all whole".to_owned()
            } else {
                format!(
                    "whole up to the last signature of each chain; {} after it not checked",
                    count(*unsigned, "record")
                )
            };
            let (chains, records) = (count(*chains, "chain"), count(*records, "record"));
            let after = if keyed { format!(", {} after the last", count(*unsigned, "record")) } else { String::new() };
            say!("{chains}, {records}, {}{after}: {found}", count(*signatures, "signature"));
        }
        for t in troubles {
            say!("{}:{}: record {}: {}", t.file.display(), t.line, t.seq, t.why);
        }
    }
    if troubles.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Prints records; false if nobody reads them any more.
fn print(records: &[Value], json: bool) -> bool {
    let lines = records.iter().map(|record| if json { json_line(record) } else { line(record) });
    lines.into_iter().all(|line| put(format_args!("{line}\n")))
}

/// Says so if records name others that aren't there any more.
fn untold(records: &[Value]) -> ExitCode {
    let untold = records.iter().filter(|record| names_another(record)).count();
    if untold == 0 {
        return ExitCode::SUCCESS;
    }
    eprintln!(
        "sallyport: {} above can't be told whole, because the records that they name by number (`like`, `intent`) are gone \
         or were changed; `sallyport audit verify` says which",
        count(untold, "record")
    );
    ExitCode::FAILURE
}

fn tail(dir: &Path, filter: Filter, look: Duration, json: bool) -> anyhow::Result<ExitCode> {
    // The following begins before the reading, so that no record falls between them.
    let mut follow = Follow::from_now(dir, filter.clone())?;
    let newest = query(dir, &filter)?;
    let mut shown: HashSet<String> = newest.iter().map(|r| r["mac"].to_string()).collect();
    let mut reader = print(&newest, json);
    while reader {
        let mut came = follow.poll()?;
        came.retain(|record| !shown.contains(&record["mac"].to_string()));
        shown.clear();
        reader = print(&came, json);
        std::thread::sleep(look);
    }
    Ok(ExitCode::SUCCESS)
}

/// A record as a JSON line; what acts on a terminal stays escaped, as it is in the record.
fn json_line(record: &Value) -> String {
    escaped(&record.to_string(), |c| format!("\\u{:04x}", u32::from(c)))
}

fn escaped(text: &str, escape: impl Fn(char) -> String) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if acts_on_display(c) { out.push_str(&escape(c)) } else { out.push(c) }
    }
    out
}

/// A record as people read it: the time, the kind, and what happened.
fn line(record: &Value) -> String {
    let text = |name: &str| escaped(&cell(&record[name]), |c| c.escape_unicode().to_string());
    let kind = text("kind");
    let fields: Vec<String> = match kind.as_str() {
        "intent" => vec![
            text("method"),
            format!("{}://{}{}", text("scheme"), text("authority"), text("path")),
            format!("key={}", text("key")),
            format!("rule={}/{}", text("policy"), text("rule")),
            format!("session={}", text("session")),
        ],
        "outcome" => vec![text("outcome"), text("status"), format!("{} B out", text("bytesOut"))],
        "denied" => {
            let session = Some(text("session")).filter(|id| !id.is_empty()).map(|id| format!("session={id}"));
            vec![text("code"), text("authority"), text("detail"), session.unwrap_or_default()]
        }
        "admin" | "security" => vec![text("principal"), text("action"), text("subject"), text("detail")],
        _ => vec![format!("record {}", text("seq"))],
    };
    let fields: Vec<String> = fields.into_iter().filter(|f| !f.is_empty()).collect();
    let time = Timestamp(record["time"].as_i64().unwrap_or(0));
    let request = Some(text("exchange")).filter(|id| !id.is_empty()).map_or_else(String::new, |id| format!("  {id}"));
    format!("{time}  {kind:<10}  {}{request}", fields.join(" "))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn since_is_a_time_or_how_long_ago() {
        let now = Timestamp(1_700_000_000_000);
        assert_eq!(since("30m", now).unwrap(), 1_700_000_000_000 - 1_800_000);
        assert_eq!(since("2023-11-14T22:13:20Z", now).unwrap(), 1_700_000_000_000);
        assert!(since("yesterday", now).is_err());
    }

    #[test]
    fn text_of_an_agent_can_not_act_on_the_terminal() {
        let path = "/\u{1b}[2J\u{9b}1m\u{202e}\n\"x";
        let record = json!({ "time": 0, "kind": "intent", "method": "GET", "path": path });
        for shown in [line(&record), json_line(&record)] {
            assert!(!shown.chars().any(acts_on_display), "{shown:?}");
        }
        let read: Value = serde_json::from_str(&json_line(&record)).unwrap();
        assert_eq!(read, record);
    }

    #[test]
    fn records_are_shown_as_one_line_each() {
        let denied =
            json!({ "time": 0, "kind": "denied", "code": "policy_denied", "detail": "no rule", "exchange": "id" });
        assert_eq!(line(&denied), "1970-01-01T00:00:00.000Z  denied      policy_denied no rule  id");
        let stop = json!({ "seq": 4, "time": 0, "kind": "stop" });
        assert_eq!(line(&stop), "1970-01-01T00:00:00.000Z  stop        record 4");
    }
}
