//! Asks a proxy for a tunnel to an upstream: by CONNECT or SOCKS5.
//!
//! What the proxy says is bounded and read to the byte. Bytes that come behind its answer, before
//! anything was asked of the upstream, are nobody's: they are refused.

use std::borrow::Cow;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::Error;
use super::egress::{Credentials, Proxy, Speaks};
use crate::model::{Authority, Host};

/// Asks for a tunnel to `target`. The caller sets the deadline.
///
/// # Errors
/// The proxy refuses, or what it says can't be read.
pub async fn tunnel<S>(stream: &mut S, proxy: &Proxy, target: &Authority, max_head: usize) -> Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    match proxy.speaks {
        Speaks::Http | Speaks::Https => connect(stream, proxy.credentials.as_ref(), target, max_head).await,
        Speaks::Socks => socks(stream, proxy.credentials.as_ref(), target).await,
    }
}

fn proxy(what: impl Into<Cow<'static, str>>) -> Error {
    Error::Proxy(what.into())
}

fn gone(_: std::io::Error) -> Error {
    proxy("closed the connection")
}

/// What the status with which a proxy refuses means, and what to do.
pub fn refused(status: u16) -> Error {
    match status {
        407 => proxy("wants other credentials (407): mend its URL, or `upstream.proxy_credentials`"),
        403 => proxy("doesn't lead to this host (403): whoever runs it has to allow the host"),
        502..=504 => proxy(format!("doesn't reach the host itself ({status})")),
        _ => proxy(format!("refuses with status {status}")),
    }
}

/// RFC 9110 section 9.3.6.
async fn connect<S>(
    stream: &mut S,
    credentials: Option<&Credentials>,
    target: &Authority,
    max_head: usize,
) -> Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut head = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n").into_bytes();
    if let Some(credentials) = credentials {
        head.extend_from_slice(b"Proxy-Authorization: ");
        head.extend_from_slice(credentials.basic().as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    let head = crate::model::Secret::new(head);
    stream.write_all(head.expose()).await.map_err(gone)?;
    stream.flush().await.map_err(gone)?;
    let mut buffer = BytesMut::with_capacity(1024);
    loop {
        if stream.read_buf(&mut buffer).await.map_err(gone)? == 0 {
            return Err(proxy("closed the connection"));
        }
        let mut fields = [httparse::EMPTY_HEADER; 64];
        let mut response = httparse::Response::new(&mut fields);
        match response.parse(&buffer) {
            Ok(httparse::Status::Complete(end)) => {
                return match response.code {
                    // Its fields mean nothing, not those that announce a body either.
                    Some(200..=299) if end == buffer.len() => Ok(()),
                    Some(200..=299) => Err(proxy("sends bytes that nobody asked the host for")),
                    Some(status) => Err(refused(status)),
                    None => Err(proxy(UNREADABLE)),
                };
            }
            Ok(httparse::Status::Partial) if buffer.len() < max_head => {}
            Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
                return Err(proxy("answers with a head that is longer than `upstream.proxy_head`"));
            }
            Err(_) => return Err(proxy(UNREADABLE)),
        }
    }
}

const UNREADABLE: &str = "answers in a way that can't be read; is its URL's scheme right?";

/// RFC 1928, RFC 1929. Names go as they are: the proxy resolves them.
async fn socks<S>(stream: &mut S, credentials: Option<&Credentials>, target: &Authority) -> Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    const VERSION: u8 = 5;
    let methods: &[u8] = if credentials.is_some() { &[VERSION, 2, 0, 2] } else { &[VERSION, 1, 0] };
    say(stream, methods).await?;
    match (hear(stream).await?, credentials) {
        ([VERSION, 0], _) => {}
        ([VERSION, 2], Some(credentials)) => {
            let (user, password) = credentials.pair();
            let mut message = vec![1];
            for text in [user, password] {
                // `Credentials` holds none that is longer.
                message.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
                message.extend_from_slice(text);
            }
            say(stream, crate::model::Secret::new(message).expose()).await?;
            if hear::<2, _>(stream).await?[1] != 0 {
                return Err(refused(407));
            }
        }
        ([VERSION, 2 | 0xff], _) => return Err(refused(407)),
        _ => return Err(proxy(UNREADABLE)),
    }
    let mut request = vec![VERSION, 1, 0];
    match &target.host {
        Host::Name(name) => {
            request.extend([3, u8::try_from(name.len()).unwrap_or(u8::MAX)]);
            request.extend_from_slice(name.as_bytes());
        }
        Host::Ip(std::net::IpAddr::V4(ip)) => {
            request.push(1);
            request.extend(ip.octets());
        }
        Host::Ip(std::net::IpAddr::V6(ip)) => {
            request.push(4);
            request.extend(ip.octets());
        }
    }
    request.extend(target.port.to_be_bytes());
    say(stream, &request).await?;
    let [version, reply, _, kind] = hear(stream).await?;
    match (version, reply) {
        (VERSION, 0) => {}
        (VERSION, 2) => return Err(refused(403)),
        (VERSION, 3..=6) => return Err(proxy("doesn't reach the host itself")),
        (VERSION, _) => return Err(proxy(format!("refuses with code {reply}"))),
        _ => return Err(proxy(UNREADABLE)),
    }
    // The address that the proxy bound is of no use.
    let address = match kind {
        1 => 4,
        4 => 16,
        3 => usize::from(hear::<1, _>(stream).await?[0]),
        _ => return Err(proxy(UNREADABLE)),
    };
    for _ in 0..address + 2 {
        hear::<1, _>(stream).await?;
    }
    Ok(())
}

async fn say<S: AsyncWrite + Unpin>(stream: &mut S, bytes: &[u8]) -> Result<(), Error> {
    stream.write_all(bytes).await.map_err(gone)?;
    stream.flush().await.map_err(gone)
}

/// Exactly so many bytes.
async fn hear<const N: usize, S: AsyncRead + Unpin>(stream: &mut S) -> Result<[u8; N], Error> {
    let mut all = [0; N];
    stream.read_exact(&mut all).await.map_err(gone)?;
    Ok(all)
}
