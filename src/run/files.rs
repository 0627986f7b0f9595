//! Public files that lie ready for a command's clients, outside the data directory.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::{Jvm, Surroundings, truststore};
use crate::model::SessionId;
use crate::tls::trust;

/// A directory with the CA, bundles of it and the system's roots, and what names them to clients that
/// read no variable. It is removed in the end.
pub struct PublicFiles {
    dir: PathBuf,
    jvm: bool,
}

impl PublicFiles {
    /// Writes them. `caller` is the environment of whoever starts the command: a corporate CA that is
    /// set there is taken over, and a JVM is looked for.
    ///
    /// # Errors
    /// The temporary directory can't be written, or the corporate CA can't be read.
    pub fn write(ca_pem: &str, caller: &[(String, String)]) -> anyhow::Result<Self> {
        let value = |name: &str| caller.iter().find(|(n, v)| n == name && !v.is_empty()).map(|(_, value)| value);
        let corporate = ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"]
            .into_iter()
            .find_map(value)
            .map(PathBuf::from)
            .filter(|path| path.is_file());
        let dir = std::env::temp_dir().join(format!("sallyport-ca-{}", SessionId::generate()));
        std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o755)
            .create(&dir)
            .with_context(|| format!("making {}", dir.display()))?;
        let jvm = value("JAVA_HOME").is_some() || found_in(value("PATH").map_or("", String::as_str), "java").is_some();
        let files = Self { dir, jvm };
        let bundle = trust::bundle_pem(corporate.as_deref(), ca_pem)?;
        std::fs::write(files.bundle(), &bundle)?;
        std::fs::write(files.ca(), ca_pem)?;
        if jvm {
            std::fs::write(files.trust_store(), truststore::pkcs12(&bundle))?;
        }
        // It takes the place of the system's own, so it begins as that does.
        let system = std::fs::read_to_string("/etc/wgetrc").unwrap_or_default();
        std::fs::write(files.wgetrc(), format!("{system}\nca_certificate = {}\n", files.bundle().display()))?;
        std::fs::write(files.node(), NODE_PROXY)?;
        Ok(files)
    }

    fn bundle(&self) -> PathBuf {
        self.dir.join("ca-bundle.pem")
    }

    fn ca(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    fn trust_store(&self) -> PathBuf {
        self.dir.join("ca-bundle.p12")
    }

    fn wgetrc(&self) -> PathBuf {
        self.dir.join("wgetrc")
    }

    fn node(&self) -> PathBuf {
        self.dir.join("node-proxy.cjs")
    }

    /// Whether there is a JVM, which needs a proxy that asks for no credentials.
    #[must_use]
    pub fn for_jvm(&self) -> bool {
        self.jvm
    }

    /// What the command's clients need. `open` is the proxy that asks for no credentials.
    #[must_use]
    pub fn around(&self, proxy_url: &str, open: Option<SocketAddr>, session: &str) -> Surroundings {
        let jvm = open.filter(|_| self.jvm).map(|proxy| Jvm { trust_store: self.trust_store(), proxy });
        Surroundings {
            proxy_url: proxy_url.to_owned(),
            bundle: self.bundle(),
            ca: self.ca(),
            jvm,
            wgetrc: Some(self.wgetrc()),
            node: Some(self.node()),
            session: session.to_owned(),
        }
    }
}

impl Drop for PublicFiles {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// What makes the agents of Node's SDKs use the proxy.
pub const NODE_PROXY: &str = include_str!("node-proxy.cjs");

/// The program of this name in a search path.
#[must_use]
pub fn found_in(path: &str, program: &str) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    let runs = |file: &Path| std::fs::metadata(file).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    std::env::split_paths(path).map(|dir| dir.join(program)).find(|file| runs(file))
}
