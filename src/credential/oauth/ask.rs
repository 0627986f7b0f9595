//! Sends one request to a token endpoint: over the upstream client, so verified TLS, address checks,
//! pins and deadlines hold; bounded; and without following anything.

use std::pin::Pin;
use std::time::Instant;

use http::header::{CONTENT_LENGTH, HOST};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Body as _;
use zeroize::Zeroizing;

use super::{Failure, FailureKind, Settings};
use crate::credential::wiped;
use crate::model::{OrgId, TokenEndpoint};
use crate::upstream::{self, Checkout, Place, Protocol, RequestBody, Upstream, Word};

/// An answer, read to its end.
pub struct Answered {
    /// Its status.
    pub status: StatusCode,
    /// Its body, wiped when dropped.
    pub body: Zeroizing<Vec<u8>>,
}

/// Sends the request and reads the answer. The endpoint's address is dialled by this word.
///
/// # Errors
/// The endpoint can't be reached, fails, takes longer than [`Settings::deadline`], or says more than
/// [`Settings::message_bytes`].
///
/// # Cancellation
/// The request may have been sent.
pub async fn ask(
    upstream: &Upstream,
    (org, by): (OrgId, Word),
    endpoint: &TokenEndpoint,
    request: Request<Zeroizing<Vec<u8>>>,
    settings: &Settings,
) -> Result<Answered, Failure> {
    let place = Place::of(org, endpoint.scheme, &endpoint.authority).by(by);
    let at = &endpoint.authority;
    match tokio::time::timeout(settings.deadline, exchange(upstream, place, endpoint, request, settings)).await {
        Ok(answered) => answered,
        Err(_) => Err(Failure::new(FailureKind::Timeout, format!("the token endpoint at {at} took too long"))),
    }
}

async fn exchange(
    upstream: &Upstream,
    place: Place,
    endpoint: &TokenEndpoint,
    request: Request<Zeroizing<Vec<u8>>>,
    settings: &Settings,
) -> Result<Answered, Failure> {
    let (mut parts, body) = request.into_parts();
    let host = HeaderValue::try_from(endpoint.authority.in_uri(endpoint.scheme))
        .map_err(|_| Failure::new(FailureKind::Internal, "the token endpoint's name can't stand in a Host header"))?;
    parts.headers.insert(HOST, host);
    parts.headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    let body: RequestBody = Box::pin(Full::new(wiped(body)).map_err(|never| match never {}));
    let mut request = Request::from_parts(parts, body);
    loop {
        let (connection, pooled) = match upstream.checkout(place.clone(), Protocol::Any, Instant::now()) {
            Checkout::Pooled(connection) => (connection, true),
            Checkout::New(dialling) => (dialling.await.map_err(|why| failed(endpoint, why))?, false),
        };
        match connection.send(request).await {
            Ok(response) => return read(endpoint, response, settings).await,
            // A pooled connection that was closed meanwhile: nothing of the request was written.
            Err((upstream::Error::Closed { written: false }, Some(back))) if pooled => request = back,
            Err((why, _)) => return Err(failed(endpoint, why)),
        }
    }
}

async fn read(
    endpoint: &TokenEndpoint,
    response: Response<upstream::ReplyBody>,
    settings: &Settings,
) -> Result<Answered, Failure> {
    let status = response.status();
    let too_long = || {
        let (at, most) = (&endpoint.authority, settings.message_bytes);
        Failure::new(FailureKind::Unavailable, format!("the token endpoint at {at} said more than {most} bytes"))
    };
    let mut from = response.into_body();
    if from.size_hint().lower() > settings.message_bytes as u64 {
        return Err(too_long());
    }
    // All of the room at once: growing would leave copies behind.
    let mut body = Zeroizing::new(Vec::with_capacity(settings.message_bytes));
    while let Some(frame) = Pin::new(&mut from).frame().await {
        let frame = frame.map_err(|why| failed(endpoint, why))?;
        let Some(data) = frame.data_ref() else { continue };
        if body.len() + data.len() > settings.message_bytes {
            return Err(too_long());
        }
        body.extend_from_slice(data);
    }
    Ok(Answered { status, body })
}

fn failed(endpoint: &TokenEndpoint, why: upstream::Error) -> Failure {
    use upstream::Error as E;
    let kind = match &why {
        E::Blocked { .. } => FailureKind::Blocked,
        E::Tls(_) => FailureKind::Tls,
        E::Timeout(_) => FailureKind::Timeout,
        _ => FailureKind::Unreachable,
    };
    Failure::new(kind, format!("the token endpoint at {}: {why}", endpoint.authority))
}
