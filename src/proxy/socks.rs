//! SOCKS version 5 on the proxy's port: CONNECT (RFC 1928), with a session's credentials as user name
//! and password (RFC 1929).
//!
//! Names are resolved here, as clients mean it that write `socks5h://`. A tunnel that is granted is
//! served as one of HTTP's CONNECT is; BIND and UDP are refused. The whole handshake has one deadline,
//! and none of its messages is longer than 513 bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::rc::Rc;
use std::sync::Arc;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

use super::core::Core;
use super::exchange;
use super::reject::{Code, Rejection};
use super::step::{Next, then};
use super::tunnel::{self, Tongue, Tunnel, session_of};
use super::unread::Paced;
use super::wire::Bare;
use crate::model::{Authority, Host};
use crate::session::live::LiveSession;
use crate::upstream::{self, Fill};

/// The first byte of every message but those about the password.
pub const VERSION: u8 = 5;

/// What a CONNECT that is granted gets. The bound address says nothing: agents have no use for ours.
pub const ESTABLISHED: &[u8] = &reply(0);

/// RFC 1928 section 6: a reply of this kind, with no address in it.
const fn reply(kind: u8) -> [u8; 10] {
    [VERSION, kind, 0, ADDRESS_V4, 0, 0, 0, 0, 0, 0]
}

const NO_CREDENTIALS: u8 = 0;
const PASSWORD: u8 = 2;
const NO_METHOD: u8 = 0xff;
const PASSWORD_VERSION: u8 = 1;

const CONNECT: u8 = 1;
const ADDRESS_V4: u8 = 1;
const ADDRESS_NAME: u8 = 3;
const ADDRESS_V6: u8 = 4;

const FAILED: u8 = 1;
const NOT_ALLOWED: u8 = 2;
const NETWORK_UNREACHABLE: u8 = 3;
const HOST_UNREACHABLE: u8 = 4;
const REFUSED: u8 = 5;
const TIMED_OUT: u8 = 6;
const NO_SUCH_COMMAND: u8 = 7;
const NO_SUCH_ADDRESS: u8 = 8;

/// Serves a connection that begins with SOCKS; `buffer` came already.
pub async fn serve<S>(core: Rc<Core>, stream: S, buffer: BytesMut, mut tunnel: Tunnel, deadline: Instant) -> Next
where
    S: AsyncRead + AsyncWrite + Bare + Fill + Unpin + 'static,
{
    let mut agent = Agent { stream, buffer };
    let asked = timeout_at(deadline, handshake(&core, &mut agent, &tunnel)).await;
    let Agent { mut stream, buffer } = agent;
    match asked {
        Ok(Ok((authority, session))) => {
            tunnel.session = session;
            then(tunnel::onward(core, stream, buffer.freeze(), tunnel, authority, Tongue::Socks))
        }
        Ok(Err(Failure::Refused(rejection, last))) => {
            refuse(&core, &mut stream, &rejection, &last).await;
            None
        }
        Ok(Err(Failure::Gone)) | Err(_) => None,
    }
}

/// Tells the agent that its host can't be reached.
pub async fn unreachable<S: AsyncRead + AsyncWrite + Unpin>(core: &Core, stream: &mut S, why: upstream::Error) {
    use std::io::ErrorKind;
    use upstream::Error as E;
    let kind = match &why {
        E::Blocked { .. } => NOT_ALLOWED,
        E::Connect(ErrorKind::ConnectionRefused) => REFUSED,
        E::Connect(ErrorKind::NetworkUnreachable) => NETWORK_UNREACHABLE,
        E::Connect(_) | E::Resolve => HOST_UNREACHABLE,
        E::Timeout(_) => TIMED_OUT,
        _ => FAILED,
    };
    refuse(core, stream, &exchange::failed(why), &reply(kind)).await;
}

async fn refuse<S: AsyncRead + AsyncWrite + Unpin>(core: &Core, stream: &mut S, rejection: &Rejection, last: &[u8]) {
    core.note_refused(core.exchange_id(), super::Mode::Forward, rejection);
    let mut stream = Paced::new(stream, &core.shared.settings.deadlines);
    if stream.write_all(last).await.is_ok() {
        let _ = stream.shutdown().await;
    }
}

/// Why there is no tunnel.
enum Failure {
    /// The agent closed.
    Gone,
    /// The agent is refused, and these are the last bytes that it gets.
    Refused(Rejection, Vec<u8>),
}

fn refused(code: Code, detail: impl Into<std::borrow::Cow<'static, str>>, last: &[u8]) -> Failure {
    Failure::Refused(Rejection::new(code, detail), last.to_vec())
}

/// An agent's stream, and what was read of it but not used.
struct Agent<S> {
    stream: S,
    buffer: BytesMut,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Agent<S> {
    /// The next `N` bytes. What follows them stays in the buffer.
    async fn take<const N: usize>(&mut self) -> Result<[u8; N], Failure> {
        self.fill(N).await?;
        let mut all = [0; N];
        self.buffer.copy_to_slice(&mut all);
        Ok(all)
    }

    /// The next so many bytes, whose number is a byte of the protocol.
    async fn text(&mut self, count: u8) -> Result<BytesMut, Failure> {
        self.fill(count.into()).await?;
        Ok(self.buffer.split_to(count.into()))
    }

    async fn fill(&mut self, count: usize) -> Result<(), Failure> {
        while self.buffer.len() < count {
            match self.stream.read_buf(&mut self.buffer).await {
                Ok(0) | Err(_) => return Err(Failure::Gone),
                Ok(_) => {}
            }
        }
        Ok(())
    }

    async fn say(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.stream.write_all(bytes).await.map_err(|_| Failure::Gone)
    }
}

/// Who asks, and for which authority.
async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
    core: &Core,
    agent: &mut Agent<S>,
    tunnel: &Tunnel,
) -> Result<(Authority, Option<Arc<LiveSession>>), Failure> {
    let [_, count] = agent.take().await?;
    let methods = agent.text(count).await?;
    let session = if methods.contains(&PASSWORD) {
        agent.say(&[VERSION, PASSWORD]).await?;
        password(core, agent, tunnel).await?
    } else if methods.contains(&NO_CREDENTIALS) && !tunnel.required {
        agent.say(&[VERSION, NO_CREDENTIALS]).await?;
        None
    } else {
        let detail = match tunnel.required {
            true => "the SOCKS client offers no password",
            false => "the SOCKS client offers no method",
        };
        return Err(refused(Code::ProxyAuthRequired, detail, &[VERSION, NO_METHOD]));
    };
    let [version, command, _, kind] = agent.take().await?;
    if version != VERSION {
        return Err(refused(Code::BadRequest, "the SOCKS request is of another version", &reply(FAILED)));
    }
    let (host, port) = address(agent, kind).await?;
    if command != CONNECT {
        let detail = "of the commands of SOCKS only CONNECT is served";
        return Err(refused(Code::MethodRefused, detail, &reply(NO_SUCH_COMMAND)));
    }
    let host =
        host.map_err(|why| refused(Code::BadRequest, format!("the SOCKS request's host: {why}"), &reply(FAILED)))?;
    if port == 0 {
        return Err(refused(Code::BadRequest, "the SOCKS request is for port 0", &reply(FAILED)));
    }
    Ok((Authority { host, port }, session))
}

/// RFC 1929. An empty password is none: Java's client offers the system's user name unasked.
async fn password<S: AsyncRead + AsyncWrite + Unpin>(
    core: &Core,
    agent: &mut Agent<S>,
    tunnel: &Tunnel,
) -> Result<Option<Arc<LiveSession>>, Failure> {
    let [version, count] = agent.take().await?;
    if version != PASSWORD_VERSION {
        return Err(refused(Code::BadRequest, "the SOCKS password is of another version", &[PASSWORD_VERSION, FAILED]));
    }
    let id = agent.text(count).await?;
    let [count] = agent.take().await?;
    let secret = agent.text(count).await?;
    let session = match secret.is_empty() && !tunnel.required {
        true => None,
        false => {
            let wrong = |why| Failure::Refused(why, vec![PASSWORD_VERSION, FAILED]);
            Some(session_of(core, &id, &secret, &tunnel.from).map_err(wrong)?)
        }
    };
    agent.say(&[PASSWORD_VERSION, 0]).await?;
    Ok(session)
}

type Named = Result<Host, crate::model::AuthorityError>;

/// The address of a request, read to its end even if it is no host of ours.
async fn address<S: AsyncRead + AsyncWrite + Unpin>(agent: &mut Agent<S>, kind: u8) -> Result<(Named, u16), Failure> {
    let host = match kind {
        ADDRESS_V4 => Ok(Host::Ip(IpAddr::V4(Ipv4Addr::from(agent.take::<4>().await?)))),
        ADDRESS_V6 => Ok(Host::Ip(IpAddr::V6(Ipv6Addr::from(agent.take::<16>().await?)))),
        ADDRESS_NAME => {
            let [count] = agent.take().await?;
            let name = agent.text(count).await?;
            Host::parse(std::str::from_utf8(&name).unwrap_or("?"))
        }
        _ => {
            let detail = "the SOCKS request's kind of address isn't known";
            return Err(refused(Code::BadRequest, detail, &reply(NO_SUCH_ADDRESS)));
        }
    };
    Ok((host, u16::from_be_bytes(agent.take().await?)))
}
