//! Requests that ask their connection to become another protocol (RFC 9110 section 7.8). WebSockets are read
//! frame by frame, see [`super::websocket`]; others are carried byte for byte, where a rule names them:
//! `Upgrade: tcp` of container engines, for example.
//!
//! What comes back over such a connection is searched for keys as it is: what the protocol compresses or
//! encrypts hides them. It ends with its session, and is decided on again when policies or keys change.

use std::cell::Cell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, UPGRADE};
use http::{HeaderMap, HeaderValue, Request, Response, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::ext::Protocol;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::{Instant, timeout};

use super::account::Account;
use super::core::Core;
use super::reject::{Code, Rejection};
use super::relay::{self, Reply};
use super::running::{Drained, Run};
use super::scrub::{Hits, PatternSet, Scrubber};
use super::search::Search;
use super::websocket::{self, Decided, Socket};
use crate::audit::OutcomeWord;
use crate::upstream::{ReplyBody, Switched};

/// The protocol that has rules of its own.
pub const WEBSOCKET: &str = "websocket";

/// What an agent asks for.
pub enum Asked {
    /// A WebSocket.
    WebSocket(Box<websocket::Asked>),
    /// Another protocol, as the agent wrote it.
    Other(HeaderValue),
}

/// Reads whether the request asks for another protocol.
///
/// # Errors
/// It does, and not as RFC 9110 section 7.8 has it, or as a WebSocket's handshake is.
pub fn read(request: &mut Request<Incoming>) -> Result<Option<Asked>, Rejection> {
    let extended = request.method() == http::Method::CONNECT && request.extensions().get::<Protocol>().is_some();
    if !extended && !request.headers().contains_key(UPGRADE) {
        return Ok(None);
    }
    if websocket::handshake::is_asked_for(request) {
        return websocket::handshake::read(request).map(|asked| Some(Asked::WebSocket(Box::new(asked))));
    }
    let bad = |why: &'static str| Err(Rejection::new(Code::BadRequest, why));
    let headers = request.headers();
    if request.version() != Version::HTTP_11 {
        return bad("upgrades to other protocols than WebSocket aren't forwarded over HTTP/2");
    }
    let one = websocket::handshake::only(headers, &UPGRADE).filter(|name| is_protocol(name));
    let (Some(_), Some(value)) = (one, headers.get(UPGRADE).cloned()) else {
        return bad("an upgrade names one protocol");
    };
    if !websocket::handshake::names(headers, &CONNECTION, "upgrade") {
        return bad("a request to upgrade has Connection: Upgrade");
    }
    if !request.body().is_end_stream() {
        return bad("a request to upgrade has no body");
    }
    request.headers_mut().remove(UPGRADE);
    Ok(Some(Asked::Other(value)))
}

fn is_protocol(name: &str) -> bool {
    let token = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
    };
    name.splitn(2, '/').all(token)
}

impl Asked {
    /// The protocol, as rules have it.
    pub fn protocol(&self) -> &str {
        match self {
            Self::WebSocket(_) => WEBSOCKET,
            Self::Other(name) => name.to_str().map_or("", str::trim),
        }
    }

    /// Makes the request, which is fit to send otherwise, one that asks the upstream.
    pub fn ask(&self, headers: &mut HeaderMap) {
        match self {
            Self::WebSocket(asked) => asked.ask(headers),
            Self::Other(name) => {
                headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
                headers.insert(UPGRADE, name.clone());
            }
        }
    }

    /// Turns the upstream's answer into the agent's. What is no acceptance is relayed like any reply.
    ///
    /// # Errors
    /// The upstream accepted something that nobody asked for, or its answer can't be searched for keys.
    pub fn answer(
        self,
        core: &Rc<Core>,
        mut response: Response<ReplyBody>,
        mut search: Search,
        run: Run,
        decided: Decided,
        mut account: Box<Account>,
    ) -> Result<Response<Reply>, (Rejection, Box<Account>)> {
        let name = match self {
            Self::WebSocket(asked) => {
                return websocket::handshake::answer(core, *asked, response, search, run, decided, account);
            }
            Self::Other(name) => name,
        };
        let Some(upstream) = response.body_mut().switched() else {
            return relay::relay(response, search, Some(run), account);
        };
        let agreed = websocket::handshake::only(response.headers(), &UPGRADE);
        if !agreed.is_some_and(|agreed| name.to_str().is_ok_and(|asked| agreed.eq_ignore_ascii_case(asked.trim()))) {
            let why = "the upstream switched to another protocol than the one that was asked for";
            return Err((Rejection::new(Code::UpstreamUnreachable, why), account));
        }
        let (mut parts, _) = response.into_parts();
        parts.version = Version::HTTP_11;
        let fitted = search.patterns().and_then(|patterns| {
            relay::fit_head(&mut parts, &search, patterns.as_deref(), &mut account)?;
            Ok(patterns)
        });
        let patterns = match fitted {
            Ok(patterns) => patterns,
            Err(rejection) => return Err((rejection, account)),
        };
        parts.headers.remove(CONTENT_LENGTH);
        parts.headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        parts.headers.insert(UPGRADE, name);
        let draining = core.draining.wait();
        let carried = Carried { core: Rc::clone(core), upstream, search, patterns, run, decided, account, draining };
        Ok(Response::from_parts(parts, Reply::Switched(Some(Became::Carried(Box::new(carried))))))
    }
}

/// What an agent's connection became.
pub enum Became {
    /// A WebSocket.
    WebSocket(Box<Socket>),
    /// A stream of bytes.
    Carried(Box<Carried>),
}

impl Became {
    /// Carries it until either side is done. `first` came from the agent already.
    pub async fn relay<S: AsyncRead + AsyncWrite + Unpin>(self, agent: S, first: Bytes) {
        match self {
            Self::WebSocket(socket) => socket.relay(agent, first).await,
            Self::Carried(carried) => carried.relay(agent, first).await,
        }
    }
}

/// A connection whose bytes are carried both ways.
pub struct Carried {
    core: Rc<Core>,
    upstream: Switched,
    search: Search,
    patterns: Option<Arc<PatternSet>>,
    run: Run,
    decided: Decided,
    account: Box<Account>,
    draining: Drained,
}

/// How much is read at once, in bytes.
const PIECE: usize = 16 * 1024;
/// How often it is looked whether it may go on.
const LOOK: Duration = Duration::from_millis(100);

/// Why it ends.
enum End {
    /// Both sides have said all.
    Whole,
    /// A side is gone, or says nothing for too long, or the node stops.
    Cut(OutcomeWord),
    /// It may not go on.
    Refused(Rejection),
}

impl Carried {
    async fn relay<S: AsyncRead + AsyncWrite + Unpin>(self, agent: S, first: Bytes) {
        let Self { core, upstream, search, patterns, run, decided, mut account, mut draining } = self;
        let deadlines = core.shared.settings.deadlines.clone();
        let counted = account.counted();
        let Switched { stream, first: greeting, .. } = upstream;
        let (mut from_agent, mut to_agent) = tokio::io::split(agent);
        let (mut from_upstream, mut to_upstream) = tokio::io::split(stream);
        let moved = Cell::new(Instant::now());
        let write_within = deadlines.unread;
        let up = async {
            let mut piece = first.to_vec();
            loop {
                if !piece.is_empty() {
                    let written = timeout(write_within, async {
                        to_upstream.write_all(&piece).await?;
                        to_upstream.flush().await
                    });
                    if !matches!(written.await, Ok(Ok(()))) {
                        return Err(End::Cut(OutcomeWord::UpstreamError));
                    }
                    counted.bytes_in.set(counted.bytes_in.get() + piece.len() as u64);
                    moved.set(Instant::now());
                }
                piece.resize(PIECE, 0);
                match from_agent.read(&mut piece).await {
                    Ok(0) => break,
                    Ok(n) => piece.truncate(n),
                    Err(_) => return Err(End::Cut(OutcomeWord::Aborted)),
                }
            }
            let _ = timeout(write_within, to_upstream.shutdown()).await;
            Ok(())
        };
        let mut down = Down { search, scrubber: patterns.map(Scrubber::new), masked: Hits::default() };
        let downward = async {
            let (mut piece, mut ready, mut ended) = (greeting.to_vec(), VecDeque::new(), false);
            loop {
                down.take(std::mem::take(&mut piece), ended, &mut ready, &mut account).map_err(End::Refused)?;
                while let Some(bytes) = ready.pop_front() {
                    let written = timeout(write_within, async {
                        to_agent.write_all(&bytes).await?;
                        to_agent.flush().await
                    });
                    if !matches!(written.await, Ok(Ok(()))) {
                        return Err(End::Cut(OutcomeWord::Aborted));
                    }
                    counted.bytes_out.set(counted.bytes_out.get() + bytes.len() as u64);
                    moved.set(Instant::now());
                }
                if ended {
                    break;
                }
                piece.resize(PIECE, 0);
                match from_upstream.read(&mut piece).await {
                    Ok(n) => {
                        piece.truncate(n);
                        ended = n == 0;
                    }
                    Err(_) => return Err(End::Cut(OutcomeWord::UpstreamError)),
                }
            }
            let _ = timeout(write_within, to_agent.shutdown()).await;
            Ok(())
        };
        let allowed = async {
            let mut looks = tokio::time::interval(LOOK);
            loop {
                tokio::select! {
                    ended = poll_fn(|cx| run.poll_ended(cx)) => return End::Refused(Rejection::from(ended)),
                    () = &mut draining => return End::Cut(OutcomeWord::Aborted),
                    _ = looks.tick() => {}
                }
                if run.has_changed()
                    && let Err(rejection) = decided.again(&core)
                {
                    return End::Refused(rejection);
                }
                if moved.get().elapsed() > deadlines.websocket_idle {
                    return End::Cut(OutcomeWord::Aborted);
                }
            }
        };
        let end = {
            let both = async { tokio::try_join!(up, downward) };
            let (mut both, mut allowed) = (pin!(both), pin!(allowed));
            poll_fn(|cx| {
                if let Poll::Ready(end) = allowed.as_mut().poll(cx) {
                    return Poll::Ready(end);
                }
                both.as_mut().poll(cx).map(|done| done.err().unwrap_or(End::Whole))
            })
            .await
        };
        match end {
            End::Whole => account.close(account.status, None),
            End::Cut(word) => account.cut(word, None),
            End::Refused(rejection) => {
                core.refused(decided.exchange, account.tunnel(), account.authority(), account.asker(), &rejection);
                account.cut(OutcomeWord::Aborted, Some(rejection.code));
            }
        }
    }
}

/// What comes back, and what it is searched for.
struct Down {
    search: Search,
    scrubber: Option<Scrubber>,
    masked: Hits,
}

impl Down {
    /// Searches a piece; what is certain to hold no key is ready.
    fn take(
        &mut self,
        piece: Vec<u8>,
        ended: bool,
        ready: &mut VecDeque<Bytes>,
        account: &mut Account,
    ) -> Result<(), Rejection> {
        if let Some(patterns) = self.search.changed()? {
            match &mut self.scrubber {
                Some(scrubber) => scrubber.look_for(patterns),
                None => self.scrubber = Some(Scrubber::new(patterns)),
            }
        }
        let Some(scrubber) = &mut self.scrubber else {
            if !piece.is_empty() {
                ready.push_back(piece.into());
            }
            return Ok(());
        };
        if !piece.is_empty() {
            scrubber.push(piece.into(), ready);
        }
        if ended {
            scrubber.finish(ready);
        }
        let fresh = scrubber.hits().since(&std::mem::replace(&mut self.masked, *scrubber.hits()));
        account.scrubbed.add(&fresh);
        self.search.note_masked(fresh.all())
    }
}
