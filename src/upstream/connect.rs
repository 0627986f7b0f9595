//! Resolve, check, dial that address, or have a proxy do so; verify.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{AlertDescription, ClientConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::egress::{Proxy, Speaks};
use super::lenient::Lenient;
use super::stream::Stream;
use super::verdict::Ours;
use super::{Error, Protocol, Settings, Shown, Stage, address, through, verdict};
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

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A stream of bytes to the upstream itself.
    Stream,
    /// Requests in clear. A proxy of HTTP before the upstream is asked for them in absolute form.
    ClearRequests,
}

/// By whose word an address is dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Word {
    /// Nobody's: it has to be one that agents may reach.
    Check,
    /// The operator's, who registered this very address for the key or the route by which it is asked for. A
    /// name other than `localhost` is none.
    Operator,
}

/// Reaches the authority, directly or through the proxy before it.
///
/// # Errors
/// Its port, its address, or its name where it says enough, is refused; nobody answers, or time is up.
pub async fn reach(
    settings: &Settings,
    tls: &Tls,
    authority: &Authority,
    by: Word,
    purpose: Purpose,
) -> Result<Stream, Error> {
    let of_other_protocol = settings.refused_ports.contains(&authority.port);
    if of_other_protocol && by == Word::Check && !settings.resolve.contains_key(authority) {
        return Err(Error::Blocked { class: address::Class::Port, authority: authority.clone() });
    }
    let Some(proxy) = way(settings, authority, by) else {
        return direct(settings, authority, by).await.map(Stream::Tcp);
    };
    // The proxy resolves names, so it alone can check what they lead to.
    if authority.host.is_loopback() {
        checked(settings, authority, vec![SocketAddr::new(Ipv4Addr::LOCALHOST.into(), authority.port)])?;
    }
    if let Host::Ip(ip) = authority.host {
        checked(settings, authority, vec![SocketAddr::new(ip, authority.port)])?;
    }
    let mut stream = to_proxy(settings, tls, proxy).await.map_err(of_proxy)?;
    if purpose == Purpose::ClearRequests && proxy.speaks != Speaks::Socks {
        return Ok(stream);
    }
    let asked = through::tunnel(&mut stream, proxy, authority, settings.proxy_head_bytes);
    timeout(settings.deadlines.proxy, asked).await.map_err(|_| Error::Timeout(Stage::Proxy))??;
    Ok(stream)
}

/// The proxy before the authority, if it is reached through one. One that is pinned isn't.
pub fn way<'a>(settings: &'a Settings, authority: &Authority, by: Word) -> Option<&'a Proxy> {
    let proxy = settings.egress.of(authority).filter(|_| !settings.resolve.contains_key(authority));
    proxy.filter(|_| by == Word::Check || registered(authority).is_none())
}

/// The addresses that an authority names by itself, without anyone who could say otherwise.
fn registered(authority: &Authority) -> Option<Vec<SocketAddr>> {
    let at = |ip| SocketAddr::new(ip, authority.port);
    match &authority.host {
        Host::Ip(ip) => Some(vec![at(*ip)]),
        // RFC 6761 section 6.3.
        Host::Name(name) if &**name == "localhost" => {
            Some(vec![at(Ipv4Addr::LOCALHOST.into()), at(Ipv6Addr::LOCALHOST.into())])
        }
        Host::Name(_) => None,
    }
}

async fn to_proxy(settings: &Settings, tls: &Tls, proxy: &Proxy) -> Result<Stream, Error> {
    let at = &proxy.authority;
    let addresses = match settings.resolve.get(at) {
        Some(pinned) => vec![*pinned],
        None => resolve(settings, at).await?,
    };
    if addresses.iter().any(|at| is_own(settings, at)) {
        return Err(Error::Blocked { class: address::Class::Own, authority: at.clone() });
    }
    let stream = dial(settings, addresses).await?;
    match proxy.speaks {
        Speaks::Https => Ok(Stream::Tls(Box::new(handshake(settings, &tls.http1, at, stream, Ours::Absent).await?))),
        Speaks::Http | Speaks::Socks => Ok(Stream::Tcp(stream)),
    }
}

/// What failed on the way to the proxy is no word about the upstream.
fn of_proxy(why: Error) -> Error {
    match why {
        Error::Timeout(_) => Error::Timeout(Stage::Proxy),
        Error::Resolve => Error::Proxy("has a name that doesn't resolve".into()),
        Error::Connect(kind) => Error::Proxy(format!("doesn't accept the connection: {kind}").into()),
        Error::Tls(why) => Error::Proxy(format!("doesn't come to terms over TLS: {why}").into()),
        Error::NoCommonProtocol => Error::Proxy("doesn't speak HTTP/1.1".into()),
        Error::Blocked { .. } => Error::Proxy("is sallyport itself".into()),
        other => other,
    }
}

/// Dials the first of the authority's addresses that answers. Only addresses that passed the check
/// are dialled, and a pinned or registered address passes it by the operator's word; our own listeners
/// nobody registers.
async fn direct(settings: &Settings, authority: &Authority, by: Word) -> Result<TcpStream, Error> {
    let addresses = match (settings.resolve.get(authority), registered(authority).filter(|_| by == Word::Operator)) {
        (Some(pinned), _) => vec![*pinned],
        (None, Some(own)) if own.iter().any(|at| is_own(settings, at)) => {
            return Err(Error::Blocked { class: address::Class::Own, authority: authority.clone() });
        }
        (None, Some(registered)) => registered,
        (None, None) => checked(settings, authority, resolve(settings, authority).await?)?,
    };
    dial(settings, addresses).await
}

async fn dial(settings: &Settings, addresses: Vec<SocketAddr>) -> Result<TcpStream, Error> {
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
        match if is_own(settings, &at) {
            Err(address::Class::Own)
        } else {
            address::check(at.ip(), &settings.allow_private)
        } {
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

fn is_own(settings: &Settings, at: &SocketAddr) -> bool {
    settings.own_addresses.iter().any(|own| own.port() == at.port() && reaches(own.ip(), at.ip()))
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

/// Does the TLS handshake, verified against the authority's host; with a certificate of ours, if one is
/// to be shown.
///
/// # Errors
/// The peer's certificate doesn't verify, it speaks no TLS that we do, or time is up.
pub async fn tls(
    settings: &Settings,
    tls: &Tls,
    authority: &Authority,
    stream: Stream,
    want: Protocol,
    shown: Option<&Arc<Shown>>,
) -> Result<TlsStream<Lenient<Stream>>, Error> {
    let config = match want {
        Protocol::Http1 => &tls.http1,
        Protocol::Any => &tls.any,
        Protocol::Http2 => &tls.h2,
    };
    let stream = Lenient::new(stream);
    let Some(shown) = shown else { return handshake(settings, config, authority, stream, Ours::Absent).await };
    let done = handshake(settings, &shown.config(config), authority, stream, Ours::Shown).await;
    // Without a common protocol nothing was shown yet, and another handshake follows.
    if !matches!(done, Err(Error::NoCommonProtocol)) {
        shown.forget();
    }
    done
}

async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
    settings: &Settings,
    config: &Arc<ClientConfig>,
    authority: &Authority,
    stream: S,
    ours: Ours,
) -> Result<TlsStream<S>, Error> {
    let name = match &authority.host {
        Host::Name(name) => ServerName::try_from(name.to_string())
            .map_err(|_| Error::Tls("the host's name is none that a certificate can hold".to_owned()))?,
        Host::Ip(ip) => ServerName::IpAddress((*ip).into()),
    };
    let handshake = TlsConnector::from(Arc::clone(config)).connect(name, stream);
    match timeout(settings.deadlines.tls, handshake).await {
        Err(_) => Err(Error::Timeout(Stage::Tls)),
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(why)) => Err(match why.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol)) => Error::NoCommonProtocol,
            Some(why) => Error::Tls(verdict::words(why, ours)),
            None => Error::Tls("the upstream closed the connection during the TLS handshake".to_owned()),
        }),
    }
}
