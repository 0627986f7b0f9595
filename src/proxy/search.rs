//! What a reply is searched for: its host's keys as they are while it arrives. A key that is stored or
//! rotated meanwhile may come back in a reply that began before it.

use std::rc::Rc;
use std::sync::Arc;

use super::core::{Bound, Core};
use super::reject::Rejection;
use super::scrub::PatternSet;
use super::target::Target;
use crate::model::{Authority, Scheme};

/// The keys of one reply's host.
pub struct Search {
    core: Rc<Core>,
    scheme: Scheme,
    authority: Authority,
    bound: Rc<Bound>,
}

impl Search {
    /// For replies of this target, whose keys were these.
    pub fn new(core: &Rc<Core>, target: &Target, bound: Rc<Bound>) -> Self {
        Self { core: Rc::clone(core), scheme: target.scheme, authority: target.authority.clone(), bound }
    }

    /// What to look for now; `None` if no key names the host.
    ///
    /// # Errors
    /// One of the keys can't be opened.
    pub fn patterns(&mut self) -> Result<Option<Arc<PatternSet>>, Rejection> {
        if !self.core.is_current(&self.bound) {
            self.bound = self.core.bound(self.scheme, &self.authority);
        }
        self.core.patterns(&self.bound, &self.authority)
    }

    /// The same, if keys have changed since it was asked for.
    ///
    /// # Errors
    /// One of the keys can't be opened.
    pub fn changed(&mut self) -> Result<Option<Arc<PatternSet>>, Rejection> {
        if self.core.is_current(&self.bound) { Ok(None) } else { self.patterns() }
    }
}
