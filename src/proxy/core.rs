//! What one core has of its own, and what all cores of a node share.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use foldhash::quality::RandomState;
use http::{HeaderName, HeaderValue};
use prometheus::{IntCounter, IntGauge};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Mode;
use super::alone::Alone;
use super::coding::Memory;
use super::identify;
use super::reject::Rejection;
use super::running::{Draining, Running};
use super::scrub::PatternSet;
use super::settings::Settings;
use super::slots::Places;
use super::tunnel::Tunnel;
use crate::audit::{self, Asker};
use crate::credential;
use crate::credential::oauth::Mints;
use crate::credential::oauth::rotation::Rotation;
use crate::model::{Authority, BaseUrl, Clock, ExchangeId, Scheme, Secret, Timestamp};
use crate::policy::{self, ScrubPermit};
use crate::session::hosts::KeysOf;
use crate::session::live::Masked;
use crate::session::registry::Registry;
use crate::telemetry::{Metrics, Timed};
use crate::tls::ca::LeafCache;
use crate::upstream::{Upstream, Word};
use crate::vault::Vault;
use crate::vault::key::Key;

/// A gateway route: the base URL behind a first path segment.
#[derive(Debug, Clone)]
pub struct Route {
    /// With TLS or without.
    pub scheme: Scheme,
    /// The upstream.
    pub authority: Authority,
    /// Put before the rest of the path; empty, or begins with `/` and doesn't end with one.
    pub base_path: String,
    /// By whose word its address is dialled.
    pub by: Word,
}

/// Routes by first path segment.
pub type Routes = HashMap<String, Route, RandomState>;

impl Route {
    /// The route to this base URL, which somebody's word stands for.
    #[must_use]
    pub fn new(base: BaseUrl, by: Word) -> Self {
        Self { scheme: base.scheme, authority: base.authority, base_path: base.path, by }
    }
}

/// What all cores of a node share.
pub struct Shared {
    /// The live view of tokens, sessions and keys.
    pub registry: Arc<Registry>,
    /// Opens keys, for a permit and a receipt.
    pub vault: Arc<Vault>,
    /// Access tokens of keys that are minted.
    pub mints: Arc<Mints>,
    /// Keeps refresh tokens that were replaced.
    pub rotation: Rotation,
    /// The policies in force.
    pub policies: Arc<policy::Library>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// How many audit records were written.
    pub audit_counts: audit::Counts,
    /// Leaf certificates of intercepted hosts.
    pub leaves: Arc<LeafCache>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Settings of the data path.
    pub settings: Settings,
    /// The gateway's routes.
    pub routes: ArcSwap<Routes>,
    /// Keys the hashes of the scrubber; random, this process's own.
    pub scrub_key: Secret<[u8; 32]>,
    /// What the decoders of coded replies hold.
    pub decoding: Memory,
    /// What was masked in replies to requests that no session stands behind.
    pub masked: Masked,
    /// A place for each tunnel whose bytes the kernel moves.
    pub splices: Semaphore,
    /// Set when the node stops: connections finish what they do and take nothing new.
    pub draining: CancellationToken,
}

/// One core: a thread with a runtime, a pool of upstream connections and an audit chain of its own.
pub struct Core {
    /// What all cores share.
    pub shared: Arc<Shared>,
    /// This core's audit chain.
    pub audit: audit::Writer,
    /// This core's upstream connections.
    pub upstream: Upstream,
    /// The exchanges that run here.
    pub running: Rc<Running>,
    /// The mints that run here: a refresh token that is being replaced isn't left behind by a stop.
    pub minting: TaskTracker,
    /// Whether this core takes nothing new.
    pub draining: Rc<Draining>,
    /// How many agent connections this core serves; the acceptor reads it.
    pub load: Arc<AtomicUsize>,
    /// Which of this core's plain exchanges are alone.
    pub alone: Alone,
    /// How long this core's exchanges take.
    pub timed: Timed,
    /// What this core added to the metrics of upstream connections, and those.
    of_upstream: OfUpstream,
    bound: RefCell<HashMap<(Scheme, Authority), Rc<Bound>, RandomState>>,
    /// The policies and the generation of the keys that were in force at the last tick.
    in_force: Cell<([u8; 32], u64)>,
    /// How many bytes of bodies are held for the slots in them.
    bodies: Rc<Cell<usize>>,
    /// How many bytes of bodies are held so that they can be signed.
    signed_bodies: Rc<Cell<usize>>,
    ids: Cell<u64>,
    /// The second, since 1970, and what it is called in HTTP.
    date: RefCell<(i64, Rc<str>)>,
}

/// The keys that concern a host, as of one generation of the keys.
pub struct Bound {
    of: KeysOf,
    places: Places,
    /// The generation of access tokens, if a key that names the host is minted.
    minted: Option<u64>,
    patterns: OnceCell<Arc<PatternSet>>,
    /// The headers in which they may stand.
    slot_headers: Vec<HeaderName>,
    host: Option<HeaderValue>,
    plain: bool,
}

impl Bound {
    /// The headers in which the keys may stand.
    pub fn slot_headers(&self) -> &[HeaderName] {
        &self.slot_headers
    }

    /// The `Host` of requests that go there.
    pub fn host(&self) -> Option<&HeaderValue> {
        self.host.as_ref()
    }

    /// Whether the keys stand in headers only, and are put in as they are.
    pub fn is_plain(&self) -> bool {
        self.plain
    }

    /// The keys that may go there, enabled or not.
    pub fn keys(&self) -> &[Arc<Key>] {
        &self.of.bound
    }

    /// The keys that a reply may carry back.
    pub fn named(&self) -> &[Arc<Key>] {
        &self.of.named
    }

    /// Where, beside headers, those may stand.
    pub fn places(&self) -> &Places {
        &self.places
    }

    /// Whether a key that names the host is minted.
    pub fn is_minted(&self) -> bool {
        self.minted.is_some()
    }

    /// Whether replies may carry a key back: one names the host, on whatever port.
    pub fn is_named(&self) -> bool {
        !self.of.named.is_empty()
    }
}

/// The most hosts whose bound keys are kept on a core.
const BOUND_HOSTS: usize = 1024;

impl Core {
    /// A core with nothing running.
    pub fn new(shared: Arc<Shared>, audit: audit::Writer, upstream: Upstream, load: Arc<AtomicUsize>) -> Self {
        let mut seed = [0u8; 8];
        // Identifiers have to be unique, not secret: the time and the address of a stack variable
        // are enough of a seed if the system's source fails.
        if getrandom::fill(&mut seed).is_err() {
            seed = (std::ptr::from_ref(&seed).addr() as u64).to_ne_bytes();
        }
        Self {
            alone: Alone::new(upstream.busy_poll()),
            timed: Timed::new(&shared.metrics),
            of_upstream: OfUpstream::new(&shared.metrics),
            shared,
            audit,
            upstream,
            running: Rc::default(),
            minting: TaskTracker::new(),
            draining: Rc::default(),
            load,
            bound: RefCell::default(),
            in_force: Cell::default(),
            bodies: Rc::default(),
            signed_bodies: Rc::default(),
            ids: Cell::new(u64::from_ne_bytes(seed) | 1),
            date: RefCell::new((i64::MIN, Rc::from(""))),
        }
    }

    /// How many bytes of bodies are held for the slots in them.
    pub fn bodies(&self) -> Rc<Cell<usize>> {
        Rc::clone(&self.bodies)
    }

    /// How many bytes of bodies are held so that they can be signed.
    pub fn signed_bodies(&self) -> Rc<Cell<usize>> {
        Rc::clone(&self.signed_bodies)
    }

    /// A fresh exchange id: a UUID version 7 made without a system call.
    pub fn exchange_id(&self) -> ExchangeId {
        self.exchange_id_at(self.shared.clock.now())
    }

    /// The same for an exchange that began at a time that is known.
    pub fn exchange_id_at(&self, now: Timestamp) -> ExchangeId {
        let next = || {
            // xorshift64* (Vigna 2016): fast, and unique within a core for 2^64 steps.
            let mut x = self.ids.get();
            x ^= x >> 12;
            x ^= x << 25;
            x ^= x >> 27;
            self.ids.set(x);
            x.wrapping_mul(0x2545_F491_4F6C_DD1D)
        };
        let millis = now.millis().to_be_bytes();
        let mut bytes = [0u8; 16];
        bytes[..6].copy_from_slice(&millis[2..]);
        bytes[6..8].copy_from_slice(&next().to_be_bytes()[..2]);
        bytes[8..].copy_from_slice(&next().to_be_bytes());
        bytes[6] = (bytes[6] & 0x0f) | 0x70;
        bytes[8] = (bytes[8] & 0x3f) | 0x80;
        ExchangeId::from_bytes(bytes)
    }

    /// The time as HTTP writes it (RFC 9110 section 5.6.7), made once a second.
    pub fn date(&self, now: Timestamp) -> Rc<str> {
        let mut date = self.date.borrow_mut();
        let second = now.millis().div_euclid(1000);
        if date.0 != second {
            let at = jiff::Timestamp::from_second(second).unwrap_or_default();
            let text = jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&at);
            *date = (second, text.unwrap_or_default().into());
        }
        Rc::clone(&date.1)
    }

    /// The keys that concern a host, looked up once for each change of the keys.
    pub fn bound(&self, scheme: Scheme, authority: &Authority) -> Rc<Bound> {
        let at = (scheme, authority.clone());
        if let Some(bound) = self.bound.borrow().get(&at)
            && self.is_current(bound)
        {
            return Rc::clone(bound);
        }
        let of = self.shared.registry.keys_of(scheme, authority);
        let places = Places::of(&of.bound);
        // Taken before the tokens are looked at, so that none is missed.
        let minted = of.named.iter().any(|key| key.kind.is_minted()).then(|| self.shared.mints.generation());
        let slots = of.bound.iter().flat_map(|key| &key.destination.slots);
        let slot_headers = slots.filter_map(identify::header_of).cloned().collect();
        let host = HeaderValue::try_from(authority.in_uri(scheme)).ok();
        let plain = minted.is_none() && places.are_none();
        let bound = Rc::new(Bound { of, places, minted, patterns: OnceCell::new(), slot_headers, host, plain });
        let mut cache = self.bound.borrow_mut();
        if cache.len() >= BOUND_HOSTS {
            cache.clear();
        }
        cache.insert(at, Rc::clone(&bound));
        bound
    }

    /// Whether no key has changed since, and no access token of a key that names the host.
    pub fn is_current(&self, bound: &Bound) -> bool {
        bound.of.generation == self.shared.registry.generation()
            && bound.minted.is_none_or(|generation| generation == self.shared.mints.generation())
    }

    /// The patterns of every key that a reply of this host might carry back, built once for each
    /// change of the keys. `None` if no key names the host.
    ///
    /// # Errors
    /// One of the keys can't be opened.
    pub fn patterns(&self, bound: &Bound, authority: &Authority) -> Result<Option<Arc<PatternSet>>, Rejection> {
        if !bound.is_named() {
            return Ok(None);
        }
        if let Some(set) = bound.patterns.get() {
            return Ok(Some(Arc::clone(set)));
        }
        let set = self.build_patterns(&bound.of.named, authority)?;
        Ok(Some(Arc::clone(bound.patterns.get_or_init(|| set))))
    }

    fn build_patterns(&self, keys: &[Arc<Key>], authority: &Authority) -> Result<Arc<PatternSet>, Rejection> {
        let mut builder = PatternSet::builder(self.shared.scrub_key.expose());
        for key in keys {
            let permit = ScrubPermit::for_reply(key.org, authority);
            if key.kind.is_minted() {
                self.shared.mints.scrub_entry(&permit, key.id, &mut |token| builder.add(token));
            }
            let mut read = Ok(());
            let opened = self.shared.vault.scrub_entry(permit, key.id, &mut |secret| {
                if let Err(why) = credential::secret_parts(key.kind, secret, &mut |part| builder.add(part)) {
                    read = Err(why.to_string());
                }
            });
            if let Err(why) = opened.map_err(|why| why.to_string()).and(read) {
                tracing::error!(key.id = %key.id, error = %why, "a key can't be opened to scrub replies, so its host is refused");
                let detail = "a key that is bound to this host can't be opened, so replies can't be scrubbed";
                return Err(Rejection::new(super::reject::Code::Internal, detail));
            }
        }
        let (count, most) = (builder.count(), self.shared.settings.limits.scrub_patterns);
        if count > most {
            tracing::error!(upstream.authority = %authority, patterns = count, "a host has too many keys to scrub its replies");
            let detail =
                format!("{authority} has too many keys: {count} patterns, and `proxy.limits.scrub_patterns` is {most}");
            return Err(Rejection::new(super::reject::Code::Overloaded, detail));
        }
        Ok(Arc::new(builder.build()))
    }

    /// Counts and logs a refusal that happened before an exchange began.
    pub fn note_refused(&self, exchange: ExchangeId, mode: Mode, rejection: &Rejection) {
        self.shared.metrics.denied(rejection.code.as_str());
        self.audit.denied(exchange, rejection.code.as_str(), &rejection.detail, None, None, &Asker::default());
        tracing::warn!(
            request.id = %exchange,
            mode = mode.as_str(),
            error.code = rejection.code.as_str(),
            detail = %rejection.detail,
            "request refused"
        );
    }

    /// Counts and records a refusal inside an exchange, whose log line says the rest.
    pub fn refused(
        &self,
        exchange: ExchangeId,
        tunnel: &Tunnel,
        to: Option<&Authority>,
        asker: &Asker,
        rejection: &Rejection,
    ) {
        self.shared.metrics.denied(rejection.code.as_str());
        let (code, client) = (rejection.code.as_str(), tunnel.client.as_deref());
        self.audit.denied(exchange, code, &rejection.detail, to.map(ToString::to_string).as_deref(), client, asker);
    }

    /// The tick of the core: writes what the audit chain holds back, and stops what may not go on.
    pub fn tick(&self) {
        self.running.tick(self.shared.clock.now());
        let in_force = (*self.shared.policies.current().digest(), self.shared.registry.generation());
        if self.in_force.replace(in_force) != in_force {
            self.running.changed();
        }
        self.upstream.reap();
        // Also what came back to its pool after its key was rotated or revoked.
        self.upstream.close_shown(|(key, version)| {
            let key = self.shared.registry.key(key);
            key.is_some_and(|key| key.version == version && key.out_of_use(self.shared.clock.now()).is_none())
        });
        self.of_upstream.set(&self.upstream);
        self.timed.flush();
        if let Err(why) = self.audit.flush() {
            tracing::error!(error = %why, "audit records can't be written; no key is used until they can");
        }
    }
}

/// This core's share of the metrics of upstream connections.
struct OfUpstream {
    idle: Share,
    active: Share,
    interim: IntCounter,
    interim_seen: Cell<u64>,
}

struct Share {
    gauge: IntGauge,
    mine: Cell<i64>,
}

impl Share {
    fn set(&self, count: usize) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.gauge.add(count - self.mine.replace(count));
    }
}

impl OfUpstream {
    fn new(metrics: &Metrics) -> Self {
        let (idle, active) = metrics.upstream_connections();
        let share = |gauge| Share { gauge, mine: Cell::new(0) };
        let interim = metrics.upstream_interim();
        Self { idle: share(idle), active: share(active), interim, interim_seen: Cell::new(0) }
    }

    fn set(&self, upstream: &Upstream) {
        let (idle, active) = upstream.connections();
        self.idle.set(idle);
        self.active.set(active);
        let seen = upstream.interim();
        self.interim.inc_by(seen.saturating_sub(self.interim_seen.replace(seen)));
    }
}

/// Counts a connection for as long as it lives.
pub struct Connected(Arc<AtomicUsize>);

impl Connected {
    /// One more connection.
    pub fn new(load: &Arc<AtomicUsize>) -> Self {
        load.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(load))
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
