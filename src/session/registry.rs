//! The live view that the data path reads: token hash to session, grant and key, in memory.
//!
//! The store is the truth; whoever joins the parts copies it in here at start and follows the
//! change feed. A look-up takes no lock over an await and no database. What ends early (a revoked
//! token, an expired session, a disabled key) is seen through atomics by exchanges that hold the
//! entry already, so each core can find its running exchanges that have to stop.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use dashmap::DashMap;
use foldhash::quality::RandomState;

use super::hosts::{HostIndex, KeysOf, SlotHeaders};
use super::live::{ACTIVE, KeyCell, LiveSession, LiveToken, LiveUse, Masked, REVOKED};
use super::records::{Grant, Project, Session, Standing, Token, Tool};
use crate::model::{
    Authority, Clock, GrantId, Host, KeyId, Name, ProjectId, Scheme, SessionId, Timestamp, TokenHash, TokenId, ToolId,
};
use crate::vault::key::Key;

/// A moment on both of the machine's clocks: one is set now and then, and one stands still while the
/// machine sleeps.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    time: Timestamp,
    instant: Instant,
}

impl Moment {
    /// This moment.
    #[must_use]
    pub fn now(clock: &dyn Clock) -> Self {
        Self { time: clock.now(), instant: Instant::now() }
    }

    /// This moment, of which the running clock was just read.
    #[must_use]
    pub fn read(clock: &dyn Clock, instant: Instant) -> Self {
        Self { time: clock.now(), instant }
    }

    /// By the clock that is set now and then.
    #[must_use]
    pub const fn time(&self) -> Timestamp {
        self.time
    }

    /// By the clock that only runs.
    #[must_use]
    pub const fn instant(&self) -> Instant {
        self.instant
    }

    /// How long after `earlier` this is, by the clock on which it is longer.
    fn since(&self, earlier: &Self) -> Duration {
        self.time.since(earlier.time).max(self.instant.saturating_duration_since(earlier.instant))
    }
}

/// What a store holds, as far as it may still be used.
#[derive(Debug, Default)]
pub struct Kept {
    /// Keys.
    pub keys: HashSet<KeyId>,
    /// Tokens.
    pub tokens: HashSet<TokenId>,
    /// Sessions.
    pub sessions: HashSet<SessionId>,
}

/// The live view. Cheap to share in an `Arc`; every method takes `&self`.
pub struct Registry {
    tokens: DashMap<TokenHash, Arc<LiveToken>, RandomState>,
    token_ids: DashMap<TokenId, TokenHash, RandomState>,
    sessions: DashMap<SessionId, Arc<LiveSession>, RandomState>,
    keys: DashMap<KeyId, Arc<KeyCell>, RandomState>,
    grants: DashMap<SessionId, Vec<(GrantId, KeyId)>, RandomState>,
    projects: DashMap<ProjectId, Name, RandomState>,
    tools: DashMap<ToolId, (Name, bool), RandomState>,
    index: ArcSwap<HostIndex>,
    /// That of the index: a reply asks for it with each of its pieces.
    generation: AtomicU64,
    /// Held while the index is rebuilt, so that none is replaced by one that was begun earlier.
    rebuilding: Mutex<()>,
    fresh: Fresh,
    max_staleness: Duration,
}

/// When the store was last asked and answered, on both clocks. They are read one after the other: a reader that
/// comes between two writes takes the older of two moments for the last one.
struct Fresh {
    /// What the running clock is counted from.
    from: Instant,
    /// By the running clock, in nanoseconds.
    instant: AtomicU64,
    /// By the other one, in milliseconds; [`NEVER`] until the first time.
    time: AtomicI64,
}

const NEVER: i64 = i64::MIN;

impl Fresh {
    fn never() -> Self {
        Self { from: Instant::now(), instant: AtomicU64::new(0), time: AtomicI64::new(NEVER) }
    }

    fn put(&self, asked: Moment) {
        let since = asked.instant.saturating_duration_since(self.from);
        self.instant.store(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX), Ordering::Release);
        self.time.store(asked.time.millis(), Ordering::Release);
    }

    fn get(&self) -> Option<Moment> {
        let time = self.time.load(Ordering::Acquire);
        let instant = self.from + Duration::from_nanos(self.instant.load(Ordering::Acquire));
        (time != NEVER).then_some(Moment { time: Timestamp(time), instant })
    }
}

impl Registry {
    /// An empty view. It counts as stale until [`Registry::mark_fresh`] is called.
    #[must_use]
    pub fn new(max_staleness: Duration) -> Self {
        Self {
            tokens: DashMap::default(),
            token_ids: DashMap::default(),
            sessions: DashMap::default(),
            keys: DashMap::default(),
            grants: DashMap::default(),
            projects: DashMap::default(),
            tools: DashMap::default(),
            index: ArcSwap::default(),
            generation: AtomicU64::new(0),
            rebuilding: Mutex::default(),
            fresh: Fresh::never(),
            max_staleness,
        }
    }

    /// The token with this hash.
    #[must_use]
    pub fn token(&self, hash: &TokenHash) -> Option<Arc<LiveToken>> {
        self.tokens.get(hash).map(|t| Arc::clone(&t))
    }

    /// The session with this identifier.
    #[must_use]
    pub fn session(&self, id: SessionId) -> Option<Arc<LiveSession>> {
        self.sessions.get(&id).map(|s| Arc::clone(&s))
    }

    /// The key with this identifier.
    #[must_use]
    pub fn key(&self, id: KeyId) -> Option<Arc<Key>> {
        self.keys.get(&id).and_then(|cell| cell.get())
    }

    /// What an exchange without a token depends on.
    #[must_use]
    pub fn live_use(&self, session: &Arc<LiveSession>, key: Option<KeyId>) -> LiveUse {
        let key = key.map(|id| (id, self.keys.get(&id).map(|cell| Arc::clone(&cell)).unwrap_or_default()));
        LiveUse { session: Arc::clone(session), key }
    }

    /// The name of a project.
    #[must_use]
    pub fn project_name(&self, id: ProjectId) -> Option<Name> {
        self.projects.get(&id).map(|name| name.clone())
    }

    /// The keys that concern this host.
    #[must_use]
    pub fn keys_of(&self, scheme: Scheme, authority: &Authority) -> KeysOf {
        self.index.load().keys_of(scheme, authority)
    }

    /// Whether any key names this host, on whatever port.
    #[must_use]
    pub fn is_named(&self, host: &Host) -> bool {
        self.index.load().named(host).next().is_some()
    }

    /// The headers that keys name as slots, at this moment.
    #[must_use]
    pub fn slot_headers(&self) -> SlotHeaders {
        SlotHeaders(self.index.load())
    }

    /// A number that changes whenever a key does; what is derived from keys is rebuilt then.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Live tokens and sessions, for metrics.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        (self.tokens.len(), self.sessions.len())
    }

    /// The store was asked at this moment, since this view was made, and answered: what is in here is no older. For one
    /// caller at a time.
    pub fn mark_fresh(&self, asked: Moment) {
        self.fresh.put(asked);
    }

    /// Whether the store has been out of reach for longer than `store.max_staleness`.
    #[must_use]
    pub fn is_stale(&self, now: Moment) -> bool {
        self.staleness(now).is_none_or(|since| since > self.max_staleness)
    }

    /// How long ago the store answered; `None` if it never did.
    #[must_use]
    pub fn staleness(&self, now: Moment) -> Option<Duration> {
        self.fresh.get().map(|fresh| now.since(&fresh))
    }

    /// Takes over a project.
    pub fn put_project(&self, project: &Project) {
        self.projects.insert(project.id, project.name.clone());
    }

    /// Takes over a tool; a disabled one ends its sessions.
    pub fn put_tool(&self, tool: &Tool) {
        self.tools.insert(tool.id, (tool.name.clone(), tool.enabled));
        if !tool.enabled {
            for session in self.sessions.iter().filter(|s| s.tool_id == Some(tool.id)) {
                session.standing.store(REVOKED, Ordering::Release);
            }
        }
    }

    /// Takes over keys, new or changed, and rebuilds what is derived from them once.
    pub fn put_keys(&self, keys: impl IntoIterator<Item = Key>) {
        for key in keys {
            let cell = self.cell(key.id);
            cell.0.store(Some(Arc::new(key)));
        }
        self.rebuild_index();
    }

    /// Forgets a deleted key; its tokens lead nowhere from this moment on.
    pub fn remove_key(&self, id: KeyId) {
        if let Some((_, cell)) = self.keys.remove(&id) {
            cell.0.store(None);
        }
        self.rebuild_index();
    }

    /// Takes over a session, new or changed.
    pub fn put_session(&self, session: &Session) {
        let standing = match session.standing {
            Standing::Active => ACTIVE,
            Standing::Revoked { .. } => REVOKED,
        };
        if let Some(live) = self.session(session.id) {
            live.standing.fetch_max(standing, Ordering::AcqRel);
            live.expires_at.fetch_min(session.expires_at.millis(), Ordering::AcqRel);
            return;
        }
        let Some(project) = self.projects.get(&session.project).map(|p| p.clone()) else { return };
        let tool = session.tool.and_then(|id| self.tools.get(&id).map(|t| t.clone()));
        let standing = if tool.as_ref().is_some_and(|(_, enabled)| !enabled) { REVOKED } else { standing };
        let tool = tool.map(|(name, _)| name);
        if session.tool.is_some() && tool.is_none() {
            return;
        }
        let grants = self.grants.get(&session.id).map(|g| g.clone()).unwrap_or_default();
        let live = LiveSession {
            id: session.id,
            org: session.org,
            project,
            environment: session.environment,
            tool,
            tool_id: session.tool,
            secret: session.secret,
            bounds: (!session.bounds.is_empty()).then(|| Box::new(session.bounds.clone())),
            expires_at: AtomicI64::new(session.expires_at.millis()),
            standing: AtomicU8::new(standing),
            grants: ArcSwap::from_pointee(grants),
            created_at: session.created_at,
            counted: AtomicBool::new(false),
            masked: Masked::default(),
        };
        self.sessions.insert(session.id, Arc::new(live));
    }

    /// Takes over a grant.
    pub fn put_grant(&self, grant: &Grant) {
        let all = {
            let mut of_session = self.grants.entry(grant.session).or_default();
            if !of_session.iter().any(|(id, _)| *id == grant.id) {
                of_session.push((grant.id, grant.key));
            }
            of_session.clone()
        };
        if let Some(live) = self.session(grant.session) {
            live.grants.store(Arc::new(all));
        }
    }

    /// Takes over a token, new or changed. Its session, grant and root have to be here already; a token
    /// that leads nowhere is left out, so it is unknown rather than half known.
    pub fn put_token(&self, token: &Token) {
        let standing = match token.standing {
            Standing::Active => ACTIVE,
            Standing::Revoked { .. } => REVOKED,
        };
        if let Some(live) = self.token(&token.hash) {
            live.standing.fetch_max(standing, Ordering::AcqRel);
            return;
        }
        let Some(session) = self.session(token.session) else { return };
        let key = session.grants.load().iter().find(|(id, _)| *id == token.grant).map(|(_, key)| *key);
        let Some(key_id) = key else { return };
        let root = match token.root {
            None => None,
            Some(id) => match self.token_of(id) {
                Some(root) => Some(root),
                None => return,
            },
        };
        let live = LiveToken {
            id: token.id,
            session,
            key_id,
            key: self.cell(key_id),
            root,
            expires_at: token.expires_at,
            standing: AtomicU8::new(standing),
            inert: AtomicU32::new(0),
        };
        self.tokens.insert(token.hash, Arc::new(live));
        self.token_ids.insert(token.id, token.hash);
    }

    /// How long the sessions lasted that ended since this was asked last.
    #[must_use]
    pub fn take_ended(&self, now: Timestamp) -> Vec<Duration> {
        let ended = self.sessions.iter().filter(|s| s.ended(now).is_some());
        let fresh = ended.filter(|s| !s.counted.swap(true, Ordering::AcqRel));
        fresh.map(|s| now.min(Timestamp(s.expires_at.load(Ordering::Acquire))).since(s.created_at)).collect()
    }

    /// Ends whatever is here and not among `kept`: what was deleted while this node could not hear of
    /// it.
    pub fn retain(&self, kept: &Kept) {
        for cell in self.keys.iter().filter(|cell| !kept.keys.contains(cell.key())) {
            cell.0.store(None);
        }
        for token in self.tokens.iter().filter(|token| !kept.tokens.contains(&token.id)) {
            token.standing.store(REVOKED, Ordering::Release);
        }
        for session in self.sessions.iter().filter(|session| !kept.sessions.contains(&session.id)) {
            session.standing.store(REVOKED, Ordering::Release);
        }
        self.rebuild_index();
    }

    /// Ends a session whose row is gone.
    pub fn drop_session(&self, id: SessionId) {
        if let Some(session) = self.session(id) {
            session.standing.store(REVOKED, Ordering::Release);
        }
    }

    /// Ends a token whose row is gone.
    pub fn drop_token(&self, id: TokenId) {
        if let Some(token) = self.token_of(id) {
            token.standing.store(REVOKED, Ordering::Release);
        }
    }

    fn token_of(&self, id: TokenId) -> Option<Arc<LiveToken>> {
        let hash = self.token_ids.get(&id).map(|hash| *hash);
        hash.and_then(|hash| self.token(&hash))
    }

    /// Forgets sessions and tokens that ended more than `keep` ago, so that memory follows what is
    /// live. Until then an agent is told how they ended rather than that they are unknown.
    pub fn sweep(&self, now: Timestamp, keep: Duration) {
        let gone = |live: &LiveSession| now.since(Timestamp(live.expires_at.load(Ordering::Acquire))) > keep;
        // Whoever holds one still hears of nothing that becomes of it from here on, and clocks are set back.
        for session in self.sessions.iter().filter(|session| gone(session)) {
            session.standing.store(REVOKED, Ordering::Release);
        }
        self.tokens.retain(|_, token| !gone(&token.session));
        self.token_ids.retain(|_, hash| self.tokens.contains_key(hash));
        self.sessions.retain(|_, session| !gone(session));
        self.grants.retain(|id, _| self.sessions.contains_key(id));
    }

    fn cell(&self, id: KeyId) -> Arc<KeyCell> {
        Arc::clone(&self.keys.entry(id).or_default())
    }

    fn rebuild_index(&self) {
        let _alone = self.rebuilding.lock().unwrap_or_else(PoisonError::into_inner);
        let keys = self.keys.iter().filter_map(|cell| cell.get());
        let generation = self.generation() + 1;
        self.index.store(Arc::new(HostIndex::of(generation, keys)));
        self.generation.store(generation, Ordering::Release);
    }
}
