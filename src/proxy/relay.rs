//! Streams the reply back through the scrubber; closes the exchange's account where the reply ends.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Version};
use http_body::{Body, Frame, SizeHint};

use super::account::Account;
use super::forward;
use super::reject::{Code, Rejection};
use super::running::{Run, Stop};
use super::scrub::{Hits, PatternSet, Scrubber};
use super::search::Search;
use super::upload::fit_trailers;
use crate::audit::OutcomeWord;

/// What a body can fail with, towards hyper.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// The body of what the agent gets.
pub enum Reply {
    /// Our own words.
    Own(Option<Bytes>),
    /// The upstream's reply.
    Upstream(Box<Download>),
}

impl Reply {
    /// What tells that its exchange has to stop, if anything may.
    pub fn stop(&self) -> Option<Stop> {
        match self {
            Self::Own(_) => None,
            Self::Upstream(download) => download.run.as_ref().map(Run::stop),
        }
    }
}

/// The upstream's body on its way down.
pub struct Download {
    inner: crate::upstream::ReplyBody,
    search: Search,
    scrubber: Option<Scrubber>,
    coded: bool,
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
            Self::Upstream(download) => download.account.closed(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Self::Upstream(download) if download.account.closed() => SizeHint::with_exact(0),
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
                Poll::Ready(None) => self.end(),
                Poll::Ready(Some(Err(why))) => {
                    tracing::debug!(request.id = %self.account.of().0, error = %why, "the upstream cut its reply");
                    self.account.cut(OutcomeWord::UpstreamError, Some(Code::UpstreamUnreachable));
                    return Poll::Ready(Some(Err(why.into())));
                }
                Poll::Ready(Some(Ok(frame))) => {
                    if let Err(rejection) = self.look_again() {
                        self.account.cut(OutcomeWord::Aborted, Some(rejection.code));
                        return Poll::Ready(Some(Err(Box::new(h2::Error::from(h2::Reason::CANCEL)))));
                    }
                    self.take(frame);
                }
            }
        }
    }

    /// Takes over keys that have come since the last piece.
    fn look_again(&mut self) -> Result<(), Rejection> {
        match (self.search.changed()?, &mut self.scrubber) {
            (None, _) => {}
            (Some(patterns), Some(scrubber)) => scrubber.look_for(patterns),
            (Some(_), None) if self.coded => return Err(unsearchable()),
            (Some(patterns), scrubber) => *scrubber = Some(Scrubber::new(patterns)),
        }
        Ok(())
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
                        self.account.scrubbed.add(&scrub_headers(scrubber.patterns(), &mut trailers));
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
            self.account.scrubbed.add(scrubber.hits());
        }
        let status = self.account.status;
        self.account.close(status, None);
        self.run = None;
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
/// The reply is coded, or a key can't be opened, so it can't be searched for the keys of its host.
pub fn relay(
    response: Response<crate::upstream::ReplyBody>,
    mut search: Search,
    run: Option<Run>,
    mut account: Account,
) -> Result<Response<Reply>, Box<(Rejection, Account)>> {
    let (mut parts, inner) = response.into_parts();
    // The agent is answered in its own protocol, whatever the upstream speaks.
    parts.version = Version::HTTP_11;
    let no_body =
        account.of().1 == Method::HEAD || matches!(parts.status, StatusCode::NOT_MODIFIED | StatusCode::NO_CONTENT);
    let patterns = match search.patterns() {
        Ok(patterns) => patterns,
        Err(rejection) => return Err(Box::new((rejection, account))),
    };
    let coded = !no_body && parts.headers.get_all(CONTENT_ENCODING).iter().any(coded);
    if patterns.is_some() && coded {
        return Err(Box::new((unsearchable(), account)));
    }
    let close = parts.headers.get(CONNECTION).is_some();
    if close && forward::strip_hop_by_hop(&mut parts.headers).is_err() {
        let why = "the reply's Connection header can't be read";
        return Err(Box::new((Rejection::new(Code::UpstreamUnreachable, why), account)));
    }
    forward::remove_all(&mut parts.headers, not_for_the_agent);
    if let Some(patterns) = &patterns {
        account.scrubbed.add(&scrub_headers(patterns, &mut parts.headers));
        parts.extensions.remove::<hyper::ext::ReasonPhrase>();
    }
    account.status = parts.status.as_u16();
    // What has no body isn't asked for one: its length may tell of the body that isn't there.
    let ended = no_body || inner.is_end_stream();
    let scrubber = patterns.map(Scrubber::new);
    let ready = VecDeque::new();
    let mut download = Download { inner, search, scrubber, coded, ready, trailers: None, ended, run, account };
    if ended {
        download.finish();
    }
    Ok(Response::from_parts(parts, Reply::Upstream(Box::new(download))))
}

/// What belongs to the upstream's hop, names other ways to the upstream, or speaks for us.
fn not_for_the_agent(name: &HeaderName) -> bool {
    let hop = ["keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "te"];
    let ours = ["alt-svc", "proxy-authenticate", "sallyport-error", "sallyport-request-id"];
    hop.contains(&name.as_str()) || ours.contains(&name.as_str())
}

fn unsearchable() -> Rejection {
    Rejection::new(Code::UpstreamEncoding, "the upstream coded its reply although it was asked not to")
}

fn coded(value: &HeaderValue) -> bool {
    !value.as_bytes().eq_ignore_ascii_case(b"identity") && !value.is_empty()
}
