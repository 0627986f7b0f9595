//! Keys in the messages of agents: a token in a `frame` slot is swapped as one in a request is. Each use
//! has a decision and a record of its own.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use super::relay::Decided;
use crate::audit::{Outcome, OutcomeWord};
use crate::credential::Credential;
use crate::model::{Pointer, Secret, Slot, TokenHash};
use crate::proxy::account::Account;
use crate::proxy::authorize::{self, Authorized};
use crate::proxy::bounds;
use crate::proxy::core::Core;
use crate::proxy::exchange::fresh;
use crate::proxy::identify::{Finder, Found, Identified, not_a_slot, part_of_more, with_shape};
use crate::proxy::inject;
use crate::proxy::put;
use crate::proxy::record::{Intended, Use};
use crate::proxy::reject::{Code, Rejection};
use crate::proxy::running::Run;
use crate::proxy::slots::json;
use crate::session::registry::Moment;

/// Puts keys into the messages of one WebSocket.
pub struct Swaps {
    pointers: Vec<Pointer>,
    /// When keys were put into a message within the last minute.
    uses: VecDeque<Instant>,
    /// Tokens that stood elsewhere.
    inert: u32,
}

const MINUTE: Duration = Duration::from_secs(60);

impl Swaps {
    /// For the keys that are bound to the WebSocket's host.
    pub fn new(core: &Core, decided: &Decided) -> Self {
        let bound = core.bound(decided.target.scheme, &decided.target.authority);
        let mut pointers = Vec::new();
        for slot in bound.keys().iter().flat_map(|key| &key.destination.slots) {
            if let Slot::Frame(pointer) = slot
                && !pointers.contains(pointer)
            {
                pointers.push(pointer.clone());
            }
        }
        Self { pointers, uses: VecDeque::new(), inert: decided.identified.inert }
    }

    /// Whether messages have to be read at all.
    pub fn any(&self) -> bool {
        !self.pointers.is_empty()
    }

    /// The message with keys in the place of tokens; `None` if there is none to swap.
    ///
    /// # Errors
    /// A token in a slot may not be used here, or its use can't be recorded.
    pub fn swap(
        &mut self,
        core: &Rc<Core>,
        decided: &Decided,
        run: &Run,
        account: &mut Account,
        text: &[u8],
    ) -> Result<Option<Zeroizing<Vec<u8>>>, Rejection> {
        if TokenHash::find(text).is_none() {
            return Ok(None);
        }
        let found = self.find(core, decided, text)?;
        self.note_inert(core, account, text, &found);
        if found.is_empty() {
            return Ok(None);
        }
        if let Some(found) = found.first() {
            account.of_token(&found.token);
        }
        for found in &found {
            bounds::check(core, &found.token.session, &account.tunnel().from)?;
        }
        self.count(core, found.len())?;
        let started = Instant::now();
        let identified = Identified { found, ..Identified::default() };
        let bound = core.bound(decided.target.scheme, &decided.target.authority);
        let policies = core.shared.policies.current();
        let question = decided.question(core, bound.keys());
        let authorized = authorize::authorize(&policies, &question, &identified)?;
        let now = Moment::now(&*core.shared.clock);
        fresh(core, &authorized, now)?;
        let Authorized::Swap(permits) = authorized else {
            return Err(Rejection::new(Code::Internal, "a decision about a token is about no token"));
        };
        let at = core.shared.clock.now();
        let mut receipts = Vec::with_capacity(permits.len());
        for (found, permit) in identified.found.iter().zip(permits) {
            let usage = Use::of(found);
            let tunnel = account.tunnel();
            let (exchange, target) = (decided.exchange, &decided.target);
            let intended =
                Intended { tunnel, exchange, target, usage, policies: policies.digest(), permit: &permit, at };
            let (receipt, draft) = intended.record(core)?;
            run.lives_with(&found.token);
            receipts.push((found, permit, receipt, draft));
        }
        let mut swapped = Zeroizing::new(text.to_vec());
        // The last in the text comes first, so that the other ranges stay as they are.
        for (found, permit, receipt, draft) in receipts {
            let Credential::Pasted(secret) = put::opened(core, decided.exchange, &found.key, permit, receipt)? else {
                return Err(Rejection::new(Code::Internal, "only a key that is text can stand in a message"));
            };
            swapped = inject::spliced(&swapped, &found.range, &escaped(&found.slot, &secret)?);
            core.shared.metrics.injected(found.key.provider.as_str(), found.slot.label());
            draft.finish(Outcome {
                at,
                status: Some(account.status),
                outcome: OutcomeWord::Ok,
                bytes_in: text.len() as u64,
                bytes_out: 0,
                duration: started.elapsed(),
                scrubbed: 0,
            });
        }
        Ok(Some(swapped))
    }

    /// The tokens in slots, the last in the text first. A text that isn't JSON, or that two parsers could
    /// read differently, has no slots.
    fn find(&self, core: &Core, decided: &Decided, text: &[u8]) -> Result<Vec<Found>, Rejection> {
        let Ok(spots) = json::spots(text, &self.pointers) else { return Ok(Vec::new()) };
        let bound = core.bound(decided.target.scheme, &decided.target.authority);
        let of_handshake = decided.identified.found.first().map(|found| &found.token.session);
        let finder = Finder {
            registry: &core.shared.registry,
            bound: bound.keys(),
            places: bound.places(),
            target: &decided.target,
            session: decided.session.as_ref().or(of_handshake),
            now: core.shared.clock.now(),
        };
        let mut all: Vec<Found> = Vec::new();
        for spot in spots.into_iter().rev() {
            let Slot::Json(pointer) = spot.slot else { continue };
            let Some((core, hash)) = TokenHash::find(&text[spot.range.clone()]) else { continue };
            let (token, key) = finder.follow(&hash)?;
            let slot = Slot::Frame(pointer);
            if !key.destination.slots.contains(&slot) {
                return Err(not_a_slot(&slot, &key));
            }
            let range = with_shape(&key, text, spot.range.start + core.start..spot.range.start + core.end);
            if range != spot.range {
                return Err(part_of_more());
            }
            if all.iter().any(|other| other.token.session.id != token.session.id) {
                return Err(Rejection::new(Code::TokenMisplaced, "the message holds tokens of different sessions"));
            }
            all.push(Found { token, key, slot, range });
        }
        Ok(all)
    }

    fn note_inert(&mut self, core: &Core, account: &mut Account, text: &[u8], found: &[Found]) {
        let mut at = 0;
        while let Some((range, hash)) = TokenHash::find(&text[at..]) {
            let range = at + range.start..at + range.end;
            at = range.end;
            if found.iter().any(|found| found.range.start <= range.start && range.end <= found.range.end) {
                continue;
            }
            self.inert = self.inert.saturating_add(1);
            if let Some(token) = core.shared.registry.token(&hash) {
                token.note_inert();
            }
        }
        account.inert(self.inert);
    }

    /// So many more keys are put into a message.
    fn count(&mut self, core: &Core, more: usize) -> Result<(), Rejection> {
        let (now, most) = (Instant::now(), core.shared.settings.limits.frame_keys as usize);
        while self.uses.front().is_some_and(|at| now.duration_since(*at) >= MINUTE) {
            self.uses.pop_front();
        }
        if self.uses.len() + more > most {
            let why =
                "more keys were put into the WebSocket's frames than `proxy.limits.frame_keys` allows in a minute";
            return Err(Rejection::new(Code::RateLimited, why));
        }
        self.uses.extend(std::iter::repeat_n(now, more));
        Ok(())
    }
}

fn escaped(slot: &Slot, secret: &Secret<Vec<u8>>) -> Result<Zeroizing<Vec<u8>>, Rejection> {
    json::escaped(inject::fit(slot, secret)?)
        .ok_or_else(|| Rejection::new(Code::Internal, "the stored secret isn't text, so it can't stand in JSON"))
}
