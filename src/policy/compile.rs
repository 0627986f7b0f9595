//! Documents -> one compiled set.
//!
//! Documents that name keys are found by the key's name, the others by environment, so that rules
//! that don't concern a key cost its exchanges nothing.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::quality::RandomState;
use http::Method;

use super::decide::Facts;
use super::document::{
    self, AppliesTo, Approve, CredentialsWord, Document, Expect, Match, Mode, RangeWord, Replies, UnknownCoding,
    WithoutTokenWord,
};
use super::path::{self, Front, Pattern, Read};
use crate::model::{Authority, Environment, ExchangeId, HostPattern, KeyId, Name, OrgId, Scheme, SessionId, Slot};

/// What is wrong with a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub file: String,
    /// What is wrong, and where in the file.
    pub what: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.file, self.what)
    }
}

pub(super) struct Policy {
    pub name: Name,
    applies_to: AppliesTo,
    pub rules: Vec<Rule>,
    /// How the paths begin that the rules are about, each at its rule's place: apart, since most rules are
    /// passed over by it.
    pub fronts: Vec<Front>,
    /// Whether a rule that decides names any path.
    pub names_paths: bool,
    pub without_token: Option<WithoutTokenWord>,
    pub approve: Option<Approve>,
    replies: Replies,
}

/// What passes only where policy says so, because it can't be searched for keys as a whole, or for keys that
/// nobody knows yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsearched {
    /// A reply in a content coding that isn't decoded.
    UnknownCoding,
    /// A request for a part of a reply.
    Range,
    /// A call that is answered with fresh credentials.
    Credentials,
}

pub(super) struct Rule {
    pub name: Arc<str>,
    pub deny: bool,
    pub report: bool,
    methods: Vec<Method>,
    hosts: Vec<HostPattern>,
    paths: Vec<Pattern>,
    upgrades: Vec<String>,
}

impl Policy {
    pub fn applies(&self, key: &Name, environment: Environment, tool: Option<&Name>, project: &Name) -> bool {
        let to = &self.applies_to;
        (to.keys.is_empty() || to.keys.contains(key))
            && (to.environments.is_empty() || to.environments.contains(&environment))
            && (to.tools.is_empty() || tool.is_some_and(|t| to.tools.contains(t)))
            && (to.projects.is_empty() || to.projects.contains(project))
    }
}

impl Rule {
    /// Whether the rule names any path, so that only normal paths can be decided by it.
    pub fn names_paths(&self) -> bool {
        !self.paths.is_empty()
    }

    /// Whether the rule is narrow enough to inject without a token.
    pub fn names_method_and_path(&self) -> bool {
        !self.methods.is_empty() && !self.paths.is_empty()
    }

    /// Whether the rule matches. A path that can't be normalised (`None`) matches a denial that
    /// names paths and never an allowance that does. Some servers read methods and paths in lower case
    /// as in upper, and a path with a slash at its end as one without; so does a denial.
    pub fn matches(&self, facts: &Facts<'_>, path: Option<&Read<'_>>) -> bool {
        let Facts { method, scheme, authority, upgrade, .. } = *facts;
        let path_fits = || match path {
            _ if self.paths.is_empty() => true,
            Some(path) if self.deny => self.paths.iter().any(|p| p.matches(&path.folded)),
            Some(path) => self.paths.iter().any(|p| p.matches(path.normal)),
            None => self.deny,
        };
        let method_fits = |named: &Method| match self.deny {
            true => named.as_str().eq_ignore_ascii_case(method.as_str()),
            false => named == method,
        };
        (self.methods.is_empty() || self.methods.iter().any(method_fits))
            && (self.hosts.is_empty() || self.hosts.iter().any(|h| h.matches(authority, scheme.default_port())))
            && path_fits()
            && self.upgrade_fits(upgrade)
    }

    /// Without a word about upgrades a rule is about requests that ask for none, or for a WebSocket, and a
    /// denial is about all; with one it is about requests that ask for these (RFC 9110 section 7.8).
    fn upgrade_fits(&self, asked: Option<&str>) -> bool {
        match asked {
            asked if self.upgrades.is_empty() => self.deny || asked.is_none_or(|asked| asked == WEBSOCKET),
            Some(asked) => self.upgrades.iter().any(|named| named.eq_ignore_ascii_case(asked)),
            None => false,
        }
    }
}

/// What a rule that is silent about upgrades allows beside plain requests.
pub(super) const WEBSOCKET: &str = "websocket";

/// Every policy in force, compiled.
#[derive(Default)]
pub struct PolicySet {
    by_key: HashMap<Name, Vec<Arc<Policy>>, RandomState>,
    others: Vec<Arc<Policy>>,
    digest: [u8; 32],
    cases: Vec<(String, document::Case)>,
}

impl PolicySet {
    /// Compiles documents: file names and their bytes.
    ///
    /// # Errors
    /// Everything that is wrong with any of them.
    pub fn compile(documents: &[(String, Vec<u8>)]) -> Result<Self, Vec<Problem>> {
        let mut set = Self::default();
        let mut problems = Vec::new();
        let mut hash = blake3::Hasher::new();
        let mut names: HashMap<Name, String> = HashMap::new();
        for (file, bytes) in documents {
            hash.update(&(file.len() as u64).to_be_bytes()).update(file.as_bytes());
            hash.update(&(bytes.len() as u64).to_be_bytes()).update(bytes);
            let mut say = |what: String| problems.push(Problem { file: file.clone(), what });
            match document::from_yaml(bytes) {
                Err(what) => say(what),
                Ok(document) => {
                    if let Some(other) = names.insert(document.name.clone(), file.clone()) {
                        say(format!("the name {} is that of {other} too", document.name));
                    }
                    set.add(file, document, &mut say);
                }
            }
        }
        set.digest = *hash.finalize().as_bytes();
        if problems.is_empty() {
            problems.extend(set.run_cases());
        }
        if problems.is_empty() { Ok(set) } else { Err(problems) }
    }

    /// What identifies this set: it is in every audit record.
    #[must_use]
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    pub(super) fn applying<'a>(
        &'a self,
        key: &'a Name,
        environment: Environment,
        tool: Option<&'a Name>,
        project: &'a Name,
    ) -> impl Iterator<Item = &'a Arc<Policy>> {
        let named = self.by_key.get(key).into_iter().flatten();
        named.chain(&self.others).filter(move |p| p.applies(key, environment, tool, project))
    }

    /// Whether policy itself approves a tool's request for these keys: for each of them, a document
    /// that applies says `approve: auto` and none says `ask`.
    #[must_use]
    pub fn approves(&self, keys: &[Name], environment: Environment, tool: &Name, project: &Name) -> bool {
        !keys.is_empty()
            && keys.iter().all(|key| {
                let words: Vec<_> =
                    self.applying(key, environment, Some(tool), project).filter_map(|p| p.approve).collect();
                words.contains(&Approve::Auto) && !words.contains(&Approve::Ask)
            })
    }

    /// Whether this passes to and from a host of the key: a document that applies says `forward`, and
    /// none says otherwise.
    #[must_use]
    pub fn forwards(
        &self,
        what: Unsearched,
        key: &Name,
        environment: Environment,
        tool: Option<&Name>,
        project: &Name,
    ) -> bool {
        let word = |policy: &Arc<Policy>| match what {
            Unsearched::UnknownCoding => policy.replies.unknown_coding.map(|w| w == UnknownCoding::Forward),
            Unsearched::Range => policy.replies.range.map(|w| w == RangeWord::Forward),
            Unsearched::Credentials => policy.replies.credentials.map(|w| w == CredentialsWord::Forward),
        };
        let mut words = self.applying(key, environment, tool, project).filter_map(word).peekable();
        words.peek().is_some() && words.all(|forward| forward)
    }

    fn add(&mut self, file: &str, document: Document, say: &mut dyn FnMut(String)) {
        if document.version != 1 {
            say(format!("version {} isn't known; this sallyport reads version 1", document.version));
        }
        let mut rules = Vec::with_capacity(document.rules.len());
        for rule in document.rules {
            let at = format!("rule {}", rule.name);
            if rules.iter().any(|r: &Rule| &*r.name == rule.name.as_str()) {
                say(format!("{at}: the name is used twice"));
            }
            let (deny, what) = match (rule.allow, rule.deny) {
                (Some(allow), None) => (false, allow),
                (None, Some(deny)) => (true, deny),
                _ => {
                    say(format!("{at}: a rule has exactly one of allow and deny"));
                    continue;
                }
            };
            rules.push(compile_rule(&at, rule.name.as_str(), deny, rule.mode == Mode::Report, what, say));
        }
        if document.without_token == Some(WithoutTokenWord::Inject)
            && !rules.iter().any(|r| !r.deny && r.names_method_and_path())
        {
            say("without_token: inject needs a rule that names both methods and paths".to_owned());
        }
        let policy = Arc::new(Policy {
            name: document.name,
            applies_to: document.applies_to,
            fronts: rules.iter().map(|rule| Front::of(&rule.paths, rule.deny)).collect(),
            names_paths: rules.iter().any(|rule| !rule.report && rule.names_paths()),
            rules,
            without_token: document.without_token,
            approve: document.access.map(|a| a.approve),
            replies: document.replies,
        });
        for key in &policy.applies_to.keys {
            self.by_key.entry(key.clone()).or_default().push(Arc::clone(&policy));
        }
        if policy.applies_to.keys.is_empty() {
            self.others.push(policy);
        }
        self.cases.extend(document.cases.into_iter().map(|case| (file.to_owned(), case)));
    }

    /// Runs the cases that stand in the documents.
    fn run_cases(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (file, case) in &self.cases {
            let mut say = |what: String| {
                problems.push(Problem { file: file.clone(), what: format!("case {:?}: {what}", case.request) })
            };
            let Some((method, scheme, authority, path)) = parse_request(&case.request) else {
                say("write it as \"METHOD https://host/path\"".to_owned());
                continue;
            };
            let project: Name = match "default".parse() {
                Ok(name) => name,
                Err(_) => continue,
            };
            let facts = Facts {
                exchange: ExchangeId::from_bytes([0; 16]),
                session: SessionId::from_bytes([0; 16]),
                org: OrgId::DEFAULT,
                project: &project,
                environment: case.environment,
                tool: case.tool.as_ref(),
                key: KeyId::from_bytes([0; 16]),
                key_name: &case.key,
                key_version: 1,
                scheme,
                authority: &authority,
                method: &method,
                path: &path,
                slot: &Slot::Bearer,
                upgrade: None,
            };
            let (got, rule) = match self.decide(&facts) {
                super::Decision::Permit(permit) => (Expect::Allow, Some(permit.rule().to_string())),
                super::Decision::Deny(denial) => (Expect::Deny, denial.rule.map(|r| r.to_string())),
            };
            if got != case.expect {
                say(format!("it is to be {:?} and is {got:?}", case.expect).to_lowercase());
            } else if case.rule.is_some() && case.rule != rule {
                say(format!("rule {:?} was to decide and {:?} did", case.rule, rule));
            }
        }
        problems
    }
}

/// Reads `METHOD https://host[:port]/path[?query]`.
#[must_use]
pub fn parse_request(text: &str) -> Option<(Method, Scheme, Authority, String)> {
    let (method, url) = text.split_once(' ')?;
    let (scheme, rest) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
        (Some(rest), _) => (Scheme::Https, rest),
        (_, Some(rest)) => (Scheme::Http, rest),
        _ => return None,
    };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let authority = Authority::parse(&rest[..end], scheme.default_port()).ok()?;
    let path = rest[end..].split('?').next().filter(|p| !p.is_empty()).unwrap_or("/");
    Some((method.parse().ok()?, scheme, authority, path.to_owned()))
}

fn compile_rule(at: &str, name: &str, deny: bool, report: bool, what: Match, say: &mut dyn FnMut(String)) -> Rule {
    let mut methods = Vec::new();
    for method in what.methods {
        match method.parse::<Method>() {
            Ok(parsed) if method.bytes().all(|b| b.is_ascii_uppercase() || b == b'-') => methods.push(parsed),
            _ => say(format!("{at}: {method:?} is no method; write it in capitals")),
        }
    }
    let mut paths = Vec::new();
    for path in what.paths {
        match Pattern::parse(&path)
            .and_then(|exact| if deny { Pattern::parse(&path::folded(&path)) } else { Ok(exact) })
        {
            Ok(pattern) => paths.push(pattern),
            Err(why) => say(format!("{at}: path {path:?}: {why}")),
        }
    }
    for protocol in &what.upgrades {
        // RFC 9110 section 7.8: a name, and perhaps a version.
        let token = |part: &str| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
        };
        if !protocol.splitn(2, '/').all(token) {
            say(format!("{at}: {protocol:?} is no protocol; write it as the Upgrade header has it"));
        } else if protocol.eq_ignore_ascii_case("h2c") && !deny {
            say(format!("{at}: h2c carries requests which no rule would see; it isn't forwarded"));
        }
    }
    Rule { name: name.into(), deny, report, methods, hosts: what.hosts, paths, upgrades: what.upgrades }
}
