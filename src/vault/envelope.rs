//! AES-256-GCM seals (NIST SP 800-38D) and what is bound into them.

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use zeroize::Zeroizing;

use super::key::Key;

/// The format of sealed bytes: this byte, a 12-byte nonce, ciphertext, a 16-byte tag.
const FORMAT: u8 = 1;
const NONCE: usize = 12;

/// The shortest secret, in bytes: a shorter one can't be told from ordinary text in a reply.
pub const MIN_SECRET: usize = 8;
/// Below so many bytes a secret is short: were its first four known, what is left could be tried. Nothing
/// of a reply tells these of a short one (see `proxy::scrub`), and that has a price where one is bound.
pub const SHORT_SECRET: usize = 12;
/// The longest secret, in bytes.
pub const MAX_SECRET: usize = 64 * 1024;

/// Why a secret isn't taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// It is shorter than 8 bytes.
    #[error("the secret is shorter than {MIN_SECRET} bytes, so replies couldn't be searched for it")]
    TooShort,
    /// It is longer than 64 KiB.
    #[error("the secret is longer than {} KiB", MAX_SECRET / 1024)]
    TooLong,
    /// It holds a character that no header can carry.
    #[error("the secret holds a line break or another control character; check how it was pasted")]
    Control,
}

/// Whether a secret can be stored and later put into a request.
///
/// # Errors
/// See [`SecretError`].
pub fn check_secret(secret: &[u8]) -> Result<(), SecretError> {
    match secret.len() {
        0..MIN_SECRET => Err(SecretError::TooShort),
        len if len > MAX_SECRET => Err(SecretError::TooLong),
        _ if secret.iter().any(|b| *b < 0x20 || *b == 0x7f) => Err(SecretError::Control),
        _ => Ok(()),
    }
}

/// A cipher with this key.
pub(super) fn cipher(key: &[u8; 32]) -> Aes256Gcm {
    Aes256Gcm::new(key.into())
}

/// Seals bytes; `None` if the random source or the cipher failed.
pub(super) fn seal(cipher: &Aes256Gcm, aad: &[u8], plain: &[u8]) -> Option<Vec<u8>> {
    let mut nonce = [0u8; NONCE];
    getrandom::fill(&mut nonce).ok()?;
    let sealed = cipher.encrypt(&Nonce::from(nonce), Payload { msg: plain, aad }).ok()?;
    let mut out = Vec::with_capacity(1 + NONCE + sealed.len());
    out.push(FORMAT);
    out.extend_from_slice(&nonce);
    out.extend_from_slice(&sealed);
    Some(out)
}

/// Opens sealed bytes; `None` if they were changed or belong elsewhere.
pub(super) fn open(cipher: &Aes256Gcm, aad: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (format, rest) = sealed.split_first()?;
    let (nonce, text) = rest.split_at_checked(NONCE)?;
    let nonce: [u8; NONCE] = nonce.try_into().ok()?;
    if *format != FORMAT {
        return None;
    }
    cipher.decrypt(&Nonce::from(nonce), Payload { msg: text, aad }).ok().map(Zeroizing::new)
}

/// What a secret version is bound to.
pub(super) fn bound_to(key: &Key, version: u32) -> Vec<u8> {
    let mut aad = Vec::with_capacity(128);
    aad.push(FORMAT);
    aad.extend_from_slice(key.org.as_bytes());
    aad.extend_from_slice(key.id.as_bytes());
    aad.extend_from_slice(&version.to_be_bytes());
    aad.extend_from_slice(&key.destination.digest());
    aad.extend_from_slice(key.environment.as_str().as_bytes());
    aad.push(0);
    aad.extend_from_slice(key.kind.as_str().as_bytes());
    aad
}
