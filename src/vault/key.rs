//! A stored key and its sealed versions, as the store keeps them.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::model::{
    Destination, Environment, KeyId, KeyKind, Name, OrgId, ProjectId, Timestamp, TokenEndpoint, TokenShape,
};

/// Whether a key may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyState {
    /// Policy decides.
    Enabled,
    /// Nobody may use it.
    Disabled,
}

/// A stored upstream credential, without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Its identifier.
    pub id: KeyId,
    /// The tenant that it belongs to.
    pub org: OrgId,
    /// The project that it belongs to.
    pub project: ProjectId,
    /// Where it belongs; environments never mix in one session.
    pub environment: Environment,
    /// Its name, unique within organisation, project and environment.
    pub name: Name,
    /// The provider template that it was made from, or `custom`.
    pub provider: Name,
    /// What its secret is; it never changes.
    pub kind: KeyKind,
    /// Where its access tokens are asked for, if it is of a kind that is minted. Its destinations cover it.
    pub token_endpoint: Option<TokenEndpoint>,
    /// Where it may go.
    pub destination: Destination,
    /// What its proxy tokens look like.
    pub shape: TokenShape,
    /// Whether it may be used.
    pub state: KeyState,
    /// The number of the version in force, from 1.
    pub version: u32,
    /// The number of the version that somebody gave it last. Later ones hold the refresh tokens that came in
    /// place of its own, so access tokens from before are good with them too.
    pub given: u32,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was changed last.
    pub updated_at: Timestamp,
    /// When it ends by itself, if it does.
    pub expires_at: Option<Timestamp>,
}

impl Key {
    /// Why nobody may use the key at `now`, and the way out.
    #[must_use]
    pub fn out_of_use(&self, now: Timestamp) -> Option<String> {
        let name = &self.name;
        if self.state == KeyState::Disabled {
            return Some(format!("the key {name} is disabled; `sallyport keys enable {name}` allows it again"));
        }
        let over = self.expires_at.is_some_and(|at| now >= at);
        over.then(|| {
            format!("the key {name} has expired; `sallyport keys edit {name} --expires-at` gives it another end")
        })
    }
}

/// One sealed version of a key's secret. The bytes are ciphertext; `Debug` shows none of them.
#[derive(Clone, PartialEq, Eq)]
pub struct SealedVersion {
    /// The key that it belongs to.
    pub key: KeyId,
    /// The tenant that it belongs to.
    pub org: OrgId,
    /// Its number, from 1.
    pub version: u32,
    /// Which KEK wraps its DEK: the first 16 hex characters of the KEK's identifier.
    pub kek: String,
    /// The DEK, wrapped: nonce, ciphertext, tag.
    pub wrapped_dek: Vec<u8>,
    /// The secret, sealed: format byte, nonce, ciphertext, tag.
    pub sealed: Vec<u8>,
    /// When it was made.
    pub created_at: Timestamp,
}

impl std::fmt::Debug for SealedVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SealedVersion({} v{})", self.key, self.version)
    }
}

/// The right of one process to use up a key's refresh token, so that no two do at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The key.
    pub key: KeyId,
    /// The tenant that it belongs to.
    pub org: OrgId,
    /// Which process has it: a random identifier of its own.
    pub holder: Uuid,
    /// Until when, unless it is given back before.
    pub until: Timestamp,
}
