//! How much of bodies a core holds before they are sent on, all together.

use std::cell::Cell;
use std::rc::Rc;

/// The share of one body. Given back when dropped.
pub struct Held {
    all: Rc<Cell<usize>>,
    mine: Cell<usize>,
    limit: usize,
}

impl Held {
    /// Nothing yet, of `limit` bytes that may be held at once.
    pub fn new(all: Rc<Cell<usize>>, limit: usize) -> Self {
        Self { all, mine: Cell::new(0), limit }
    }

    /// So many bytes more; whether there is room for them.
    pub fn more(&self, bytes: usize) -> bool {
        self.set(self.mine.get() + bytes)
    }

    /// So many bytes in place of those before; whether there is room for them.
    pub fn set(&self, bytes: usize) -> bool {
        let all = self.all.get() - self.mine.get() + bytes;
        if bytes > self.mine.get() && all > self.limit {
            return false;
        }
        self.all.set(all);
        self.mine.set(bytes);
        true
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.all.set(self.all.get() - self.mine.get());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_given_back() {
        let all = Rc::new(Cell::new(0));
        let [first, second] = [(); 2].map(|()| Held::new(Rc::clone(&all), 100));
        assert!(first.more(60) && second.more(40));
        assert!(!first.more(1) && first.set(60));
        drop(second);
        assert_eq!(all.get(), 60);
        assert!(first.more(40) && first.set(10));
        assert_eq!(all.get(), 10);
        drop(first);
        assert_eq!(all.get(), 0);
    }
}
