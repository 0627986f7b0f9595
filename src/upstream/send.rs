//! A request on its way up a connection, made fit for the protocol that it is sent in.

use std::pin::pin;

use http::header::{CONTENT_LENGTH, COOKIE, HOST, PROXY_AUTHORIZATION, TRANSFER_ENCODING};
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, Version};
use http_body::Body as _;
use hyper::body::Incoming;

use super::egress::Credentials;
use super::http2;
use super::pool::{Connection, Place, Sender};
use super::reply::{Back, End, ReplyBody};
use super::shared::Http2;
use super::{Error, Refusal, RequestBody, Stage, continued, through};
use crate::model::Scheme;

impl Connection {
    /// What the upstream will have said if it doesn't take the certificate that this connection is the first
    /// to show it.
    #[must_use]
    pub fn refusal(&self) -> Option<Refusal> {
        self.refusal.clone()
    }

    /// Sends the request, whose URI has path and query only, and waits for the reply's head.
    ///
    /// # Errors
    /// See [`Error`]. The request comes back if none of it was written.
    pub async fn send(
        self,
        mut request: Request<RequestBody>,
    ) -> Result<Response<ReplyBody>, (Error, Option<Request<RequestBody>>)> {
        let Some(inner) = self.home.upgrade() else { return Err((Error::Closed { written: false }, Some(request))) };
        let limit = inner.settings.deadlines.headers;
        let (idle, continues) = (inner.settings.deadlines.idle_body, inner.settings.deadlines.continued);
        let asked = inner.asked_in_clear(&self.place).map(|proxy| proxy.credentials.clone());
        let (place, born, home, mut alarm) = (self.place, self.born, self.home, self.alarm);
        drop(inner);
        match self.sender {
            Sender::Http1(mut sender) => {
                if sender.sender.ready().await.is_err() {
                    return Err((Error::Closed { written: false }, Some(request)));
                }
                join_cookies(request.headers_mut());
                frame(&mut request);
                let mut waits = None;
                if !request.extensions().is_empty() {
                    (request, waits) = continued::expect(request, continues);
                }
                let through_proxy = asked.is_some();
                if let Some(credentials) = asked {
                    ask_proxy(&mut request, &place, credentials.as_ref());
                }
                sender.interim.expect();
                let reply = alarm.limit(limit, pin!(sender.sender.try_send_request(request))).await;
                let response = settled(reply).map_err(|(why, back)| match sender.interim.too_many() {
                    true => (Error::Interim, None),
                    false => (why, if through_proxy { back.map(unasked) } else { back }),
                })?;
                if through_proxy && response.status() == StatusCode::PROXY_AUTHENTICATION_REQUIRED {
                    return Err((through::refused(407), None));
                }
                if ambiguous(&response) {
                    return Err((Error::Http, None));
                }
                let end = match continued::replied(waits) {
                    Some(refused) => End::Refused { _refused: refused },
                    None => End::Framed(Some(Back { sender, place, born, home })),
                };
                Ok(response.map(|body| ReplyBody::new(body, end, idle, alarm)))
            }
            Sender::Alone(alone) => {
                join_cookies(request.headers_mut());
                let (response, switched) = alone.send(request, &mut alarm, limit).await.map_err(|why| (why, None))?;
                if switched.is_none() && ambiguous(&response) {
                    return Err((Error::Http, None));
                }
                let end = switched.map_or(End::Framed(None), End::Switched);
                Ok(response.map(|body| ReplyBody::new(body, end, idle, alarm)))
            }
            Sender::Http2(Http2 { authority, mut sender, given_up, share }) => {
                if !http2::is_open(&mut sender) || !share.fits(&sender) {
                    return Err((Error::Closed { written: false }, Some(request)));
                }
                *request.uri_mut() = absolute(place.scheme, Some(authority), request.uri());
                *request.version_mut() = Version::HTTP_2;
                request.headers_mut().remove(HOST);
                match alarm.limit(limit, pin!(http2::ask(&mut sender, request))).await {
                    None => Err((Error::Timeout(Stage::Headers), None)),
                    Some(Ok(response)) => {
                        Ok(response.map(|body| ReplyBody::shared(body, End::Marked { share }, idle, alarm)))
                    }
                    Some(Err(why)) if !malformed(&why) => Err((Error::Closed { written: true }, None)),
                    Some(Err(_)) if given_up.tell() => Err((Error::Interim, None)),
                    Some(Err(_)) => Err((Error::Http, None)),
                }
            }
        }
    }
}

/// Whether two parsers could read the reply's framing differently (RFC 9112 section 6.3), or it
/// switches to a protocol that nobody asked for. Its connection is not used again. A transfer coding
/// beneath the chunks is refused too: nothing behind here would know of it.
fn ambiguous<B>(response: &Response<B>) -> bool {
    let headers = response.headers();
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let framings = (codings.next(), codings.next(), lengths.next(), lengths.next());
    let plain = match framings {
        (None, None, None, None) => true,
        (Some(coding), None, None, None) => coding.as_bytes().eq_ignore_ascii_case(b"chunked"),
        (None, None, Some(length), None) => length.as_bytes().iter().all(u8::is_ascii_digit),
        _ => false,
    };
    !plain || response.status() == StatusCode::SWITCHING_PROTOCOLS
}

/// A body of unknown length is sent in chunks, whatever the method: hyper drops that of a GET else.
fn frame(request: &mut Request<RequestBody>) {
    if request.body().size_hint().exact().is_none() && !request.headers().contains_key(CONTENT_LENGTH) {
        request.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

/// HTTP/2 may cut the cookie field into crumbs; HTTP/1.1 has one field (RFC 9113 section 8.2.3).
pub fn join_cookies(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(COOKIE).iter();
    if let (Some(first), Some(second)) = (crumbs.next(), crumbs.next()) {
        let mut all = [first.as_bytes(), second.as_bytes()].join(&b"; "[..]);
        for crumb in crumbs {
            all.extend_from_slice(b"; ");
            all.extend_from_slice(crumb.as_bytes());
        }
        if let Ok(mut all) = HeaderValue::from_bytes(&all) {
            all.set_sensitive(true);
            headers.insert(COOKIE, all);
        }
    }
}

/// What a proxy needs to pass the request on (RFC 9112 section 3.2.2).
fn ask_proxy<B>(request: &mut Request<B>, place: &Place, credentials: Option<&Credentials>) {
    *request.uri_mut() = with_authority(place, request.uri());
    if let Some(credentials) = credentials {
        request.headers_mut().insert(PROXY_AUTHORIZATION, credentials.basic().clone());
    }
}

/// The request as it was before.
fn unasked<B>(mut request: Request<B>) -> Request<B> {
    request.headers_mut().remove(PROXY_AUTHORIZATION);
    let mut parts = http::uri::Parts::default();
    parts.path_and_query = request.uri().path_and_query().cloned();
    if let Ok(origin) = Uri::from_parts(parts) {
        *request.uri_mut() = origin;
    }
    request
}

fn with_authority(place: &Place, origin: &Uri) -> Uri {
    absolute(place.scheme, place.authority.in_uri(place.scheme).parse().ok(), origin)
}

fn absolute(scheme: Scheme, authority: Option<Authority>, origin: &Uri) -> Uri {
    let mut parts = http::uri::Parts::default();
    parts.scheme = scheme.as_str().parse().ok();
    parts.authority = authority;
    parts.path_and_query = origin.path_and_query().cloned();
    Uri::from_parts(parts).unwrap_or_else(|_| origin.clone())
}

type Sent = Result<Response<Incoming>, hyper::client::conn::TrySendError<Request<RequestBody>>>;

#[expect(clippy::result_large_err, reason = "the request comes back whole, and only where a connection was lost")]
fn settled(reply: Option<Sent>) -> Result<Response<Incoming>, (Error, Option<Request<RequestBody>>)> {
    match reply {
        None => Err((Error::Timeout(Stage::Headers), None)),
        Some(Ok(response)) => Ok(response),
        Some(Err(mut failed)) => match failed.take_message() {
            Some(request) => Err((Error::Closed { written: false }, Some(request))),
            None => {
                let why = failed.into_error();
                Err((if why.is_parse() { Error::Http } else { Error::Closed { written: true } }, None))
            }
        },
    }
}

/// Whether h2 gave the reply up since it is malformed (RFC 9113 section 8.1.1).
fn malformed(why: &h2::Error) -> bool {
    why.is_library() && why.reason() == Some(h2::Reason::PROTOCOL_ERROR)
}
