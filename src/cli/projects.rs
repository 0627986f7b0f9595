//! `sallyport projects`

use clap::Subcommand;
use serde_json::json;

use super::client::Client;
use super::output::{self, say};

#[derive(Subcommand)]
pub enum Command {
    /// Make a project
    Add {
        /// Its name
        name: String,
        /// What it is for
        #[arg(long, default_value = "")]
        description: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List projects
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show a project
    Show {
        /// Its name or id
        project: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Change a project
    Edit {
        /// Its name or id
        project: String,
        /// Its new name
        #[arg(long)]
        name: Option<String>,
        /// What it is for
        #[arg(long)]
        description: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Delete a project that holds nothing
    Delete {
        /// Its name or id
        project: String,
    },
}

const PATH: &str = "/api/v1/projects";

pub async fn run(client: &Client, command: Command) -> anyhow::Result<()> {
    match command {
        Command::Add { name, description, json } => {
            let made = client.post(PATH, &json!({ "name": name, "description": description })).await?;
            output::show(&made, json)
        }
        Command::List { json } => {
            let columns = [("NAME", "name"), ("DESCRIPTION", "description"), ("CREATED", "createdAt")];
            output::list(client.all(PATH).await?, json, &columns, "There are no projects.")
        }
        Command::Show { project, json } => {
            output::show(&client.get(&format!("{PATH}/{}", super::segment(&project))).await?, json)
        }
        Command::Edit { project, name, description, json } => {
            let body = super::changes(json!({ "name": name, "description": description }))?;
            output::show(&client.put(&format!("{PATH}/{}", super::segment(&project)), &body).await?, json)
        }
        Command::Delete { project } => {
            client.delete(&format!("{PATH}/{}", super::segment(&project))).await?;
            say!("The project {project} is deleted.");
            Ok(())
        }
    }
}
