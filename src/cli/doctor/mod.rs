//! `sallyport doctor`

mod clients;
mod table;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use serde_json::json;

use super::output::{count, say};
use crate::app::{Home, server::Source};
use crate::audit;
use crate::config::Config;
use crate::model::SystemClock;
use crate::policy::Library;
use crate::run::isolate;
use crate::store::Store;

/// What was found about one thing.
enum Finding {
    Good(String),
    Weak(String),
    Bad(String),
}

/// Looks at everything, and makes a request from every client that is installed. Nothing of this
/// installation is changed.
pub async fn run(
    dir: &Path,
    config: impl FnOnce() -> anyhow::Result<(Config, Source)>,
    json: bool,
) -> anyhow::Result<ExitCode> {
    use Finding::{Bad, Good, Weak};
    let mut all: Vec<(&str, Finding)> = Vec::new();
    let config = match config() {
        Ok((config, source)) => {
            let file = source.file.map_or("the defaults hold".to_owned(), |f| f.display().to_string());
            all.push(("configuration", Good(file)));
            Some(config)
        }
        Err(why) => {
            all.push(("configuration", Bad(format!("{why:#}"))));
            None
        }
    };
    if Home::exists(dir) {
        match Home::open(dir, Arc::new(SystemClock)) {
            Ok(home) => {
                all.push(("data directory", Good(format!("{}, private, its key-encryption key opens", dir.display()))));
                of_home(&home, &mut all);
            }
            Err(why) => all.push(("data directory", Bad(format!("{why:#}")))),
        }
        if let Some(config) = &config {
            all.push(match Store::status(&config.store, dir).await {
                Ok(status) if status.pending.is_empty() => ("store", Good(format!("{}, up to date", status.place))),
                Ok(status) => ("store", Weak(format!("{}: `sallyport store migrate` has work to do", status.place))),
                Err(why) => ("store", Bad(why.to_string())),
            });
        }
    } else {
        let what = format!("{} isn't there yet; `sallyport init` or `sallyport run` makes it", dir.display());
        all.push(("data directory", Weak(what)));
    }
    all.push(match isolate::available() {
        Ok(()) if isolate::weakness().is_some() => ("isolation", Weak(isolate::weakness().unwrap_or_default())),
        Ok(()) => ("isolation", Good("`run` hides the data directory and other processes from its command. Daemons of the same user that run \
             commands for others (tmux, docker, systemd --user) are not hidden"
                .to_owned())),
        Err(why) => ("isolation", Weak(isolate::consequence(&why))),
    });
    all.push(match isolate::network_available() {
        Ok(()) => ("network", Good("`run --isolate` leaves its command no way out but the proxy".to_owned())),
        Err(why) => (
            "network",
            Weak(format!(
                "`run --isolate` isn't to be had, so a command that ignores the proxy goes around it ({why})"
            )),
        ),
    });
    match clients::look().await {
        Ok(found) => all.extend(found),
        Err(why) => all.push(("clients", Weak(format!("they can't be tried: {why:#}")))),
    }
    let bad = all.iter().any(|(_, finding)| matches!(finding, Bad(_)));
    print(&all, json)?;
    Ok(if bad { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn of_home(home: &Home, all: &mut Vec<(&str, Finding)>) {
    use Finding::{Bad, Good, Weak};
    all.push(match home.ca() {
        Ok(ca) => {
            let left = ca.not_after().since(home.clock().now()).as_secs() / 86_400;
            let text = format!("valid for {left} more days");
            ("CA", if left < 60 { Weak(text) } else { Good(text) })
        }
        Err(why) => ("CA", Bad(format!("{why:#}"))),
    });
    all.push(match Library::load(&home.policy_dir()) {
        Ok(_) => ("policies", Good(format!("{} compile, and their cases hold", home.policy_dir().display()))),
        Err(problems) => {
            let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
            ("policies", Bad(problems.join("; ")))
        }
    });
    all.push(match audit::verify(&home.audit_dir(), &home.audit_keys()) {
        Ok(report) if report.troubles.is_empty() => (
            "audit",
            Good(format!("{} in {}, all whole", count(report.records, "record"), count(report.chains, "chain"))),
        ),
        Ok(report) => {
            ("audit", Bad(format!("{} chains are not whole; see `sallyport audit verify`", report.troubles.len())))
        }
        Err(why) => ("audit", Bad(why.to_string())),
    });
    if home.dir().join("kek").exists() {
        let what = "it lies beside what it seals, so whoever can read the data directory can open the keys. \
                    `sallyport init --passphrase` in a fresh directory, or SALLYPORT_KEK, keeps it elsewhere";
        all.push(("key-encryption key", Weak(what.to_owned())));
    } else {
        all.push(("key-encryption key", Good("not in the data directory".to_owned())));
    }
}

fn print(all: &[(&str, Finding)], json: bool) -> anyhow::Result<()> {
    let rows = all.iter().map(|(what, finding)| match finding {
        Finding::Good(text) => (*what, "ok", text),
        Finding::Weak(text) => (*what, "weak", text),
        Finding::Bad(text) => (*what, "bad", text),
    });
    if json {
        let rows: Vec<_> =
            rows.map(|(what, how, text)| json!({ "what": what, "state": how, "detail": text })).collect();
        say!("{}", serde_json::to_string_pretty(&rows)?);
    } else {
        for (what, how, text) in rows {
            say!("{how:<5} {what}: {text}");
        }
    }
    Ok(())
}
