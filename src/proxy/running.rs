//! The exchanges that run on one core, so that those whose token, session or key ends are aborted.
//!
//! Nothing is paid for on the way of an exchange but an entry in a table: the core looks through
//! the table at its tick and wakes what has to stop (within `proxy.tick`, 100 ms by default).

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crate::model::Timestamp;
use crate::session::registry::{Ended, LiveToken, LiveUse};

/// The table of one core.
#[derive(Default)]
pub struct Running {
    entries: RefCell<Vec<Option<Rc<Entry>>>>,
    free: RefCell<Vec<usize>>,
}

struct Entry {
    tokens: Vec<Arc<LiveToken>>,
    without_token: Option<LiveUse>,
    ended: Cell<Option<Ended>>,
    waker: RefCell<Option<Waker>>,
}

/// One running exchange; leaves the table when dropped.
pub struct Run {
    table: Rc<Running>,
    at: usize,
    entry: Rc<Entry>,
}

impl Running {
    /// Enters an exchange that lives as long as these tokens do, and what it uses without one.
    pub fn enter(self: &Rc<Self>, tokens: Vec<Arc<LiveToken>>, without_token: Option<LiveUse>) -> Run {
        let entry = Rc::new(Entry { tokens, without_token, ended: Cell::new(None), waker: RefCell::new(None) });
        let mut entries = self.entries.borrow_mut();
        let at = match self.free.borrow_mut().pop() {
            Some(at) => at,
            None => {
                entries.push(None);
                entries.len() - 1
            }
        };
        entries[at] = Some(Rc::clone(&entry));
        Run { table: Rc::clone(self), at, entry }
    }

    /// Stops what may not go on at `now`.
    pub fn tick(&self, now: Timestamp) {
        for entry in self.entries.borrow().iter().flatten() {
            if entry.ended.get().is_some() {
                continue;
            }
            if let Some(ended) = entry.ended_at(now) {
                entry.ended.set(Some(ended));
                if let Some(waker) = entry.waker.borrow_mut().take() {
                    waker.wake();
                }
            }
        }
    }

    /// How many exchanges run.
    pub fn count(&self) -> usize {
        self.entries.borrow().len() - self.free.borrow().len()
    }
}

impl Entry {
    fn ended_at(&self, now: Timestamp) -> Option<Ended> {
        let tokens = self.tokens.iter().find_map(|token| token.ended(now));
        tokens.or_else(|| self.without_token.as_ref().and_then(|used| used.ended(now)))
    }
}

impl Run {
    /// Whether the exchange may not go on at `now`, and why.
    pub fn ended_at(&self, now: Timestamp) -> Option<Ended> {
        self.entry.ended_at(now)
    }

    /// Whether the exchange has to stop; else the task is woken when it has to.
    pub fn poll_ended(&self, cx: &Context<'_>) -> Poll<Ended> {
        if let Some(ended) = self.entry.ended.get() {
            return Poll::Ready(ended);
        }
        let mut waker = self.entry.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// The future's result, unless the exchange has to stop first.
    ///
    /// # Errors
    /// How the token, session or key ended.
    pub async fn guard<F: Future>(&self, future: F) -> Result<F::Output, Ended> {
        let mut future = pin!(future);
        poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(out) => Poll::Ready(Ok(out)),
            Poll::Pending => self.poll_ended(cx).map(Err),
        })
        .await
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.table.entries.borrow_mut()[self.at] = None;
        self.table.free.borrow_mut().push(self.at);
    }
}
