//! AES-256-GCM seals (NIST SP 800-38D) and what is bound into them.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use zeroize::Zeroizing;

use super::key::Key;

/// The format of sealed bytes: this byte, a 12-byte nonce, ciphertext, a 16-byte tag.
const FORMAT: u8 = 1;

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

/// A key with what the cipher makes of it, which is wiped when it is dropped.
pub(super) struct Cipher(LessSafeKey);

impl Cipher {
    /// The cipher with this key; `None` if there is no memory for it.
    pub fn new(key: &[u8; 32]) -> Option<Self> {
        UnboundKey::new(&AES_256_GCM, key).ok().map(|key| Self(LessSafeKey::new(key)))
    }
}

/// Seals bytes; `None` if the random source or the cipher failed.
pub(super) fn seal(cipher: &Cipher, aad: &[u8], plain: &[u8]) -> Option<Vec<u8>> {
    let mut nonce = [0u8; NONCE_LEN];
    getrandom::fill(&mut nonce).ok()?;
    // Room for all of it: a vector that grows leaves a copy behind.
    let mut out = Vec::with_capacity(1 + NONCE_LEN + plain.len() + AES_256_GCM.tag_len());
    out.push(FORMAT);
    out.extend_from_slice(&nonce);
    let mut text = Zeroizing::new(plain.to_vec());
    let nonce = Nonce::assume_unique_for_key(nonce);
    let tag = cipher.0.seal_in_place_separate_tag(nonce, Aad::from(aad), &mut text).ok()?;
    out.extend_from_slice(&text);
    out.extend_from_slice(tag.as_ref());
    Some(out)
}

/// Opens sealed bytes; `None` if they were changed or belong elsewhere.
pub(super) fn open(cipher: &Cipher, aad: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (format, rest) = sealed.split_first()?;
    let (nonce, text) = rest.split_at_checked(NONCE_LEN)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
    if *format != FORMAT {
        return None;
    }
    let mut text = Zeroizing::new(text.to_vec());
    let plain = cipher.0.open_in_place(nonce, Aad::from(aad), &mut text).ok()?.len();
    text.truncate(plain);
    Some(text)
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
