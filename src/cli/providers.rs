//! `sallyport providers`

use clap::Subcommand;
use serde_json::json;

use super::output;

#[derive(Subcommand)]
pub enum Command {
    /// List the services that sallyport knows
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

pub fn run(command: &Command) -> anyhow::Result<()> {
    let Command::List { json } = command;
    let items = crate::providers::all()?
        .into_iter()
        .map(|p| {
            let destination = p.destination();
            json!({
                "name": p.name,
                "title": p.title,
                "variables": p.env,
                "hosts": destination.hosts,
                "slots": destination.slots,
                "base": p.base,
                "route": format!("/{}", p.name),
            })
        })
        .collect();
    let columns = [("NAME", "name"), ("SERVICE", "title"), ("VARIABLES", "variables"), ("HOSTS", "hosts")];
    output::list(items, *json, &columns, "")
}
