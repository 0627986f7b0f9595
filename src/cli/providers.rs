//! `sallyport providers`

use std::path::Path;

use anyhow::Context as _;
use clap::Subcommand;
use serde_json::Value;

use super::client::Client;
use super::output;
use crate::admin::ProviderView;
use crate::model::nearest;
use crate::providers::Library;

#[derive(Subcommand)]
pub enum Command {
    /// List the services that sallyport knows
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show one of them
    Show {
        /// Its name
        name: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print a file that adds a service of your own, to be changed and put into the data directory's providers/
    Example,
}

/// Lists the services of a node, or those that this machine knows, which needs no data directory.
pub async fn run(command: Command, node: Option<&Client>, dir: Option<&Path>) -> anyhow::Result<()> {
    if matches!(command, Command::Example) {
        output::put(format_args!("{}", crate::providers::EXAMPLE));
        return Ok(());
    }
    let items = match node {
        Some(client) => all(client).await?,
        None => {
            let library = Library::load(&dir.unwrap_or(Path::new("")).join("providers"))
                .map_err(|problems| anyhow::anyhow!(super::lines(&problems)))?;
            let view = |p| Ok(serde_json::to_value(ProviderView::from(p))?);
            library.current().iter().map(view).collect::<anyhow::Result<Vec<_>>>()?
        }
    };
    match command {
        Command::Example => Ok(()),
        Command::List { json } => {
            let columns = [("NAME", "name"), ("SERVICE", "title"), ("VARIABLES", "variables"), ("HOSTS", "hosts")];
            output::list(items, json, &columns, "")
        }
        Command::Show { name, json } => {
            let names = || items.iter().filter_map(|item| item["name"].as_str());
            let found = items.iter().find(|item| item["name"] == name.as_str());
            let near = || nearest(&name, names()).map(|n| format!("; is {n} meant?")).unwrap_or_default();
            output::show(found.with_context(|| format!("no service is known by this name{}", near()))?, json)
        }
    }
}

/// Every service that the admin API knows.
pub async fn all(client: &Client) -> anyhow::Result<Vec<Value>> {
    let answer = client.get("/api/v1/providers").await?;
    Ok(answer["items"].as_array().cloned().unwrap_or_default())
}
