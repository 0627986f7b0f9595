//! Systems without namespaces: every way to isolate a command says so.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;

use super::Way;

const WHY: &str = "only Linux has the namespaces for it";

pub fn first(_: Option<&Way>, _: &[PathBuf], _: &[String]) -> anyhow::Result<ExitCode> {
    bail!(WHY)
}

pub fn second(_: &[String]) -> anyhow::Result<ExitCode> {
    bail!(WHY)
}

/// Where a listening socket would arrive; there is none.
pub struct Handover(std::convert::Infallible);

impl Handover {
    /// # Errors
    /// Always.
    pub fn new() -> anyhow::Result<Self> {
        bail!(WHY)
    }

    /// Never asked.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        match self.0 {}
    }

    /// # Errors
    /// Never asked.
    pub async fn receive(self, _: u32) -> anyhow::Result<Vec<TcpListener>> {
        match self.0 {}
    }
}
