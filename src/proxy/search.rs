//! What a reply is searched for: its host's keys as they are while it arrives. A key that is stored or
//! rotated meanwhile may come back in a reply that began before it.

use std::rc::Rc;
use std::sync::Arc;

use http::HeaderMap;

use super::coding::{Broken, Coding, Codings, Decoder};
use super::core::{Bound, Core};
use super::forward::Back;
use super::reject::{Code, Rejection};
use super::scrub::PatternSet;
use super::target::Target;
use crate::model::{Authority, Scheme, Timestamp};
use crate::policy::Unsearched;
use crate::session::live::{LiveSession, Masked};

/// The keys of one reply's host.
pub struct Search {
    core: Rc<Core>,
    scheme: Scheme,
    authority: Authority,
    bound: Rc<Bound>,
    session: Option<Arc<LiveSession>>,
    back: Back,
}

impl Search {
    /// For replies of this target to this session, whose keys were these. `part` tells whether the
    /// request asks for a part.
    ///
    /// # Errors
    /// Too much was masked in replies to the session lately.
    pub fn new(
        core: &Rc<Core>,
        target: &Target,
        bound: Rc<Bound>,
        session: Option<Arc<LiveSession>>,
        part: bool,
        now: Timestamp,
    ) -> Result<Self, Rejection> {
        let (core, authority) = (Rc::clone(core), target.authority.clone());
        let mut search = Self { core, scheme: target.scheme, authority, bound, session, back: Back::Anyhow };
        if search.bound.is_named() {
            search.back = if part && search.forwards(Unsearched::Range) { Back::Part } else { Back::Whole };
            let limit = search.core.shared.settings.limits.masked;
            if search.masked().count(now) > limit {
                return Err(too_much());
            }
        }
        Ok(search)
    }

    /// How the reply has to come.
    pub fn back(&self) -> Back {
        self.back
    }

    /// So many more matches were masked in the reply.
    ///
    /// # Errors
    /// It is too much, in all replies to the session in this minute: who may try as often as they like
    /// which text is masked could guess keys.
    pub fn note_masked(&self, more: u32) -> Result<(), Rejection> {
        let shared = &self.core.shared;
        if more > 0 && self.masked().note(shared.clock.now(), more) > shared.settings.limits.masked {
            return Err(too_much());
        }
        Ok(())
    }

    fn masked(&self) -> &Masked {
        self.session.as_ref().map_or(&self.core.shared.masked, |session| &session.masked)
    }

    /// A decoder for a reply with these codings.
    ///
    /// # Errors
    /// There is no memory for one.
    pub fn decoder(&self, codings: &[Coding]) -> Result<Decoder, Broken> {
        Decoder::new(codings, &self.core.shared.settings.limits, &self.core.shared.decoding)
    }

    /// How the reply is coded.
    pub fn codings(&self, headers: &HeaderMap) -> Codings {
        Codings::of(headers, self.core.shared.settings.limits.codings)
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

    /// Whether the policies of every key that a reply may carry back let this pass.
    pub fn forwards(&self, what: Unsearched) -> bool {
        let shared = &self.core.shared;
        let policies = shared.policies.current();
        let tool = self.session.as_ref().and_then(|session| session.tool.as_ref());
        self.bound.named().iter().all(|key| {
            let project = shared.registry.project_name(key.project);
            project.is_some_and(|project| policies.forwards(what, &key.name, key.environment, tool, &project))
        })
    }
}

fn too_much() -> Rejection {
    let detail = "more keys were masked in replies to the session than `proxy.limits.masked` allows in a minute";
    Rejection::new(Code::RateLimited, detail)
}
