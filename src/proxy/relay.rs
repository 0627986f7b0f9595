//! Streams bodies both ways, and the reply through the scrubber; closes the audit record where the
//! reply ends.

use std::cell::Cell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::core::{Core, Line};
use super::forward;
use super::reject::{Code, Fault, Rejection};
use super::running::Run;
use super::scrub::{PatternSet, Scrubber};
use super::target::Target;
use super::tunnel::Tunnel;
use crate::audit::{Draft, Outcome, OutcomeWord};
use crate::model::ExchangeId;

/// What a body can fail with, towards hyper.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// Bytes counted both ways, shared by the two bodies of an exchange.
#[derive(Default)]
pub struct Counted {
    /// From the agent, body only.
    pub bytes_in: Cell<u64>,
    /// To the agent, body only.
    pub bytes_out: Cell<u64>,
    /// The agent's body couldn't be read to its end: what follows is not the upstream's fault.
    pub broken: Cell<bool>,
}

/// The agent's body on its way up: counted, passed through untouched, bounded in idle time.
pub struct Upload {
    inner: Incoming,
    counted: Rc<Counted>,
    idle: Idle,
    /// Over HTTP/2 only END_STREAM ends a body well: hyper also ends it where the agent is lost
    /// without an error, and half a request must not be sent on as a whole one.
    marked: bool,
}

impl Upload {
    /// The body of a request.
    pub fn new(inner: Incoming, version: Version, counted: Rc<Counted>, idle: Duration) -> Self {
        Self { inner, counted, idle: Idle::new(idle), marked: version == Version::HTTP_2 }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match Pin::new(&mut self.inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(mut frame))) => {
                self.idle.reset();
                if let Some(data) = frame.data_ref() {
                    self.counted.bytes_in.set(self.counted.bytes_in.get() + data.len() as u64);
                }
                if let Some(trailers) = frame.trailers_mut() {
                    fit_trailers(trailers);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(why))) => {
                self.counted.broken.set(true);
                Poll::Ready(Some(Err(why.into())))
            }
            Poll::Ready(None) if self.marked && !self.inner.is_end_stream() => {
                self.counted.broken.set(true);
                Poll::Ready(Some(Err("the agent broke off its request".into())))
            }
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => self.idle.poll(cx).map(|()| {
                self.counted.broken.set(true);
                Some(Err("the agent sent nothing for too long".into()))
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Trailers can't carry what frames, routes or authenticates a message (RFC 9110 section 6.5.1).
fn fit_trailers(trailers: &mut HeaderMap) {
    for name in [
        "authorization",
        "host",
        "content-length",
        "transfer-encoding",
        "connection",
        "te",
        "trailer",
        "cookie",
        "set-cookie",
        "proxy-authorization",
        "content-encoding",
        "content-type",
        "upgrade",
    ] {
        trailers.remove(name);
    }
}

/// A deadline that costs nothing while pieces keep coming.
struct Idle {
    limit: Duration,
    sleep: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl Idle {
    fn new(limit: Duration) -> Self {
        Self { limit, sleep: None }
    }

    fn reset(&mut self) {
        self.sleep = None;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let limit = self.limit;
        self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit))).as_mut().poll(cx)
    }
}

/// What is written when the exchange ends, however it ends.
pub struct Account {
    core: Rc<Core>,
    tunnel: Rc<Tunnel>,
    exchange: ExchangeId,
    method: Method,
    target: Option<Target>,
    started: Instant,
    counted: Rc<Counted>,
    drafts: Vec<Draft>,
    session: Option<String>,
    rule: Option<Arc<str>>,
    inert: u32,
    status: u16,
    scrubbed: u32,
    closed: bool,
}

impl Account {
    /// Opens the account of an exchange.
    pub fn open(core: Rc<Core>, tunnel: Rc<Tunnel>, exchange: ExchangeId, method: Method) -> Self {
        let counted = Rc::default();
        Self {
            core,
            tunnel,
            exchange,
            method,
            target: None,
            started: Instant::now(),
            counted,
            drafts: Vec::new(),
            session: None,
            rule: None,
            inert: 0,
            status: 0,
            scrubbed: 0,
            closed: false,
        }
    }

    /// The exchange's byte counters.
    pub fn counted(&self) -> Rc<Counted> {
        Rc::clone(&self.counted)
    }

    /// Where the request goes, once that is known.
    pub fn to(&mut self, target: &Target) {
        self.target = Some(target.clone());
    }

    /// Where the request goes, if that is known.
    pub fn target(&self) -> Option<&Target> {
        self.target.as_ref()
    }

    /// How many tokens stand where none is swapped.
    pub fn inert(&mut self, tokens: u32) {
        self.inert = tokens;
    }

    /// An intent was recorded: its outcome is owed.
    pub fn owe(&mut self, session: String, rule: Option<Arc<str>>, draft: Draft) {
        self.session = Some(session);
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
    fn cut(&mut self, word: OutcomeWord, code: Option<Code>) {
        if !std::mem::replace(&mut self.closed, true) {
            self.settle(word, code);
        }
    }

    fn settle(&mut self, word: OutcomeWord, code: Option<Code>) {
        let duration = self.started.elapsed();
        let outcome = Outcome {
            status: (self.status != 0).then_some(self.status),
            outcome: word,
            bytes_in: self.counted.bytes_in.get(),
            bytes_out: self.counted.bytes_out.get(),
            duration,
            scrubbed: self.scrubbed,
        };
        for draft in self.drafts.drain(..) {
            draft.finish(outcome);
        }
        let metrics = &self.core.shared.metrics;
        if self.scrubbed > 0 {
            metrics.scrubbed("reply", self.scrubbed);
        }
        metrics.exchange(self.tunnel.mode.as_str(), word.as_str(), duration);
        let authority = self.target.as_ref().map(|t| t.authority.to_string());
        self.core.log(&Line {
            exchange: self.exchange,
            mode: self.tunnel.mode,
            session: self.session.as_deref(),
            method: self.method.as_str(),
            authority: authority.as_deref(),
            status: self.status,
            rule: self.rule.as_deref(),
            inert_tokens: (self.inert > 0).then_some(self.inert),
            code: code.map(Code::as_str),
            fault: code.map(Code::fault),
            bytes_in: outcome.bytes_in,
            bytes_out: outcome.bytes_out,
            duration_ms: u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
            peer: self.tunnel.peer,
        });
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.cut(OutcomeWord::Aborted, None);
    }
}

/// The body of what the agent gets.
pub enum Reply {
    /// Our own words.
    Own(Option<Bytes>),
    /// The upstream's reply.
    Upstream(Box<Download>),
}

/// The upstream's body on its way down.
pub struct Download {
    inner: crate::upstream::ReplyBody,
    scrubber: Option<Scrubber>,
    ready: VecDeque<Bytes>,
    trailers: Option<HeaderMap>,
    ended: bool,
    run: Option<Run>,
    account: Account,
}

impl Body for Reply {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Own(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Self::Upstream(download) => download.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(bytes) => bytes.is_none(),
            Self::Upstream(download) => download.account.closed,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Self::Upstream(download) if download.account.closed => SizeHint::with_exact(0),
            // A mask is as long as what it covers, so the length holds.
            Self::Upstream(download) => download.inner.size_hint(),
        }
    }
}

impl Download {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(run) = &self.run
            && let Poll::Ready(ended) = run.poll_ended(cx)
        {
            let rejection = Rejection::from(ended);
            self.account.cut(OutcomeWord::Aborted, Some(rejection.code));
            return Poll::Ready(Some(Err(Box::new(h2::Error::from(h2::Reason::CANCEL)))));
        }
        loop {
            if let Some(data) = self.ready.pop_front() {
                let out = &self.account.counted.bytes_out;
                out.set(out.get() + data.len() as u64);
                if self.ended && self.ready.is_empty() && self.trailers.is_none() {
                    self.finish();
                }
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            if let Some(trailers) = self.trailers.take() {
                self.finish();
                return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
            }
            if self.ended {
                self.finish();
                return Poll::Ready(None);
            }
            match Pin::new(&mut self.inner).poll_frame(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => self.end(),
                Poll::Ready(Some(Err(why))) => {
                    tracing::debug!(request.id = %self.account.exchange, error = %why, "the upstream cut its reply");
                    self.account.cut(OutcomeWord::UpstreamError, Some(Code::UpstreamUnreachable));
                    return Poll::Ready(Some(Err(why.into())));
                }
                Poll::Ready(Some(Ok(frame))) => self.take(frame),
            }
        }
    }

    fn take(&mut self, frame: Frame<Bytes>) {
        match frame.into_data() {
            Ok(data) => {
                match &mut self.scrubber {
                    Some(scrubber) => scrubber.push(data, &mut self.ready),
                    None => self.ready.push_back(data),
                }
                if self.inner.is_end_stream() {
                    self.end();
                }
            }
            Err(frame) => {
                if let Ok(mut trailers) = frame.into_trailers() {
                    fit_trailers(&mut trailers);
                    if let Some(scrubber) = &mut self.scrubber {
                        self.account.scrubbed += scrub_headers(scrubber.patterns(), &mut trailers);
                    }
                    self.end();
                    self.trailers = Some(trailers);
                }
            }
        }
    }

    fn end(&mut self) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        if let Some(scrubber) = &mut self.scrubber {
            scrubber.finish(&mut self.ready);
        }
    }

    fn finish(&mut self) {
        if let Some(scrubber) = &self.scrubber {
            self.account.scrubbed += scrubber.hits();
        }
        let status = self.account.status;
        self.account.close(status, None);
        self.run = None;
    }
}

/// Masks keys in header values, and drops headers that have one for a name; how many it found.
fn scrub_headers(patterns: &PatternSet, headers: &mut HeaderMap) -> u32 {
    let mut hits = 0;
    let named = |name: &&HeaderName| patterns.scrub_value(name.as_str().as_bytes()).is_some();
    while let Some(name) = headers.keys().find(named).cloned() {
        headers.remove(name);
        hits += 1;
    }
    for value in headers.values_mut() {
        if let Some(clean) = patterns.scrub_value(value.as_bytes()) {
            hits += 1;
            *value = HeaderValue::from_bytes(&clean).unwrap_or(HeaderValue::from_static("masked"));
        }
    }
    hits
}

/// Turns the upstream's reply into the agent's.
///
/// # Errors
/// The reply is coded, so it can't be searched for the keys that are bound to its host.
pub fn relay(
    response: Response<crate::upstream::ReplyBody>,
    patterns: Option<Arc<PatternSet>>,
    run: Option<Run>,
    mut account: Account,
) -> Result<Response<Reply>, Box<(Rejection, Account)>> {
    let (mut parts, inner) = response.into_parts();
    // The agent is answered in its own protocol, whatever the upstream speaks.
    parts.version = Version::HTTP_11;
    let no_body =
        account.method == Method::HEAD || matches!(parts.status, StatusCode::NOT_MODIFIED | StatusCode::NO_CONTENT);
    if patterns.is_some() && !no_body && parts.headers.get_all(CONTENT_ENCODING).iter().any(coded) {
        let why = "the upstream coded its reply although it was asked not to";
        return Err(Box::new((Rejection::new(Code::UpstreamEncoding, why), account)));
    }
    let close = parts.headers.get(CONNECTION).is_some();
    if close && forward::strip_hop_by_hop(&mut parts.headers).is_err() {
        let why = "the reply's Connection header can't be read";
        return Err(Box::new((Rejection::new(Code::UpstreamUnreachable, why), account)));
    }
    if !close {
        for name in ["keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "te"] {
            parts.headers.remove(name);
        }
    }
    parts.headers.remove("alt-svc");
    // An upstream doesn't speak for us.
    for name in ["proxy-authenticate", "sallyport-error", "sallyport-request-id"] {
        parts.headers.remove(name);
    }
    if let Some(patterns) = &patterns {
        account.scrubbed += scrub_headers(patterns, &mut parts.headers);
        parts.extensions.remove::<hyper::ext::ReasonPhrase>();
    }
    account.status = parts.status.as_u16();
    // What has no body isn't asked for one: its length may tell of the body that isn't there.
    let ended = no_body || inner.is_end_stream();
    let scrubber = patterns.map(Scrubber::new);
    let mut download = Download { inner, scrubber, ready: VecDeque::new(), trailers: None, ended, run, account };
    if ended {
        download.finish();
    }
    Ok(Response::from_parts(parts, Reply::Upstream(Box::new(download))))
}

fn coded(value: &HeaderValue) -> bool {
    !value.as_bytes().eq_ignore_ascii_case(b"identity") && !value.is_empty()
}
