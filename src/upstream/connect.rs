//! Resolve, check, dial that address, verify.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{AlertDescription, ClientConfig};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::lenient::Lenient;
use super::{Error, Protocol, Settings, Stage, address, verdict};
use crate::model::{Authority, Host};

/// The TLS configurations of one egress profile: they share their resumption store.
pub struct Tls {
    http1: Arc<ClientConfig>,
    any: Arc<ClientConfig>,
    h2: Arc<ClientConfig>,
}

impl Tls {
    /// Configurations that trust `roots`.
    ///
    /// # Errors
    /// rustls refused the set.
    pub fn new(roots: Arc<rustls::RootCertStore>) -> Result<Self, crate::tls::Error> {
        let config = |alpn: &[&[u8]]| crate::tls::trust::client_config(Arc::clone(&roots), alpn);
        Ok(Self { http1: config(&[b"http/1.1"])?, any: config(&[b"h2", b"http/1.1"])?, h2: config(&[b"h2"])? })
    }
}

/// Dials the first of the authority's addresses that answers. Only addresses that passed the check
/// are dialled, and a pinned address passes it by the operator's word.
///
/// # Errors
/// The name doesn't resolve, its addresses are refused or don't answer, or time is up.
pub async fn tcp(settings: &Settings, authority: &Authority) -> Result<TcpStream, Error> {
    let addresses = match settings.resolve.get(authority) {
        Some(pinned) => vec![*pinned],
        None => checked(settings, authority, resolve(settings, authority).await?)?,
    };
    let mut last = None;
    for address in addresses {
        match timeout(settings.deadlines.connect, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true).map_err(|e| Error::Connect(e.kind()))?;
                return Ok(stream);
            }
            Ok(Err(why)) => last = Some(Error::Connect(why.kind())),
            Err(_) => last = Some(Error::Timeout(Stage::Connect)),
        }
    }
    Err(last.unwrap_or(Error::Resolve))
}

async fn resolve(settings: &Settings, authority: &Authority) -> Result<Vec<SocketAddr>, Error> {
    match &authority.host {
        Host::Ip(ip) => Ok(vec![SocketAddr::new(*ip, authority.port)]),
        Host::Name(name) => {
            let found = timeout(settings.deadlines.resolve, tokio::net::lookup_host((&**name, authority.port))).await;
            let found = found.map_err(|_| Error::Timeout(Stage::Resolve))?.map_err(|_| Error::Resolve)?;
            Ok(found.collect())
        }
    }
}

fn checked(settings: &Settings, authority: &Authority, found: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, Error> {
    let mut refused = None;
    let mut good = Vec::with_capacity(found.len());
    for at in found {
        let own = settings.own_addresses.iter().any(|own| own.port() == at.port() && reaches(own.ip(), at.ip()));
        match if own { Err(address::Class::Own) } else { address::check(at.ip(), &settings.allow_private) } {
            Ok(()) => good.push(at),
            Err(class) => refused = Some(class),
        }
    }
    match (good.is_empty(), refused) {
        (true, Some(class)) => Err(Error::Blocked { class, authority: authority.clone() }),
        (true, None) => Err(Error::Resolve),
        (false, _) => Ok(good),
    }
}

/// Whether what is dialled under `theirs` arrives at what listens on `ours`.
fn reaches(ours: IpAddr, theirs: IpAddr) -> bool {
    let (ours, theirs) = (ours.to_canonical(), theirs.to_canonical());
    if theirs.is_unspecified() {
        return ours.is_unspecified() || ours.is_loopback();
    }
    ours == theirs || (ours.is_unspecified() && (theirs.is_loopback() || is_of_this_machine(theirs)))
}

/// Only an address of this machine can be bound. It is asked for our own ports alone.
fn is_of_this_machine(ip: IpAddr) -> bool {
    std::net::UdpSocket::bind(SocketAddr::new(ip, 0)).is_ok()
}

/// Does the TLS handshake, verified against the authority's host.
///
/// # Errors
/// The peer's certificate doesn't verify, it speaks no TLS that we do, or time is up.
pub async fn tls(
    settings: &Settings,
    tls: &Tls,
    authority: &Authority,
    stream: TcpStream,
    want: Protocol,
) -> Result<TlsStream<Lenient<TcpStream>>, Error> {
    let name = match &authority.host {
        Host::Name(name) => ServerName::try_from(name.to_string())
            .map_err(|_| Error::Tls("the host's name is none that a certificate can hold".to_owned()))?,
        Host::Ip(ip) => ServerName::IpAddress((*ip).into()),
    };
    let config = match want {
        Protocol::Http1 => &tls.http1,
        Protocol::Any => &tls.any,
        Protocol::Http2 => &tls.h2,
    };
    let handshake = TlsConnector::from(Arc::clone(config)).connect(name, Lenient::new(stream));
    match timeout(settings.deadlines.tls, handshake).await {
        Err(_) => Err(Error::Timeout(Stage::Tls)),
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(why)) => Err(match why.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol)) => Error::NoCommonProtocol,
            Some(why) => Error::Tls(verdict::words(why)),
            None => Error::Tls("the upstream closed the connection during the TLS handshake".to_owned()),
        }),
    }
}
