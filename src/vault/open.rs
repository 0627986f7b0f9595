//! Sealing secrets and opening them, one at a time and never without permit and receipt.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use dashmap::DashMap;
use foldhash::quality::RandomState;
use zeroize::Zeroizing;

use super::envelope::{self, Cipher, SecretError, check_secret};
use super::key::{Key, SealedVersion};
use super::keyring::Keyring;
use crate::audit::Receipt;
use crate::model::{Clock, KeyId, OrgId, Secret, TokenHash};
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

/// The versions of a key.
struct Held {
    org: OrgId,
    /// The one in force first, then the others, the newest first.
    versions: Vec<Arc<Version>>,
}

/// A sealed version with its data key, unwrapped. The data key isn't locked in memory: every call
/// that locks a single range of it is `unsafe`.
struct Version {
    number: u32,
    cipher: Cipher,
    bound_to: Vec<u8>,
    sealed: Vec<u8>,
}

impl Version {
    fn open(&self) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        envelope::open(&self.cipher, &self.bound_to, &self.sealed).ok_or(OpenError::Tampered)
    }
}

/// The most versions of a key that are held: the one in force, and those that a running exchange may
/// still use or a reply still carry back.
pub const HELD_VERSIONS: usize = 3;

/// Holds sealed keys and opens them. Sharing it costs no lock on the way of an exchange.
pub struct Vault {
    keyring: Arc<Keyring>,
    /// Derives the secrets that agents sign with.
    stand_in: Secret<[u8; 32]>,
    clock: Arc<dyn Clock>,
    held: DashMap<KeyId, Arc<Held>, RandomState>,
}

impl Vault {
    /// An empty vault under this keyring.
    #[must_use]
    pub fn new(keyring: Arc<Keyring>, clock: Arc<dyn Clock>) -> Self {
        let stand_in = keyring.subkey("stand-in");
        Self { keyring, stand_in, clock, held: DashMap::default() }
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
        let cipher = Cipher::new(&dek).ok_or(OpenError::Random)?;
        let sealed = envelope::seal(&cipher, &aad, secret.expose()).ok_or(OpenError::Random)?;
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
        let mut plain = self.unwrap(before, version)?.open()?;
        let secret = Secret::new(std::mem::take(&mut *plain));
        let again = self.seal(after, version.version, &secret)?;
        Ok(SealedVersion { created_at: version.created_at, ..again })
    }

    /// Takes a key's version in force into memory: its data key is unwrapped, its secret stays
    /// sealed. Versions that were in force before stay beside it, up to [`HELD_VERSIONS`] in all.
    ///
    /// # Errors
    /// The row was changed or moved, or another KEK wrapped it. What was held stays.
    pub fn load(&self, key: &Key, version: &SealedVersion) -> Result<(), OpenError> {
        self.load_all(key, std::slice::from_ref(version))
    }

    /// Takes a key's version in force into memory, and the newest of its others beside it. One of the
    /// others that doesn't open is left out.
    ///
    /// # Errors
    /// The version in force is not among them, or as with [`Vault::load`].
    pub fn load_all(&self, key: &Key, versions: &[SealedVersion]) -> Result<(), OpenError> {
        let in_force = versions.iter().find(|v| v.version == key.version).ok_or(OpenError::Absent)?;
        let in_force = Arc::new(self.unwrap(key, in_force)?);
        let mut others: Vec<&SealedVersion> = versions.iter().filter(|v| v.version != key.version).collect();
        others.sort_by_key(|v| std::cmp::Reverse(v.version));
        others.truncate(HELD_VERSIONS - 1);
        let others: Vec<_> = others.into_iter().filter_map(|v| self.unwrap(key, v).ok().map(Arc::new)).collect();

        let mut held = self.held.entry(key.id).or_insert_with(|| Arc::new(Held { org: key.org, versions: Vec::new() }));
        let before = held.versions.iter().filter(|v| v.number != key.version).map(Arc::clone);
        let mut rest: Vec<Arc<Version>> = others.into_iter().chain(before).collect();
        // The sort keeps a version that was given before the same one that was held.
        rest.sort_by_key(|v| std::cmp::Reverse(v.number));
        rest.dedup_by_key(|v| v.number);
        rest.truncate(HELD_VERSIONS - 1);
        rest.insert(0, in_force);
        *held = Arc::new(Held { org: key.org, versions: rest });
        Ok(())
    }

    fn unwrap(&self, key: &Key, version: &SealedVersion) -> Result<Version, OpenError> {
        if version.key != key.id || version.org != key.org {
            return Err(OpenError::Tampered);
        }
        let bound_to = envelope::bound_to(key, version.version);
        let dek = envelope::open(self.keyring.wrap(), &bound_to, &version.wrapped_dek).ok_or(OpenError::Tampered)?;
        let dek = <&[u8; 32]>::try_from(dek.as_slice()).map_err(|_| OpenError::Tampered)?;
        let (cipher, sealed) = (Cipher::new(dek).ok_or(OpenError::Random)?, version.sealed.clone());
        Ok(Version { number: version.version, cipher, bound_to, sealed })
    }

    /// The secret with which an agent signs that has this token in the place of a key's name: 40 characters
    /// of base64url, which nobody derives from the token alone. It is worth nothing without the token.
    #[must_use]
    pub fn stand_in(&self, token: &TokenHash) -> Secret<String> {
        let hash = blake3::keyed_hash(self.stand_in.expose(), token.as_bytes());
        Secret::new(URL_SAFE_NO_PAD.encode(&hash.as_bytes()[..30]))
    }

    /// Forgets a key.
    pub fn unload(&self, key: KeyId) {
        self.held.remove(&key);
    }

    /// Opens a secret for one exchange: the only way to it. The version is the one that the permit
    /// names, so that a rotation between decision and opening cuts nothing.
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
        let (permitted, recorded) = (
            (permit.exchange(), permit.key(), permit.version()),
            (receipt.exchange(), receipt.key(), receipt.version()),
        );
        if permitted != recorded {
            return Err(OpenError::Mismatch);
        }
        let held = self.held(permit.key())?;
        let version = held.versions.iter().find(|v| v.number == permit.version()).ok_or(OpenError::Absent)?;
        let mut plain = version.open()?;
        Ok(Secret::new(std::mem::take(&mut *plain)))
    }

    /// Shows every held version of a secret to whoever builds scrub patterns of it, and wipes it
    /// after.
    ///
    /// # Errors
    /// The key isn't held for this organisation, or a version of it doesn't open.
    pub fn scrub_entry(&self, permit: ScrubPermit, key: KeyId, show: &mut dyn FnMut(&[u8])) -> Result<(), OpenError> {
        let held = self.held(key)?;
        if held.org != permit.org() {
            return Err(OpenError::Mismatch);
        }
        for version in &held.versions {
            show(&version.open()?);
        }
        Ok(())
    }

    fn held(&self, key: KeyId) -> Result<Arc<Held>, OpenError> {
        self.held.get(&key).map(|h| Arc::clone(&h)).ok_or(OpenError::Absent)
    }
}
