//! Identifiers. Each is a UUID version 7 (RFC 9562 section 5.7) of its own type, so that one kind
//! can't be passed where another is meant, and so that they sort by the time they were made.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The text was not an identifier of the kind that is named.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a {kind} id: expected a UUID such as 0192f0c1-7a52-7c3e-9d2b-3f0f6f1f2a10")]
pub struct IdError {
    /// The kind of identifier that was expected.
    pub kind: &'static str,
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $kind:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// A fresh identifier; later ones sort behind earlier ones.
            #[must_use]
            pub fn generate() -> Self {
                Self(Uuid::now_v7())
            }

            /// The sixteen bytes of the identifier, as they are bound into seals and MACs.
            #[must_use]
            pub fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }

            /// The identifier as its `Display` has it, written into `room`.
            pub fn text<'a>(&self, room: &'a mut [u8; 36]) -> &'a str {
                self.0.as_hyphenated().encode_lower(room)
            }

            /// The same as bytes, for records and lines that are built as such.
            #[must_use]
            pub fn digits(&self) -> [u8; 36] {
                digits(self.as_bytes())
            }

            /// The identifier with these sixteen bytes.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                Uuid::try_parse(text).map(Self).map_err(|_| IdError { kind: $kind })
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.as_hyphenated().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }
    )*};
}

ids! {
    /// A tenant. Nothing of one organisation is visible to another.
    OrgId = "organisation";
    /// A group of keys, tools and sessions inside an organisation.
    ProjectId = "project";
    /// A stored upstream credential.
    KeyId = "key";
    /// A registered agent program.
    ToolId = "tool";
    /// An access request.
    RequestId = "access request";
    /// A session.
    SessionId = "session";
    /// "This session may use this key."
    GrantId = "grant";
    /// A proxy token (not its value).
    TokenId = "token";
    /// Who acts on the admin side.
    PrincipalId = "principal";
    /// One request and its reply; it is the request id that agents are shown.
    ExchangeId = "exchange";
}

impl OrgId {
    /// The organisation that a store begins with.
    pub const DEFAULT: Self = Self(Uuid::from_u128(1));
}

/// Each byte's two digits in lower-case hex.
pub static HEX_PAIRS: [[u8; 2]; 256] = {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut pairs = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        pairs[byte] = [DIGITS[byte >> 4], DIGITS[byte & 15]];
        byte += 1;
    }
    pairs
};

/// The hyphenated form of RFC 9562 section 4.
fn digits(id: &[u8; 16]) -> [u8; 36] {
    /// Where each byte's two digits stand.
    const AT: [usize; 16] = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34];
    let mut digits = [b'-'; 36];
    for (at, byte) in AT.iter().zip(id) {
        digits[*at..at + 2].copy_from_slice(&HEX_PAIRS[usize::from(*byte)]);
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_of_an_identifier_read_like_its_display() {
        let id = SessionId::generate();
        assert_eq!(id.digits().as_slice(), id.to_string().as_bytes());
    }
}
