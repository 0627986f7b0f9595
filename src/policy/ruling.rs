//! A decision that is kept for the same use in other exchanges.

use std::sync::{Arc, Weak};

use http::Method;

use super::decide::{Decision, Facts, Permit};
use super::{Library, PolicySet};
use crate::model::{Authority, Environment, KeyId, Name, OrgId, Scheme, SessionId, Slot};

/// What policies allow, kept so that it needn't be decided on anew in each exchange.
///
/// It makes a permit only of facts that are the same in all that a decision looks at, and only while the
/// policies that decided are in force; it keeps them no longer than that.
pub struct Ruling {
    policies: Weak<PolicySet>,
    session: SessionId,
    org: OrgId,
    project: Name,
    environment: Environment,
    tool: Option<Name>,
    key: KeyId,
    key_name: Name,
    key_version: u32,
    scheme: Scheme,
    authority: Authority,
    method: Method,
    path: Box<str>,
    slot: Slot,
    upgrade: Option<Box<str>>,
    policy: Name,
    rule: Arc<str>,
}

impl Ruling {
    /// Decides; `None` where the use is denied.
    #[must_use]
    pub fn of(policies: &Arc<PolicySet>, facts: &Facts<'_>) -> Option<Self> {
        let Decision::Permit(permit) = policies.decide(facts) else { return None };
        let Facts { session, org, environment, key, key_version, scheme, .. } = *facts;
        Some(Self {
            policies: Arc::downgrade(policies),
            session,
            org,
            project: facts.project.clone(),
            environment,
            tool: facts.tool.cloned(),
            key,
            key_name: facts.key_name.clone(),
            key_version,
            scheme,
            authority: facts.authority.clone(),
            method: facts.method.clone(),
            path: facts.path.into(),
            slot: facts.slot.clone(),
            upgrade: facts.upgrade.map(Box::from),
            policy: permit.policy().clone(),
            rule: Arc::clone(permit.rule()),
        })
    }

    /// A permit for the same use in another exchange; `None` where it has to be decided on, because something else
    /// is asked or other policies are in force.
    #[must_use]
    pub fn permit(&self, library: &Library, facts: &Facts<'_>) -> Option<Permit> {
        (library.is_in_force(&self.policies) && self.is_about(facts))
            .then(|| Permit::new(facts, &self.policy, &self.rule))
    }

    fn is_about(&self, facts: &Facts<'_>) -> bool {
        // Whatever decisions come to look at is compared, or this doesn't compile.
        let Facts {
            exchange: _,
            session,
            org,
            project,
            environment,
            tool,
            key,
            key_name,
            key_version,
            scheme,
            authority,
            method,
            path,
            slot,
            upgrade,
        } = *facts;
        self.session == session
            && self.org == org
            && self.project == *project
            && self.environment == environment
            && self.tool.as_ref() == tool
            && self.key == key
            && self.key_name == *key_name
            && self.key_version == key_version
            && self.scheme == scheme
            && self.authority == *authority
            && self.method == *method
            && *self.path == *path
            && self.slot == *slot
            && self.upgrade.as_deref() == upgrade
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ExchangeId;

    const ALL: &str = "version: 1\nname: p\nrules: [{ name: all, allow: {} }]\n";

    fn written(dir: &std::path::Path, text: &str) {
        std::fs::write(dir.join("p.yaml"), text).expect("written");
    }

    #[test]
    fn permit_is_made_only_where_all_is_as_it_was_decided_and_the_same_policies_are_in_force() {
        let dir = tempfile::tempdir().expect("a directory");
        written(dir.path(), ALL);
        let library = Library::load(dir.path()).expect("policies");
        let name = |text: &str| text.parse::<Name>().expect("a name");
        let authority = |text: &str| Authority::parse(text, 443).expect("an authority");
        let (project, tool, key_name) = (name("project"), name("tool"), name("key"));
        let (here, slot) = (authority("a.test"), Slot::Bearer);
        let facts = Facts {
            exchange: ExchangeId::generate(),
            session: SessionId::generate(),
            org: OrgId::DEFAULT,
            project: &project,
            environment: Environment::Development,
            tool: Some(&tool),
            key: KeyId::generate(),
            key_name: &key_name,
            key_version: 1,
            scheme: Scheme::Https,
            authority: &here,
            method: &Method::GET,
            path: "/a",
            slot: &slot,
            upgrade: None,
        };
        let ruling = Ruling::of(&library.current(), &facts).expect("allowed");
        let next = Facts { exchange: ExchangeId::generate(), ..facts };
        let permit = ruling.permit(&library, &next).expect("the same");
        assert_eq!((permit.exchange(), permit.session(), permit.key()), (next.exchange, facts.session, facts.key));
        assert_eq!((permit.version(), permit.method(), permit.authority()), (1, &Method::GET, &here));
        assert_eq!((&**permit.rule(), permit.slot()), ("all", &slot));
        let (other, there, elsewhere) = (name("other"), authority("b.test"), Slot::BasicUser);
        let others = [
            Facts { session: SessionId::generate(), ..facts },
            Facts { org: OrgId::generate(), ..facts },
            Facts { project: &other, ..facts },
            Facts { environment: Environment::Production, ..facts },
            Facts { tool: None, ..facts },
            Facts { tool: Some(&other), ..facts },
            Facts { key: KeyId::generate(), ..facts },
            Facts { key_name: &other, ..facts },
            Facts { key_version: 2, ..facts },
            Facts { scheme: Scheme::Http, ..facts },
            Facts { authority: &there, ..facts },
            Facts { method: &Method::POST, ..facts },
            Facts { path: "/b", ..facts },
            Facts { slot: &elsewhere, ..facts },
            Facts { upgrade: Some("websocket"), ..facts },
        ];
        for (at, other) in others.iter().enumerate() {
            assert!(ruling.permit(&library, other).is_none(), "{at}");
        }
        // Though they say the same: what is recorded is by which policies it was decided.
        library.reload().expect("policies");
        assert!(ruling.permit(&library, &facts).is_none());
        written(dir.path(), &ALL.replace("allow", "deny"));
        library.reload().expect("policies");
        assert!(Ruling::of(&library.current(), &facts).is_none());
    }
}
