//! What records of a segment say alike.
//!
//! Who uses which key where under which rule is most of an intent, and the same from exchange to exchange. The
//! first intent of a use in a segment says it all; those that follow name that one by its number and say only what
//! is their own. Whoever reads them puts both together again ([`Spoken`]).
//!
//! A use is found by comparing everything that it consists of, so none is taken for another.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, Hasher as _};

use foldhash::fast::RandomState;
use http::Method;
use serde_json::Value;

use super::link::number_of;
use super::record::{Intent, LIKE};
use crate::model::{Authority, KeyId, Name, OrgId, Scheme, SessionId, Slot, TokenId};

/// A bounded number of uses. One that comes to the place of another takes it.
pub(super) struct Uses {
    hasher: RandomState,
    places: Box<[Option<Box<Use>>]>,
}

struct Use {
    facts: Facts,
    /// The segment, and the record in it that says them.
    said: (u64, u64),
}

impl Uses {
    pub fn new(most: usize) -> Self {
        Self { hasher: RandomState::default(), places: (0..most.max(1)).map(|_| None).collect() }
    }

    /// The number of the record of this segment that says who uses which key as this intent does. If there is
    /// none, the record that comes next is it.
    pub fn said(&mut self, intent: &Intent<'_>, segment: u64, next: u64) -> Option<u64> {
        let at = self.at(intent);
        let place = &mut self.places[at];
        match place {
            Some(kept) if kept.facts.are_of(intent) => {
                if kept.said.0 == segment {
                    return Some(kept.said.1);
                }
                kept.said = (segment, next);
            }
            _ => *place = Some(Box::new(Use { facts: Facts::of(intent), said: (segment, next) })),
        }
        None
    }

    /// Records were taken back: others will have their numbers.
    pub fn forget(&mut self) {
        self.places.iter_mut().for_each(|place| *place = None);
    }

    /// The place where a use belongs: by what is most unlike between uses.
    fn at(&self, intent: &Intent<'_>) -> usize {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(intent.session.as_bytes());
        hasher.write(intent.token.as_ref().map_or(&[], |token| token.as_bytes()));
        hasher.write(intent.key.as_bytes());
        hasher.write(intent.method.as_str().as_bytes());
        hasher.write(intent.rule.as_bytes());
        // A remainder is less than the number of places, which fits.
        usize::try_from(hasher.finish() % self.places.len() as u64).unwrap_or(0)
    }
}

/// What a use consists of.
struct Facts {
    session: SessionId,
    token: Option<TokenId>,
    org: OrgId,
    project: Name,
    key: KeyId,
    key_name: Name,
    version: u32,
    tool: Option<Name>,
    method: Method,
    scheme: Scheme,
    authority: Authority,
    slot: Slot,
    policy: Name,
    rule: Box<str>,
    policy_digest: [u8; 32],
}

impl Facts {
    fn of(intent: &Intent<'_>) -> Self {
        Self {
            session: intent.session,
            token: intent.token,
            org: intent.org,
            project: intent.project.clone(),
            key: intent.key,
            key_name: intent.key_name.clone(),
            version: intent.version,
            tool: intent.tool.cloned(),
            method: intent.method.clone(),
            scheme: intent.scheme,
            authority: intent.authority.clone(),
            slot: intent.slot.clone(),
            policy: intent.policy.clone(),
            rule: intent.rule.into(),
            policy_digest: *intent.policy_digest,
        }
    }

    fn are_of(&self, intent: &Intent<'_>) -> bool {
        // Every field is named, so that none is forgotten.
        let Self {
            session,
            token,
            org,
            project,
            key,
            key_name,
            version,
            tool,
            method,
            scheme,
            authority,
            slot,
            policy,
            rule,
            policy_digest,
        } = self;
        *session == intent.session
            && *token == intent.token
            && *key == intent.key
            && *version == intent.version
            && *org == intent.org
            && *scheme == intent.scheme
            && policy_digest == intent.policy_digest
            && project == intent.project
            && key_name == intent.key_name
            && tool.as_ref() == intent.tool
            && method == intent.method
            && authority == intent.authority
            && slot == intent.slot
            && policy == intent.policy
            && **rule == *intent.rule
    }
}

/// What is an intent's own, and so isn't taken from another.
const OWN: [&str; 8] = ["seq", "time", "kind", "exchange", "path", "client", "mint", "mac"];

/// What an outcome is shown to say that its intent says.
const OF_INTENT: [&str; 4] = ["exchange", "session", "token", "key"];

/// Gives lines of a chain by the numbers of their records.
pub(super) type LineOf<'a> = dyn Fn(u64) -> Option<Vec<u8>> + 'a;

/// The intents of one chain that others name, as they were read.
#[derive(Default)]
pub(super) struct Spoken(HashMap<u64, Value>);

impl Spoken {
    /// How many are kept.
    const MOST: usize = 1024;

    /// The record of a line, with what it says by naming another one: an intent who uses which key, and an outcome
    /// what exchange it is of. Where that other one isn't as it should be, which `verify` tells, the record stays
    /// as it is.
    pub fn record(&mut self, line: &[u8], line_of: &LineOf<'_>) -> Option<Value> {
        let mut record: Value = serde_json::from_slice(line).ok()?;
        if record["kind"] == "outcome"
            && let Some(number) = record["intent"].as_u64()
            && let Some(mut intent) = intent_of(number, line_of)
        {
            self.complete(&mut intent, line_of);
            add(&mut record, &intent, |name| OF_INTENT.contains(&name));
        } else {
            self.complete(&mut record, line_of);
        }
        Some(record)
    }

    /// Says in an intent what it says by naming another one.
    fn complete(&mut self, record: &mut Value, line_of: &LineOf<'_>) {
        let Some(number) = record[LIKE].as_u64().filter(|_| record["kind"] == "intent") else { return };
        if !self.0.contains_key(&number)
            && let Some(intent) = intent_of(number, line_of)
        {
            if self.0.len() >= Self::MOST {
                self.0.clear();
            }
            self.0.insert(number, intent);
        }
        // One that names another itself leads no further.
        if let Some(said) = self.0.get(&number)
            && said.get(LIKE).is_none()
            && let Value::Object(fields) = &mut *record
        {
            fields.remove(LIKE);
            add(record, said, |name| !OWN.contains(&name));
        }
    }
}

/// The intent with this number, as its line has it.
fn intent_of(number: u64, line_of: &LineOf<'_>) -> Option<Value> {
    let line = line_of(number).filter(|line| number_of(line) == Some(number))?;
    serde_json::from_slice(&line).ok().filter(|record: &Value| record["kind"] == "intent")
}

/// Adds what another record says before the MAC, where it isn't said.
fn add(record: &mut Value, said: &Value, wanted: impl Fn(&str) -> bool) {
    if let (Value::Object(fields), Value::Object(said)) = (record, said) {
        let mac = fields.remove("mac");
        for (name, value) in said.iter().filter(|(name, _)| wanted(name)) {
            fields.entry(name.clone()).or_insert_with(|| value.clone());
        }
        fields.extend(mac.map(|mac| ("mac".to_owned(), mac)));
    }
}
