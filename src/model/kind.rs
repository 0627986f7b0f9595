//! What a stored secret is, and so what is made of it for a request.

use std::fmt;
use std::str::FromStr;

use http::HeaderName;
use serde::{Deserialize, Serialize};

use super::{Slot, TokenForm};

/// Where an agent says with a token that the connection is to show a client certificate.
const CLIENT_CERTIFICATE: HeaderName = HeaderName::from_static("x-client-certificate");

/// What the stored secret of a key is. As text: `secret`, `basic`, `aws`, `hmac`, `mtls`, `client_credentials`
/// and so on.
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
    /// A certificate chain and its private key, shown in the TLS handshake with the upstream (RFC 8446 section
    /// 4.4.2). Nothing of it is put into a request.
    Mtls,
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
    pub const ALL: [Self; 10] = [
        Self::Secret,
        Self::Basic,
        Self::Aws,
        Self::Hmac,
        Self::Mtls,
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
            Self::Mtls => "mtls",
            Self::ClientCredentials => "client_credentials",
            Self::RefreshToken => "refresh_token",
            Self::JwtBearer => "jwt_bearer",
            Self::ServiceAccount => "service_account",
            Self::GithubApp => "github_app",
        }
    }

    /// Whether something is made of the secret before it is used. The secret of such a key is sealed as a
    /// JSON document.
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

    /// Whether the key belongs to a connection rather than to a request: what stands in its slots is taken
    /// out, and the connection that the request goes on is one which showed the key.
    #[must_use]
    pub const fn is_of_connection(self) -> bool {
        matches!(self, Self::Mtls)
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
            Self::Mtls => matches!(slot, Slot::Bearer | Slot::Header(_)),
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
            // `Authorization` stays free for what the service wants there beside the certificate.
            Self::Mtls => vec![Slot::Header(CLIENT_CERTIFICATE)],
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
