//! The key-encryption key in force and what is derived from it.

use std::path::PathBuf;

use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

use super::envelope::{self, Cipher};
use super::kek::KekSource;
use crate::model::Secret;

/// Why there is no keyring.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// The KEK's file can't be read or written.
    #[error("the key-encryption key {} can't be read: {why}. Put the copy of it back, or set SALLYPORT_KEK if the key-encryption key is kept there; for a fresh data directory, 32 random bytes in hex are one", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's words.
        why: std::io::Error,
    },
    /// Others may read the KEK.
    #[error("{} has mode {mode:o}, so others may read it. Run: chmod 600 {}", .path.display(), .path.display())]
    Loose {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It isn't 32 bytes.
    #[error("{0} isn't a key-encryption key: expected 32 bytes in hex or base64")]
    Malformed(String),
    /// The random source failed.
    #[error("the system's random source failed")]
    Random,
    /// It isn't the key that this data directory was sealed with.
    #[error(
        "the key-encryption key is not the one that this data directory was sealed with; nothing was changed. Give the right one, or restore its file from the backup"
    )]
    Wrong,
}

/// What is sealed to tell a wrong KEK from the right one.
const CANARY: &[u8] = b"sallyport keyring 1";

/// The KEK in force. Everything that is sealed or authenticated hangs from it.
pub struct Keyring {
    kek: Secret<[u8; 32]>,
    wrap: Cipher,
    id: String,
}

impl Keyring {
    /// Takes the KEK from its source.
    ///
    /// # Errors
    /// The source has none.
    pub fn load(source: &dyn KekSource) -> Result<Self, KeyringError> {
        let kek = source.load()?;
        let wrap = Cipher::new(subkey(&kek, "wrap").expose()).ok_or(KeyringError::Random)?;
        let id = hex::encode(&subkey(&kek, "id").expose()[..8]);
        Ok(Self { kek, wrap, id })
    }

    /// A sealed text that only this KEK opens, to be kept in the data directory.
    ///
    /// # Errors
    /// The random source failed.
    pub fn canary(&self) -> Result<Vec<u8>, KeyringError> {
        self.seal_blob("canary", CANARY).ok_or(KeyringError::Random)
    }

    /// Checks the canary that the data directory holds.
    ///
    /// # Errors
    /// Another KEK made it.
    pub fn check(&self, canary: &[u8]) -> Result<(), KeyringError> {
        match self.open_blob("canary", canary) {
            Some(text) if *text == CANARY => Ok(()),
            _ => Err(KeyringError::Wrong),
        }
    }

    /// Which KEK this is: 16 hex characters that give nothing of it away.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// A key for one purpose (HKDF-SHA256, RFC 5869).
    #[must_use]
    pub fn subkey(&self, label: &str) -> Secret<[u8; 32]> {
        subkey(&self.kek, label)
    }

    /// Seals something small that is no key of an agent, such as the CA's key.
    #[must_use]
    pub fn seal_blob(&self, label: &str, plain: &[u8]) -> Option<Vec<u8>> {
        envelope::seal(&self.wrap, label.as_bytes(), plain)
    }

    /// Opens what [`Keyring::seal_blob`] sealed under the same label.
    #[must_use]
    pub fn open_blob(&self, label: &str, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        envelope::open(&self.wrap, label.as_bytes(), sealed)
    }

    pub(super) fn wrap(&self) -> &Cipher {
        &self.wrap
    }
}

fn subkey(kek: &Secret<[u8; 32]>, label: &str) -> Secret<[u8; 32]> {
    let mut out = Zeroizing::new([0u8; 32]);
    // Expanding 32 bytes from SHA-256 can't fail: the limit is 255 times 32.
    let expanded = Hkdf::<Sha256>::new(Some(b"sallyport"), kek.expose()).expand(label.as_bytes(), &mut *out);
    debug_assert!(expanded.is_ok());
    Secret::new(*out)
}
