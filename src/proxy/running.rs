//! The exchanges that run on one core, so that those whose token, session or key ends are aborted.
//!
//! Nothing is paid for on the way of an exchange but an entry in a table: the core looks through
//! the table at its tick, every 100 ms, and wakes what has to stop.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use smallvec::SmallVec;

use crate::model::Timestamp;
use crate::session::live::{Ended, LiveToken, LiveUse};

/// The table of one core.
#[derive(Default)]
pub struct Running {
    entries: RefCell<Vec<Option<Rc<Entry>>>>,
    free: RefCell<Vec<usize>>,
}

/// The tokens of an exchange: mostly one.
type Tokens = SmallVec<[Arc<LiveToken>; 1]>;

struct Entry {
    tokens: RefCell<Tokens>,
    without_token: Option<LiveUse>,
    ended: Cell<Option<Ended>>,
    waker: RefCell<Option<Waker>>,
    /// Policies or keys have changed since it was asked.
    changed: Cell<bool>,
}

/// One running exchange; leaves the table when dropped.
pub struct Run {
    table: Rc<Running>,
    at: usize,
    entry: Rc<Entry>,
}

impl Running {
    /// Enters an exchange that lives as long as these tokens do, and what it uses without one.
    pub fn enter(
        self: &Rc<Self>,
        tokens: impl IntoIterator<Item = Arc<LiveToken>>,
        without_token: Option<LiveUse>,
    ) -> Run {
        let entry = Rc::new(Entry {
            tokens: RefCell::new(tokens.into_iter().collect()),
            without_token,
            ended: Cell::new(None),
            waker: RefCell::new(None),
            changed: Cell::new(false),
        });
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

    /// Policies or keys have changed: whoever looks after that is woken.
    pub fn changed(&self) {
        for entry in self.entries.borrow().iter().flatten() {
            entry.changed.set(true);
            // The waker stays: a reply that nobody reads isn't polled to leave another, and has to hear
            // of its end.
            if let Some(waker) = &*entry.waker.borrow() {
                waker.wake_by_ref();
            }
        }
    }

    /// How many exchanges run.
    pub fn count(&self) -> usize {
        self.entries.borrow().len() - self.free.borrow().len()
    }
}

/// Whether an exchange has to stop, for those who hold up its reply.
pub struct Stop(Rc<Entry>);

impl Stop {
    /// Whether it has to; the task that polled the reply last is woken when it does.
    pub fn is_said(&self) -> bool {
        self.0.ended.get().is_some()
    }
}

impl Entry {
    fn ended_at(&self, now: Timestamp) -> Option<Ended> {
        let tokens = self.tokens.borrow().iter().find_map(|token| token.ended(now));
        tokens.or_else(|| self.without_token.as_ref().and_then(|used| used.ended(now)))
    }
}

impl Run {
    /// What tells others that the exchange has to stop.
    pub fn stop(&self) -> Stop {
        Stop(Rc::clone(&self.entry))
    }

    /// From here on the exchange lives only as long as this token, too.
    pub fn lives_with(&self, token: &Arc<LiveToken>) {
        let mut tokens = self.entry.tokens.borrow_mut();
        if !tokens.iter().any(|one| Arc::ptr_eq(one, token)) {
            tokens.push(Arc::clone(token));
        }
    }

    /// Whether policies or keys have changed since the last time.
    pub fn has_changed(&self) -> bool {
        self.entry.changed.replace(false)
    }

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

/// Whether the core takes nothing new, and who waits to hear of it. Connections look at it each time
/// they are polled, so it is the core's own and takes no lock.
#[derive(Default)]
pub struct Draining {
    on: Cell<bool>,
    waiting: RefCell<Vec<Option<Waker>>>,
    free: RefCell<Vec<usize>>,
}

impl Draining {
    /// From here on the core takes nothing new.
    pub fn begin(&self) {
        self.on.set(true);
        let waiting: Vec<_> = self.waiting.borrow_mut().iter_mut().filter_map(Option::take).collect();
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Whether it has begun.
    pub fn begun(&self) -> bool {
        self.on.get()
    }

    /// Ready once it has begun.
    pub fn wait(self: &Rc<Self>) -> Drained {
        Drained { of: Rc::clone(self), at: None }
    }
}

/// Ready once the core drains.
pub struct Drained {
    of: Rc<Draining>,
    at: Option<usize>,
}

impl Future for Drained {
    type Output = ();

    fn poll(mut self: std::pin::Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.of.on.get() {
            return Poll::Ready(());
        }
        let of = Rc::clone(&self.of);
        let mut waiting = of.waiting.borrow_mut();
        let at = *self.at.get_or_insert_with(|| {
            of.free.borrow_mut().pop().unwrap_or_else(|| {
                waiting.push(None);
                waiting.len() - 1
            })
        });
        if !waiting[at].as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            waiting[at] = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

impl Drop for Drained {
    fn drop(&mut self) {
        if let Some(at) = self.at {
            self.of.waiting.borrow_mut()[at] = None;
            self.of.free.borrow_mut().push(at);
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.table.entries.borrow_mut()[self.at] = None;
        self.table.free.borrow_mut().push(self.at);
    }
}
