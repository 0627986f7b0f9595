//! A TCP port that leads elsewhere for as long as the test lets it.

use std::net::SocketAddr;
use std::path::PathBuf;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;

use super::raw::Stream;

/// Where it leads.
#[derive(Debug, Clone)]
pub enum To {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// How the line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line {
    Open,
    /// Connections are closed, those that are open and those that come.
    Cut,
    /// Connections stay open and say nothing, also after the line is open again: what a firewall does
    /// that forgot them.
    Silent,
    /// The same, after one more answer: a connection that seems sound when it is tried.
    Faltering,
}

pub struct Forwarder {
    pub addr: SocketAddr,
    line: watch::Sender<Line>,
}

impl Forwarder {
    /// Listens on a free port.
    pub async fn start(to: To) -> Self {
        Self::at(SocketAddr::from(([127, 0, 0, 1], 0)), to).await
    }

    pub async fn at(addr: SocketAddr, to: To) -> Self {
        let listener = TcpListener::bind(addr).await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        let (line, state) = watch::channel(Line::Open);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).expect("set");
                tokio::spawn(lead(stream, to.clone(), state.clone()));
            }
        });
        Self { addr, line }
    }

    pub fn set(&self, line: Line) {
        self.line.send_replace(line);
    }
}

async fn lead(mut here: TcpStream, to: To, mut line: watch::Receiver<Line>) {
    if *line.borrow() == Line::Cut {
        return;
    }
    let mut there: Box<dyn Stream> = match to {
        To::Tcp(addr) => Box::new(TcpStream::connect(addr).await.expect("it listens")),
        To::Unix(path) => Box::new(UnixStream::connect(path).await.expect("it listens")),
    };
    let ended = tokio::select! {
        biased;
        changed = line.wait_for(|line| *line != Line::Open) => changed.map_or(Line::Cut, |line| *line),
        _ = copy_bidirectional(&mut here, &mut there) => Line::Cut,
    };
    if ended == Line::Faltering && one_answer(&mut here, &mut there).await.is_err() {
        return;
    }
    if matches!(ended, Line::Silent | Line::Faltering) {
        // Held to the end of the test.
        std::future::pending::<()>().await;
    }
}

/// Passes on what is asked up to the first answer.
async fn one_answer(here: &mut TcpStream, there: &mut Box<dyn Stream>) -> std::io::Result<()> {
    let (mut question, mut answer) = ([0; 4096], [0; 4096]);
    loop {
        tokio::select! {
            len = here.read(&mut question) => match len? {
                0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                len => there.write_all(&question[..len]).await?,
            },
            len = there.read(&mut answer) => return here.write_all(&answer[..len?]).await,
        }
    }
}
