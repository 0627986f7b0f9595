//! A connection's own work, done by whoever uses the connection.
//!
//! hyper's HTTP/1.1 connection is a future that must be polled for anything to be written or read. As
//! a task of its own it would be woken, scheduled and polled three times an exchange, and wake the
//! exchange's task as often. So the exchange polls it, and what one of the two hands to the other wakes
//! nobody: they are polled in turn until neither has news. While a connection is idle nobody polls it;
//! it is looked after where it is taken from its pool, and at the core's tick.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

/// How often the two are polled in turn before others get theirs.
const TURNS: usize = 8;

/// The work of one connection.
pub(super) struct Driver {
    work: Option<Pin<Box<dyn Future<Output = ()>>>>,
    signal: Arc<Signal>,
    waker: Waker,
}

/// Wakes the task that polls a driver, unless it is just about it.
struct Signal {
    polling: AtomicBool,
    news: AtomicBool,
    task: Mutex<Waker>,
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.polling.load(Ordering::Acquire) {
            self.news.store(true, Ordering::Release);
        } else {
            self.task.lock().unwrap_or_else(PoisonError::into_inner).wake_by_ref();
        }
    }
}

impl Driver {
    pub fn new(work: impl Future<Output = ()> + 'static) -> Self {
        let task = Mutex::new(Waker::noop().clone());
        let signal = Arc::new(Signal { polling: AtomicBool::new(false), news: AtomicBool::new(false), task });
        let waker = Waker::from(Arc::clone(&signal));
        Self { work: Some(Box::pin(work)), signal, waker }
    }

    /// Does the connection's work until `done` has something: `Ready(None)` if the connection ended
    /// without it.
    pub fn run<T>(&mut self, cx: &Context<'_>, mut done: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Poll<Option<T>> {
        {
            let mut task = self.signal.task.lock().unwrap_or_else(PoisonError::into_inner);
            if !task.will_wake(cx.waker()) {
                task.clone_from(cx.waker());
            }
        }
        self.signal.polling.store(true, Ordering::Release);
        let out = self.in_turns(&mut done);
        self.signal.polling.store(false, Ordering::Release);
        if self.signal.news.swap(false, Ordering::AcqRel) && out.is_pending() {
            cx.waker().wake_by_ref();
        }
        out
    }

    fn in_turns<T>(&mut self, done: &mut impl FnMut(&mut Context<'_>) -> Poll<T>) -> Poll<Option<T>> {
        let mut own = Context::from_waker(&self.waker);
        for _ in 0..TURNS {
            self.signal.news.store(false, Ordering::Release);
            if let Poll::Ready(out) = done(&mut own) {
                return Poll::Ready(Some(out));
            }
            let Some(work) = &mut self.work else { return Poll::Ready(None) };
            if work.as_mut().poll(&mut own).is_ready() {
                self.work = None;
            }
            if self.work.is_some() && !self.signal.news.load(Ordering::Acquire) {
                return Poll::Pending;
            }
        }
        Poll::Pending
    }

    /// Does what is there to do while nobody waits. Whether the connection is still open.
    pub fn is_open(&mut self) -> bool {
        let Some(work) = &mut self.work else { return false };
        let open = work.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending();
        if !open {
            self.work = None;
        }
        open
    }

    /// What is left to do, for a task of its own.
    pub async fn finish(self) {
        if let Some(work) = self.work {
            work.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::poll_fn;
    use std::rc::Rc;
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Default)]
    struct Counted(AtomicUsize);

    impl Wake for Counted {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Work that takes `turns` to yield its result, and wakes itself or leaves its waker in between.
    fn work(turns: usize, result: &Rc<Cell<bool>>, left: &Rc<Cell<Option<Waker>>>, wakes: bool) -> Driver {
        let (result, left, mut at) = (Rc::clone(result), Rc::clone(left), 0);
        Driver::new(poll_fn(move |cx| {
            at += 1;
            result.set(at >= turns);
            match wakes || at == turns {
                true => cx.waker().wake_by_ref(),
                false => left.set(Some(cx.waker().clone())),
            }
            Poll::Pending
        }))
    }

    fn ask(result: &Rc<Cell<bool>>) -> impl FnMut(&mut Context<'_>) -> Poll<()> {
        let result = Rc::clone(result);
        move |_| if result.get() { Poll::Ready(()) } else { Poll::Pending }
    }

    #[test]
    fn what_is_handed_over_at_once_wakes_nobody() {
        let (result, left, task) = (Rc::default(), Rc::default(), Arc::<Counted>::default());
        let waker = Waker::from(Arc::clone(&task));
        let mut driver = work(3, &result, &left, true);
        let polled = driver.run(&Context::from_waker(&waker), ask(&result));
        assert_eq!((polled, task.0.load(Ordering::SeqCst)), (Poll::Ready(Some(())), 0));
    }

    #[test]
    fn later_news_wakes_the_task_that_polled_last() {
        let (result, left) = (Rc::default(), Rc::default());
        let [first, second] = [Arc::<Counted>::default(), Arc::default()];
        let mut driver = work(3, &result, &left, false);
        for task in [&first, &second] {
            let waker = Waker::from(Arc::clone(task));
            assert_eq!(driver.run(&Context::from_waker(&waker), ask(&result)), Poll::Pending);
        }
        left.take().expect("the work's waker").wake();
        assert_eq!((first.0.load(Ordering::SeqCst), second.0.load(Ordering::SeqCst)), (0, 1));
    }

    #[test]
    fn work_without_end_lets_others_have_their_turn() {
        let (result, left, task) = (Rc::default(), Rc::default(), Arc::<Counted>::default());
        let waker = Waker::from(Arc::clone(&task));
        let mut driver = work(usize::MAX, &result, &left, true);
        assert_eq!(driver.run(&Context::from_waker(&waker), ask(&result)), Poll::Pending);
        assert_eq!(task.0.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn connection_that_ended_without_a_result_is_told() {
        let mut driver = Driver::new(std::future::ready(()));
        let never = |_: &mut Context<'_>| Poll::<()>::Pending;
        assert_eq!(driver.run(&Context::from_waker(Waker::noop()), never), Poll::Ready(None));
        assert!(!driver.is_open());
    }
}
