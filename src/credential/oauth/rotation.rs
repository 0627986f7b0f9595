//! Keeps refresh tokens that their server replaced.
//!
//! Many servers take a refresh token once and give another with each access token; some revoke
//! everything when an old one is shown again. So of all processes on one store only one uses up a
//! key's refresh token at a time ([`Rotation::claim`]), after it has read which one is in force; and
//! what came in its place is stored as the key's next version before anything else happens
//! ([`Rotation::keep`]).
//!
//! A process that is killed between the server's answer and the commit loses the fresh refresh token:
//! nothing but the server knows it then. Servers that take the old one for a while, as RFC 9700 section
//! 4.14.2 lets them, give another; with the others the key has to be connected again. The lease that it left
//! behind tells the next process, which says so when the server refuses ([`Rotation::was_interrupted`]).

use std::sync::Arc;

use dashmap::DashMap;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::{Failure, FailureKind, Settings};
use crate::model::{Clock, KeyId, Secret};
use crate::session::records::Token;
use crate::session::registry::Registry;
use crate::store::{Error, Find, Store};
use crate::vault::key::{Key, Lease, SealedVersion};
use crate::vault::{HELD_VERSIONS, Vault};

/// Where refresh tokens are kept. Cheap to clone.
#[derive(Clone)]
pub struct Rotation(Arc<Inner>);

struct Inner {
    store: Store,
    vault: Arc<Vault>,
    registry: Arc<Registry>,
    clock: Arc<dyn Clock>,
    holder: Uuid,
    settings: Settings,
    /// Keys whose refresh token a process was using up when it ended, with the version that was in force.
    interrupted: DashMap<KeyId, u32>,
    /// The store's connections live on the runtime that joined the parts, not on a core's.
    runtime: Handle,
    tasks: TaskTracker,
}

/// The right to use up a key's refresh token, and the key as it is now. Given back when dropped.
pub struct Claim {
    /// The key with the version in force, which the vault holds.
    pub key: Key,
    lease: Option<Held>,
}

struct Held {
    lease: Lease,
    inner: Arc<Inner>,
}

impl Drop for Held {
    fn drop(&mut self) {
        let (inner, lease) = (Arc::clone(&self.inner), self.lease.clone());
        let tasks = self.inner.tasks.clone();
        tasks.spawn_on(
            async move {
                // Lost, it ends by itself.
                if let Err(why) = inner.store.commit(inner.batch(&lease).delete(&lease)).await {
                    tracing::debug!(key.id = %lease.key, error = %why, "a lease can't be given back");
                }
            },
            &self.inner.runtime,
        );
    }
}

/// How a lease ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Left {
    /// It was given back, or there was none.
    InOrder,
    /// It ended by itself: whoever had it is gone, or was too slow.
    Behind,
}

fn failed(why: &Error) -> Failure {
    tracing::error!(error = %why, "the store doesn't say which refresh token is in force");
    Failure::new(FailureKind::Internal, "the store can't be used, and a refresh token is used up only through it")
}

impl Rotation {
    /// Keeps refresh tokens in this store. Its work runs on the present runtime.
    ///
    /// # Panics
    /// Outside of a runtime.
    #[must_use]
    pub fn new(
        store: Store,
        vault: Arc<Vault>,
        registry: Arc<Registry>,
        clock: Arc<dyn Clock>,
        settings: Settings,
    ) -> Self {
        let (runtime, tasks, interrupted) = (Handle::current(), TaskTracker::new(), DashMap::new());
        let holder = Uuid::new_v4();
        Self(Arc::new(Inner { store, vault, registry, clock, holder, settings, interrupted, runtime, tasks }))
    }

    /// Whether a process ended while it used up the refresh token of this version, so that the server may know
    /// another one which nobody else does.
    #[must_use]
    pub fn was_interrupted(&self, key: &Key) -> bool {
        self.0.interrupted.get(&key.id).is_some_and(|version| *version == key.version)
    }

    /// Waits until what is being stored is stored, though not for a store that doesn't answer.
    pub async fn finish(&self) {
        self.0.tasks.close();
        if tokio::time::timeout(self.0.settings.storing_wait, self.0.tasks.wait()).await.is_err() {
            tracing::error!(
                "a fresh refresh token couldn't be stored before the end; its key has to be connected again"
            );
        }
    }

    /// Stores a proxy token that answers an agent's own call of a token endpoint, and takes it into this
    /// node's memory. A token of a session that only this process knows stays in memory.
    ///
    /// # Errors
    /// The store can't be written.
    pub async fn keep_token(&self, token: Token) -> Result<(), Failure> {
        let inner = Arc::clone(&self.0);
        let work = async move {
            let batch = inner.store.batch(token.org).at(inner.clock.now()).insert(&token);
            match inner.store.commit(batch).await {
                Ok(_) | Err(Error::Referred) => {
                    inner.registry.put_token(&token);
                    Ok(())
                }
                Err(why) => {
                    tracing::error!(error = %why, "a proxy token can't be stored");
                    Err(Failure::new(FailureKind::Internal, "the store can't be written, so no token is given out"))
                }
            }
        };
        let cut = |_| Err(Failure::new(FailureKind::Internal, "the store's work was cut off"));
        self.0.runtime.spawn(work).await.unwrap_or_else(cut)
    }

    /// Waits for the right to use up the key's refresh token, and reads which one is in force.
    ///
    /// # Errors
    /// Another process keeps it for too long, or the store can't be used.
    pub async fn claim(&self, key: &Key) -> Result<Claim, Failure> {
        let (inner, key) = (Arc::clone(&self.0), key.clone());
        let claimed = self.0.runtime.spawn(async move { inner.claim(key).await });
        claimed.await.unwrap_or_else(|_| Err(Failure::new(FailureKind::Internal, "the store's work was cut off")))
    }

    /// Stores a document as the next version of the claimed key, and takes it into this node's memory.
    /// The number of that version. It goes on when this is dropped.
    ///
    /// # Errors
    /// The store couldn't be written in time; it is tried on in the background.
    pub async fn keep(&self, claim: Claim, document: Secret<Vec<u8>>) -> Result<u32, Failure> {
        let (send, receive) = oneshot::channel();
        let inner = Arc::clone(&self.0);
        let work = async move {
            let kept = inner.keep(&claim, &document).await;
            let _ = send.send(kept);
        };
        self.0.tasks.spawn_on(work, &self.0.runtime);
        let late =
            "the fresh refresh token couldn't be stored in time; it is tried on, and nothing is used until it is";
        match tokio::time::timeout(self.0.settings.storing_wait, receive).await {
            Ok(Ok(kept)) => kept,
            _ => Err(Failure::new(FailureKind::Internal, late)),
        }
    }
}

impl Inner {
    fn batch(&self, lease: &Lease) -> crate::store::Batch {
        self.store.batch(lease.org).at(self.clock.now())
    }

    async fn claim(self: Arc<Self>, key: Key) -> Result<Claim, Failure> {
        // A key of this process alone has no row, and nobody to share its refresh token with.
        if self.store.get::<Key>(key.org, key.id).await.map_err(|why| failed(&why))?.is_none() {
            return Ok(Claim { key: self.registry.key(key.id).map_or(key, |live| (*live).clone()), lease: None });
        }
        let began = tokio::time::Instant::now();
        let (lease, left) = loop {
            if let Some(lease) = self.take(&key).await.map_err(|why| failed(&why))? {
                break lease;
            }
            if began.elapsed() > self.settings.lease_wait {
                let why = "another process has been using up the key's refresh token for too long, or was killed when it \
                           did: its right to it ends after `credential.lease`";
                return Err(Failure::new(FailureKind::Unavailable, why));
            }
            tokio::time::sleep(self.settings.lease_look).await;
        };
        let lease = Held { lease, inner: Arc::clone(&self) };
        let now: Option<Key> = self.store.get(key.org, key.id).await.map_err(|why| failed(&why))?;
        let now = now.ok_or_else(|| Failure::new(FailureKind::Denied, "the key was deleted"))?;
        if left == Left::Behind {
            tracing::warn!(key.id = %now.id, "a process ended while it used up the key's refresh token");
            self.interrupted.insert(now.id, now.version);
        }
        if self.registry.key(key.id).is_none_or(|live| live.version < now.version) {
            // This node's memory is about to hear of it as well.
            let id = SealedVersion::row_id_of(now.id, now.version);
            let version: Option<SealedVersion> = self.store.get(now.org, id).await.map_err(|why| failed(&why))?;
            let version = version.ok_or_else(|| Failure::new(FailureKind::Internal, "the key's version is missing"))?;
            self.take_in(&now, &version)?;
        }
        Ok(Claim { key: now, lease: Some(lease) })
    }

    /// The lease, if nobody else has it, and how the one before it ended.
    async fn take(&self, key: &Key) -> Result<Option<(Lease, Left)>, Error> {
        let now = self.clock.now();
        let mine = Lease { key: key.id, org: key.org, holder: self.holder, until: now.plus(self.settings.lease) };
        let before: Option<Lease> = self.store.get(key.org, key.id).await?;
        let (batch, left) = match &before {
            None => (self.batch(&mine).insert(&mine), Left::InOrder),
            Some(other) if other.until <= now => (self.batch(&mine).update(other, &mine), Left::Behind),
            Some(_) => return Ok(None),
        };
        match self.store.commit(batch).await {
            Ok(_) => Ok(Some((mine, left))),
            // Somebody else was quicker.
            Err(Error::Taken | Error::Changed) => Ok(None),
            Err(why) => Err(why),
        }
    }

    fn take_in(&self, key: &Key, version: &SealedVersion) -> Result<(), Failure> {
        self.vault.load(key, version).map_err(|why| {
            tracing::error!(key.id = %key.id, error = %why, "a key can't be opened");
            Failure::new(FailureKind::Internal, "the key's version in force can't be opened")
        })?;
        self.registry.put_keys([key.clone()]);
        Ok(())
    }

    async fn keep(&self, claim: &Claim, document: &Secret<Vec<u8>>) -> Result<u32, Failure> {
        let began = tokio::time::Instant::now();
        let mut tried = None;
        loop {
            match self.try_keep(claim, document, &mut tried).await {
                Ok(version) => return Ok(version),
                Err(Ok(failure)) => return Err(failure),
                Err(Err(why)) if began.elapsed() < self.settings.storing => {
                    tracing::error!(key.id = %claim.key.id, error = %why, "a fresh refresh token can't be stored yet");
                    tokio::time::sleep(self.settings.storing_retry).await;
                }
                Err(Err(why)) => {
                    tracing::error!(key.id = %claim.key.id, error = %why, "a fresh refresh token is lost");
                    return Err(Failure::new(FailureKind::Internal, "a fresh refresh token couldn't be stored"));
                }
            }
        }
    }

    /// One try; the inner error is the store's, and worth another.
    async fn try_keep(
        &self,
        claim: &Claim,
        document: &Secret<Vec<u8>>,
        tried: &mut Option<(Key, SealedVersion)>,
    ) -> Result<u32, Result<Failure, Error>> {
        let opened = &claim.key;
        // The answer to an earlier commit may have been lost, and not the commit.
        if let Some((after, sealed)) = tried
            && self.is_there(sealed).await.map_err(Err)?
        {
            self.take_in(after, sealed).map_err(Ok)?;
            return Ok(after.version);
        }
        let before = match &claim.lease {
            Some(_) => self.store.get::<Key>(opened.org, opened.id).await.map_err(Err)?,
            None => Some(self.registry.key(opened.id).map_or_else(|| opened.clone(), |live| (*live).clone())),
        };
        let gone = || Ok(Failure::new(FailureKind::Denied, "the key was deleted or given another value meanwhile"));
        let before = before.filter(|now| now.version == opened.version).ok_or_else(gone)?;
        let after = Key { version: before.version.saturating_add(1), updated_at: self.clock.now(), ..before.clone() };
        let sealed = self.vault.seal(&after, after.version, document).map_err(|why| {
            tracing::error!(key.id = %opened.id, error = %why, "a fresh refresh token can't be sealed");
            Ok(Failure::new(FailureKind::Internal, "the fresh refresh token can't be sealed"))
        })?;
        if let Some(held) = &claim.lease {
            let mut batch = self.batch(&held.lease).insert(&sealed).update(&before, &after);
            // Spent refresh tokens are of no use; what a reply may still carry back stays.
            let all: Vec<SealedVersion> =
                self.store.find(opened.org, Find::all().with("key_id", opened.id)).await.map_err(Err)?;
            let keep = u32::try_from(HELD_VERSIONS).unwrap_or(u32::MAX);
            for spent in all.iter().filter(|version| version.version.saturating_add(keep) <= after.version) {
                batch = batch.delete(spent);
            }
            *tried = Some((after.clone(), sealed.clone()));
            self.store.commit(batch).await.map_err(Err)?;
        }
        self.take_in(&after, &sealed).map_err(Ok)?;
        self.interrupted.remove(&after.id);
        Ok(after.version)
    }

    async fn is_there(&self, sealed: &SealedVersion) -> Result<bool, Error> {
        let id = SealedVersion::row_id_of(sealed.key, sealed.version);
        let found: Option<SealedVersion> = self.store.get(sealed.org, id).await?;
        Ok(found.is_some_and(|found| found == *sealed))
    }
}
