//! A policy document as written.

use serde::Deserialize;

use crate::model::{Environment, HostPattern, Name};

/// The longest document, in bytes: a YAML parser's time grows faster than its input.
pub(super) const MAX_BYTES: usize = 256 * 1024;
/// The most anchors and aliases in a document.
const MAX_ANCHORS: usize = 64;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Document {
    pub version: u32,
    pub name: Name,
    #[serde(default)]
    #[expect(dead_code, reason = "for readers of the document")]
    pub description: String,
    #[serde(default)]
    pub applies_to: AppliesTo,
    #[serde(default)]
    pub rules: Vec<Rule>,
    #[serde(default)]
    pub without_token: Option<WithoutTokenWord>,
    #[serde(default)]
    pub replies: Replies,
    #[serde(default)]
    pub access: Option<Access>,
    #[serde(default)]
    pub cases: Vec<Case>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct AppliesTo {
    pub keys: Vec<Name>,
    pub environments: Vec<Environment>,
    pub tools: Vec<Name>,
    pub projects: Vec<Name>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rule {
    pub name: Name,
    pub allow: Option<Match>,
    pub deny: Option<Match>,
    #[serde(default)]
    pub mode: Mode,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Mode {
    #[default]
    Enforce,
    Report,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Match {
    pub methods: Vec<String>,
    pub hosts: Vec<HostPattern>,
    pub paths: Vec<String>,
    /// Protocols that a request asks to switch to, such as `websocket` and `tcp`.
    pub upgrades: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum WithoutTokenWord {
    Deny,
    Forward,
    Inject,
}

/// What may pass of replies that can't be searched for keys as a whole, or hold credentials that nobody
/// has stored.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Replies {
    pub unknown_coding: Option<UnknownCoding>,
    pub range: Option<RangeWord>,
    pub credentials: Option<CredentialsWord>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum UnknownCoding {
    Refuse,
    Forward,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum RangeWord {
    Drop,
    Forward,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum CredentialsWord {
    Withhold,
    Forward,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Access {
    pub approve: Approve,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Approve {
    Auto,
    Ask,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Case {
    pub request: String,
    pub key: Name,
    #[serde(default)]
    pub tool: Option<Name>,
    #[serde(default)]
    pub environment: Environment,
    pub expect: Expect,
    #[serde(default)]
    pub rule: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Expect {
    Allow,
    Deny,
}

/// The one way from YAML to a document.
pub(super) fn from_yaml(bytes: &[u8]) -> Result<Document, String> {
    if bytes.len() > MAX_BYTES {
        return Err(format!("the file is longer than {} KiB", MAX_BYTES / 1024));
    }
    let text = std::str::from_utf8(bytes).map_err(|e| format!("the file isn't UTF-8: {e}"))?;
    if text.bytes().filter(|b| matches!(b, b'&' | b'*')).count() > MAX_ANCHORS * 64
        || text.lines().filter(|l| l.trim_start().contains(": &") || l.trim_start().starts_with("- &")).count()
            > MAX_ANCHORS
    {
        return Err(format!("the file has more than {MAX_ANCHORS} anchors"));
    }
    // A flow sequence or mapping this deep is an attack on the parser, not a policy.
    if text.contains("[[[[[[[[") || text.contains("{{{{{{{{") {
        return Err("the file is nested too deep".to_owned());
    }
    serde_yaml::from_str(text).map_err(|e| e.to_string())
}
