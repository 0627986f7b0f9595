//! Moves bytes between two TCP connections inside of the kernel: through a pipe, by splice(2). They never
//! come to this process, which a copy would cost twice.

use std::cell::Cell;
use std::io;
use std::os::fd::OwnedFd;

use rustix::net::{Shutdown, shutdown};
use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// The pipes of a tunnel: one each way.
pub struct Pipes([Pipe; 2]);

struct Pipe {
    out: OwnedFd,
    into: OwnedFd,
}

impl Pipes {
    /// Fresh pipes.
    ///
    /// # Errors
    /// The system has no more.
    pub fn open() -> io::Result<Self> {
        let pipe = || pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).map(|(out, into)| Pipe { out, into });
        Ok(Self([pipe()?, pipe()?]))
    }

    /// Moves bytes both ways until both sides are done, or one fails. What comes to its end on one side is
    /// ended on the other, while the other direction goes on. `up` and `down` count what was moved.
    ///
    /// # Errors
    /// A connection failed.
    pub async fn join(
        &self,
        agent: &TcpStream,
        upstream: &TcpStream,
        up: &Cell<u64>,
        down: &Cell<u64>,
    ) -> io::Result<()> {
        let [there, back] = &self.0;
        tokio::try_join!(there.lead(agent, upstream, up), back.lead(upstream, agent, down))?;
        Ok(())
    }
}

/// What is asked for at once. The kernel gives as much as there is and the pipe holds.
const PIECE: usize = 1 << 20;

impl Pipe {
    async fn lead(&self, from: &TcpStream, to: &TcpStream, moved: &Cell<u64>) -> io::Result<()> {
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        loop {
            // The pipe is empty here, so if nothing can be moved, nothing has come.
            let read = || Ok(splice(from, None, &self.into, None, PIECE, flags)?);
            let mut left = from.async_io(Interest::READABLE, read).await?;
            if left == 0 {
                return Ok(shutdown(to, Shutdown::Write)?);
            }
            while left > 0 {
                let write = || Ok(splice(&self.out, None, to, None, left, flags)?);
                let written = to.async_io(Interest::WRITABLE, write).await?;
                if written == 0 {
                    return Err(io::ErrorKind::WriteZero.into());
                }
                left -= written;
                moved.set(moved.get().wrapping_add(written as u64));
            }
        }
    }
}
