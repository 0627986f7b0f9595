//! A network in which the proxy is the only way out.
//!
//! The first stage stands in the new network namespace: it brings loopback up, binds the proxy's port
//! there and sends the listening socket out. A socket stays in the network in which it was made, so
//! the proxy, which never enters that network, accepts what the command dials, and dials upstreams in
//! its own.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketType,
};
use tokio::io::Interest;
use tokio::net::UnixListener;

use super::Way;
use crate::model::SessionId;

/// The most listening sockets that are handed out.
const MOST: usize = 4;

/// Inside: makes the network ready, and hands the proxy its listening sockets.
pub(super) fn open(way: &Way) -> anyhow::Result<()> {
    loopback_up().context("bringing up loopback in a network of its own")?;
    let bind = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port));
    let listeners: Vec<_> =
        way.ports.iter().map(bind).collect::<Result<_, _>>().context("listening in a network of its own")?;
    let stream = UnixStream::connect(&way.socket).context("reaching the proxy")?;
    let fds: Vec<_> = listeners.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        bail!("the listening sockets don't fit into a message");
    }
    rustix::net::sendmsg(&stream, &[IoSlice::new(b"l")], &mut control, SendFlags::empty())
        .context("handing the listening sockets to the proxy")?;
    Ok(())
}

/// Sets loopback, which is the first interface of every network namespace, up (rtnetlink(7)).
fn loopback_up() -> io::Result<()> {
    const RTM_NEWLINK: u16 = 16;
    const NLMSG_ERROR: u16 = 2;
    const REQUEST_AND_ACK: u16 = 1 | 4;
    const IFF_UP: u32 = 1;
    // NETLINK_ROUTE is the protocol with number 0.
    let socket = rustix::net::socket(AddressFamily::NETLINK, SocketType::RAW, None)?;
    let mut message = Vec::with_capacity(32);
    // nlmsghdr: length, kind, flags, number, port.
    message.extend(32u32.to_ne_bytes());
    message.extend(RTM_NEWLINK.to_ne_bytes());
    message.extend(REQUEST_AND_ACK.to_ne_bytes());
    message.extend([0; 8]);
    // ifinfomsg: family and kind of device, its index, flags, which of them change.
    message.extend([0; 4]);
    message.extend(1i32.to_ne_bytes());
    message.extend(IFF_UP.to_ne_bytes());
    message.extend(IFF_UP.to_ne_bytes());
    rustix::net::sendto(&socket, &message, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let mut reply = [0u8; 128];
    let (length, _) = rustix::net::recv(&socket, &mut reply, RecvFlags::empty())?;
    let kind = reply.get(4..6).and_then(|b| Some(u16::from_ne_bytes(b.try_into().ok()?)));
    let error = reply.get(16..20).and_then(|b| Some(i32::from_ne_bytes(b.try_into().ok()?)));
    match (length, kind, error) {
        (20.., Some(NLMSG_ERROR), Some(0)) => Ok(()),
        (20.., Some(NLMSG_ERROR), Some(code)) => Err(io::Error::from_raw_os_error(-code)),
        _ => Err(io::Error::other("the kernel's answer can't be read")),
    }
}

/// Outside: waits for the listening socket, in a directory that nobody else can enter.
pub struct Handover {
    dir: PathBuf,
    listener: std::os::unix::net::UnixListener,
}

impl Handover {
    /// A socket of its own.
    ///
    /// # Errors
    /// The temporary directory can't be written.
    pub fn new() -> anyhow::Result<Self> {
        let dir = std::env::temp_dir().join(format!("sallyport-way-{}", SessionId::generate()));
        std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700)
            .create(&dir)
            .with_context(|| format!("making {}", dir.display()))?;
        match std::os::unix::net::UnixListener::bind(dir.join("way")) {
            Ok(listener) => Ok(Self { dir, listener }),
            Err(why) => {
                let _ = std::fs::remove_dir_all(&dir);
                Err(why).context("listening for the way into a network of its own")
            }
        }
    }

    /// Where the first stage finds it.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir.join("way")
    }

    /// The listening sockets that the first stage, the process with this number, sends.
    ///
    /// # Errors
    /// What came isn't any, or came from another process.
    pub async fn receive(self, from: u32) -> anyhow::Result<Vec<TcpListener>> {
        self.listener.set_nonblocking(true)?;
        let listener = UnixListener::from_std(self.listener.try_clone()?)?;
        let (stream, _) = listener.accept().await?;
        if stream.peer_cred()?.pid().and_then(|pid| u32::try_from(pid).ok()) != Some(from) {
            bail!("another process than the command's came to the way into its network");
        }
        let received = stream.async_io(Interest::READABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut byte = [0u8; 1];
            let into = &mut [IoSliceMut::new(&mut byte)];
            rustix::net::recvmsg(&stream, into, &mut control, RecvFlags::CMSG_CLOEXEC)?;
            let fds = control.drain().filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(fds) => Some(fds),
                _ => None,
            });
            Ok(fds.flatten().map(TcpListener::from).collect::<Vec<_>>())
        });
        let all = received.await?;
        for listener in &all {
            listener.set_nonblocking(true)?;
        }
        Ok(all)
    }
}

impl Drop for Handover {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
