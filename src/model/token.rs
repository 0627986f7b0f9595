//! Proxy tokens: what an agent holds in place of a key.
//!
//! A token is `spt_`, random base62 characters and six base62 characters of the CRC-32 of those
//! (the layout that secret scanners know from GitHub's tokens), so a mistyped one is told apart
//! from an unknown one without a look-up. A provider's *shape* may put text before and behind it,
//! because some clients choose their header by how a key looks. Only the hash is stored.

use std::cell::RefCell;
use std::fmt;
use std::sync::LazyLock;

use memchr::memmem::Finder;
use zeroize::{Zeroize, Zeroizing};

use super::Secret;

const MARK: &str = "spt_";
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const CHECK_LEN: usize = 6;

/// How many random characters a token has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TokenForm {
    /// 32 random characters: 190 bits.
    #[default]
    Long,
    /// 25 random characters: 148 bits, for providers whose format has little room.
    Short,
}

impl TokenForm {
    const fn random_len(self) -> usize {
        match self {
            Self::Long => 32,
            Self::Short => 25,
        }
    }

    const fn len(self) -> usize {
        MARK.len() + self.random_len() + CHECK_LEN
    }
}

/// Text that a provider's clients expect around a token, such as `sk-ant-api03-`.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TokenShape {
    /// Put before the token.
    pub prefix: String,
    /// Put behind the token.
    pub suffix: String,
}

/// A proxy token in clear, with its shape. It is shown once, when it is minted.
pub struct ProxyToken {
    text: Secret<String>,
    at: usize,
    len: usize,
}

/// The text is no proxy token. It carries no detail, since the text may be a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a proxy token")]
pub struct TokenError;

impl ProxyToken {
    /// A fresh random token inside the shape.
    ///
    /// # Errors
    /// The system's random source failed.
    pub fn generate(form: TokenForm, shape: &TokenShape) -> Result<Self, getrandom::Error> {
        let mut core = Zeroizing::new(String::with_capacity(form.len()));
        core.push_str(MARK);
        push_random(&mut core, form.random_len())?;
        let check = checksum(&core.as_bytes()[MARK.len()..]);
        core.push_str(std::str::from_utf8(&check).unwrap_or_default());
        let text = format!("{}{}{}", shape.prefix, *core, shape.suffix);
        Ok(Self { text: Secret::new(text), at: shape.prefix.len(), len: form.len() })
    }

    /// The whole text as the agent gets it, shape included.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.text.expose()
    }

    /// What is stored of it.
    #[must_use]
    pub fn hash(&self) -> TokenHash {
        TokenHash::of(&self.text.expose().as_bytes()[self.at..self.at + self.len])
    }

    /// Reads a whole value as a token in the given shape.
    ///
    /// # Errors
    /// The value is not a well-formed token in that shape.
    pub fn parse(text: &str, shape: &TokenShape) -> Result<Self, TokenError> {
        let inner = text.strip_prefix(shape.prefix.as_str()).and_then(|t| t.strip_suffix(shape.suffix.as_str()));
        let inner = inner.ok_or(TokenError)?;
        match find(inner.as_bytes()) {
            Some((0, len)) if len == inner.len() => {
                Ok(Self { text: Secret::new(text.to_owned()), at: shape.prefix.len(), len })
            }
            _ => Err(TokenError),
        }
    }
}

impl fmt::Debug for ProxyToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProxyToken([redacted])")
    }
}

/// SHA-256 of a token from `spt_` to its checksum, without its shape.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// The hash of the token's characters from `spt_` on.
    #[must_use]
    pub fn of(core: &[u8]) -> Self {
        let mut hash = [0; 32];
        // Three times as fast as the portable code where the processor has no instructions for it.
        hash.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, core).as_ref());
        Self(hash)
    }

    /// The hash with these bytes, as read from the store.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes that are stored.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Finds the first well-formed token anywhere in `text`: its byte range, from `spt_` to the
    /// last checksum character, and its hash. A token ends where a character outside
    /// `[A-Za-z0-9_-]` stands or where its shape's suffix begins.
    #[must_use]
    pub fn find(text: &[u8]) -> Option<(std::ops::Range<usize>, Self)> {
        let (at, len) = find(text)?;
        Some((at..at + len, Self::remembered(&text[at..at + len])))
    }

    /// The same as [`TokenHash::of`] for a token that was just met on this thread, at a quarter of the
    /// price: agents send the same token with every request.
    fn remembered(core: &[u8]) -> Self {
        MET.with_borrow_mut(|met| {
            let mark = *blake3::keyed_hash(&met.key, core).as_bytes();
            // All tokens end in the digits of their checksum, as good as random.
            let ends = core.iter().rev().take(2).fold(0, |at, b| at * 31 + usize::from(*b));
            let place = ends % met.tokens.len();
            match &mut met.tokens[place] {
                (of, hash) if *of == mark => *hash,
                other => {
                    let hash = Self::of(core);
                    *other = (mark, hash);
                    hash
                }
            }
        })
    }
}

/// Tokens that were met on a thread. It holds no token: of each only a hash that is keyed with this
/// thread's own random key, so that nobody can make another text fall on it.
struct Met {
    key: [u8; 32],
    tokens: [([u8; 32], TokenHash); 64],
}

thread_local! {
    static MET: RefCell<Met> = RefCell::new(Met {
        key: random_key(),
        tokens: [([0; 32], TokenHash([0; 32])); 64],
    });
}

/// A random key; of zeros if the system has no random source, and then nothing was minted either.
fn random_key() -> [u8; 32] {
    let mut key = [0; 32];
    let _ = getrandom::fill(&mut key);
    key
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash([redacted])")
    }
}

/// The password of a session's proxy credentials: `sps_` and 32 base62 characters.
pub struct SessionSecret(Secret<String>);

impl SessionSecret {
    /// A fresh random secret.
    ///
    /// # Errors
    /// The system's random source failed.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut text = String::with_capacity(36);
        text.push_str("sps_");
        push_random(&mut text, 32)?;
        Ok(Self(Secret::new(text)))
    }

    /// The text, shown once.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose()
    }

    /// What is stored of it.
    #[must_use]
    pub fn hash(&self) -> TokenHash {
        TokenHash::of(self.0.expose().as_bytes())
    }
}

fn find(text: &[u8]) -> Option<(usize, usize)> {
    static MARKS: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(MARK));
    // Most headers and paths are too short for a token.
    if text.len() < TokenForm::Short.len() {
        return None;
    }
    MARKS.find_iter(text).find_map(|at| {
        let rest = &text[at..];
        [TokenForm::Long, TokenForm::Short]
            .into_iter()
            .find(|form| {
                let Some(core) = rest.get(MARK.len()..form.len()) else { return false };
                let (random, check) = core.split_at(form.random_len());
                core.iter().all(u8::is_ascii_alphanumeric) && checksum(random) == check
            })
            .map(|form| (at, form.len()))
    })
}

fn checksum(random: &[u8]) -> [u8; CHECK_LEN] {
    let mut rest = crc32fast::hash(random);
    let mut out = [b'0'; CHECK_LEN];
    for slot in out.iter_mut().rev() {
        *slot = ALPHABET[(rest % 62) as usize];
        rest /= 62;
    }
    out
}

/// Appends `len` characters, each of the 62 equally likely (bytes past the last multiple of 62
/// are drawn again).
fn push_random(text: &mut String, len: usize) -> Result<(), getrandom::Error> {
    let mut left = len;
    let mut bytes = [0u8; 64];
    while left > 0 {
        getrandom::fill(&mut bytes)?;
        for byte in bytes.iter().filter(|b| **b < 248).take(left) {
            text.push(char::from(ALPHABET[usize::from(byte % 62)]));
            left -= 1;
        }
    }
    bytes.zeroize();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_is_found_inside_its_shape_and_hashes_to_what_is_stored() {
        for form in [TokenForm::Long, TokenForm::Short] {
            let shape = TokenShape { prefix: "sk-ant-api03-".into(), suffix: "-AA".into() };
            let token = ProxyToken::generate(form, &shape).expect("random");
            let (range, hash) = TokenHash::find(token.expose().as_bytes()).expect("found");
            assert_eq!(range.start, shape.prefix.len());
            assert_eq!(range.len(), form.len());
            assert_eq!(hash, token.hash());
            assert_eq!(ProxyToken::parse(token.expose(), &shape).expect("parses").hash(), token.hash());
        }
    }

    #[test]
    fn mistyped_token_is_not_a_token() {
        let token = ProxyToken::generate(TokenForm::Long, &TokenShape::default()).expect("random");
        let mut text = token.expose().to_owned().into_bytes();
        text[7] = if text[7] == b'a' { b'b' } else { b'a' };
        assert!(TokenHash::find(&text).is_none());
    }

    #[test]
    fn debug_of_token_and_hash_shows_nothing() {
        let token = ProxyToken::generate(TokenForm::Long, &TokenShape::default()).expect("random");
        assert!(!format!("{token:?} {:?}", token.hash()).contains("spt_"));
    }
}
