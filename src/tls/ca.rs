//! Our certificate authority and the leaves that it mints for intercepted hosts.
//!
//! Each host has a P-256 key of its own, never the CA's. A leaf names exactly one host, lives at
//! most 30 days and never past the CA, has a random serial, and carries the CA's subject key
//! identifier as its authority key identifier, without which Python 3.13 and newer refuse it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, SanType, SerialNumber,
};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use time::OffsetDateTime;

use super::Error;
use crate::model::{Clock, Host, Secret, Timestamp};

/// How long a fresh CA lives.
const CA_LIFE: Duration = Duration::from_secs(5 * 365 * 24 * 3600);
/// How long a leaf lives.
const LEAF_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long before its end a leaf is minted anew.
const LEAF_MARGIN: Duration = Duration::from_secs(24 * 3600);
/// How far a certificate's beginning lies back, for clocks that go slow.
const BACKDATE: Duration = Duration::from_secs(3600);

/// A certificate authority: its certificate in the open, its key in custody.
pub struct Ca {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
    not_after: Timestamp,
}

/// A CA that was made a moment ago, with its key to be sealed.
pub struct Created {
    /// The authority, ready to mint.
    pub ca: Ca,
    /// Its private key, PKCS #8 in PEM.
    pub key_pem: Secret<String>,
}

impl Ca {
    /// Makes a fresh authority of five years with a P-256 key.
    ///
    /// # Errors
    /// The random source or the signer failed.
    pub fn create(clock: &dyn Clock) -> Result<Created, Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        let serial = random_serial()?;
        let suffix = hex::encode(&serial[..4]);
        params.distinguished_name.push(DnType::CommonName, format!("sallyport CA {suffix}"));
        params.distinguished_name.push(DnType::OrganizationName, "sallyport");
        params.serial_number = Some(SerialNumber::from(serial));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let now = clock.now();
        params.not_before = date(Timestamp(now.millis() - millis(BACKDATE)));
        params.not_after = date(now.plus(CA_LIFE));
        let pem = params.self_signed(&key)?.pem();
        let key_pem = Secret::new(key.serialize_pem());
        Ok(Created { ca: Self::open(&pem, &key_pem)?, key_pem })
    }

    /// Takes up an authority from its certificate and key.
    ///
    /// # Errors
    /// Either can't be read, or they don't belong together.
    pub fn open(pem: &str, key_pem: &Secret<String>) -> Result<Self, Error> {
        let key = KeyPair::from_pem(key_pem.expose())?;
        let bad = |why: String| Error::Certificate { path: "ca.pem".to_owned(), why };
        let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).map_err(|e| bad(e.to_string()))?;
        let parsed = block.parse_x509().map_err(|e| bad(e.to_string()))?;
        if parsed.public_key().subject_public_key.data.as_ref() != rcgen::PublicKeyData::der_bytes(&key) {
            return Err(bad("it doesn't belong to the CA's key".to_owned()));
        }
        let not_after = Timestamp(parsed.validity().not_after.timestamp().saturating_mul(1000));
        let issuer = Issuer::from_ca_cert_pem(pem, key)?;
        Ok(Self { pem: pem.to_owned(), issuer, not_after })
    }

    /// The certificate that clients have to trust, in PEM.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// When the authority ends.
    #[must_use]
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// Mints a certificate for one host, with a key of its own.
    ///
    /// # Errors
    /// The random source or the signer failed.
    pub fn mint(&self, host: &Host, now: Timestamp) -> Result<Leaf, Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![match host {
            Host::Name(name) => SanType::DnsName(name.to_string().try_into()?),
            Host::Ip(ip) => SanType::IpAddress(*ip),
        }];
        params.distinguished_name.push(DnType::CommonName, common_name(host));
        params.serial_number = Some(SerialNumber::from(random_serial()?));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let ends = now.plus(LEAF_LIFE).min(self.not_after);
        params.not_before = date(Timestamp(now.millis() - millis(BACKDATE)));
        params.not_after = date(ends);
        let cert = params.signed_by(&key, &self.issuer)?;
        Ok(Leaf {
            cert: cert.der().clone(),
            key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
            ends,
        })
    }
}

/// A minted certificate with its key.
pub struct Leaf {
    /// The certificate.
    pub cert: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    ends: Timestamp,
}

/// X.520 bounds a common name to 64 characters; the SAN is what clients look at.
fn common_name(host: &Host) -> String {
    host.to_string().chars().take(64).collect()
}

fn random_serial() -> Result<Vec<u8>, Error> {
    let mut serial = [0u8; 16];
    getrandom::fill(&mut serial).map_err(|_| Error::Random)?;
    // RFC 5280 section 4.1.2.2: positive and not zero.
    serial[0] = (serial[0] & 0x7f) | 0x01;
    Ok(serial.to_vec())
}

fn date(at: Timestamp) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(at.millis().div_euclid(1000)).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

fn millis(of: Duration) -> i64 {
    i64::try_from(of.as_millis()).unwrap_or(i64::MAX)
}

type Slot = Arc<OnceLock<Option<(Arc<ServerConfig>, Timestamp)>>>;

/// TLS configurations by host: minted once under concurrent demand, bounded in number.
pub struct LeafCache {
    ca: Ca,
    clock: Arc<dyn Clock>,
    capacity: usize,
    slots: Mutex<HashMap<Host, Slot>>,
    ticketer: Arc<dyn rustls::server::ProducesTickets>,
    observer: Box<dyn Fn(Option<Duration>) + Send + Sync>,
}

impl LeafCache {
    /// A cache of at most `capacity` hosts.
    ///
    /// # Errors
    /// The ticket keys can't be made.
    pub fn new(ca: Ca, clock: Arc<dyn Clock>, capacity: usize) -> Result<Self, Error> {
        let ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
        let observer = Box::new(|_| {});
        Ok(Self { ca, clock, capacity: capacity.max(1), slots: Mutex::default(), ticketer, observer })
    }

    /// The authority behind the leaves.
    #[must_use]
    pub fn ca(&self) -> &Ca {
        &self.ca
    }

    /// How many hosts are held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether no host is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The same cache, which tells `observer` of each look-up: how long the minting took, or `None`
    /// for a leaf that was held.
    #[must_use]
    pub fn observed(self, observer: impl Fn(Option<Duration>) + Send + Sync + 'static) -> Self {
        Self { observer: Box::new(observer), ..self }
    }

    /// A configuration for a listener of our own that speaks HTTP/1.1 only: its leaf is for the name
    /// in the client's hello, else for `host`. Leaves are minted when they are asked for.
    ///
    /// # Errors
    /// As for [`LeafCache::get`].
    pub fn named(self: &Arc<Self>, host: &Host) -> Result<Arc<ServerConfig>, Error> {
        let mut config = ServerConfig::clone(&*self.get(host)?);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.cert_resolver = Arc::new(ByName { leaves: Arc::clone(self), host: host.clone() });
        Ok(Arc::new(config))
    }

    /// The same for a listener of our own: it offers these protocols by ALPN, and asks for a client's
    /// certificate, to which a session may be bound.
    ///
    /// # Errors
    /// As for [`LeafCache::get`].
    pub fn asking(&self, host: &Host, alpn: &[&[u8]]) -> Result<Arc<ServerConfig>, Error> {
        let of_leaf = self.get(host)?;
        let provider = super::provider();
        let verifier = Arc::new(super::client::AnyCertificate::new(&provider));
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::clone(&of_leaf.cert_resolver));
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        config.ignore_client_order = true;
        config.session_storage = Arc::clone(&of_leaf.session_storage);
        config.ticketer = Arc::clone(&self.ticketer);
        config.send_tls13_tickets = 1;
        Ok(Arc::new(config))
    }

    /// The server configuration with a leaf for this host.
    ///
    /// # Errors
    /// The leaf can't be minted.
    pub fn get(&self, host: &Host) -> Result<Arc<ServerConfig>, Error> {
        let now = self.clock.now();
        let slot = {
            let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            let live = |slot: &Slot| match slot.get() {
                Some(Some((_, ends))) => now.plus(LEAF_MARGIN) < *ends || *ends == self.ca.not_after,
                Some(None) => false,
                None => true,
            };
            match slots.get(host).filter(|slot| live(slot)) {
                Some(slot) => Arc::clone(slot),
                None => {
                    if slots.len() >= self.capacity
                        && let Some(any) = slots.keys().next().cloned()
                    {
                        slots.remove(&any);
                    }
                    let slot = Slot::default();
                    slots.insert(host.clone(), Arc::clone(&slot));
                    slot
                }
            }
        };
        let mut failed = None;
        let mut minted = None;
        let began = std::time::Instant::now();
        let made = slot.get_or_init(|| match self.build(host, now) {
            Ok(made) => {
                minted = Some(began.elapsed());
                Some(made)
            }
            Err(why) => {
                failed = Some(why);
                None
            }
        });
        (self.observer)(minted);
        match (made, failed) {
            (Some((config, _)), _) => Ok(Arc::clone(config)),
            (None, Some(why)) => Err(why),
            (None, None) => Err(Error::Random),
        }
    }

    fn build(&self, host: &Host, now: Timestamp) -> Result<(Arc<ServerConfig>, Timestamp), Error> {
        let leaf = self.ca.mint(host, now)?;
        let mut config = ServerConfig::builder_with_provider(super::provider())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
            .with_no_client_auth()
            .with_single_cert(vec![leaf.cert], leaf.key)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config.ignore_client_order = true;
        config.ticketer = Arc::clone(&self.ticketer);
        config.send_tls13_tickets = 1;
        Ok((Arc::new(config), leaf.ends))
    }
}

/// Finds the leaf for the name in a hello.
#[derive(Debug)]
struct ByName {
    leaves: Arc<LeafCache>,
    host: Host,
}

impl rustls::server::ResolvesServerCert for ByName {
    fn resolve(&self, hello: rustls::server::ClientHello<'_>) -> Option<Arc<rustls::sign::CertifiedKey>> {
        let named = hello.server_name().and_then(|name| Host::parse(name).ok());
        let config = self.leaves.get(named.as_ref().unwrap_or(&self.host)).ok()?;
        config.cert_resolver.resolve(hello)
    }
}

impl std::fmt::Debug for LeafCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LeafCache")
    }
}
