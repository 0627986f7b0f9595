//! Intents that one append writes together: those of all exchanges that are ready in one turn of a core.
//!
//! The first to wait lets the others that are ready go before it, and then writes for all of them. So a
//! busy core makes one call for many records, and each key still waits for its own.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::Error;
use super::chain::Chain;
use super::journal::{Draft, Receipt};

/// Who waits for the next append of a core's chain.
#[derive(Default)]
pub(super) struct Batch {
    led: Cell<bool>,
    waiting: RefCell<Vec<Waker>>,
}

impl Batch {
    fn wake(&self) {
        self.led.set(false);
        let waiting = self.waiting.take();
        waiting.into_iter().for_each(Waker::wake);
    }
}

/// An intent on its way to the operating system. Ready with its receipt once it is there.
///
/// # Errors
/// It can't be written; then there is no receipt, and no key. The record waits on, and one that says that
/// nothing came of it follows.
#[must_use = "without its receipt no key is opened"]
pub struct Queued {
    chain: Rc<RefCell<Chain>>,
    batch: Rc<Batch>,
    /// Taken when it is written.
    made: Option<(Receipt, Draft)>,
    seq: u64,
    /// How often the chain had failed before.
    failures: u64,
    leads: bool,
}

impl Queued {
    pub(super) fn new(chain: Rc<RefCell<Chain>>, batch: Rc<Batch>, made: (Receipt, Draft), failures: u64) -> Self {
        let seq = made.0.seq();
        Self { chain, batch, made: Some(made), seq, failures, leads: false }
    }

    fn lead(&mut self) -> Result<(), Error> {
        self.leads = false;
        let written = self.chain.borrow_mut().write();
        self.batch.wake();
        written
    }
}

impl Future for Queued {
    type Output = Result<(Receipt, Draft), Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.leads {
            self.lead()?;
        }
        let (written, failures) = self.chain.borrow().written_to();
        if written >= self.seq
            && let Some(made) = self.made.take()
        {
            return Poll::Ready(Ok(made));
        }
        if failures != self.failures {
            return Poll::Ready(Err(self.chain.borrow().trouble()));
        }
        if self.batch.led.replace(true) {
            self.batch.waiting.borrow_mut().push(cx.waker().clone());
        } else {
            self.leads = true;
            // Behind those that are ready already.
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        // The others wait for it.
        if self.leads
            && let Err(why) = self.lead()
        {
            tracing::error!(error = %why, "audit records can't be written; no key is used until they can");
        }
    }
}
