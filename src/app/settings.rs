//! What a node is set to.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::credential;
use crate::model::Secret;
use crate::proxy::settings::Settings;
use crate::upstream;
use crate::upstream::egress::{Credentials, Egress};

/// What a node listens on and reaches.
#[derive(Debug, Clone)]
pub struct NodeSettings {
    /// The forward listener; port 0 takes a free one.
    pub forward: Option<SocketAddr>,
    /// The forward listener behind TLS, for proxy URLs that begin with `https://`.
    pub forward_tls: Option<SocketAddr>,
    /// The gateway listener in clear.
    pub gateway: Option<SocketAddr>,
    /// The gateway listener behind TLS.
    pub gateway_tls: Option<SocketAddr>,
    /// How many cores; 0 takes one for each processor. Default: 1.
    pub cores: usize,
    /// The data path.
    pub proxy: Settings,
    /// The upstream side.
    pub upstream: upstream::Settings,
    /// A file with the credentials for the proxy that leads out.
    pub proxy_credentials: Option<PathBuf>,
    /// Extra roots for upstreams.
    pub extra_ca: Vec<PathBuf>,
    /// Gateway routes beside those of the providers: name and base URL.
    pub routes: BTreeMap<String, String>,
    /// How long the store may be out of reach before no key is used. Default: 5 s.
    pub max_staleness: Duration,
    /// How often what ended long ago is removed from memory and store. Default: 60 s.
    pub tidy: Duration,
    /// How long after a failure of the store it is asked again. Default: 200 ms.
    pub retry: Duration,
    /// The audit chains.
    pub audit: crate::audit::Settings,
    /// Credentials that are minted.
    pub credential: credential::oauth::Settings,
}

impl Default for NodeSettings {
    fn default() -> Self {
        Self {
            forward: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
            forward_tls: None,
            gateway: None,
            gateway_tls: None,
            cores: 1,
            proxy: Settings::default(),
            upstream: upstream::Settings::default(),
            proxy_credentials: None,
            extra_ca: Vec::new(),
            routes: BTreeMap::new(),
            max_staleness: Duration::from_secs(5),
            tidy: Duration::from_secs(60),
            retry: Duration::from_millis(200),
            audit: crate::audit::Settings::default(),
            credential: credential::oauth::Settings::default(),
        }
    }
}

impl NodeSettings {
    /// Which way leads out, with the credentials that lie in a file.
    ///
    /// # Errors
    /// The file can't be read or holds something else, or there is nobody to show its credentials to. The
    /// words repeat nothing of it.
    pub fn out(&self) -> Result<Egress, String> {
        let mut egress = self.upstream.egress.clone();
        let Some(file) = &self.proxy_credentials else { return Ok(egress) };
        let proxy = egress.proxy.as_mut().ok_or("there is no `upstream.proxy` for them")?;
        if proxy.credentials.is_some() {
            return Err("the URL of `upstream.proxy` holds credentials too".to_owned());
        }
        let text =
            std::fs::read_to_string(file).map(Secret::new).map_err(|why| format!("{}: {why}", file.display()))?;
        let credentials = Credentials::parse(text.expose()).map_err(|why| format!("{}: {why}", file.display()))?;
        proxy.credentials = Some(credentials);
        Ok(egress)
    }
}
