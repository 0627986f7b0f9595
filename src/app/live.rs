//! A node's copy of the store: read whole at start, then kept by the change feed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::audit::SharedWriter;
use crate::credential::oauth::Mints;
use crate::model::{Clock, KeyId};
use crate::session::records::{Grant, Project, Session, Token, Tool};
use crate::session::registry::{Kept, Moment, Registry};
use crate::store::{Change, ChangeKind, Error, Feed, Page, Record, Store};
use crate::telemetry::Metrics;
use crate::vault::Vault;
use crate::vault::key::{Key, SealedVersion};

/// How long an ended token or session is remembered, so that its agent is told how it ended.
const KEEP_ENDED: Duration = Duration::from_secs(3600);

/// What a node's memory consists of.
#[derive(Clone)]
pub struct Live {
    /// Tokens, sessions, grants and keys.
    pub registry: Arc<Registry>,
    /// Sealed keys.
    pub vault: Arc<Vault>,
    /// Access tokens.
    pub mints: Arc<Mints>,
    /// Where they come from.
    pub store: Store,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Where tampered rows are noted.
    pub audit: SharedWriter,
    /// Counters.
    pub metrics: Arc<Metrics>,
}

impl Live {
    /// Reads the whole store. Rows that were tampered with are left out, and noted.
    ///
    /// # Errors
    /// The store can't be reached.
    pub async fn load(&self) -> Result<(), Error> {
        let asked = Moment::now(&*self.clock);
        self.read_all().await?;
        self.registry.mark_fresh(asked);
        Ok(())
    }

    /// The same; also what was read.
    async fn read_all(&self) -> Result<Kept, Error> {
        let mut kept = Kept::default();
        self.each(|project: Project| self.registry.put_project(&project)).await?;
        self.each(|tool: Tool| self.registry.put_tool(&tool)).await?;
        let mut versions: HashMap<KeyId, Vec<SealedVersion>> = HashMap::new();
        self.each(|version: SealedVersion| versions.entry(version.key).or_default().push(version)).await?;
        let mut keys: Vec<Key> = Vec::new();
        self.each(|key: Key| keys.push(key)).await?;
        for key in &keys {
            self.take_versions(key, versions.remove(&key.id).unwrap_or_default());
            self.mints.changed(key);
        }
        kept.keys.extend(keys.iter().map(|key| key.id));
        self.registry.put_keys(keys);
        self.each(|grant: Grant| self.registry.put_grant(&grant)).await?;
        self.each(|session: Session| {
            kept.sessions.insert(session.id);
            self.registry.put_session(&session);
        })
        .await?;
        // Behind those with which they end.
        let mut issued = Vec::new();
        self.each(|token: Token| {
            kept.tokens.insert(token.id);
            match token.root {
                None => self.registry.put_token(&token),
                Some(_) => issued.push(token),
            }
        })
        .await?;
        issued.iter().for_each(|token| self.registry.put_token(token));
        Ok(kept)
    }

    async fn each<R: Record>(&self, mut take: impl FnMut(R)) -> Result<(), Error> {
        let mut after = String::new();
        loop {
            let (page, next) = self.store.page_any::<R>(&after).await?;
            for record in page {
                match record {
                    Ok(record) => take(record),
                    Err(why) => self.tampered(&why),
                }
            }
            match next {
                Some(next) => after = next,
                None => return Ok(()),
            }
        }
    }

    fn tampered(&self, why: &Error) {
        tracing::error!(error = %why, "a row of the store is refused");
        self.metrics.security_event("tampered_row");
        if let Err(why) = self.audit.security("node", "tampered_row", "store", &why.to_string()) {
            tracing::error!(error = %why, "the security event can't be recorded");
        }
    }

    /// Takes a key's versions into the vault. A key whose version in force doesn't open stays bound to
    /// its hosts all the same: they are refused then, rather than open as those without a key.
    fn take_versions(&self, key: &Key, versions: Vec<SealedVersion>) {
        let in_force = versions.iter().find(|v| v.version == key.version);
        let loaded = match in_force {
            Some(_) => self.vault.load_all(key, &versions).map_err(|why| why.to_string()),
            None => Err("its version in force is missing".to_owned()),
        };
        if let Err(why) = &loaded {
            tracing::error!(key.id = %key.id, key.name = %key.name, error = %why, "a key can't be used");
            self.metrics.security_event("unusable_key");
            let what = format!("{}: {why}", key.name);
            if let Err(why) = self.audit.security("node", "unusable_key", &key.id.to_string(), &what) {
                tracing::error!(error = %why, "the security event can't be recorded");
            }
        }
    }

    /// Takes over one change.
    async fn apply(&self, change: &Change) -> Result<(), Error> {
        let id = change.id.as_str();
        let Some(kind) = change.kind else { return Ok(()) };
        match kind {
            ChangeKind::Project => {
                if let Some(project) = self.read::<Project>(id).await? {
                    self.registry.put_project(&project);
                }
            }
            ChangeKind::Tool => {
                if let Some(tool) = self.read::<Tool>(id).await? {
                    self.registry.put_tool(&tool);
                }
            }
            ChangeKind::Key => self.apply_key(id).await?,
            ChangeKind::Session => match (self.read::<Session>(id).await?, id.parse()) {
                (Some(session), _) => self.registry.put_session(&session),
                (None, Ok(id)) => self.registry.drop_session(id),
                (None, Err(_)) => {}
            },
            ChangeKind::Grant => {
                if let Some(grant) = self.read::<Grant>(id).await? {
                    self.registry.put_grant(&grant);
                }
            }
            ChangeKind::Token => match (self.read::<Token>(id).await?, id.parse()) {
                (Some(token), _) => self.registry.put_token(&token),
                (None, Ok(id)) => self.registry.drop_token(id),
                (None, Err(_)) => {}
            },
            // A version counts from when its key names it; the others don't reach the data path.
            ChangeKind::KeyVersion | ChangeKind::AccessRequest | ChangeKind::Principal | ChangeKind::Lease => {}
        }
        Ok(())
    }

    async fn apply_key(&self, id: &str) -> Result<(), Error> {
        let Ok(key_id) = id.parse::<KeyId>() else { return Ok(()) };
        let key = self.read::<Key>(id).await?;
        let version = match &key {
            Some(key) => self.read::<SealedVersion>(&SealedVersion::row_id_of(key.id, key.version)).await?,
            None => None,
        };
        match key {
            Some(key) => {
                self.take_versions(&key, version.into_iter().collect());
                self.mints.changed(&key);
                self.registry.put_keys([key]);
            }
            None => {
                self.registry.remove_key(key_id);
                self.vault.unload(key_id);
                self.mints.forget(key_id);
            }
        }
        Ok(())
    }

    /// A record; `None` if it is gone, or was tampered with and so counts as gone.
    async fn read<R: Record>(&self, id: &str) -> Result<Option<R>, Error> {
        match self.store.get_any(id).await {
            Err(why @ Error::Tampered { .. }) => {
                self.tampered(&why);
                Ok(None)
            }
            other => other,
        }
    }

    /// Follows the feed until it is stopped. `reached` tells the number of the last change that the
    /// memory holds; after a failure the next try comes `retry` later.
    pub async fn follow(self, mut feed: Feed, reached: watch::Sender<i64>, retry: Duration, stop: CancellationToken) {
        let mut out_of_reach = false;
        loop {
            let asked = Moment::now(&*self.clock);
            let step = tokio::select! {
                step = self.step(&mut feed) => step,
                () = stop.cancelled() => return,
            };
            match step {
                Ok(()) => {
                    if out_of_reach {
                        tracing::info!("the store answers again");
                    }
                    out_of_reach = false;
                    // Behind a full page there may be a revocation.
                    if !feed.is_behind() {
                        self.registry.mark_fresh(asked);
                        self.metrics.store_lag(Duration::ZERO);
                    }
                    reached.send_if_modified(|at| std::mem::replace(at, feed.at()) != feed.at());
                }
                Err(why) => {
                    if !out_of_reach {
                        tracing::error!(error = %why, "the store can't be reached; tokens and keys are those known so far");
                    }
                    out_of_reach = true;
                    self.metrics.store_lag(self.registry.staleness(asked).unwrap_or_default());
                    tokio::time::sleep(retry).await;
                }
            }
        }
    }

    /// Forgets and removes what ended long ago, until it is stopped. It is no part of [`Live::follow`]:
    /// a store that can't be written must not keep anybody from hearing of revocations.
    pub async fn tidy(self, every: Duration, stop: CancellationToken) {
        let _ = stop.run_until_cancelled(self.tidy_for_ever(every)).await;
    }

    async fn tidy_for_ever(&self, every: Duration) {
        loop {
            tokio::time::sleep(every).await;
            let now = self.clock.now();
            self.registry.sweep(now, KEEP_ENDED);
            self.mints.sweep(now);
            if let Err(why) = self.store.prune_changes(now).await {
                tracing::warn!(error = %why, "old changes can't be removed");
            }
            match self.store.prune_ended(now).await {
                Ok(0) => {}
                Ok(count) => tracing::info!(count, "sessions and access requests that ended long ago were removed"),
                Err(why) => tracing::warn!(error = %why, "what ended long ago can't be removed"),
            }
        }
    }

    async fn step(&self, feed: &mut Feed) -> Result<(), Error> {
        match feed.peek().await? {
            Page::Changes(changes) => {
                for change in &changes {
                    self.apply(change).await?;
                }
                feed.taken(&changes);
            }
            Page::Gap => {
                tracing::warn!("this node was cut off for longer than changes are kept; the store is read again");
                feed.skip().await?;
                let kept = self.read_all().await?;
                // What was deleted in the meantime has left no trace but its absence.
                self.registry.retain(&kept);
            }
        }
        Ok(())
    }
}
