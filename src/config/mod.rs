//! From text to the parts' own settings: one table of settings, read from YAML and from the
//! environment.
//!
//! Unknown names are refused, and all mistakes are told at once. `default.yaml` is the
//! documentation of every setting; a test holds it to the table.

mod settings;
mod value;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_yaml::Value;

pub use settings::SETTINGS;

use crate::admin;
use crate::app;
use crate::model::nearest;
use crate::store;

/// The commented defaults.
pub const DEFAULT: &str = include_str!("default.yaml");

/// Everything that can be set.
#[derive(Debug, Clone)]
pub struct Config {
    /// The node: listeners of the data path, limits, upstream side.
    pub node: app::NodeSettings,
    /// Where the admin API listens.
    pub admin_listen: Option<SocketAddr>,
    /// Whether it speaks TLS with a leaf of our own CA.
    pub admin_tls: bool,
    /// A certificate chain of the operator's for it.
    pub admin_certificate: Option<PathBuf>,
    /// Its private key.
    pub admin_key: Option<PathBuf>,
    /// Bounds of the admin API.
    pub admin: admin::Settings,
    /// The store.
    pub store: store::Settings,
    /// How often `audit tail` looks for new records.
    pub tail: Duration,
    /// The filter of the logs.
    pub log: String,
    /// Whether logs are JSON.
    pub log_json: bool,
    /// How long running exchanges may take after the first signal.
    pub drain: Duration,
    /// The file that it was read from, if there was one.
    pub file: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        let at = |port| Some(SocketAddr::from(([127, 0, 0, 1], port)));
        let node = app::NodeSettings { forward: at(8080), gateway: at(8081), cores: 0, ..app::NodeSettings::default() };
        Self {
            node,
            admin_listen: at(8082),
            admin_tls: false,
            admin_certificate: None,
            admin_key: None,
            admin: admin::Settings::default(),
            store: store::Settings::default(),
            tail: Duration::from_millis(250),
            log: "info".to_owned(),
            log_json: false,
            drain: Duration::from_secs(30),
            file: None,
        }
    }
}

/// A mistake in the configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {what}")]
pub struct Problem {
    /// The setting, the variable or the file.
    pub place: String,
    /// What is wrong with it.
    pub what: String,
}

impl Problem {
    fn new(place: impl Into<String>, what: impl Into<String>) -> Self {
        Self { place: place.into(), what: what.into() }
    }
}

/// The longest configuration file, in bytes.
const MAX_BYTES: u64 = 1024 * 1024;

impl Config {
    /// Reads the file, if there is one, and the environment over it.
    ///
    /// # Errors
    /// All mistakes.
    pub fn load(
        file: Option<&Path>,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, Vec<Problem>> {
        let text = match file {
            None => String::new(),
            Some(path) => {
                let place = path.display().to_string();
                let length = std::fs::metadata(path).map_err(|e| vec![Problem::new(&place, e.to_string())])?.len();
                if length > MAX_BYTES {
                    return Err(vec![Problem::new(place, "the file is longer than 1 MiB")]);
                }
                std::fs::read_to_string(path).map_err(|e| vec![Problem::new(place, e.to_string())])?
            }
        };
        let config = Self::parse(&text, variables)?;
        Ok(Self { file: file.map(Path::to_owned), ..config })
    }

    /// Reads YAML text, and variables over it.
    ///
    /// # Errors
    /// All mistakes.
    pub fn parse(text: &str, variables: impl IntoIterator<Item = (String, String)>) -> Result<Self, Vec<Problem>> {
        let mut config = Self::default();
        let mut problems = Vec::new();
        match serde_yaml::from_str::<Value>(text) {
            Ok(Value::Null) => {}
            Ok(tree) => config.take_tree("", &tree, &mut problems),
            Err(why) => problems.push(Problem::new("the file", format!("it isn't YAML: {why}"))),
        }
        for (variable, text) in variables {
            let Some(setting) = SETTINGS.iter().find(|s| s.variable() == variable) else {
                problems.extend(
                    mistyped(&variable)
                        .map(|near| Problem::new(variable, format!("there is no such variable; is {near} meant?"))),
                );
                continue;
            };
            // What doesn't parse as YAML is meant as it stands: a URL, a filter.
            let value = serde_yaml::from_str(&text).unwrap_or(Value::String(text));
            if let Err(what) = (setting.take)(&mut config, &value) {
                problems.push(Problem::new(variable, what));
            }
        }
        config.check(&mut problems);
        if problems.is_empty() { Ok(config) } else { Err(problems) }
    }

    fn take_tree(&mut self, at: &str, tree: &Value, problems: &mut Vec<Problem>) {
        let Value::Mapping(map) = tree else {
            let place = if at.is_empty() { "the file" } else { at };
            return problems.push(Problem::new(place, "here stand further settings, each `name: value` on a line"));
        };
        for (name, value) in map {
            let Value::String(name) = name else {
                problems.push(Problem::new(at, "the name of a setting is a word"));
                continue;
            };
            let path = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
            if let Some(setting) = SETTINGS.iter().find(|s| s.path == path) {
                if let Err(what) = (setting.take)(self, value) {
                    problems.push(Problem::new(path, what));
                }
            } else if SETTINGS.iter().any(|s| s.path.strip_prefix(path.as_str()).is_some_and(|r| r.starts_with('.'))) {
                if *value != Value::Null {
                    self.take_tree(&path, value, problems);
                }
            } else {
                problems.push(Problem::new(&path, unknown(&path)));
            }
        }
    }

    /// What no single setting shows.
    fn check(&self, problems: &mut Vec<Problem>) {
        let beyond = |at: Option<SocketAddr>| at.filter(|at| !at.ip().is_loopback());
        for (path, at, instead) in [
            ("listen.proxy", self.node.forward, "listen.proxy_tls"),
            ("listen.gateway", self.node.gateway, "listen.gateway_tls"),
        ] {
            if let Some(at) = beyond(at) {
                let what = format!("{at} is reached from other machines, where credentials need TLS: use {instead}");
                problems.push(Problem::new(path, what));
            }
        }
        let known = ["sqlite:", "postgres://", "postgresql://"];
        if !known.iter().any(|scheme| self.store.url.starts_with(scheme)) {
            problems.push(Problem::new("store.url", "it begins with sqlite: or postgres://"));
        }
        for file in self.node.extra_ca.iter().filter(|file| !file.is_file()) {
            problems.push(Problem::new("upstream.extra_ca", format!("{} is no file", file.display())));
        }
        if let Err(what) = self.node.out() {
            problems.push(Problem::new("upstream.proxy_credentials", what));
        }
        let tls = self.admin_tls || self.admin_certificate.is_some();
        if let Some(at) = beyond(self.admin_listen).filter(|_| !tls) {
            let what = format!("{at} is reached from other machines, where the admin token needs TLS: set admin.tls");
            problems.push(Problem::new("listen.admin", what));
        }
        if self.admin_certificate.is_some() != self.admin_key.is_some() {
            problems.push(Problem::new("admin.certificate", "give admin.certificate and admin.key together"));
        }
    }

    /// The settings that differ and only a restart takes over.
    #[must_use]
    pub fn needs_restart(&self, fresh: &Self) -> Vec<&'static str> {
        let shown = |config: &Self, setting: &settings::Setting| (setting.show)(config);
        let differ = SETTINGS.iter().filter(|s| !s.reload && shown(self, s) != shown(fresh, s));
        differ.map(|s| s.path).collect()
    }
}

/// Says that a setting is unknown, and which one may be meant.
fn unknown(path: &str) -> String {
    let last = path.rsplit('.').next().unwrap_or_default();
    let mut paths = SETTINGS.iter().map(|s| s.path);
    let groups = SETTINGS.iter().filter_map(|s| Some(s.path.rsplit_once('.')?.0));
    match nearest(path, paths.clone().chain(groups)).or_else(|| paths.find(|p| p.rsplit('.').next() == Some(last))) {
        Some(near) => format!("there is no such setting; is {near} meant?"),
        None => "there is no such setting; `sallyport config default` shows all".to_owned(),
    }
}

/// The variable of a setting that may be meant by one that sets nothing. Whatever is farther off is
/// somebody else's: a Kubernetes service of our name makes variables that begin as ours do.
fn mistyped(variable: &str) -> Option<String> {
    if !variable.starts_with("SALLYPORT_") || NOT_SETTINGS.contains(&variable) {
        return None;
    }
    let all: Vec<_> = SETTINGS.iter().map(settings::Setting::variable).collect();
    nearest(variable, all.iter().map(String::as_str).chain(NOT_SETTINGS)).map(str::to_owned)
}

/// Variables of ours that are read elsewhere.
const NOT_SETTINGS: [&str; 8] = [
    "SALLYPORT_ADMIN_TOKEN_FILE",
    "SALLYPORT_CONFIG",
    "SALLYPORT_DATA_DIR",
    "SALLYPORT_KEK",
    "SALLYPORT_KEK_FILE",
    "SALLYPORT_PASSPHRASE",
    "SALLYPORT_SERVER",
    "SALLYPORT_SESSION",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(at: &str, tree: &Value, out: &mut Vec<String>) {
        match tree {
            Value::Mapping(map) if !SETTINGS.iter().any(|s| s.path == at) => {
                for (name, value) in map {
                    let name = name.as_str().expect("a word");
                    leaves(&if at.is_empty() { name.to_owned() } else { format!("{at}.{name}") }, value, out);
                }
            }
            _ => out.push(at.to_owned()),
        }
    }

    #[test]
    fn default_file_names_every_setting_with_its_default() {
        let parsed = Config::parse(DEFAULT, []).expect("the default file is right");
        assert_eq!(format!("{parsed:?}"), format!("{:?}", Config::default()));
        let mut named = Vec::new();
        leaves("", &serde_yaml::from_str(DEFAULT).expect("YAML"), &mut named);
        let all: Vec<_> = SETTINGS.iter().map(|s| s.path.to_owned()).collect();
        assert_eq!(named, all);
    }

    #[test]
    fn every_mistake_is_told_at_once_and_near_misses_are_named() {
        let text = "listen: { proxi: 1, gateway: nowhere }\nstore: { timeout: 5 }\nproxy: { limits: 3 }\nlog: debug\nupsteam: {}\n";
        let problems = Config::parse(text, [("SALLYPORT_PROXY_CORES".into(), "many".into())]).expect_err("mistakes");
        let all: Vec<_> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(all.len(), 7, "{all:#?}");
        assert!(all[0].contains("is listen.proxy meant?"), "{all:#?}");
        assert!(all[1].starts_with("listen.gateway: "), "{all:#?}");
        assert!(all[2].contains("5s"), "{all:#?}");
        assert!(all[4].contains("is telemetry.log meant?"), "{all:#?}");
        assert!(all[5].contains("is upstream meant?"), "{all:#?}");
        assert!(all[6].starts_with("SALLYPORT_PROXY_CORES: "), "{all:#?}");
    }

    #[test]
    fn polling_has_a_bound_of_its_own() {
        let parse = |text: &str| Config::parse(&format!("upstream: {{ busy_poll: {text} }}"), []);
        for (text, micros) in [("0us", 0), ("250us", 250), ("10ms", 10_000)] {
            let config = parse(text).expect("right");
            assert_eq!(config.node.upstream.busy_poll, Duration::from_micros(micros));
        }
        for (text, why) in [("10001us", "at most 10ms"), ("400d", "longer than a year"), ("1", "a number with a unit")]
        {
            let problems = parse(text).expect_err("a mistake");
            assert!(problems.len() == 1 && problems[0].to_string().contains(why), "{text}: {problems:?}");
        }
    }

    #[test]
    fn variables_win_over_the_file() {
        let variables = [
            ("SALLYPORT_STORE_URL", "postgres://u:p@db/x"),
            ("SALLYPORT_LISTEN_PROXY", "127.0.0.1:9"),
            ("SALLYPORT_UPSTREAM_RESOLVE", "{\"a.test:443\": \"127.0.0.1:1\"}"),
            ("SALLYPORT_LISTEN_GATEWAY", "off"),
            ("SALLYPORT_SOMETHING_ELSE", "x"),
        ];
        let variables = variables.map(|(n, v)| (n.to_owned(), v.to_owned()));
        let config = Config::parse("listen: { proxy: 127.0.0.1:8 }", variables).expect("right");
        assert_eq!(config.store.url, "postgres://u:p@db/x");
        assert_eq!(config.node.forward.map(|at| at.port()), Some(9));
        assert_eq!(config.node.gateway, None);
        assert_eq!(config.node.upstream.resolve.len(), 1);
    }

    #[test]
    fn mistyped_variable_is_told_and_one_of_somebody_else_is_left_alone() {
        let parse = |name: &str, value: &str| Config::parse("", [(name.to_owned(), value.to_owned())]);
        for (name, meant) in [
            ("SALLYPORT_PROXY_UNBOUD", "SALLYPORT_PROXY_UNBOUND"),
            ("SALLYPORT_LISTEN_PROXI", "SALLYPORT_LISTEN_PROXY"),
            ("SALLYPORT_LISTENPROXY", "SALLYPORT_LISTEN_PROXY"),
            ("SALLYPORT_DATADIR", "SALLYPORT_DATA_DIR"),
        ] {
            let problems = parse(name, "deny").expect_err("refused");
            assert_eq!(problems.len(), 1, "{problems:?}");
            assert_eq!(problems[0].to_string(), format!("{name}: there is no such variable; is {meant} meant?"));
        }
        let others =
            ["SALLYPORT_PORT", "SALLYPORT_PROXY_PORT", "SALLYPORT_ADMIN_SERVICE_HOST", "SALLYPORT_TEST_CLIENTS"];
        for name in NOT_SETTINGS.iter().chain(&others) {
            assert!(parse(name, "tcp://10.0.0.1:8080").is_ok(), "{name}");
        }
    }

    #[test]
    fn address_of_a_listener_is_an_ip_address_and_a_port() {
        for (text, expected) in [
            ("localhost:8080", "names aren't taken here: write 127.0.0.1:8080 instead of localhost:8080"),
            ("proxy.example:8080", "names aren't taken here: it is an IP address and a port"),
            ("8080", "it is an IP address and a port, such as 127.0.0.1:8080, or off"),
            ("\":8080\"", "it is an IP address and a port"),
            ("127.0.0.1", "it is an IP address and a port"),
            ("127.0.0.1:80800", "it is an IP address and a port"),
            ("\"::1:x\"", "it is an IP address and a port"),
            ("", ""),
        ] {
            match Config::parse(&format!("listen: {{ proxy: {text} }}"), []) {
                Ok(_) => assert_eq!(expected, "", "{text}"),
                Err(problems) => assert!(problems[0].what.starts_with(expected), "{text}: {problems:?}"),
            }
        }
    }

    #[test]
    fn listener_beyond_loopback_without_tls_is_refused() {
        for text in ["listen: { proxy: 0.0.0.0:1 }", "listen: { gateway: \"[::]:1\" }", "listen: { admin: 10.0.0.1:1 }"]
        {
            let problems = Config::parse(text, []).expect_err("refused");
            assert!(problems[0].what.contains("TLS"), "{problems:?}");
        }
        assert!(Config::parse("listen: { admin: 10.0.0.1:1 }\nadmin: { tls: true }", []).is_ok());
        assert!(Config::parse("listen: { proxy_tls: 0.0.0.0:1, gateway_tls: 0.0.0.0:2 }", []).is_ok());
    }

    #[test]
    fn way_out_is_set_by_url_and_file_and_its_password_is_shown_nowhere() {
        let parse = |text: &str| Config::parse(text, []);
        let variable = ("SALLYPORT_UPSTREAM_PROXY".to_owned(), "http://me:hunter2@proxy.test:3128".to_owned());
        let config = Config::parse("", [variable]).expect("right");
        let proxy = config.node.upstream.egress.proxy.as_ref().expect("set");
        assert_eq!(proxy.authority.to_string(), "proxy.test:3128");
        assert!(!format!("{config:?}").contains("hunter2"));
        assert!(parse("upstream: { proxy: off, no_proxy: [\"**.corp.test\", \"10.0.0.0/8\"] }").is_ok());
        for (text, place) in [
            ("upstream: { proxy: \"ftp://me:hunter2@proxy.test\" }", "upstream.proxy"),
            ("upstream: { no_proxy: [\"*.com\"] }", "upstream.no_proxy"),
            ("upstream: { proxy_credentials: /nowhere/at/all }", "upstream.proxy_credentials"),
            (
                "upstream: { proxy: \"http://proxy.test\", proxy_credentials: /nowhere/at/all }",
                "upstream.proxy_credentials",
            ),
            (
                "upstream: { proxy: \"http://me:hunter2@proxy.test\", proxy_credentials: /etc/hostname }",
                "upstream.proxy_credentials",
            ),
        ] {
            let problems = parse(text).expect_err(text);
            assert_eq!(problems[0].place, place, "{problems:?}");
            assert!(!format!("{problems:?}").contains("hunter2"), "{problems:?}");
        }
    }

    #[test]
    fn password_in_a_url_is_not_repeated_in_an_error() {
        let problems = Config::parse("store: { url: [\"postgres://u:hunter2@db/x\"] }", []).expect_err("refused");
        assert!(!format!("{problems:?}").contains("hunter2"));
    }

    #[test]
    fn deep_or_strange_files_are_refused_and_never_a_panic() {
        for text in ["- 1", "3", "{{{", "listen: [", "? [a]\n: b", "listen: {proxy: {a: b}}", "a: &a [*a]", "\u{0}"] {
            assert!(Config::parse(text, []).is_err(), "{text}");
        }
        assert!(Config::parse("listen:\nstore: ~\n", []).is_ok());
    }
}
