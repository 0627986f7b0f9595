//! A command's environment: tokens in the place of keys, and what its clients need to come through
//! the proxy.

pub mod files;
pub mod isolate;
pub mod truststore;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// A key that was taken from the caller's environment.
pub struct Swap {
    /// The variables that held the key, each of which gets the token.
    pub variables: Vec<String>,
    /// The token, with its shape.
    pub token: String,
}

/// What the command's clients need.
pub struct Surroundings {
    /// The proxy's URL, with the session's credentials.
    pub proxy_url: String,
    /// System roots, a corporate CA that was set already, and ours.
    pub bundle: PathBuf,
    /// Ours alone.
    pub ca: PathBuf,
    /// What a JVM needs, if there is one: it reads no variable of the usual ones.
    pub jvm: Option<Jvm>,
    /// A system-wide configuration of wget's that names the bundle.
    pub wgetrc: Option<PathBuf>,
    /// A script that Node loads first.
    pub node: Option<PathBuf>,
    /// The session's id.
    pub session: String,
}

/// What a JVM needs. It can't send credentials to a proxy by itself.
pub struct Jvm {
    /// The bundle as PKCS#12.
    pub trust_store: PathBuf,
    /// A proxy that asks for no credentials.
    pub proxy: SocketAddr,
}

impl Jvm {
    /// System properties, behind those that were set already.
    fn options(&self, before: &str) -> String {
        let (store, host, port) = (self.trust_store.display(), self.proxy.ip(), self.proxy.port());
        let mut all = vec![before.to_owned()];
        all.push(format!("-Djavax.net.ssl.trustStore={store} -Djavax.net.ssl.trustStoreType=PKCS12"));
        for scheme in ["http", "https"] {
            all.push(format!("-D{scheme}.proxyHost={host} -D{scheme}.proxyPort={port}"));
        }
        all.join(" ").trim().to_owned()
    }
}

/// Proxy variables; each is set in upper and lower case.
const PROXY: &[&str] = &["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "GRPC_PROXY"];

/// Proxy variables of clients that read none of those.
const OWN_PROXY: &[&str] = &["YARN_HTTP_PROXY", "YARN_HTTPS_PROXY", "CARGO_HTTP_PROXY"];

/// Variables that replace a client's roots, so they name the whole bundle.
const REPLACE: &[&str] = &[
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "DENO_CERT",
    "PIP_CERT",
    "AWS_CA_BUNDLE",
    "CARGO_HTTP_CAINFO",
    "NIX_SSL_CERT_FILE",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE",
    "BUNDLE_SSL_CA_CERT",
    "npm_config_cafile",
    "YARN_HTTPS_CA_FILE_PATH",
    "HTTPLIB2_CA_CERTS",
    "PERL_LWP_SSL_CA_FILE",
    "HTTPS_CA_FILE",
    "HEX_CACERTS_PATH",
    "JULIA_SSL_CA_ROOTS_PATH",
    "SYSTEM_CERTIFICATE_PATH",
];

/// Loopback, and nothing else, is reached without the proxy.
const NO_PROXY: &str = "localhost,127.0.0.1,::1";

/// The command's environment, and warnings for the person who started it.
///
/// Whatever else holds a key that was taken, under whatever name, is removed: `secrets` are their
/// values. No `SALLYPORT_*` variable but the session's is passed on.
#[must_use]
pub fn environment(
    caller: impl IntoIterator<Item = (String, String)>,
    swaps: &[Swap],
    secrets: &[&str],
    around: &Surroundings,
) -> (BTreeMap<String, String>, Vec<String>) {
    let mut warnings = Vec::new();
    let mut child: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in caller {
        let upper = name.to_ascii_uppercase();
        if upper.starts_with("SALLYPORT_") || PROXY.contains(&upper.as_str()) || upper == "SSL_CERT_DIR" {
            continue;
        }
        if upper == "NO_PROXY" {
            if value
                .split(',')
                .map(str::trim)
                .any(|host| !host.is_empty() && !NO_PROXY.split(',').any(|ours| ours == host))
            {
                warnings.push(format!("{name} named hosts beyond loopback; they go through the proxy too"));
            }
            continue;
        }
        if secrets.iter().any(|secret| value.contains(secret)) {
            if !swaps.iter().any(|swap| swap.variables.contains(&name)) {
                warnings.push(format!("{name} held a key as well and is not passed on"));
            }
            continue;
        }
        child.insert(name, value);
    }
    let before = |name: &str| child.get(name).cloned().unwrap_or_default();
    let (java_before, node_before) = (before("JAVA_TOOL_OPTIONS"), before("NODE_OPTIONS"));
    let mut set = |name: &str, value: &str| child.insert(name.to_owned(), value.to_owned());
    for swap in swaps {
        for variable in &swap.variables {
            set(variable, &swap.token);
        }
    }
    for name in PROXY {
        set(name, &around.proxy_url);
        set(&name.to_ascii_lowercase(), &around.proxy_url);
    }
    for name in OWN_PROXY {
        set(name, &around.proxy_url);
    }
    for name in ["NO_PROXY", "no_proxy"] {
        set(name, NO_PROXY);
    }
    for name in REPLACE {
        set(name, &around.bundle.to_string_lossy());
    }
    set("NODE_EXTRA_CA_CERTS", &around.ca.to_string_lossy());
    if let Some(jvm) = &around.jvm {
        set("JAVA_TOOL_OPTIONS", &jvm.options(&java_before));
    }
    if let Some(node) = &around.node {
        set("NODE_OPTIONS", format!("{node_before} --require {}", quoted(node)).trim());
    }
    if let Some(wgetrc) = &around.wgetrc {
        set("SYSTEM_WGETRC", &wgetrc.to_string_lossy());
    }
    set("NODE_USE_ENV_PROXY", "1");
    set("DENO_TLS_CA_STORE", "system,mozilla");
    set("GIT_TERMINAL_PROMPT", "0");
    set("GIT_HTTP_PROXY_AUTHMETHOD", "basic");
    set("SALLYPORT_SESSION", &around.session);
    (child, warnings)
}

/// A path as NODE_OPTIONS has those with spaces in them.
fn quoted(path: &Path) -> String {
    format!("\"{}\"", path.to_string_lossy().replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn child_holds_tokens_and_no_key_under_any_name() {
        let caller = [
            ("OPENAI_API_KEY", "sk-real-12345678"),
            ("BACKUP_OF_IT", "x=sk-real-12345678"),
            ("SALLYPORT_KEK", "00"),
            ("no_proxy", "internal.example,localhost"),
            ("HTTPS_PROXY", "http://old:1"),
            ("JAVA_TOOL_OPTIONS", "-Xmx1g"),
            ("NODE_OPTIONS", "--no-warnings"),
            ("PATH", "/bin"),
        ];
        let caller = caller.map(|(n, v)| (n.to_owned(), v.to_owned()));
        let swaps = [Swap { variables: vec!["OPENAI_API_KEY".into()], token: "sk-proj-spt_x".into() }];
        let around = Surroundings {
            proxy_url: "http://s:p@127.0.0.1:1".to_owned(),
            bundle: PathBuf::from("/d/ca-bundle.pem"),
            ca: PathBuf::from("/d/ca.pem"),
            jvm: Some(Jvm {
                trust_store: PathBuf::from("/d/ca-bundle.p12"),
                proxy: SocketAddr::from(([127, 0, 0, 1], 2)),
            }),
            wgetrc: None,
            node: Some(PathBuf::from("/a d/node-proxy.cjs")),
            session: "s".to_owned(),
        };
        let (child, warnings) = environment(caller, &swaps, &["sk-real-12345678"], &around);
        assert_eq!(child.get("OPENAI_API_KEY").map(String::as_str), Some("sk-proj-spt_x"));
        assert!(child.values().all(|v| !v.contains("sk-real")), "{child:?}");
        assert!(!child.contains_key("SALLYPORT_KEK"));
        assert_eq!(child.get("https_proxy"), child.get("HTTPS_PROXY"));
        assert_eq!(child.get("HTTPS_PROXY").map(String::as_str), Some(around.proxy_url.as_str()));
        assert_eq!(child.get("SSL_CERT_FILE").map(String::as_str), Some("/d/ca-bundle.pem"));
        let java = child.get("JAVA_TOOL_OPTIONS").map(String::as_str).unwrap_or_default();
        assert!(java.starts_with("-Xmx1g -Djavax.net.ssl.trustStore=/d/ca-bundle.p12 "), "{java}");
        assert!(java.contains("-Dhttps.proxyPort=2"), "{java}");
        let node = child.get("NODE_OPTIONS").map(String::as_str);
        assert_eq!(node, Some("--no-warnings --require \"/a d/node-proxy.cjs\""));
        assert_eq!(warnings.len(), 2, "{warnings:?}");
    }
}
