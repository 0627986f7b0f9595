//! A client certificate that one connection shows in its TLS handshake.
//!
//! It has a TLS configuration of its own, without a store of sessions: a session that is resumed stands for
//! the certificate of the one before it (RFC 8446 section 2.2), and so must not be found by a connection
//! that shows none. The private key is given away once the handshake is over: rustls keeps the
//! configuration for as long as the connection lives.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use rustls::client::{ResolvesClientCert, Resumption};
use rustls::sign::CertifiedKey;
use rustls::{AlertDescription, ClientConfig, SignatureScheme};
use tokio::io::{AsyncRead, ReadBuf};

use super::forwarded::writes_pass;
use super::verdict::{self, Ours};
use crate::model::KeyId;

/// Whose certificate a connection showed: a key, and which version of it.
pub type Whose = (KeyId, u32);

/// A certificate with its private key, for one connection.
pub struct Shown(Mutex<Option<Arc<CertifiedKey>>>);

impl std::fmt::Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shown([redacted])")
    }
}

impl Shown {
    /// For the connection that is about to be made.
    #[must_use]
    pub fn new(certified: Arc<CertifiedKey>) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Some(certified))))
    }

    /// The configuration, but one that shows the certificate if it is asked for.
    pub(super) fn config(self: &Arc<Self>, base: &ClientConfig) -> Arc<ClientConfig> {
        let mut config = base.clone();
        config.resumption = Resumption::disabled();
        config.client_auth_cert_resolver = Arc::clone(self) as Arc<dyn ResolvesClientCert>;
        Arc::new(config)
    }

    /// Gives the private key away.
    pub(super) fn forget(&self) {
        drop(self.held().take());
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Option<Arc<CertifiedKey>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, _root_hints: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.held().as_ref().filter(|certified| certified.key.choose_scheme(schemes).is_some()).map(Arc::clone)
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// A stream that remembers the alert with which its peer ended it. With TLS 1.3 an upstream judges a client
/// certificate after the handshake, and what it says would be lost in a connection that merely closed.
pub(super) struct Heard<S> {
    stream: S,
    refusal: Refusal,
}

/// The alert, once there is one.
#[derive(Clone, Default)]
pub struct Refusal(Rc<Cell<Option<AlertDescription>>>);

impl Refusal {
    /// What the upstream says of the certificate that was shown, if it ended the connection so.
    #[must_use]
    pub fn words(&self) -> Option<String> {
        self.0.get().map(|alert| verdict::of_alert(alert, Ours::Shown))
    }
}

impl<S> Heard<S> {
    pub fn new(stream: S) -> (Self, Refusal) {
        let refusal = Refusal::default();
        (Self { stream, refusal: refusal.clone() }, refusal)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Heard<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if let Poll::Ready(Err(why)) = &polled
            && let Some(rustls::Error::AlertReceived(alert)) = why.get_ref().and_then(|why| why.downcast_ref())
        {
            self.refusal.0.set(Some(*alert));
        }
        polled
    }
}

writes_pass!(Heard);
