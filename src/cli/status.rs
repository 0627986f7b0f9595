//! `sallyport status`

use super::client::Client;
use super::output::{self, say};

pub async fn run(client: &Client, json: bool) -> anyhow::Result<()> {
    let status = client.get("/api/v1/status").await?;
    output::show(&status, json)?;
    if !json && !client.is_running_node() {
        say!("\nNo node runs on this data directory; `sallyport serve` starts one.");
    }
    Ok(())
}
