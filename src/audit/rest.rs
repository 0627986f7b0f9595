//! The parts of records that are the same from record to record.
//!
//! A line has two parts: first what only this record says, from its kind on the rest. The rest of
//! intents is as long as everything else together and changes only with who uses which key under which
//! rule, so its text is kept, and with it the key that it gives to the MACs of such records.
//!
//! A kept rest is found by comparing everything that its text is made from, so none is stale.

use std::hash::{BuildHasher as _, Hasher as _};

use foldhash::fast::RandomState;
use http::Method;

use super::link::{LinkKey, rest_hash};
use super::record::{Intent, Line, OutcomeWord, RecordKind};
use crate::model::{Authority, KeyId, Name, OrgId, Scheme, Secret, SessionId, Slot, TokenId};

/// The rest of a line, its hash, and the key of the MACs over what stands before it.
pub(super) struct Rest {
    pub text: Box<[u8]>,
    pub hash: [u8; 32],
    pub key: Secret<[u8; 32]>,
}

impl Rest {
    fn new(key: &LinkKey, kind: RecordKind, fill: impl FnOnce(&mut Line<'_>)) -> Self {
        let mut text = Vec::with_capacity(1024);
        let mut line = Line::piece(&mut text);
        line.kind(kind);
        fill(&mut line);
        Self { hash: rest_hash(&text), key: key.over(&text), text: text.into() }
    }
}

/// The rests of intents, a bounded number of them. One that comes to the place of another takes it.
pub(super) struct Uses {
    hasher: RandomState,
    places: Box<[Option<Box<Use>>]>,
}

struct Use {
    facts: Facts,
    rest: Rest,
}

impl Uses {
    pub fn new(most: usize) -> Self {
        Self { hasher: RandomState::default(), places: (0..most.max(1)).map(|_| None).collect() }
    }

    /// The rest of an intent.
    pub fn of(&mut self, key: &LinkKey, intent: &Intent<'_>) -> &Rest {
        let at = self.at(intent);
        let place = &mut self.places[at];
        let kept = match place.take() {
            Some(kept) if kept.facts.are_of(intent) => kept,
            _ => {
                let facts = Facts::of(intent);
                let rest = Rest::new(key, RecordKind::Intent, |line| facts.write(line));
                Box::new(Use { facts, rest })
            }
        };
        &place.insert(kept).rest
    }

    /// The place where the rest of an intent belongs: by what is most unlike between uses.
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

/// What the rest of an intent is made from.
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

    fn write(&self, line: &mut Line<'_>) {
        line.id("session", &self.session.digits());
        if let Some(token) = self.token {
            line.id("token", &token.digits());
        }
        line.id("org", &self.org.digits());
        line.word("project", self.project.as_str());
        line.id("keyId", &self.key.digits());
        line.word("key", self.key_name.as_str());
        line.number("version", self.version.into());
        if let Some(tool) = &self.tool {
            line.word("tool", tool.as_str());
        }
        line.word("method", self.method.as_str());
        line.word("scheme", self.scheme.as_str());
        line.authority("authority", &self.authority);
        line.text("slot", &self.slot.to_string());
        line.word("policy", self.policy.as_str());
        line.text("rule", &self.rule);
        line.hex("policies", &self.policy_digest[..8]);
    }
}

/// The rests of outcomes, by their words and statuses.
pub(super) struct Ends {
    places: Box<[Option<Box<End>>]>,
}

struct End {
    word: OutcomeWord,
    status: Option<u16>,
    rest: Rest,
}

impl Ends {
    /// How many are kept: few words and statuses come again and again.
    const MOST: usize = 64;

    pub fn new() -> Self {
        Self { places: (0..Self::MOST).map(|_| None).collect() }
    }

    /// The rest of an outcome.
    pub fn of(&mut self, key: &LinkKey, word: OutcomeWord, status: Option<u16>) -> &Rest {
        let at = (usize::from(status.unwrap_or(0)) * 5 + word as usize) % Self::MOST;
        let place = &mut self.places[at];
        let kept = match place.take() {
            Some(kept) if kept.word == word && kept.status == status => kept,
            _ => Box::new(End { word, status, rest: Rest::new(key, RecordKind::Outcome, |l| end(l, word, status)) }),
        };
        &place.insert(kept).rest
    }
}

fn end(line: &mut Line<'_>, word: OutcomeWord, status: Option<u16>) {
    line.word("outcome", word.as_str());
    if let Some(status) = status {
        line.number("status", status.into());
    }
}
