//! What a stored secret is, and so what is made of it for a request.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Slot, TokenForm};

/// What the stored secret of a key is. As text: `secret`, `basic`, `aws`, `hmac`, `client_credentials` and so on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyKind {
    /// The secret itself, put into a request as it is.
    #[default]
    Secret,
    /// A user name and a password, put in together as `Authorization: Basic` (RFC 7617).
    Basic,
    /// An AWS access key pair, with which the agent's requests are signed again.
    Aws,
    /// A shared secret, with which requests are signed in a form of the key's own.
    Hmac,
    /// A client's name and secret, for access tokens (RFC 6749 section 4.4).
    ClientCredentials,
    /// A refresh token, for access tokens (RFC 6749 section 6).
    RefreshToken,
    /// A private key that signs assertions, for access tokens (RFC 7523).
    JwtBearer,
    /// A Google service account's key file, for access tokens.
    ServiceAccount,
    /// A GitHub App's private key, for the access tokens of one installation.
    GithubApp,
}

/// The text names no kind of key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a kind of key: use {}", KeyKind::words())]
pub struct KeyKindError;

impl KeyKind {
    /// Every kind.
    pub const ALL: [Self; 9] = [
        Self::Secret,
        Self::Basic,
        Self::Aws,
        Self::Hmac,
        Self::ClientCredentials,
        Self::RefreshToken,
        Self::JwtBearer,
        Self::ServiceAccount,
        Self::GithubApp,
    ];

    /// Its word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Secret => "secret",
            Self::Basic => "basic",
            Self::Aws => "aws",
            Self::Hmac => "hmac",
            Self::ClientCredentials => "client_credentials",
            Self::RefreshToken => "refresh_token",
            Self::JwtBearer => "jwt_bearer",
            Self::ServiceAccount => "service_account",
            Self::GithubApp => "github_app",
        }
    }

    /// Whether something is made of the secret before it is put into a request. The secret of such a
    /// key is a JSON document.
    #[must_use]
    pub const fn is_computed(self) -> bool {
        !matches!(self, Self::Secret)
    }

    /// Whether an agent signs its requests with such a key, and so is given a secret of its own beside the
    /// token.
    #[must_use]
    pub const fn is_signed_with(self) -> bool {
        matches!(self, Self::Aws)
    }

    /// Whether the secret is shown to a token endpoint only, which gives access tokens for it; those are
    /// put into requests.
    #[must_use]
    pub const fn is_minted(self) -> bool {
        matches!(
            self,
            Self::ClientCredentials | Self::RefreshToken | Self::JwtBearer | Self::ServiceAccount | Self::GithubApp
        )
    }

    /// Whether what the kind yields can stand in this slot.
    #[must_use]
    pub const fn fits(self, slot: &Slot) -> bool {
        match self {
            Self::Hmac => matches!(slot, Slot::Bearer | Slot::Header(_) | Slot::HeaderPart(..) | Slot::Query(_)),
            Self::Basic => matches!(slot, Slot::Bearer | Slot::BasicUser | Slot::BasicPassword),
            Self::Aws => matches!(slot, Slot::Signature | Slot::Presigned),
            _ => !matches!(slot, Slot::Signature | Slot::Presigned),
        }
    }

    /// The slots that a key of this kind has if none are named, the one that is filled without a token
    /// first.
    #[must_use]
    pub fn usual_slots(self) -> Vec<Slot> {
        match self {
            Self::Basic => vec![Slot::BasicPassword, Slot::BasicUser, Slot::Bearer],
            Self::Aws => vec![Slot::Signature, Slot::Presigned],
            _ => vec![Slot::Bearer],
        }
    }

    /// Which tokens stand for a key of this kind: where the real thing is short, short ones.
    #[must_use]
    pub const fn token_form(self) -> TokenForm {
        match self {
            Self::Aws => TokenForm::Short,
            _ => TokenForm::Long,
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
