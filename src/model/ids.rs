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
