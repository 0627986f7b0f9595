//! AWS Signature Version 4, and 4A where it is used (AWS Identity and Access Management User Guide,
//! "AWS Signature Version 4 for API requests"; Amazon S3 API Reference, "Authenticating Requests").
//!
//! An agent is given a pair of stand-ins: the proxy token as access key id, and a secret access key that
//! is derived from it under a key of ours ([`crate::vault::Vault::stand_in`]). Its SDK signs with them as
//! with any pair. [`Signed::read`] reads the signature and checks its shape, [`Signed::check`] verifies
//! it: so a token that was seen in a request or in a presigned URL is worth that request and no other.
//! [`Pair::sign`] signs what is sent with the real pair, after everything in the head that is changed on
//! the way has been changed. A body that is signed in chunks is signed again chunk by chunk ([`Chunks`]).
//!
//! The hash of the body that the agent declared is signed as it stands; whether the body has it is the
//! upstream's to check, which is what it is declared for.

mod canonical;
mod chunks;
pub mod handing;
mod parameters;
mod signed;
mod signer;
#[cfg(test)]
mod tests;

use serde::Deserialize;

use super::form::{self, FormError};
use crate::model::{KeyKind, Secret};
pub use canonical::Head;
pub use chunks::{ChunkError, Chunks};
pub use signed::{Payload, Place, Signed};
use signer::Signer;
pub use signer::hash_of;

const FORM: &str = r#"{"access_key_id": "AKIA...", "secret_access_key": "...", "session_token": "... (if temporary)", "regions": ["..."], "services": ["..."] (both if bounded)}"#;

/// The variable in which SDKs look for the access key id.
pub const ID: &str = "AWS_ACCESS_KEY_ID";
/// The variable of the secret access key.
pub const SECRET: &str = "AWS_SECRET_ACCESS_KEY";
/// The variable of the session token of a temporary pair.
pub const SESSION_TOKEN: &str = "AWS_SESSION_TOKEN";

/// The document of a pair as it stands in an environment.
#[must_use]
pub fn document(id: &str, secret: &str, session_token: Option<&str>) -> Secret<String> {
    let mut fields = serde_json::json!({ "access_key_id": id, "secret_access_key": secret });
    if let Some(token) = session_token {
        fields["session_token"] = token.into();
    }
    Secret::new(fields.to_string())
}

/// A real access key pair.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pair {
    access_key_id: String,
    #[serde(deserialize_with = "form::secret_text")]
    secret_access_key: Secret<String>,
    #[serde(default, deserialize_with = "form::maybe_secret_text")]
    session_token: Option<Secret<String>>,
    /// The regions for which it signs; every one if empty.
    #[serde(default)]
    regions: Vec<String>,
    /// The services for which it signs, by their signing names; every one if empty.
    #[serde(default)]
    services: Vec<String>,
}

/// Why a request isn't signed. The words are for the agent and hold nothing of the pair.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The signature can't be read, or isn't of a shape that is signed again.
    #[error("the AWS signature {0}")]
    Shape(&'static str),
    /// The signature isn't that of this request.
    #[error(
        "the AWS signature isn't that of this request: something was changed after it was signed, or the secret access key isn't the one that belongs to the token"
    )]
    Mismatch,
    /// The request was signed too long ago, or is from the future, or its time is over.
    #[error("the request was signed for another time: {0}")]
    Time(&'static str),
    /// The key doesn't sign for this.
    #[error("the key doesn't sign for the {what} {name}")]
    Scope {
        /// `region` or `service`.
        what: &'static str,
        /// Its name, as the agent wrote it.
        name: String,
    },
    /// The key can't be derived, or the random source failed.
    #[error("the request can't be signed")]
    Internal,
}

/// The head of a request as it is to be sent.
pub struct Resigned {
    /// The value of Authorization, unless the signature stands in the query.
    pub authorization: Option<String>,
    /// The query, if the signature stands there.
    pub query: Option<String>,
    /// What signs the chunks of the body that follow.
    pub chain: Link,
}

/// A signature to which the next one is joined.
pub struct Link {
    signer: Signer,
    time: String,
    scope: String,
    previous: String,
}

impl Pair {
    pub(super) fn read(text: &[u8]) -> Result<Self, FormError> {
        let pair: Self = form::parse(KeyKind::Aws, FORM, text)?;
        let id = &pair.access_key_id;
        // IAM API Reference, AccessKey.
        if !(16..=128).contains(&id.len()) || !id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            let why = "isn't an access key id: 16 to 128 letters, digits and underscores";
            return Err(FormError::Field { part: "access_key_id", why });
        }
        form::check_secret("secret_access_key", pair.secret_access_key.expose())?;
        if let Some(token) = &pair.session_token {
            form::check_secret("session_token", token.expose())?;
        }
        let plain =
            |name: &String| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_*".contains(&b));
        for (part, list) in [("regions", &pair.regions), ("services", &pair.services)] {
            if !list.iter().all(plain) {
                return Err(FormError::Field {
                    part,
                    why: "holds a name with other than letters, digits, '-' and '_'",
                });
            }
        }
        Ok(pair)
    }

    /// The session token of a temporary pair, which travels with each request.
    #[must_use]
    pub fn session_token(&self) -> Option<&Secret<String>> {
        self.session_token.as_ref()
    }

    pub(super) fn show_secrets(&self, show: &mut dyn FnMut(&[u8])) {
        show(self.secret_access_key.expose().as_bytes());
        if let Some(token) = &self.session_token {
            show(token.expose().as_bytes());
        }
    }

    /// Signs what the agent signed, for the head as it is sent. In it the session token stands in its
    /// header already; in the query it is put here.
    ///
    /// # Errors
    /// The pair doesn't sign for the region or the service, or no key can be derived from it.
    pub fn sign(&self, signed: &Signed, head: &Head<'_>, payload: &str) -> Result<Resigned, Error> {
        self.covers(signed)?;
        let scope = signed.scope().to_string();
        let signer = Signer::new(signed.algorithm(), &self.access_key_id, &self.secret_access_key, signed.scope())?;
        let names = signed.names_in(head.headers, self.session_token.is_some());
        match signed.place() {
            Place::Header => {
                let query = canonical::query(head.query.unwrap_or_default(), None);
                let text = canonical::request(head, &query, &names, signed.is_encoded_once()) + payload;
                let signature = signer.sign(signed.time(), &scope, &text)?;
                let authorization = format!(
                    "{} Credential={}/{scope}, SignedHeaders={}, Signature={signature}",
                    signed.algorithm().as_str(),
                    self.access_key_id,
                    names.join(";"),
                );
                let chain = Link { signer, time: signed.time().to_owned(), scope, previous: signature };
                Ok(Resigned { authorization: Some(authorization), query: None, chain })
            }
            Place::Query => {
                let token = self.session_token.as_ref().map(|token| token.expose().as_str());
                let mut query =
                    parameters::replaced(head.query.unwrap_or_default(), &self.access_key_id, &scope, &names, token);
                let canonical_query = canonical::query(&query, Some(parameters::SIGNATURE));
                let text = canonical::request(head, &canonical_query, &names, signed.is_encoded_once()) + payload;
                let signature = signer.sign(signed.time(), &scope, &text)?;
                query.push_str(&format!("&{}={signature}", parameters::SIGNATURE));
                let chain = Link { signer, time: signed.time().to_owned(), scope, previous: signature };
                Ok(Resigned { authorization: None, query: Some(query), chain })
            }
        }
    }

    fn covers(&self, signed: &Signed) -> Result<(), Error> {
        let fits = |list: &[String], name: &str| list.is_empty() || list.iter().any(|one| one == name);
        let scope = signed.scope();
        if !fits(&self.services, &scope.service) {
            return Err(Error::Scope { what: "service", name: scope.service.clone() });
        }
        match signed.regions().find(|region| !fits(&self.regions, region)) {
            Some(region) => Err(Error::Scope { what: "region", name: region.to_owned() }),
            None => Ok(()),
        }
    }
}
