//! What was minted: access tokens in memory, and the one mint at a time for each key.
//!
//! A token is bound to its key and to the version that somebody gave the key ([`Key::given`]). It is shown
//! for a permit and a receipt only, as [`crate::vault::Vault::open`] shows what is sealed. It isn't
//! used any more when its key is disabled or given another value; replies are searched for it until its time
//! is over or its key is deleted, and then it is wiped.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dashmap::DashMap;
use tokio::sync::watch;

use super::issued::Bounds;
use super::reply::{Granted, margin};
use super::{Failure, FailureKind, Settings};
use crate::audit::Receipt;
use crate::credential::form::Text;
use crate::model::{Clock, KeyId, Secret, SessionId, Timestamp};
use crate::policy::{Permit, ScrubPermit};
use crate::vault::key::{Key, KeyState};

/// Every key's access tokens on this node.
pub struct Mints {
    keys: DashMap<KeyId, Arc<Entry>>,
    generation: AtomicU64,
    settings: Settings,
    clock: Arc<dyn Clock>,
    /// When the proxy tokens end that answered agents' own calls.
    issued: DashMap<SessionId, Vec<Timestamp>>,
}

#[derive(Default)]
struct Entry(Mutex<State>);

#[derive(Default)]
struct State {
    /// The newest first; the others may still come back in a reply.
    tokens: VecDeque<Minted>,
    running: Option<watch::Receiver<Option<Result<(), Failure>>>>,
    failures: u32,
    last_failure: Option<(Failure, Timestamp)>,
    /// The version for which nothing is kept but what is minted from it; 0 where that isn't known yet, and
    /// `u32::MAX` for a key that is disabled or gone.
    only: u32,
}

struct Minted {
    token: Text,
    bounds: Bounds,
    /// The version that somebody gave the key.
    given: u32,
    minted_at: Timestamp,
    ahead_at: Timestamp,
    usable_until: Timestamp,
    /// Until when replies are searched for it.
    ends_at: Timestamp,
}

/// The most tokens of one key that replies are searched for.
const HELD_TOKENS: usize = 32;
/// With so many, none is replaced because an upstream doesn't take it: agents can bring that about, and
/// would push out one that still holds.
const MANY_TOKENS: usize = HELD_TOKENS / 2;
/// How much longer than it is used here replies are searched for a token that holds for longer, or
/// nobody knows how long.
const REMEMBERED: Duration = Duration::from_secs(24 * 3600);

/// How a key stands before a request that needs a token of it.
pub enum Standing {
    /// There is a token.
    Ready,
    /// There is one, and it is time for the next: whoever holds this mints it, beside the request.
    Ageing(Lead),
    /// There is none: whoever holds this mints it.
    Absent(Lead),
    /// Somebody mints one.
    Awaited(Awaited),
    /// It failed a moment ago.
    Failed(Failure),
}

/// The right to mint for a key; nobody else on this node does meanwhile. Dropped before it is done, the
/// mint counts as failed.
pub struct Lead {
    entry: Arc<Entry>,
    clock: Arc<dyn Clock>,
    done: Option<watch::Sender<Option<Result<(), Failure>>>>,
    result: watch::Receiver<Option<Result<(), Failure>>>,
}

/// The end of a mint that runs.
pub struct Awaited(watch::Receiver<Option<Result<(), Failure>>>);

impl Awaited {
    /// How the mint ended.
    ///
    /// # Errors
    /// It failed.
    pub async fn result(mut self) -> Result<(), Failure> {
        let cut = || Failure::new(FailureKind::Internal, CUT);
        let ended = self.0.wait_for(Option::is_some).await.map_err(|_| cut())?;
        ended.clone().unwrap_or_else(|| Err(cut()))
    }
}

const CUT: &str = "the mint of an access token was cut off";

impl Lead {
    /// What others wait for.
    #[must_use]
    pub fn awaited(&self) -> Awaited {
        Awaited(self.result.clone())
    }

    /// The mint is over.
    pub fn done(mut self, result: Result<(), Failure>) {
        self.end(result);
    }

    fn end(&mut self, result: Result<(), Failure>) {
        let Some(done) = self.done.take() else { return };
        {
            let mut state = self.entry.state();
            state.running = None;
            match &result {
                Ok(()) => {
                    state.failures = 0;
                    state.last_failure = None;
                }
                // It says nothing of the next request, which may be another session's.
                Err(why) if why.kind == FailureKind::Denied => {}
                Err(why) => {
                    state.failures = state.failures.saturating_add(1);
                    state.last_failure = Some((why.clone(), self.clock.now()));
                }
            }
        }
        done.send_replace(Some(result));
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        self.end(Err(Failure::new(FailureKind::Internal, CUT)));
    }
}

impl Entry {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Mints {
    /// Nothing minted yet.
    #[must_use]
    pub fn new(settings: Settings, clock: Arc<dyn Clock>) -> Self {
        Self { keys: DashMap::new(), generation: AtomicU64::new(0), settings, clock, issued: DashMap::new() }
    }

    /// What was set.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// A number that changes whenever a token comes or goes.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// How the key stands. Whoever gets a [`Lead`] is the only one on this node until it is done.
    #[must_use]
    pub fn standing(&self, key: &Key) -> Standing {
        let now = self.clock.now();
        let Some(entry) = self.entry(key.id, now) else {
            let why = "more keys have access tokens than `credential.held` allows";
            return Standing::Failed(Failure::new(FailureKind::Internal, why));
        };
        let mut state = entry.state();
        let current = state.tokens.iter().find(|t| t.given == key.given && now < t.usable_until);
        let (good, old) = (current.is_some(), current.is_some_and(|t| now >= t.ahead_at));
        if good && !old {
            return Standing::Ready;
        }
        if let Some(running) = &state.running {
            return if good { Standing::Ready } else { Standing::Awaited(Awaited(running.clone())) };
        }
        if let Some((why, at)) = &state.last_failure
            && now.since(*at) < self.pause(state.failures)
        {
            return if good { Standing::Ready } else { Standing::Failed(why.clone()) };
        }
        let (done, result) = watch::channel(None);
        state.running = Some(result.clone());
        drop(state);
        let lead = Lead { entry, clock: Arc::clone(&self.clock), done: Some(done), result };
        if good { Standing::Ageing(lead) } else { Standing::Absent(lead) }
    }

    /// How long nothing is tried after so many failures in a row.
    #[must_use]
    pub fn pause(&self, failures: u32) -> Duration {
        let doubled = 2u32.saturating_pow(failures.saturating_sub(1).min(20));
        self.settings.backoff.saturating_mul(doubled).min(self.settings.longest_backoff)
    }

    fn entry(&self, key: KeyId, now: Timestamp) -> Option<Arc<Entry>> {
        if let Some(entry) = self.keys.get(&key) {
            return Some(Arc::clone(&entry));
        }
        if self.keys.len() >= self.settings.held {
            self.sweep(now);
            if self.keys.len() >= self.settings.held {
                return None;
            }
        }
        Some(Arc::clone(&self.keys.entry(key).or_default()))
    }

    /// Takes in what was minted for the key.
    pub fn put(&self, key: &Key, granted: Granted, bounds: Bounds) {
        let now = self.clock.now();
        let Some(entry) = self.entry(key.id, now) else { return };
        let lifetime = granted.lifetime;
        let usable = lifetime.saturating_sub(margin(lifetime));
        let ahead = self.settings.ahead.min(lifetime / 5);
        let minted = Minted {
            token: granted.access_token,
            bounds,
            given: key.given,
            minted_at: now,
            ahead_at: now.plus(lifetime.saturating_sub(ahead)),
            usable_until: now.plus(usable),
            ends_at: now.plus(granted.holds.unwrap_or(Duration::MAX).min(lifetime.saturating_add(REMEMBERED))),
        };
        let mut state = entry.state();
        // Somebody gave the key another value meanwhile, or disabled it.
        if state.only != 0 && state.only != key.given {
            return;
        }
        state.tokens.retain(|token| now < token.ends_at);
        state.tokens.push_front(minted);
        state.tokens.truncate(HELD_TOKENS);
        drop(state);
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// The token of the key whose use was permitted and recorded.
    ///
    /// # Errors
    /// Permit and receipt disagree, or there is no token any more.
    pub fn open(&self, permit: Permit, receipt: Receipt, key: &Key) -> Result<Secret<Vec<u8>>, Failure> {
        let permitted = (permit.exchange(), permit.key(), permit.version());
        let recorded = (receipt.exchange(), receipt.key(), receipt.version());
        if permitted != recorded || (permit.key(), permit.version()) != (key.id, key.version) {
            return Err(Failure::new(FailureKind::Internal, "permit and receipt don't name the same use"));
        }
        let now = self.clock.now();
        let entry = self.keys.get(&permit.key()).map(|entry| Arc::clone(&entry));
        let token = entry.and_then(|entry| {
            let state = entry.state();
            let found = state.tokens.iter().find(|t| t.given == key.given && now < t.usable_until)?;
            Some(Secret::new(found.token.expose().as_bytes().to_vec()))
        });
        token.ok_or_else(|| Failure::new(FailureKind::Unavailable, "the access token's time is over; try again"))
    }

    /// What the key's token is good for, as far as that is known.
    #[must_use]
    pub fn bounds(&self, key: &Key) -> Bounds {
        let entry = self.keys.get(&key.id).map(|entry| Arc::clone(&entry));
        let found = entry.and_then(|entry| {
            let state = entry.state();
            state.tokens.iter().find(|t| t.given == key.given).map(|t| t.bounds.clone())
        });
        found.unwrap_or_default()
    }

    /// Counts a proxy token that ends at `until` among those that answer a session's own calls; whether
    /// it may have one more.
    #[must_use]
    pub fn issue(&self, session: SessionId, until: Timestamp) -> bool {
        let now = self.clock.now();
        let mut held = self.issued.entry(session).or_default();
        held.retain(|end| now < *end);
        let may = held.len() < self.settings.issued as usize;
        if may {
            held.push(until);
        }
        may
    }

    /// Shows every token of the key that a reply could still carry back.
    pub fn scrub_entry(&self, _permit: &ScrubPermit, key: KeyId, show: &mut dyn FnMut(&[u8])) {
        let entry = self.keys.get(&key).map(|entry| Arc::clone(&entry));
        if let Some(entry) = entry {
            entry.state().tokens.iter().for_each(|token| show(token.token.expose().as_bytes()));
        }
    }

    /// The upstream doesn't take the key's token: the next request mints another, unless this
    /// one is younger than [`Settings::longest_backoff`] or there are many, so that nobody can have them
    /// minted at will.
    pub fn doubt(&self, key: &Key) {
        let now = self.clock.now();
        let entry = self.keys.get(&key.id).map(|entry| Arc::clone(&entry));
        let Some(entry) = entry else { return };
        let mut state = entry.state();
        if state.tokens.len() >= MANY_TOKENS {
            return;
        }
        let settled = |t: &&mut Minted| now.since(t.minted_at) >= self.settings.longest_backoff;
        for token in state.tokens.iter_mut().filter(|t| t.given == key.given).filter(settled) {
            token.usable_until = token.usable_until.min(now);
        }
    }

    /// A key changed: what was minted for it isn't used where it doesn't hold any more. At its service it
    /// may, so replies are still searched for it.
    pub fn changed(&self, key: &Key) {
        if !key.kind.is_minted() {
            return;
        }
        let entry = self.keys.get(&key.id).map(|entry| Arc::clone(&entry));
        let Some(entry) = entry else { return };
        let mut state = entry.state();
        let now = self.clock.now();
        let only = if key.state == KeyState::Disabled { u32::MAX } else { key.given };
        for token in state.tokens.iter_mut().filter(|token| token.given != only) {
            token.usable_until = token.usable_until.min(now);
        }
        if std::mem::replace(&mut state.only, only) != only {
            // Another value deserves another try.
            (state.failures, state.last_failure) = (0, None);
        }
    }

    /// A key is gone.
    pub fn forget(&self, key: KeyId) {
        if let Some((_, entry)) = self.keys.remove(&key) {
            let mut state = entry.state();
            state.tokens.clear();
            state.only = u32::MAX;
            drop(state);
            self.generation.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Wipes what ended.
    pub fn sweep(&self, now: Timestamp) {
        self.issued.retain(|_, held| held.iter().any(|end| now < *end));
        let mut dropped = false;
        self.keys.retain(|_, entry| {
            let mut state = entry.state();
            let before = state.tokens.len();
            state.tokens.retain(|token| now < token.ends_at);
            dropped |= state.tokens.len() != before;
            let remembered =
                state.last_failure.as_ref().is_some_and(|(_, at)| now.since(*at) < self.pause(state.failures));
            !state.tokens.is_empty() || state.running.is_some() || remembered
        });
        if dropped {
            self.generation.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// How many tokens are held.
    #[must_use]
    pub fn count(&self) -> usize {
        self.keys.iter().map(|entry| entry.state().tokens.len()).sum()
    }
}
