//! What a stored secret is, and so what is made of it for a request.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Slot;

/// What the stored secret of a key is. As text: `secret`, `basic`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyKind {
    /// The secret itself, put into a request as it is.
    #[default]
    Secret,
    /// A user name and a password, put in together as `Authorization: Basic` (RFC 7617).
    Basic,
}

/// The text names no kind of key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a kind of key: use {}", KeyKind::words())]
pub struct KeyKindError;

impl KeyKind {
    /// Every kind.
    pub const ALL: [Self; 2] = [Self::Secret, Self::Basic];

    /// Its word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Secret => "secret",
            Self::Basic => "basic",
        }
    }

    /// Whether something is made of the secret before it is put into a request. The secret of such a
    /// key is a JSON document.
    #[must_use]
    pub const fn is_computed(self) -> bool {
        !matches!(self, Self::Secret)
    }

    /// Whether what the kind yields can stand in this slot.
    #[must_use]
    pub const fn fits(self, slot: &Slot) -> bool {
        match self {
            Self::Secret => true,
            Self::Basic => matches!(slot, Slot::Bearer | Slot::BasicUser | Slot::BasicPassword),
        }
    }

    /// The slots that a key of this kind has if none are named, the one that is filled without a token
    /// first.
    #[must_use]
    pub fn usual_slots(self) -> Vec<Slot> {
        match self {
            Self::Secret => vec![Slot::Bearer],
            Self::Basic => vec![Slot::BasicPassword, Slot::BasicUser, Slot::Bearer],
        }
    }

    fn words() -> String {
        Self::ALL.map(Self::as_str).join(", ")
    }
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for KeyKind {
    type Err = KeyKindError;

    fn from_str(text: &str) -> Result<Self, KeyKindError> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or(KeyKindError)
    }
}
