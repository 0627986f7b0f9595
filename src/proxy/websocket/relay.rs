//! Carries the frames of one WebSocket both ways, until it closes or may not go on.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Method;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use super::deflate::Agreed;
use super::flow::{Flow, Trouble};
use super::frame::{CloseCode, Sender};
use super::swap::Swaps;
use crate::audit::OutcomeWord;
use crate::model::ExchangeId;
use crate::proxy::Mode;
use crate::proxy::account::Account;
use crate::proxy::authorize::{self, Question};
use crate::proxy::core::Core;
use crate::proxy::identify::Identified;
use crate::proxy::reject::{Code, Rejection};
use crate::proxy::running::{Drained, Run};
use crate::proxy::scrub::PatternSet;
use crate::proxy::search::Search;
use crate::proxy::target::Target;
use crate::session::live::LiveSession;
use crate::upstream::Switched;
use crate::vault::key::Key;

/// What the handshake was decided on, to decide on it again when policies or keys change.
pub struct Decided {
    /// The exchange.
    pub exchange: ExchangeId,
    /// How the agent reached us.
    pub mode: Mode,
    /// Whose proxy credentials came with the handshake, if any.
    pub session: Option<Arc<LiveSession>>,
    /// Whether a page in a browser may have caused the request.
    pub from_browser: bool,
    /// Where it goes.
    pub target: Target,
    /// The method.
    pub method: Method,
    /// What it asks to switch to.
    pub upgrade: String,
    /// What was found in it.
    pub identified: Identified,
}

impl Decided {
    /// What the decision is about.
    pub(super) fn question<'a>(&'a self, core: &'a Core, bound: &'a [Arc<Key>]) -> Question<'a> {
        Question {
            exchange: self.exchange,
            mode: self.mode,
            session: self.session.as_ref(),
            method: &self.method,
            from_browser: self.from_browser,
            target: &self.target,
            upgrade: Some(&self.upgrade),
            bound,
            unbound: core.shared.settings.unbound,
            registry: &core.shared.registry,
        }
    }

    /// Whether the handshake would be let through at this moment.
    pub(in crate::proxy) fn again(&self, core: &Core) -> Result<(), Rejection> {
        let shared = &core.shared;
        let bound = core.bound(self.target.scheme, &self.target.authority);
        let gone = |found: &&crate::proxy::identify::Found| !bound.keys().iter().any(|key| key.id == found.key.id);
        if let Some(found) = self.identified.found.iter().find(gone) {
            let why = format!("{} is no destination of key {} any more", self.target.authority, found.key.name);
            return Err(Rejection::new(Code::HostNotAllowed, why));
        }
        let question = self.question(core, bound.keys());
        authorize::authorize(&shared.policies.current(), &question, &self.identified).map(|_| ())
    }
}

/// A WebSocket that the upstream has accepted.
pub struct Socket {
    core: Rc<Core>,
    upstream: Switched,
    up: Flow,
    down: Flow,
    search: Search,
    run: Run,
    decided: Decided,
    swaps: Swaps,
    account: Box<Account>,
    draining: Drained,
    end: Option<End>,
    /// When something moved last.
    moved_at: Instant,
    /// How much the peers had taken then, and since when they have taken nothing of what waits.
    taken: u64,
    taken_at: Instant,
    ends_by: Option<Instant>,
    alarm: Pin<Box<Sleep>>,
}

/// Why a WebSocket is ended by us.
struct End {
    word: OutcomeWord,
    code: Option<Code>,
}

impl Socket {
    /// A WebSocket over which nothing went yet. It is searched for these patterns.
    #[expect(clippy::too_many_arguments, reason = "it takes over everything that its exchange held")]
    pub(super) fn new(
        core: &Rc<Core>,
        mut upstream: Switched,
        agreed: Option<Agreed>,
        search: Search,
        patterns: Option<Arc<PatternSet>>,
        run: Run,
        decided: Decided,
        mut account: Box<Account>,
    ) -> Self {
        let limits = &core.shared.settings.limits;
        let (first, now) = (std::mem::take(&mut upstream.first), Instant::now());
        let down = agreed.map(|agreed| agreed.server_alone);
        let up = agreed.map(|agreed| agreed.client_alone);
        account.is_websocket();
        let swaps = Swaps::new(core, &decided);
        Self {
            up: Flow::new(Sender::Client, Bytes::new(), limits, up, swaps.any(), None),
            down: Flow::new(Sender::Server, first, limits, down, false, patterns),
            core: Rc::clone(core),
            upstream,
            search,
            run,
            decided,
            swaps,
            account,
            draining: core.draining.wait(),
            end: None,
            moved_at: now,
            taken: 0,
            taken_at: now,
            ends_by: None,
            alarm: Box::pin(sleep_until(now)),
        }
    }

    /// Carries frames until either side is done. `first` came from the agent already.
    pub async fn relay<S: AsyncRead + AsyncWrite + Unpin>(mut self, agent: S, first: Bytes) {
        let mut agent = agent;
        self.up.came(first);
        poll_fn(|cx| self.poll(Pin::new(&mut agent), cx)).await;
        self.settle();
        // The WebSocket is over; what is left is to part from the connections in good manners.
        let Self { mut upstream, up, down, core, .. } = self;
        drop((up, down));
        let limit = core.shared.settings.deadlines.websocket_close;
        let _ = timeout(limit, async { tokio::join!(upstream.stream.shutdown(), agent.shutdown()) }).await;
    }

    fn poll<S: AsyncRead + AsyncWrite>(&mut self, mut agent: Pin<&mut S>, cx: &mut Context<'_>) -> Poll<()> {
        for _ in 0..TURNS {
            if self.end.is_none() {
                self.look(cx);
            }
            let mut moved = self.up.poll_read(agent.as_mut(), cx);
            moved |= self.down.poll_read(self.upstream.stream.as_mut(), cx);
            moved |= self.advance(Sender::Client);
            moved |= self.advance(Sender::Server);
            self.count();
            if let Err(rejection) = self.weigh()
                && self.end.is_none()
            {
                self.refuse(&rejection);
            }
            let to_agent = self.down.out().poll_write(agent.as_mut(), cx);
            let to_upstream = self.up.out().poll_write(self.upstream.stream.as_mut(), cx);
            if matches!(to_agent, Poll::Ready(Err(_))) || matches!(to_upstream, Poll::Ready(Err(_))) {
                let word = if matches!(to_agent, Poll::Ready(Err(_))) { Gone::Agent } else { Gone::Upstream };
                self.gone(word);
                return Poll::Ready(());
            }
            let taken = self.up.out().moved() + self.down.out().moved();
            if taken != self.taken || (self.up.out().is_empty() && self.down.out().is_empty()) {
                moved |= taken != self.taken;
                (self.taken, self.taken_at) = (taken, Instant::now());
            }
            if moved {
                self.moved_at = Instant::now();
                continue;
            }
            if self.is_over() {
                return Poll::Ready(());
            }
            return self.wait(cx);
        }
        // Others have their turn.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Whether it may go on: the session, the policies, the keys to look for, the node.
    fn look(&mut self, cx: &mut Context<'_>) {
        if let Poll::Ready(ended) = self.run.poll_ended(cx) {
            return self.refuse(&Rejection::from(ended));
        }
        if self.run.has_changed()
            && let Err(rejection) = self.decided.again(&self.core)
        {
            self.record(&rejection);
            return self.refuse(&rejection);
        }
        match self.search.changed() {
            Ok(None) => {}
            Ok(Some(patterns)) => {
                if self.down.look_for(&patterns).is_err() {
                    let why = "the WebSocket is compressed and began before its host had a key";
                    return self.refuse(&Rejection::new(Code::UpstreamEncoding, why));
                }
            }
            Err(rejection) => return self.refuse(&rejection),
        }
        if Pin::new(&mut self.draining).poll(cx).is_ready() {
            let end = End { word: OutcomeWord::Aborted, code: None };
            self.end_with((CloseCode::GoingAway, CloseCode::GoingAway), "the proxy stops", end);
        }
    }

    fn record(&self, rejection: &Rejection) {
        let (core, account) = (&self.core, &self.account);
        core.refused(self.decided.exchange, account.tunnel(), account.authority(), account.asker(), rejection);
    }

    /// Ends it because it may not go on.
    fn refuse(&mut self, rejection: &Rejection) {
        let reason = format!("{}: {}", rejection.code.as_str(), rejection.detail);
        let code = match rejection.code.fault() {
            crate::proxy::reject::Fault::Internal => CloseCode::Internal,
            _ => CloseCode::Policy,
        };
        let end = End { word: OutcomeWord::Aborted, code: Some(rejection.code) };
        self.end_with((code, CloseCode::GoingAway), &reason, end);
    }

    /// Sends on what came from a side; whether anything moved.
    fn advance(&mut self, from: Sender) -> bool {
        let Self { core, decided, run, account, swaps, .. } = self;
        let mut swap = |text: &[u8]| swaps.swap(core, decided, run, account, text);
        let advanced = match from {
            Sender::Client => self.up.advance(&mut swap),
            Sender::Server => self.down.advance(&mut |_| Ok(None)),
        };
        let trouble = match advanced {
            Ok(moved) => return moved,
            Err(Trouble::Refused(rejection)) => {
                self.record(&rejection);
                self.refuse(&rejection);
                return true;
            }
            Err(trouble) => trouble,
        };
        let (at_fault, other) = trouble.codes(from);
        let (codes, word, code) = match (&trouble, from) {
            (Trouble::Ours(_), _) => ((at_fault, other), OutcomeWord::Internal, Code::Internal),
            (_, Sender::Client) => ((at_fault, other), OutcomeWord::Denied, Code::BadRequest),
            (_, Sender::Server) => ((other, at_fault), OutcomeWord::UpstreamError, Code::UpstreamUnreachable),
        };
        let why = match trouble {
            Trouble::Violation(violation) => violation.why,
            Trouble::Refused(_) => "a message may not go on",
            Trouble::Ours(why) => why,
        };
        tracing::debug!(request.id = %self.decided.exchange, error = why, "a WebSocket can't go on");
        self.end_with(codes, why, End { word, code: Some(code) });
        true
    }

    /// Says to agent and upstream that it ends. Nothing of either is sent on any more.
    fn end_with(&mut self, (to_agent, to_upstream): (CloseCode, CloseCode), reason: &str, end: End) {
        self.up.stop();
        self.down.stop();
        // What waits for the upstream may hold a key that may not leave any more.
        let cut = to_agent == CloseCode::Policy && !self.up.out().is_empty();
        if cut {
            self.up.out().clear();
        }
        let told = self.down.out().close(to_agent, reason);
        let told = told.and_then(|()| if cut { Ok(()) } else { self.up.out().close(to_upstream, "") });
        if told.is_err() {
            tracing::error!("the system's random source failed");
        }
        self.end = Some(end);
    }

    /// A connection was lost while something waited for it.
    fn gone(&mut self, gone: Gone) {
        if self.end.is_none() && !self.has_closed() {
            self.end = Some(gone.end());
        }
    }

    /// Whether both sides have said all.
    fn has_closed(&self) -> bool {
        self.up.said_close() && self.down.said_close()
    }

    fn is_over(&mut self) -> bool {
        let (told_upstream, told_agent) = (self.up.out().is_empty(), self.down.out().is_empty());
        if self.end.is_some() || self.has_closed() {
            return told_upstream && told_agent;
        }
        // A connection that ends after a close frame of its own or of its peer has said enough.
        let said = self.up.said_close() || self.down.said_close();
        let gone = match (self.up.ended() && told_upstream, self.down.ended() && told_agent) {
            (_, true) => Gone::Upstream,
            (true, _) => Gone::Agent,
            _ => return false,
        };
        if !said {
            self.end = Some(gone.end());
        }
        true
    }

    /// Waits for whichever deadline is next.
    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let deadlines = &self.core.shared.settings.deadlines;
        let (idle, unread, close) = (deadlines.websocket_idle, deadlines.unread, deadlines.websocket_close);
        let ending = self.end.is_some() || self.up.said_close() || self.down.said_close();
        let now = Instant::now();
        if ending {
            self.ends_by.get_or_insert(now + close);
        }
        if self.ends_by.is_some_and(|by| now >= by) {
            return Poll::Ready(());
        }
        if now >= self.taken_at + unread {
            let stuck = if self.down.out().is_empty() { Gone::Upstream } else { Gone::Agent };
            self.gone(stuck);
            return Poll::Ready(());
        }
        if self.end.is_none() && now >= self.moved_at + idle {
            let end = End { word: OutcomeWord::Aborted, code: None };
            self.end_with((CloseCode::GoingAway, CloseCode::GoingAway), "nothing was sent for too long", end);
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let waits = !(self.up.out().is_empty() && self.down.out().is_empty());
        let next = [self.ends_by, waits.then_some(self.taken_at + unread)].into_iter().flatten();
        let next = next.fold(self.moved_at + idle, Instant::min);
        // A timer that rings too early costs one look; moving it at every frame would cost more.
        if self.alarm.is_elapsed() || self.alarm.deadline() > next {
            self.alarm.as_mut().reset(next);
        }
        if self.alarm.as_mut().poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// Counts what was masked meanwhile.
    fn weigh(&mut self) -> Result<(), Rejection> {
        let fresh = self.down.hits();
        self.account.scrubbed.add(&fresh);
        self.search.note_masked(fresh.all())
    }

    fn count(&mut self) {
        let counted = self.account.counted();
        counted.bytes_in.set(self.up.carried());
        counted.bytes_out.set(self.down.carried());
    }

    /// Closes the account.
    fn settle(&mut self) {
        self.count();
        match self.end.take() {
            None => self.account.close(self.account.status, None),
            Some(End { word, code }) => self.account.cut(word, code),
        }
    }
}

/// How often a WebSocket is carried on before others have their turn.
const TURNS: usize = 32;

/// Whose connection was lost.
#[derive(Clone, Copy)]
enum Gone {
    Agent,
    Upstream,
}

impl Gone {
    fn end(self) -> End {
        match self {
            Self::Agent => End { word: OutcomeWord::Aborted, code: None },
            Self::Upstream => End { word: OutcomeWord::UpstreamError, code: Some(Code::UpstreamUnreachable) },
        }
    }
}
