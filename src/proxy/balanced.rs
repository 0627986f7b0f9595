//! The PROXY protocol (version 2, and 1 since nginx sends no other): behind a balancer, the header
//! before an agent's first byte says where the agent is.
//!
//! It is read from sources in `listen.proxy_protocol` alone, and there it has to be: anybody else's would
//! be a lie that nobody checks. What else it tells (its TLVs) is skipped.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout;

use super::Mode;
use super::core::Core;
use super::reject::{Code, Rejection};

/// Where the agent behind `peer` is. `None`: the connection is to be closed, and that was noted.
pub async fn agent<S: AsyncRead + Unpin>(
    core: &Core,
    stream: &mut S,
    peer: SocketAddr,
    mode: Mode,
) -> Option<SocketAddr> {
    let settings = &core.shared.settings;
    let ip = peer.ip().to_canonical();
    if !settings.balancers.iter().any(|network| network.contains(&ip)) {
        return Some(peer);
    }
    match timeout(settings.deadlines.head, header(stream, peer, settings.limits.proxy_header_bytes)).await {
        Ok(Ok(agent)) => Some(agent),
        Ok(Err(Bad)) => {
            let detail = format!("the connection from {ip} doesn't begin with a header of the PROXY protocol");
            core.note_refused(core.exchange_id(), mode, &Rejection::new(Code::BadRequest, detail));
            None
        }
        Err(_) => None,
    }
}

/// It is no header, or a wrong one.
struct Bad;

/// The first bytes of version 2.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// Reads the header and not a byte more.
async fn header<S: AsyncRead + Unpin>(stream: &mut S, peer: SocketAddr, most: usize) -> Result<SocketAddr, Bad> {
    // No header of either version is shorter.
    let start: [u8; 12] = exactly(stream).await?;
    if start != SIGNATURE {
        return version1(stream, start, peer).await;
    }
    let [command, family, high, low] = exactly(stream).await?;
    let length = usize::from(u16::from_be_bytes([high, low]));
    if command >> 4 != 2 || length + 16 > most {
        return Err(Bad);
    }
    let mut rest = vec![0; length];
    stream.read_exact(&mut rest).await.map_err(|_| Bad)?;
    match (command & 15, family) {
        // The balancer speaks for itself, as health checks do.
        (0, _) => Ok(peer),
        (1, 0x11) => {
            let (ip, _, port) = addresses::<4>(&rest)?;
            Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::from(ip)), port))
        }
        (1, 0x21) => {
            let (ip, _, port) = addresses::<16>(&rest)?;
            Ok(SocketAddr::new(IpAddr::V6(Ipv6Addr::from(ip)), port))
        }
        // It doesn't know, or it isn't IP.
        (1, 0x00 | 0x31) => Ok(peer),
        _ => Err(Bad),
    }
}

/// Two addresses of `N` bytes, and the first one's port.
fn addresses<const N: usize>(bytes: &[u8]) -> Result<([u8; N], [u8; N], u16), Bad> {
    let (from, rest) = bytes.split_first_chunk::<N>().ok_or(Bad)?;
    let (to, rest) = rest.split_first_chunk::<N>().ok_or(Bad)?;
    let (ports, _) = rest.split_first_chunk::<4>().ok_or(Bad)?;
    Ok((*from, *to, u16::from_be_bytes([ports[0], ports[1]])))
}

/// The longest line of version 1, with its end.
const LONGEST_LINE: usize = 107;

/// `PROXY TCP4 192.0.2.1 198.51.100.1 50000 443`
async fn version1<S: AsyncRead + Unpin>(stream: &mut S, start: [u8; 12], peer: SocketAddr) -> Result<SocketAddr, Bad> {
    if !start.starts_with(b"PROXY ") {
        return Err(Bad);
    }
    let mut line = start.to_vec();
    while !line.ends_with(b"\r\n") {
        if line.len() >= LONGEST_LINE {
            return Err(Bad);
        }
        let [byte] = exactly(stream).await?;
        line.push(byte);
    }
    let line = std::str::from_utf8(&line).map_err(|_| Bad)?.trim_end_matches("\r\n");
    let words: Vec<_> = line.split(' ').collect();
    match words[..] {
        ["PROXY", "UNKNOWN", ..] => Ok(peer),
        ["PROXY", family, from, to, port, to_port] => {
            let (from, to): (IpAddr, IpAddr) = (from.parse().map_err(|_| Bad)?, to.parse().map_err(|_| Bad)?);
            let (port, _): (u16, u16) = (port.parse().map_err(|_| Bad)?, to_port.parse().map_err(|_| Bad)?);
            match (family, from, to) {
                ("TCP4", IpAddr::V4(_), IpAddr::V4(_)) | ("TCP6", IpAddr::V6(_), IpAddr::V6(_)) => {
                    Ok(SocketAddr::new(from, port))
                }
                _ => Err(Bad),
            }
        }
        _ => Err(Bad),
    }
}

async fn exactly<const N: usize, S: AsyncRead + Unpin>(stream: &mut S) -> Result<[u8; N], Bad> {
    let mut all = [0; N];
    stream.read_exact(&mut all).await.map_err(|_| Bad)?;
    Ok(all)
}
