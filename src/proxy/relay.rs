//! Streams the reply back through the scrubber; closes the exchange's account where the reply ends.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::CONNECTION;
use http::response::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Version};
use http_body::{Body, Frame, SizeHint};

use super::account::Account;
use super::coding::{self, Broken, Codings, Decoder};
use super::forward::{self, Back};
use super::reject::{Code, Fault, Rejection};
use super::running::{Run, Stop};
use super::scrub::{Hits, PatternSet, Scrubber};
use super::search::Search;
use super::upgrade::Became;
use super::upload::fit_trailers;
use crate::audit::OutcomeWord;
use crate::policy::Unsearched;

/// What a body can fail with, towards hyper.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// The body of what the agent gets.
pub enum Reply {
    /// Our own words.
    Own(Option<Bytes>),
    /// The upstream's reply.
    Upstream(Box<Download>),
    /// Nothing: the connection becomes another protocol, which whoever serves it takes over.
    Switched(Option<Became>),
}

impl Reply {
    /// What the connection becomes.
    pub fn switched(&mut self) -> Option<Became> {
        match self {
            Self::Switched(socket) => socket.take(),
            _ => None,
        }
    }

    /// What tells that its exchange has to stop, if anything may.
    pub fn stop(&self) -> Option<Stop> {
        match self {
            Self::Own(_) | Self::Switched(_) => None,
            Self::Upstream(download) => download.run.as_ref().map(Run::stop),
        }
    }
}

/// The upstream's body on its way down.
pub struct Download {
    inner: crate::upstream::ReplyBody,
    search: Search,
    way: Way,
    /// What the scrubber had masked when it was last asked.
    masked: Hits,
    ready: VecDeque<Bytes>,
    trailers: Option<HeaderMap>,
    /// Whether the upstream's body is over.
    came: bool,
    /// Whether everything of it is ready.
    ended: bool,
    /// Why the upstream cut its reply, while what came before that is on its way.
    failure: Option<crate::upstream::Error>,
    run: Option<Run>,
    account: Box<Account>,
}

/// What happens to the bytes of a body.
enum Way {
    /// No key names the host: they pass, and can be searched if one comes.
    Open,
    /// The same, but they are coded.
    Coded,
    /// They are in an unknown coding, and policy lets them pass.
    Passed,
    /// They are searched.
    Searched(Scrubber),
    /// They are decoded and searched.
    Decoded(Box<Decoder>, Scrubber),
}

impl Way {
    fn scrubber(&self) -> Option<&Scrubber> {
        match self {
            Self::Open | Self::Coded | Self::Passed => None,
            Self::Searched(scrubber) | Self::Decoded(_, scrubber) => Some(scrubber),
        }
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Own(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Self::Switched(_) => Poll::Ready(None),
            Self::Upstream(download) => download.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(bytes) => bytes.is_none(),
            Self::Switched(_) => true,
            Self::Upstream(download) => download.account.closed(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Switched(_) => SizeHint::with_exact(0),
            Self::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Self::Upstream(download) if download.account.closed() => SizeHint::with_exact(0),
            Self::Upstream(download) if matches!(download.way, Way::Decoded(..)) => SizeHint::default(),
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
        if let Some(why) = self.failure.take() {
            tracing::debug!(request.id = %self.account.of().0, error = %why, "the upstream cut its reply");
            self.account.cut(OutcomeWord::UpstreamError, Some(Code::UpstreamUnreachable));
            return Poll::Ready(Some(Err(why.into())));
        }
        loop {
            if (self.ready.is_empty() || (self.came && !self.ended))
                && let Err(rejection) = self.unpack()
            {
                return Poll::Ready(Some(Err(self.cut(&rejection))));
            }
            if let Some(data) = self.ready.pop_front() {
                let counted = self.account.counted();
                let out = &counted.bytes_out;
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
                Poll::Ready(None) => self.came = true,
                Poll::Ready(Some(Err(why))) => {
                    // At the error hyper drops what it hasn't written: it gets a turn for that first.
                    self.failure = Some(why);
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Poll::Ready(Some(Ok(frame))) => {
                    if let Err(rejection) = self.look_again().and_then(|()| self.take(frame)) {
                        return Poll::Ready(Some(Err(self.cut(&rejection))));
                    }
                }
            }
        }
    }

    /// Takes over keys that have come since the last piece.
    fn look_again(&mut self) -> Result<(), Rejection> {
        let Some(patterns) = self.search.changed()? else { return Ok(()) };
        match &mut self.way {
            Way::Passed => {}
            Way::Open => self.way = Way::Searched(Scrubber::new(patterns)),
            Way::Coded => return Err(unsearchable("a key was bound to the host of a reply that is coded")),
            Way::Searched(scrubber) | Way::Decoded(_, scrubber) => scrubber.look_for(patterns),
        }
        Ok(())
    }

    fn take(&mut self, frame: Frame<Bytes>) -> Result<(), Rejection> {
        match frame.into_data() {
            Ok(data) => {
                match &mut self.way {
                    Way::Open | Way::Coded | Way::Passed => self.ready.push_back(data),
                    Way::Searched(scrubber) => scrubber.push(data, &mut self.ready),
                    Way::Decoded(decoder, _) => decoder.push(data),
                }
                self.came |= self.inner.is_end_stream();
            }
            Err(frame) => {
                if let Ok(mut trailers) = frame.into_trailers() {
                    fit_trailers(&mut trailers);
                    if matches!(self.way, Way::Decoded(..)) {
                        forward::remove_all(&mut trailers, coding::is_digest);
                    }
                    // Also behind a body that passes unread.
                    if let Some(patterns) = self.search.patterns()? {
                        let hits = scrub_headers(&patterns, &mut trailers);
                        self.account.scrubbed.add(&hits);
                        self.search.note_masked(hits.all())?;
                    }
                    self.came = true;
                    self.trailers = Some(trailers);
                }
            }
        }
        self.weigh()
    }

    /// Decodes until something is ready, and ends what is over.
    fn unpack(&mut self) -> Result<(), Rejection> {
        if let Way::Decoded(decoder, scrubber) = &mut self.way {
            while self.ready.is_empty()
                && let Some(piece) = decoder.pull().map_err(undecodable)?
            {
                scrubber.push(piece, &mut self.ready);
            }
        }
        if self.came && !self.ended && (self.ready.is_empty() || !matches!(self.way, Way::Decoded(..))) {
            match &mut self.way {
                Way::Open | Way::Coded | Way::Passed => {}
                Way::Searched(scrubber) => scrubber.finish(&mut self.ready),
                Way::Decoded(decoder, scrubber) => {
                    decoder.finish().map_err(undecodable)?;
                    scrubber.finish(&mut self.ready);
                }
            }
            self.ended = true;
        }
        self.weigh()
    }

    /// Counts what was masked meanwhile.
    fn weigh(&mut self) -> Result<(), Rejection> {
        let Some(hits) = self.way.scrubber().map(|scrubber| *scrubber.hits()) else { return Ok(()) };
        if hits == self.masked {
            return Ok(());
        }
        let fresh = hits.since(&std::mem::replace(&mut self.masked, hits));
        self.account.scrubbed.add(&fresh);
        self.search.note_masked(fresh.all())
    }

    /// Ends the reply where it stands, so that nobody takes it for whole.
    fn cut(&mut self, rejection: &Rejection) -> BodyError {
        tracing::warn!(
            request.id = %self.account.of().0,
            error.code = rejection.code.as_str(),
            detail = %rejection.detail,
            "the reply is cut"
        );
        if rejection.code != Code::Internal {
            self.account.alert("reply_cut", &rejection.detail);
        }
        let word = match rejection.code.fault() {
            Fault::Upstream => OutcomeWord::UpstreamError,
            _ => OutcomeWord::Aborted,
        };
        self.account.cut(word, Some(rejection.code));
        self.ready.clear();
        Box::new(h2::Error::from(h2::Reason::CANCEL))
    }

    fn finish(&mut self) {
        let status = self.account.status;
        self.account.close(status, None);
        if let Some(run) = self.run.take() {
            self.account.counted().replied(run);
        }
    }
}

/// Masks keys in header values, and drops headers that have one for a name; how many it found.
fn scrub_headers(patterns: &PatternSet, headers: &mut HeaderMap) -> Hits {
    let mut hits = Hits::default();
    let named = |name: &HeaderName| {
        let (_, found) = patterns.scrub_value(name.as_str().as_bytes())?;
        Some((name.clone(), found))
    };
    while let Some((name, found)) = headers.keys().find_map(named) {
        headers.remove(name);
        hits.add(&found);
    }
    for value in headers.values_mut() {
        if let Some((clean, found)) = patterns.scrub_value(value.as_bytes()) {
            hits.add(&found);
            *value = HeaderValue::from_bytes(&clean).unwrap_or(HeaderValue::from_static("masked"));
        }
    }
    hits
}

/// Turns the upstream's reply into the agent's.
///
/// # Errors
/// The reply can't be searched for the keys of its host: it is in an unknown coding or a part that
/// wasn't asked for, or a key can't be opened.
pub fn relay(
    response: Response<crate::upstream::ReplyBody>,
    mut search: Search,
    run: Option<Run>,
    mut account: Box<Account>,
) -> Result<Response<Reply>, (Rejection, Box<Account>)> {
    let (mut parts, inner) = response.into_parts();
    // The agent is answered in its own protocol, whatever the upstream speaks.
    parts.version = Version::HTTP_11;
    let no_body =
        account.of().1 == Method::HEAD || matches!(parts.status, StatusCode::NOT_MODIFIED | StatusCode::NO_CONTENT);
    macro_rules! step {
        ($result:expr) => {
            match $result {
                Ok(value) => value,
                Err(rejection) => return Err((rejection, account)),
            }
        };
    }
    let patterns = step!(search.patterns());
    let way = step!(way(&mut parts, &search, patterns.as_ref(), no_body));
    step!(fit_head(&mut parts, &search, patterns.as_deref(), &mut account));
    // What has no body isn't asked for one: its length may tell of the body that isn't there.
    let ended = no_body || inner.is_end_stream();
    let (ready, masked, trailers, failure) = (VecDeque::new(), Hits::default(), None, None);
    let came = ended;
    let mut download = Download { inner, search, way, masked, ready, trailers, came, ended, failure, run, account };
    if ended {
        download.finish();
    }
    Ok(Response::from_parts(parts, Reply::Upstream(Box::new(download))))
}

/// What is to happen to the body, and what the head says of it then.
fn way(
    parts: &mut Parts,
    search: &Search,
    patterns: Option<&Arc<PatternSet>>,
    no_body: bool,
) -> Result<Way, Rejection> {
    let codings = search.codings(&parts.headers);
    let Some(patterns) = patterns else {
        return Ok(if codings == Codings::Identity || no_body { Way::Open } else { Way::Coded });
    };
    let part = parts.status == StatusCode::PARTIAL_CONTENT;
    if part && search.back() == Back::Whole {
        return Err(unsearchable("the upstream sent a part that wasn't asked for, and half a key can't be found"));
    }
    match codings {
        Codings::Known(_) if no_body => {
            coding::fit_decoded(&mut parts.headers);
            Ok(Way::Searched(Scrubber::new(Arc::clone(patterns))))
        }
        Codings::Known(_) if part => Err(unsearchable("a part of a coded reply can't be decoded")),
        Codings::Known(codings) => {
            let decoder = search.decoder(&codings).map_err(undecodable)?;
            coding::fit_decoded(&mut parts.headers);
            Ok(Way::Decoded(Box::new(decoder), Scrubber::new(Arc::clone(patterns))))
        }
        Codings::Unknown if !no_body && search.forwards(Unsearched::UnknownCoding) => Ok(Way::Passed),
        Codings::Unknown if !no_body => Err(unsearchable(
            "the reply is in a coding that isn't decoded, or in more of them than `proxy.limits.codings`",
        )),
        Codings::Identity | Codings::Unknown => Ok(Way::Searched(Scrubber::new(Arc::clone(patterns)))),
    }
}

/// Takes out of a reply's head what isn't for the agent, keys above all.
///
/// # Errors
/// The `Connection` header can't be read, or too much is masked in replies to the session.
pub(super) fn fit_head(
    parts: &mut Parts,
    search: &Search,
    patterns: Option<&PatternSet>,
    account: &mut Account,
) -> Result<(), Rejection> {
    if parts.headers.contains_key(CONNECTION) && forward::strip_hop_by_hop(&mut parts.headers).is_err() {
        let why = "the reply's Connection header can't be read";
        return Err(Rejection::new(Code::UpstreamUnreachable, why));
    }
    forward::remove_all(&mut parts.headers, |name| not_for_the_agent(name.as_str().as_bytes()));
    if let Some(patterns) = patterns {
        let hits = scrub_headers(patterns, &mut parts.headers);
        account.scrubbed.add(&hits);
        search.note_masked(hits.all())?;
        parts.extensions.remove::<hyper::ext::ReasonPhrase>();
    }
    account.status = parts.status.as_u16();
    Ok(())
}

/// What belongs to the upstream's hop, names other ways to the upstream, or speaks for us.
pub(super) fn not_for_the_agent(name: &[u8]) -> bool {
    let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
    match name.len() {
        2 => is("te"),
        7 => is("upgrade") || is("alt-svc"),
        10 => is("keep-alive"),
        15 => is("sallyport-error"),
        16 => is("proxy-connection"),
        17 => is("transfer-encoding"),
        18 => is("proxy-authenticate"),
        20 => is("sallyport-request-id"),
        _ => false,
    }
}

fn unsearchable(why: &'static str) -> Rejection {
    Rejection::new(Code::UpstreamEncoding, why)
}

fn undecodable(why: Broken) -> Rejection {
    let code = if why == Broken::Memory { Code::Overloaded } else { Code::UpstreamEncoding };
    Rejection::new(code, why.to_string())
}
