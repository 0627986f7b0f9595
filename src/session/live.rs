//! What the data path holds of a token, its session and its key, and whether it may still be used.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU32, AtomicU64, Ordering};

use arc_swap::{ArcSwap, ArcSwapOption};
use subtle::ConstantTimeEq;

use crate::model::{
    Bounds, Environment, GrantId, KeyId, Name, OrgId, SessionId, Timestamp, TokenHash, TokenId, ToolId,
};
use crate::vault::key::{Key, KeyState};

/// Why something that was found may not be used any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The token was revoked.
    TokenRevoked,
    /// The token's time is over.
    TokenExpired,
    /// The session was revoked.
    SessionRevoked,
    /// The session's time is over.
    SessionExpired,
    /// The key was disabled or deleted.
    KeyDisabled,
    /// The key's time is over.
    KeyExpired,
    /// The grant was taken back.
    GrantRevoked,
}

pub(super) const ACTIVE: u8 = 0;
pub(super) const REVOKED: u8 = 1;

/// How many matches were masked in replies since the last full minute.
#[derive(Debug, Default)]
pub struct Masked(AtomicU64);

impl Masked {
    /// How many there were in this minute.
    #[must_use]
    pub fn count(&self, now: Timestamp) -> u32 {
        let packed = self.0.load(Ordering::Relaxed);
        if packed >> 32 == minute(now) { packed as u32 } else { 0 }
    }

    /// So many more; how many there are in this minute.
    pub fn note(&self, now: Timestamp, more: u32) -> u32 {
        let minute = minute(now);
        let add = |packed: u64| {
            let count = if packed >> 32 == minute { packed as u32 } else { 0 };
            minute << 32 | u64::from(count.saturating_add(more))
        };
        let before = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |packed| Some(add(packed)));
        add(before.unwrap_or_else(|packed| packed)) as u32
    }
}

/// The number of the minute, in 32 bits.
fn minute(now: Timestamp) -> u64 {
    (u64::try_from(now.millis()).unwrap_or(0) / 60_000) & u64::from(u32::MAX)
}

/// A session as the data path sees it.
#[derive(Debug)]
pub struct LiveSession {
    /// Its identifier.
    pub id: SessionId,
    /// The tenant that it belongs to.
    pub org: OrgId,
    /// The name of its project.
    pub project: Name,
    /// Its environment.
    pub environment: Environment,
    /// The name of the tool that it was bought for.
    pub tool: Option<Name>,
    pub(super) tool_id: Option<ToolId>,
    pub(super) secret: TokenHash,
    pub(super) bounds: Option<Box<Bounds>>,
    pub(super) expires_at: AtomicI64,
    pub(super) standing: AtomicU8,
    pub(super) grants: ArcSwap<Vec<(GrantId, KeyId)>>,
    pub(super) created_at: Timestamp,
    /// Whether its end was counted.
    pub(super) counted: AtomicBool,
    /// What was masked in replies to it.
    pub masked: Masked,
}

impl LiveSession {
    /// Whether the session is over at `now`, and how it ended.
    #[must_use]
    pub fn ended(&self, now: Timestamp) -> Option<Ended> {
        if self.standing.load(Ordering::Acquire) != ACTIVE {
            Some(Ended::SessionRevoked)
        } else if now.millis() >= self.expires_at.load(Ordering::Acquire) {
            Some(Ended::SessionExpired)
        } else {
            None
        }
    }

    /// Compares the password of proxy credentials in constant time.
    #[must_use]
    pub fn secret_matches(&self, password: &[u8]) -> bool {
        TokenHash::of(password).as_bytes().ct_eq(self.secret.as_bytes()).into()
    }

    /// From where it may be used, if that is bound.
    #[must_use]
    pub fn bounds(&self) -> Option<&Bounds> {
        self.bounds.as_deref()
    }

    /// When it ends by itself.
    #[must_use]
    pub fn ends_at(&self) -> Timestamp {
        Timestamp(self.expires_at.load(Ordering::Acquire))
    }

    /// The grant that lets the session use the key.
    #[must_use]
    pub fn grant_of(&self, key: KeyId) -> Option<GrantId> {
        self.grants.load().iter().find(|(_, k)| *k == key).map(|(grant, _)| *grant)
    }

    /// Whether the session was granted the key.
    #[must_use]
    pub fn may_use(&self, key: KeyId) -> bool {
        self.grants.load().iter().any(|(_, k)| *k == key)
    }
}

/// A key's place in the live view; what stands in it changes when the key does.
#[derive(Debug, Default)]
pub struct KeyCell(pub(super) ArcSwapOption<Key>);

impl KeyCell {
    /// The key as it is at this moment; `None` once it was deleted.
    #[must_use]
    pub fn get(&self) -> Option<Arc<Key>> {
        self.0.load_full()
    }
}

/// A token with what it leads to.
#[derive(Debug)]
pub struct LiveToken {
    /// Its identifier.
    pub id: TokenId,
    /// Its session.
    pub session: Arc<LiveSession>,
    /// The identifier of its key.
    pub key_id: KeyId,
    pub(super) key: Arc<KeyCell>,
    /// What it ends with, beside all else.
    pub(super) root: Option<Arc<LiveToken>>,
    pub(super) expires_at: Timestamp,
    pub(super) standing: AtomicU8,
    pub(super) inert: AtomicU32,
}

impl LiveToken {
    /// The token was seen where it isn't swapped.
    pub fn note_inert(&self) {
        self.inert.fetch_add(1, Ordering::Relaxed);
    }

    /// How often the token was seen where it isn't swapped.
    #[must_use]
    pub fn times_inert(&self) -> u32 {
        self.inert.load(Ordering::Relaxed)
    }

    /// Whether the token may not be used at `now`, and why.
    #[must_use]
    pub fn ended(&self, now: Timestamp) -> Option<Ended> {
        if let Some(ended) = self.session.ended(now) {
            return Some(ended);
        }
        if self.standing.load(Ordering::Acquire) != ACTIVE {
            return Some(Ended::TokenRevoked);
        }
        if now >= self.expires_at {
            return Some(Ended::TokenExpired);
        }
        if let Some(ended) = self.root.as_ref().and_then(|root| root.ended(now)) {
            return Some(ended);
        }
        if !self.session.may_use(self.key_id) {
            return Some(Ended::GrantRevoked);
        }
        key_ended(self.key.0.load().as_deref(), now)
    }

    /// The key as it is at this moment.
    #[must_use]
    pub fn key(&self) -> Option<Arc<Key>> {
        self.key.get()
    }

    /// The token with which those end that answer calls of a token endpoint in which this one is shown.
    #[must_use]
    pub fn root(&self) -> TokenId {
        self.root.as_ref().map_or(self.id, |root| root.id)
    }

    /// When it ends by itself.
    #[must_use]
    pub fn ends_at(&self) -> Timestamp {
        self.expires_at.min(self.session.ends_at())
    }
}

/// What an exchange without a token depends on: the session of its proxy credentials, and the key
/// that is put into its empty slot.
#[derive(Debug)]
pub struct LiveUse {
    pub(super) session: Arc<LiveSession>,
    pub(super) key: Option<(KeyId, Arc<KeyCell>)>,
}

impl LiveUse {
    /// Whether the exchange may not go on at `now`, and why.
    #[must_use]
    pub fn ended(&self, now: Timestamp) -> Option<Ended> {
        if let Some(ended) = self.session.ended(now) {
            return Some(ended);
        }
        let (id, cell) = self.key.as_ref()?;
        if !self.session.may_use(*id) {
            return Some(Ended::GrantRevoked);
        }
        key_ended(cell.0.load().as_deref(), now)
    }
}

fn key_ended(key: Option<&Key>, now: Timestamp) -> Option<Ended> {
    match key {
        Some(key) if key.state == KeyState::Enabled => {
            key.expires_at.is_some_and(|at| now >= at).then_some(Ended::KeyExpired)
        }
        _ => Some(Ended::KeyDisabled),
    }
}
