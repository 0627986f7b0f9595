//! Credentials that are computed, not pasted.
//!
//! The secret of most keys is put into a request as it is. The secret of a computed kind
//! ([`KeyKind::is_computed`]) is a JSON document, from which something is made for each request.
//!
//! # The seam
//!
//! 1. When a key is stored or rotated, [`document`] checks the form of what was given, once, and
//!    brings it into the bytes that are sealed. Its errors hold nothing of it.
//! 2. In an exchange, [`crate::vault::Vault::open`] yields those bytes for a permit and a receipt, and
//!    [`read`] makes a [`Credential`] of them. `proxy/put.rs` matches on it: each variant says what is
//!    done to the request, which is already as it will be sent. What is computed from the request alone
//!    happens in place. What has to be minted elsewhere ([`KeyKind::is_minted`]) is there before:
//!    `proxy/mint.rs` asks for it under a permit and a record of its own, and `put` takes it from
//!    [`oauth::Mints`] as it takes what is sealed from the vault, for a permit and a receipt.
//! 3. Replies are searched for the secret parts of the document, and not for its public ones, such as a
//!    user name: [`secret_parts`] says which are which.
//!
//! A new kind is a variant of [`KeyKind`] and one of [`Credential`], with a document of its own. A kind
//! has its variant once it is served, so that no key is taken that couldn't be used.
//!
//! This part knows nothing of the proxy: it is given heads and bytes, and gives back values.

pub mod aws;
pub mod basic;
mod form;
pub mod hmac;
pub mod mtls;
pub mod oauth;

use bytes::Bytes;
use zeroize::Zeroizing;

use crate::model::{KeyKind, Secret, Timestamp, TokenEndpoint};
pub use basic::Basic;
pub use form::{FormError, Text};
use oauth::Recipe;

/// What is made of an opened key.
pub enum Credential {
    /// The secret itself.
    Pasted(Secret<Vec<u8>>),
    /// A user name and a password.
    Basic(Basic),
    /// An access key pair, with which the request is signed again.
    Aws(Box<aws::Pair>),
    /// A shared secret, with which the request is signed.
    Hmac(Box<hmac::Form>),
    /// A certificate and its private key. It is shown by the connection, and never put into a request.
    Certificate(mtls::Identity),
    /// What access tokens are asked for with; it is never put into a request itself.
    Minted(Box<Recipe>),
}

/// Checks what is to be stored as a key of this kind, and brings it into the form that is sealed.
///
/// # Errors
/// It isn't the document of that kind. The error holds nothing of it.
pub fn document(kind: KeyKind, given: Secret<Vec<u8>>) -> Result<Secret<Vec<u8>>, FormError> {
    if !kind.is_computed() {
        return Ok(given);
    }
    if kind == KeyKind::Mtls {
        return mtls::document(given.expose());
    }
    let dense = form::dense(given.expose());
    read(kind, Secret::new(dense.to_vec()))?;
    Ok(Secret::new(dense.to_vec()))
}

/// Reads what the vault opened.
///
/// # Errors
/// It isn't the document of that kind.
pub fn read(kind: KeyKind, opened: Secret<Vec<u8>>) -> Result<Credential, FormError> {
    match kind {
        KeyKind::Secret => Ok(Credential::Pasted(opened)),
        KeyKind::Basic => Basic::read(opened.expose()).map(Credential::Basic),
        KeyKind::Aws => aws::Pair::read(opened.expose()).map(|pair| Credential::Aws(Box::new(pair))),
        KeyKind::Hmac => hmac::Form::read(opened.expose()).map(|form| Credential::Hmac(Box::new(form))),
        KeyKind::Mtls => mtls::Identity::read(opened.expose()).map(Credential::Certificate),
        minted => Ok(Credential::Minted(Box::new(Recipe::read(minted, opened.expose())?))),
    }
}

/// Shows the parts of an opened secret that must not come back in a reply.
///
/// # Errors
/// It isn't the document of that kind.
pub fn secret_parts(kind: KeyKind, opened: &[u8], show: &mut dyn FnMut(&[u8])) -> Result<(), FormError> {
    match kind {
        KeyKind::Secret => show(opened),
        KeyKind::Basic => show(Basic::read(opened)?.password()),
        KeyKind::Aws => aws::Pair::read(opened)?.show_secrets(show),
        KeyKind::Hmac => hmac::Form::read(opened)?.show_secrets(show),
        KeyKind::Mtls => mtls::show_secrets(opened, show)?,
        minted => Recipe::read(minted, opened)?.secret_parts(show),
    }
    Ok(())
}

/// What an operator should know of a document that is taken all the same, each in a sentence.
///
/// # Errors
/// It isn't the document of that kind.
pub fn warnings(kind: KeyKind, document: &Secret<Vec<u8>>, now: Timestamp) -> Result<Vec<String>, FormError> {
    match kind {
        KeyKind::Mtls => mtls::warnings(document.expose(), now),
        _ => Ok(Vec::new()),
    }
}

/// Where a key of this kind gets its access tokens, by its document; `None` for a kind that isn't minted.
///
/// # Errors
/// It isn't the document of that kind.
pub fn token_endpoint(kind: KeyKind, document: &Secret<Vec<u8>>) -> Result<Option<TokenEndpoint>, FormError> {
    match kind.is_minted() {
        true => Ok(Some(Recipe::read(kind, document.expose())?.endpoint().clone())),
        false => Ok(None),
    }
}

/// Bytes for a message, which are wiped when the last that shares them is dropped.
pub(crate) fn wiped(bytes: Zeroizing<Vec<u8>>) -> Bytes {
    struct Wiped(Zeroizing<Vec<u8>>);
    impl AsRef<[u8]> for Wiped {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    Bytes::from_owner(Wiped(bytes))
}
