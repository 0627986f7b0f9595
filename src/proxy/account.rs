//! What is written when an exchange ends: the outcome of its intents, the metrics, the log line.

use std::cell::OnceCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use http::Method;
use smallvec::SmallVec;

use super::core::Core;
use super::reject::{Code, Fault, Rejection};
use super::scrub::Hits;
use super::target::Target;
use super::tunnel::Tunnel;
use super::upload::Counted;
use crate::audit::{Asker, Draft, Outcome, OutcomeWord};
use crate::model::{Authority, ExchangeId, SessionId};
use crate::session::live::{LiveSession, LiveToken};
use crate::session::registry::Moment;
use crate::telemetry::{Exchange, Severity};

/// What the log lines of exchanges that end well say of who asked for what, once one did ([`Exchange::who`]).
pub type Who = OnceCell<Vec<u8>>;

/// What is written when the exchange ends, however it ends.
pub struct Account {
    core: Rc<Core>,
    tunnel: Rc<Tunnel>,
    exchange: ExchangeId,
    method: Method,
    authority: Option<Authority>,
    began: Moment,
    counted: Rc<Counted>,
    drafts: SmallVec<[Draft; 1]>,
    asker: Asker,
    rule: Option<Arc<str>>,
    who: Option<Rc<Who>>,
    inert: u32,
    /// The status that the agent gets; 0 until there is one.
    pub(super) status: u16,
    /// What was masked in the reply.
    pub(super) scrubbed: Hits,
    websocket: bool,
    closed: bool,
}

impl Account {
    /// Opens the account of an exchange. It goes through many hands, so they pass a pointer.
    pub fn open(core: Rc<Core>, tunnel: Rc<Tunnel>, exchange: ExchangeId, method: Method, began: Moment) -> Box<Self> {
        let counted = Rc::default();
        Box::new(Self {
            core,
            tunnel,
            exchange,
            method,
            authority: None,
            began,
            counted,
            drafts: SmallVec::new(),
            asker: Asker::default(),
            rule: None,
            who: None,
            inert: 0,
            status: 0,
            scrubbed: Hits::default(),
            websocket: false,
            closed: false,
        })
    }

    /// Whether it is closed.
    pub(super) fn closed(&self) -> bool {
        self.closed
    }

    /// The exchange and its method.
    pub(super) fn of(&self) -> (ExchangeId, &Method) {
        (self.exchange, &self.method)
    }

    /// When the exchange began.
    pub(super) fn began(&self) -> Moment {
        self.began
    }

    /// The exchange's byte counters.
    pub fn counted(&self) -> Rc<Counted> {
        Rc::clone(&self.counted)
    }

    /// Where the request goes, once that is known.
    pub fn to(&mut self, target: &Target) {
        self.authority = Some(target.authority.clone());
    }

    /// Where the request goes, if that is known.
    pub fn authority(&self) -> Option<&Authority> {
        self.authority.as_ref()
    }

    /// If it ends well, its log line says the same as those of others that have this.
    pub fn like(&mut self, who: &Rc<Who>) {
        self.who = Some(Rc::clone(who));
    }

    /// The agent's connection.
    pub fn tunnel(&self) -> &Tunnel {
        &self.tunnel
    }

    /// The exchange is a WebSocket, and so counted as one.
    pub fn is_websocket(&mut self) {
        self.websocket = true;
    }

    /// Whose proxy credentials came with the request.
    pub fn of_session(&mut self, session: &LiveSession) {
        self.asker.session = Some(session.id);
    }

    /// The token for which the request is refused.
    pub fn of_token(&mut self, token: &LiveToken) {
        let key = token.key().map(|key| key.name.clone());
        self.asker = Asker { session: self.asker.session.or(Some(token.session.id)), token: Some(token.id), key };
    }

    /// Who asks, as far as that is known.
    pub fn asker(&self) -> &Asker {
        &self.asker
    }

    /// How many tokens stand where none is swapped.
    pub fn inert(&mut self, tokens: u32) {
        self.inert = tokens;
    }

    /// An intent was recorded: its outcome is owed.
    pub fn owe(&mut self, session: SessionId, rule: Option<Arc<str>>, draft: Draft) {
        self.asker.session = Some(session);
        self.rule = rule;
        self.drafts.push(draft);
    }

    /// Drafts of a try that never left: the next try has its own.
    pub fn abandon(&mut self) {
        self.drafts.clear();
    }

    /// Closes the account: the outcome of each intent, the metrics and the log line.
    pub fn close(&mut self, status: u16, rejection: Option<&Rejection>) {
        if std::mem::replace(&mut self.closed, true) {
            return;
        }
        self.status = status;
        let word = match rejection.map(|r| r.code.fault()) {
            None => OutcomeWord::Ok,
            Some(Fault::Upstream) => OutcomeWord::UpstreamError,
            Some(Fault::Denied | Fault::Client) => OutcomeWord::Denied,
            Some(Fault::Overloaded | Fault::Internal) => OutcomeWord::Internal,
        };
        self.settle(word, rejection.map(|r| r.code));
    }

    /// The reply was cut: by us, by the agent or by the upstream.
    pub(super) fn cut(&mut self, word: OutcomeWord, code: Option<Code>) {
        if !std::mem::replace(&mut self.closed, true) {
            self.settle(word, code);
        }
    }

    /// Something about the exchange that someone should look at.
    pub(super) fn alert(&self, event: &'static str, detail: &str) {
        let authority = self.authority.as_ref().map(ToString::to_string);
        self.core.audit.security(self.exchange, event, authority.as_deref(), detail, &self.asker);
        self.core.shared.metrics.security_event(event);
    }

    /// The reply held keys.
    fn masked(&self) {
        let mut encodings = Vec::new();
        for (encoding, count) in self.scrubbed.each() {
            self.core.shared.metrics.scrubbed(encoding.as_str(), count);
            encodings.push(format!("{count} {}", encoding.as_str()));
        }
        self.alert("key_in_reply", &format!("masked in the reply: {}", encodings.join(", ")));
    }

    fn settle(&mut self, word: OutcomeWord, code: Option<Code>) {
        let now = Instant::now();
        let duration = now.saturating_duration_since(self.began.instant());
        let at = self.began.time().plus(duration);
        let outcome = Outcome {
            at,
            status: (self.status != 0).then_some(self.status),
            outcome: word,
            bytes_in: self.counted.bytes_in.get(),
            bytes_out: self.counted.bytes_out.get(),
            duration,
            scrubbed: self.scrubbed.all(),
        };
        for draft in self.drafts.drain(..) {
            draft.finish(outcome);
        }
        let metrics = &self.core.shared.metrics;
        if code.map(Code::fault) == Some(Fault::Upstream) {
            metrics.upstream_error(code.map_or("", Code::as_str));
        }
        if self.scrubbed.all() > 0 {
            self.masked();
        }
        let label = if self.websocket && word == OutcomeWord::Ok { "websocket" } else { word.as_str() };
        metrics.exchange(self.tunnel.mode.as_str(), label);
        self.core.timed.exchange(self.tunnel.mode.as_str(), duration, now);
        let severity = match code.map(Code::fault) {
            None => Severity::Info,
            Some(Fault::Client | Fault::Denied | Fault::Upstream | Fault::Overloaded) => Severity::Warn,
            Some(Fault::Internal) => Severity::Error,
        };
        let mut line = Exchange {
            severity,
            at,
            id: self.exchange,
            mode: self.tunnel.mode.as_str(),
            session: self.asker.session,
            method: self.method.as_str(),
            authority: self.authority.as_ref(),
            status: self.status,
            rule: self.rule.as_deref(),
            inert_tokens: (self.inert > 0).then_some(self.inert),
            code: code.map(Code::as_str),
            bytes_in: outcome.bytes_in,
            bytes_out: outcome.bytes_out,
            duration_ms: u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
            client: self.tunnel.client.as_deref(),
            who: None,
        };
        if let Some(who) = self.who.as_deref().filter(|_| word == OutcomeWord::Ok) {
            line.who = Some(who.get_or_init(|| line.who()));
        }
        line.log();
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.cut(OutcomeWord::Aborted, None);
    }
}
