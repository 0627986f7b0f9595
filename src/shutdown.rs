//! When to stop: the first signal drains, the second ends.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// SIGTERM or SIGINT.
    Stop,
    /// SIGHUP.
    Reload,
}

/// The signals that the process listens to.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// Begins to listen; from here on the signals don't end the process by themselves.
    ///
    /// # Errors
    /// The system refused.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// The next signal.
    pub async fn next(&mut self) -> Ask {
        tokio::select! {
            _ = self.terminate.recv() => Ask::Stop,
            _ = self.interrupt.recv() => Ask::Stop,
            _ = self.hangup.recv() => Ask::Reload,
        }
    }

    /// Waits for the work to end, for at most `patience`; a second stop signal cuts the wait short.
    /// Whether the work ended by itself.
    pub async fn drain(&mut self, work: impl Future<Output = ()>, patience: Duration) -> bool {
        let mut work = std::pin::pin!(work);
        let deadline = tokio::time::sleep(patience);
        let mut deadline = std::pin::pin!(deadline);
        loop {
            tokio::select! {
                () = work.as_mut() => return true,
                () = deadline.as_mut() => return false,
                ask = self.next() => if ask == Ask::Stop { return false },
            }
        }
    }
}
