//! Sealing secrets and opening them, one at a time and never without permit and receipt.

use std::sync::Arc;

use aes_gcm::Aes256Gcm;
use dashmap::DashMap;
use zeroize::Zeroizing;

use super::envelope::{self, SecretError, check_secret};
use super::key::{Key, SealedVersion};
use super::keyring::Keyring;
use crate::audit::Receipt;
use crate::model::{Clock, KeyId, OrgId, Secret};
use crate::policy::{Permit, ScrubPermit};

/// Why a secret doesn't open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The secret can't be taken.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// Permit and receipt are about different things.
    #[error("permit and receipt don't name the same exchange, key and version")]
    Mismatch,
    /// The vault doesn't hold this key or version.
    #[error("the vault doesn't hold this version of the key")]
    Absent,
    /// The row was changed or moved, or another KEK wrapped it.
    #[error("the stored key doesn't open: its row was changed or moved, or another key-encryption key sealed it")]
    Tampered,
    /// The random source or the cipher failed.
    #[error("the secret can't be sealed: the system's random source failed")]
    Random,
}

struct Held {
    org: OrgId,
    version: u32,
    cipher: Aes256Gcm,
    bound_to: Vec<u8>,
    sealed: Vec<u8>,
}

/// Holds sealed keys and opens them. Sharing it costs no lock on the way of an exchange.
pub struct Vault {
    keyring: Arc<Keyring>,
    clock: Arc<dyn Clock>,
    held: DashMap<KeyId, Arc<Held>>,
}

impl Vault {
    /// An empty vault under this keyring.
    #[must_use]
    pub fn new(keyring: Arc<Keyring>, clock: Arc<dyn Clock>) -> Self {
        Self { keyring, clock, held: DashMap::new() }
    }

    /// Seals a secret as a version of the key, with a data key of its own.
    ///
    /// # Errors
    /// The secret can't be taken, or the random source failed.
    pub fn seal(&self, key: &Key, version: u32, secret: &Secret<Vec<u8>>) -> Result<SealedVersion, OpenError> {
        check_secret(secret.expose())?;
        let mut dek = Zeroizing::new([0u8; 32]);
        getrandom::fill(&mut *dek).map_err(|_| OpenError::Random)?;
        let aad = envelope::bound_to(key, version);
        let sealed = envelope::seal(&envelope::cipher(&dek), &aad, secret.expose()).ok_or(OpenError::Random)?;
        let wrapped_dek = envelope::seal(self.keyring.wrap(), &aad, &*dek).ok_or(OpenError::Random)?;
        Ok(SealedVersion {
            key: key.id,
            org: key.org,
            version,
            kek: self.keyring.id().to_owned(),
            wrapped_dek,
            sealed,
            created_at: self.clock.now(),
        })
    }

    /// Seals a version again after its key's destination or environment changed. The secret doesn't
    /// leave the vault.
    ///
    /// # Errors
    /// The version doesn't open as `before`'s, or the random source failed.
    pub fn reseal(&self, before: &Key, version: &SealedVersion, after: &Key) -> Result<SealedVersion, OpenError> {
        let aad = envelope::bound_to(before, version.version);
        let dek = envelope::open(self.keyring.wrap(), &aad, &version.wrapped_dek).ok_or(OpenError::Tampered)?;
        let dek = <&[u8; 32]>::try_from(dek.as_slice()).map_err(|_| OpenError::Tampered)?;
        let mut plain = envelope::open(&envelope::cipher(dek), &aad, &version.sealed).ok_or(OpenError::Tampered)?;
        let secret = Secret::new(std::mem::take(&mut *plain));
        let again = self.seal(after, version.version, &secret)?;
        Ok(SealedVersion { created_at: version.created_at, ..again })
    }

    /// Takes a key's version in force into memory: its data key is unwrapped, its secret stays
    /// sealed.
    ///
    /// # Errors
    /// The row was changed or moved, or another KEK wrapped it.
    pub fn load(&self, key: &Key, version: &SealedVersion) -> Result<(), OpenError> {
        if version.key != key.id || version.org != key.org || version.version != key.version {
            return Err(OpenError::Tampered);
        }
        let bound_to = envelope::bound_to(key, version.version);
        let dek = envelope::open(self.keyring.wrap(), &bound_to, &version.wrapped_dek).ok_or(OpenError::Tampered)?;
        let dek = <&[u8; 32]>::try_from(dek.as_slice()).map_err(|_| OpenError::Tampered)?;
        let held = Held {
            org: key.org,
            version: version.version,
            cipher: envelope::cipher(dek),
            bound_to,
            sealed: version.sealed.clone(),
        };
        self.held.insert(key.id, Arc::new(held));
        Ok(())
    }

    /// Forgets a key.
    pub fn unload(&self, key: KeyId) {
        self.held.remove(&key);
    }

    /// Opens a secret for one exchange: the only way to it.
    ///
    /// ```compile_fail
    /// fn peek(vault: &sallyport::vault::Vault, permit: sallyport::policy::Permit) {
    ///     let _ = vault.open(permit);
    /// }
    /// ```
    ///
    /// # Errors
    /// Permit and receipt disagree, or the key doesn't open.
    pub fn open(&self, permit: Permit, receipt: Receipt) -> Result<Secret<Vec<u8>>, OpenError> {
        if permit.exchange() != receipt.exchange() || permit.key() != receipt.key() {
            return Err(OpenError::Mismatch);
        }
        let held = self.held.get(&permit.key()).map(|h| Arc::clone(&h)).ok_or(OpenError::Absent)?;
        if held.version != permit.version() {
            return Err(OpenError::Absent);
        }
        let mut plain = envelope::open(&held.cipher, &held.bound_to, &held.sealed).ok_or(OpenError::Tampered)?;
        Ok(Secret::new(std::mem::take(&mut *plain)))
    }

    /// Shows a secret to whoever builds scrub patterns of it, and wipes it after.
    ///
    /// # Errors
    /// The key isn't held for this organisation, or doesn't open.
    pub fn scrub_entry(&self, permit: ScrubPermit, key: KeyId, show: &mut dyn FnMut(&[u8])) -> Result<(), OpenError> {
        let held = self.held.get(&key).map(|h| Arc::clone(&h)).ok_or(OpenError::Absent)?;
        if held.org != permit.org() {
            return Err(OpenError::Mismatch);
        }
        let plain = envelope::open(&held.cipher, &held.bound_to, &held.sealed).ok_or(OpenError::Tampered)?;
        show(&plain);
        Ok(())
    }
}
