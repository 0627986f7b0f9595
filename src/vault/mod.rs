//! Keys and the envelope they are sealed in.
//!
//! Each secret version is sealed with a data key of its own, which is wrapped by the key-encryption
//! key. Sealed bytes are bound to the organisation, environment, key, kind, version and
//! destinations they belong to, so a row that was moved or pointed elsewhere doesn't open. There is no plaintext
//! cache: [`Vault::open`] opens a secret for one exchange, and takes the proof that it may
//! (a [`crate::policy::Permit`]) and the proof that it is recorded (a [`crate::audit::Receipt`]).

mod envelope;
pub mod kek;
pub mod key;
pub mod keyring;
mod open;

#[cfg(test)]
mod tests;

pub use envelope::{MAX_SECRET, MIN_SECRET, SHORT_SECRET, SecretError};
pub use kek::{EnvKek, FileKek, KekSource, PassphraseKek};
pub use keyring::{Keyring, KeyringError};
pub use open::{HELD_VERSIONS, OpenError, Vault};
