//! Where the key-encryption key comes from.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::PathBuf;

use base64::Engine as _;
use zeroize::Zeroizing;

use super::keyring::KeyringError;
use crate::model::Secret;

/// A source of the key-encryption key.
pub trait KekSource {
    /// The key's 32 bytes.
    ///
    /// # Errors
    /// The source has none, or it can't be read.
    fn load(&self) -> Result<Secret<[u8; 32]>, KeyringError>;
}

/// A file of mode 0600 that holds the key in hex.
pub struct FileKek(pub PathBuf);

impl FileKek {
    /// Makes a fresh key, unless the file is there.
    ///
    /// # Errors
    /// The file can't be written, or the random source failed.
    pub fn create(&self) -> Result<(), KeyringError> {
        if self.0.exists() {
            return Ok(());
        }
        let mut key = Zeroizing::new([0u8; 32]);
        getrandom::fill(&mut *key).map_err(|_| KeyringError::Random)?;
        let io = |why| KeyringError::Read { path: self.0.clone(), why };
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&self.0).map_err(io)?;
        let text = Zeroizing::new(hex::encode(*key));
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(io)
    }
}

impl KekSource for FileKek {
    fn load(&self) -> Result<Secret<[u8; 32]>, KeyringError> {
        let io = |why| KeyringError::Read { path: self.0.clone(), why };
        let mode = fs::metadata(&self.0).map_err(io)?.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(KeyringError::Loose { path: self.0.clone(), mode });
        }
        let text = Zeroizing::new(fs::read_to_string(&self.0).map_err(io)?);
        decode(text.trim()).ok_or_else(|| KeyringError::Malformed(self.0.display().to_string()))
    }
}

/// An environment variable that holds the key in hex or base64.
pub struct EnvKek {
    /// The variable's name, for the errors.
    pub name: &'static str,
    /// Its value.
    pub value: Secret<String>,
}

impl KekSource for EnvKek {
    fn load(&self) -> Result<Secret<[u8; 32]>, KeyringError> {
        decode(self.value.expose().trim()).ok_or_else(|| KeyringError::Malformed(self.name.to_owned()))
    }
}

fn decode(text: &str) -> Option<Secret<[u8; 32]>> {
    let bytes = Zeroizing::new(match text.len() {
        64 => hex::decode(text).ok()?,
        _ => base64::engine::general_purpose::STANDARD.decode(text).ok()?,
    });
    <[u8; 32]>::try_from(bytes.as_slice()).ok().map(Secret::new)
}

/// A key derived from a passphrase by Argon2id (RFC 9106, second recommended option with 64 MiB).
pub struct PassphraseKek {
    /// The passphrase.
    pub passphrase: Secret<String>,
    /// 16 random bytes, kept in the data directory.
    pub salt: [u8; 16],
}

impl KekSource for PassphraseKek {
    fn load(&self) -> Result<Secret<[u8; 32]>, KeyringError> {
        let bad = |_| KeyringError::Malformed("the passphrase".to_owned());
        let params = argon2::Params::new(64 * 1024, 3, 4, Some(32)).map_err(bad)?;
        let argon = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
        let mut key = Zeroizing::new([0u8; 32]);
        argon.hash_password_into(self.passphrase.expose().as_bytes(), &self.salt, &mut *key).map_err(bad)?;
        Ok(Secret::new(*key))
    }
}
