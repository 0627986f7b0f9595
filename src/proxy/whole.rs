//! A request's body that a slot may stand in: read whole, within a bound, before anything is decided.
//!
//! Only requests whose host has a key with such a slot come here, and only those with a body of that
//! slot's kind. Every other body streams through unseen.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Request};
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, timeout_at};

use super::core::Core;
use super::held::Held;
use super::reject::{Code, Rejection};
use super::slots::{Places, multipart};
use super::upload::Upload;
use crate::upstream::RequestBody;

/// What a body is, by its Content-Type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// `application/x-www-form-urlencoded`.
    Form,
    /// `application/json`, or another type that ends in `+json` (RFC 6839 section 3.1).
    Json,
    /// `multipart/form-data`, with its boundary.
    Multipart(Rc<str>),
}

impl Kind {
    /// The kind of a body with these headers; `None` if it is another, or not certain.
    fn of(headers: &HeaderMap) -> Option<Self> {
        let mut types = headers.get_all(CONTENT_TYPE).iter();
        let (Some(only), None) = (types.next(), types.next()) else { return None };
        let text = only.to_str().ok()?;
        let (name, parameters) = text.split_once(';').unwrap_or((text, ""));
        match name.trim().to_ascii_lowercase().as_str() {
            "application/x-www-form-urlencoded" => Some(Self::Form),
            "multipart/form-data" => multipart::boundary(parameters).map(|b| Self::Multipart(b.into())),
            name if name == "application/json" || name.ends_with("+json") => Some(Self::Json),
            _ => None,
        }
    }

    fn is_among(&self, places: &Places) -> bool {
        match self {
            Self::Form => !places.forms.is_empty(),
            Self::Json => !places.pointers.is_empty(),
            Self::Multipart(_) => !places.fields.is_empty(),
        }
    }
}

/// A body that was read whole. Cheap to clone.
#[derive(Clone)]
pub struct Whole {
    /// What it is.
    pub kind: Kind,
    /// The bytes, with tokens or with keys.
    pub bytes: Bytes,
    trailers: Option<HeaderMap>,
    held: Rc<Held>,
}

/// Reads the request's body if a slot may stand in it. `settled` says that the request has a token in
/// its head, so that it may do without one in its body.
///
/// # Errors
/// It is longer than `proxy.limits.body_slot`, slower than `proxy.deadlines.body_slot`, coded, or broken
/// off; or too many are read at once.
///
/// # Cancellation
/// What was read is lost with the request.
pub async fn read(
    core: &Core,
    request: &mut Request<Upload>,
    places: &Places,
    settled: bool,
) -> Result<Option<Whole>, Rejection> {
    let Some(kind) = Kind::of(request.headers()).filter(|kind| kind.is_among(places)) else { return Ok(None) };
    if request.body().is_end_stream() {
        return Ok(None);
    }
    if is_coded(request.headers()) {
        let why = "the body is coded (Content-Encoding), so the slots in it can't be seen; send it as it is";
        return if settled { Ok(None) } else { Err(Rejection::new(Code::BadRequest, why)) };
    }
    let limits = &core.shared.settings.limits;
    let too_large = || {
        let why = format!(
            "a key of this host has a slot in the body, and bodies of more than {} bytes (`proxy.limits.body_slot`) \
             aren't searched for it",
            limits.body_slot_bytes
        );
        Rejection::new(Code::BodyTooLarge, why)
    };
    let too_slow = || {
        let why = "a key of this host has a slot in the body, and it didn't come to its end within \
                   `proxy.deadlines.body_slot`";
        Rejection::new(Code::BadRequest, why)
    };
    let told = request.body().size_hint().lower();
    if told > u64::try_from(limits.body_slot_bytes).unwrap_or(u64::MAX) {
        return Err(too_large());
    }
    let held = Held::new(core.bodies(), limits.body_slots_bytes);
    let (mut bytes, mut trailers) = (BytesMut::new(), None);
    let body = request.body_mut();
    let over = Instant::now() + core.shared.settings.deadlines.body_slot;
    loop {
        let frame = timeout_at(over, poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)));
        let Some(frame) = frame.await.map_err(|_| too_slow())? else { break };
        let broken = |_| Rejection::new(Code::BadRequest, "the request's body can't be read to its end");
        match frame.map_err(broken)?.into_data() {
            Ok(data) if bytes.len() + data.len() > limits.body_slot_bytes => return Err(too_large()),
            Ok(data) if !held.more(data.len()) => {
                let why = "too many bodies are being read for the slots in them";
                return Err(Rejection::new(Code::Overloaded, why));
            }
            Ok(data) => bytes.extend_from_slice(&data),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    Ok(Some(Whole { kind, bytes: bytes.freeze(), trailers, held: Rc::new(held) }))
}

fn is_coded(headers: &HeaderMap) -> bool {
    let plain = |value: &HeaderValue| value.is_empty() || value.as_bytes().eq_ignore_ascii_case(b"identity");
    !headers.get_all(CONTENT_ENCODING).iter().all(plain)
}

impl Whole {
    /// Makes this the request's body.
    pub fn put(self, request: &mut Request<RequestBody>) {
        let headers = request.headers_mut();
        if headers.contains_key(CONTENT_LENGTH) {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(self.bytes.len()));
        }
        *request.body_mut() = Box::pin(Again { data: Some(self.bytes), trailers: self.trailers, _held: self.held });
    }
}

/// A body that was read whole, on its way up, with its share of what is held.
pub(super) fn again(data: Bytes, held: Rc<Held>) -> RequestBody {
    Box::pin(Again { data: Some(data).filter(|data| !data.is_empty()), trailers: None, _held: held })
}

struct Again {
    data: Option<Bytes>,
    trailers: Option<HeaderMap>,
    _held: Rc<Held>,
}

impl Body for Again {
    type Data = Bytes;
    type Error = super::relay::BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let data = self.data.take().map(Frame::data);
        let next = data.or_else(|| self.trailers.take().map(Frame::trailers));
        Poll::Ready(next.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_none() && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let len = self.data.as_ref().map_or(0, |data| data.len() as u64);
        let mut hint = SizeHint::with_exact(len);
        if self.trailers.is_some() {
            // A length that is known leaves no room for trailers (RFC 9112 section 6.3).
            hint = SizeHint::new();
            hint.set_lower(len);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kind_of_a_body_is_known_only_where_its_type_is_certain() {
        let multipart = |boundary: &str| Some(Kind::Multipart(boundary.into()));
        for (types, kind) in [
            (vec!["application/json"], Some(Kind::Json)),
            (vec!["Application/JSON; charset=utf-8"], Some(Kind::Json)),
            (vec!["application/vnd.api+json"], Some(Kind::Json)),
            (vec!["application/x-www-form-urlencoded;charset=UTF-8"], Some(Kind::Form)),
            (vec!["multipart/form-data; boundary=x"], multipart("x")),
            (vec!["multipart/form-data"], None),
            (vec!["multipart/form-data; boundary=x; boundary=y"], None),
            (vec!["multipart/mixed; boundary=x"], None),
            (vec!["application/jsonp"], None),
            (vec!["application/x-ndjson"], None),
            (vec!["text/plain"], None),
            (vec!["application/json, text/plain"], None),
            (vec!["application/json", "application/json"], None),
            (vec![], None),
        ] {
            let mut headers = HeaderMap::new();
            for value in &types {
                headers.append(CONTENT_TYPE, value.parse().expect("a value"));
            }
            assert_eq!(Kind::of(&headers), kind, "{types:?}");
        }
    }
}
