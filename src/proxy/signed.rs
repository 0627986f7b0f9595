//! Requests that have to be signed as they will be sent. Where the agent signed one itself, its signature
//! is verified with the agent's own secret while the request is as it came, and made anew: see
//! [`crate::credential::aws`]. Others are signed in a form of their key's own: [`crate::credential::hmac`].

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST};
use http::{HeaderName, HeaderValue, Request};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt as _, Full};
use zeroize::Zeroizing;

use super::authorize::Authorized;
use super::core::Core;
use super::held::Held;
use super::identify::{Found, Identified};
use super::reject::{Code, Rejection};
use super::relay::BodyError;
use super::slots::pairs;
use super::target::Target;
use super::upload::Counted;
use super::{inject, whole};
use crate::credential::aws::handing;
use crate::credential::aws::{self, ChunkError, Chunks, Head, Pair, Payload, Place, Signed, hash_of};
use crate::credential::hmac::{self, Form, Parts};
use crate::model::{KeyKind, Secret, Slot, Timestamp, TokenHash};
use crate::upstream::RequestBody;
use crate::vault::key::Key;

const SECURITY_TOKEN: HeaderName = HeaderName::from_static("x-amz-security-token");

/// A request that has to be signed.
pub enum ToSign {
    /// Anew, since the agent signed it with its stand-ins.
    Aws(Box<SignedRequest>),
    /// In a form of its key's own, with this body.
    Hmac(Gathered),
}

/// A body that is held, and its share of what is held.
#[derive(Default)]
pub struct Gathered {
    bytes: Bytes,
    held: Option<Rc<Held>>,
}

impl Gathered {
    /// The body.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

/// A request that the agent signed with its stand-ins.
pub struct SignedRequest {
    signed: Signed,
    stand_in: Secret<String>,
    /// What ends the canonical request.
    payload: String,
    /// What signs the chunks of the body.
    chunks: Rc<RefCell<Option<Chunks>>>,
    most: usize,
    /// The body, where it may say which operation is called.
    body: Option<Bytes>,
}

/// Whether a request has to be signed, for which it is read as it came; `None` if no token is that of a
/// key that signs, and then nothing here is paid for.
///
/// # Errors
/// The signature isn't one that can be made anew, or isn't that of the request.
pub fn read<B>(core: &Core, identified: &Identified, request: &Request<B>) -> Result<Option<ToSign>, Rejection> {
    let mut all = identified.found.iter().filter(|found| matches!(found.key.kind, KeyKind::Aws | KeyKind::Hmac));
    let Some(found) = all.next() else { return Ok(None) };
    if all.next().is_some() || (found.key.kind == KeyKind::Aws && identified.found.len() > 1) {
        return Err(Rejection::new(Code::BadRequest, "a request that is signed with one token holds another one"));
    }
    if identified.found.iter().any(|found| found.slot.is_in_body()) {
        return Err(Rejection::new(Code::BadRequest, "a request that is signed with a token holds one in its body"));
    }
    match found.key.kind {
        KeyKind::Hmac => Ok(Some(ToSign::Hmac(Gathered::default()))),
        _ => by_agent(core, found, request).map(|signed| Some(ToSign::Aws(Box::new(signed)))),
    }
}

fn by_agent<B>(core: &Core, found: &Found, request: &Request<B>) -> Result<SignedRequest, Rejection> {
    let host = request.headers().get(HOST).map(|host| host.to_str());
    let host = host.unwrap_or_else(|| Ok(request.uri().authority().map_or("", |authority| authority.as_str())));
    let head = Head {
        method: request.method(),
        path: request.uri().path(),
        query: request.uri().query(),
        headers: request.headers(),
        host: host.map_err(|_| Rejection::new(Code::BadRequest, "the Host header isn't text"))?,
    };
    let signed = Signed::read(&head, core.shared.clock.now())?;
    let expected = if found.slot == Slot::Signature { Place::Header } else { Place::Query };
    let hash = TokenHash::find(signed.id().as_bytes()).map(|(_, hash)| hash);
    let hash = hash.filter(|hash| is_of(core, hash, found) && signed.place() == expected);
    let hash =
        hash.ok_or_else(|| Rejection::new(Code::TokenMisplaced, "the token isn't the one that signs the request"))?;
    check_session_token(core, &signed, found)?;
    let (stand_in, chunks) = (core.shared.vault.stand_in(&hash), Rc::default());
    if let Some(payload) = signed.payload().text() {
        signed.check(&stand_in, payload)?;
    }
    let payload = signed.payload().text().unwrap_or_default().to_owned();
    let most = core.shared.settings.limits.signed_body;
    Ok(SignedRequest { signed, stand_in, payload, chunks, most, body: None })
}

fn is_of(core: &Core, hash: &TokenHash, found: &Found) -> bool {
    core.shared.registry.token(hash).is_some_and(|token| token.id == found.token.id)
}

/// A session token is the same proxy token, or nothing of ours: then it is a real one.
fn check_session_token(core: &Core, signed: &Signed, found: &Found) -> Result<(), Rejection> {
    let Some(text) = signed.session_token() else { return Ok(()) };
    match TokenHash::find(text.as_bytes()) {
        Some((_, hash)) if is_of(core, &hash, found) => Ok(()),
        Some(_) => {
            Err(Rejection::new(Code::TokenMisplaced, "the session token isn't the token that signs the request"))
        }
        None => {
            let why = "beside a proxy token, the request holds an AWS session token that is none";
            Err(Rejection::new(Code::CredentialUnregistered, why))
        }
    }
}

/// Whether its reply would hand out credentials that nobody here knows, by a request that is signed with a
/// key of this host or by one that needs no signature; the operation, as the agent named it.
pub fn hands_out<B>(
    signed: Option<&ToSign>,
    authorized: &Authorized,
    bound: &[Arc<Key>],
    target: &Target,
    request: &Request<B>,
) -> Option<String> {
    let text = |name: &HeaderName| request.headers().get(name).and_then(|value| value.to_str().ok());
    let query = target.path_and_query.query();
    match (signed, authorized) {
        (Some(ToSign::Aws(signed)), _) => {
            let call = handing::Call {
                service: signed.signed.service(),
                method: request.method(),
                path: target.path(),
                query,
                target: text(&TARGET),
                body: signed.body.as_deref(),
            };
            handing::operation(&call)
        }
        (None, Authorized::Plain) if bound.iter().any(|key| key.kind == KeyKind::Aws) => {
            let kind = request.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes);
            let may_be = handing::may_be_unsigned(request.method(), &target.authority.host.to_string(), query, kind);
            may_be.then(|| "a call without a signature".to_owned())
        }
        _ => None,
    }
}

/// The refusal of such a request.
pub fn withheld(operation: &str) -> Rejection {
    let plain = operation.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').take(LONGEST_NAMED).collect::<String>();
    let why = format!("{plain} is answered with credentials that would be worth their own everywhere");
    Rejection::new(Code::CredentialsWithheld, why)
}

/// How much of an operation's name a refusal repeats, in characters.
const LONGEST_NAMED: usize = 64;
/// What stands for a hash where a body's isn't signed (Amazon S3 API Reference, "Authenticating Requests").
const UNSIGNED_PAYLOAD: &str = "UNSIGNED-PAYLOAD";
const TARGET: HeaderName = HeaderName::from_static("x-amz-target");

impl ToSign {
    /// Takes hold of the body as far as that is needed to sign.
    ///
    /// # Errors
    /// The body is longer than what is held, can't be read, or isn't what was signed.
    pub async fn hold(
        &mut self,
        request: &mut Request<RequestBody>,
        counted: Rc<Counted>,
        most: usize,
        held: Held,
    ) -> Result<(), Rejection> {
        match self {
            Self::Aws(signed) => signed.hold(request, counted, held).await,
            Self::Hmac(body) => {
                body.bytes = gather(request, most, &held).await?;
                let held = body.held.insert(Rc::new(held));
                *request.body_mut() = whole::again(body.bytes.clone(), Rc::clone(held));
                Ok(())
            }
        }
    }
}

/// Signs a request in its key's own form, as it is sent.
///
/// # Errors
/// Something that is put in can't stand in its place, or the random source failed.
pub fn by_form<B>(request: &mut Request<B>, form: &Form, body: &Bytes, now: Timestamp) -> Result<(), Rejection> {
    let (place, timestamp) = form.timestamp(now);
    if let Some(place) = place {
        set(request, place, &timestamp)?;
    }
    let mut nonce = [0u8; 16];
    getrandom::fill(&mut nonce).map_err(|_| Rejection::new(Code::Internal, "there is no randomness for a nonce"))?;
    let nonce = hex::encode(nonce);
    if let Some(place) = form.nonce() {
        set(request, place, &nonce)?;
    }
    if let hmac::Place::Query(name) = form.signature() {
        let query = request.uri().query().map(|query| pairs::without(query, name)).unwrap_or_default();
        inject::query(request, &query)?;
    }
    let (uri, method) = (request.uri(), request.method());
    let query = uri.query().filter(|query| !query.is_empty());
    let signature = form.sign(&Parts { method, path: uri.path(), query, body, timestamp: &timestamp, nonce: &nonce });
    set(request, form.signature(), &signature)
}

/// Puts something that was computed in its place, instead of what the agent had there.
fn set<B>(request: &mut Request<B>, place: &hmac::Place, value: &str) -> Result<(), Rejection> {
    match place {
        hmac::Place::Header(name) => inject::replace(request, name.clone(), Zeroizing::new(value.as_bytes().to_vec())),
        hmac::Place::Query(name) => {
            let mut query = request.uri().query().map(|query| pairs::without(query, name)).unwrap_or_default();
            if !query.is_empty() {
                query.push('&');
            }
            query.push_str(name.as_str());
            query.push('=');
            query.push_str(&String::from_utf8_lossy(&pairs::encoded(value.as_bytes(), b"")));
            inject::query(request, &query)
        }
    }
}

impl SignedRequest {
    /// Takes hold of the body as far as that is needed to sign: whole, if its hash wasn't declared; a
    /// chunk at a time, if it is signed in chunks; otherwise it passes.
    ///
    /// # Errors
    /// The body is longer than what is held, can't be read, or isn't what was signed.
    async fn hold(
        &mut self,
        request: &mut Request<RequestBody>,
        counted: Rc<Counted>,
        held: Held,
    ) -> Result<(), Rejection> {
        match self.signed.payload() {
            Payload::Declared(declared) if handing::needs_body(self.signed.service()) => {
                let body = gather(request, self.most, &held).await?;
                if *declared != hash_of(&body) && declared != UNSIGNED_PAYLOAD {
                    return Err(aws::Error::Mismatch.into());
                }
                self.body = Some(body.clone());
                *request.body_mut() = whole::again(body, Rc::new(held));
            }
            Payload::Declared(_) => {}
            Payload::Chunks { .. } => {
                let empty: RequestBody = Box::pin(Full::default().map_err(|never| match never {}));
                let inner = std::mem::replace(request.body_mut(), empty);
                *request.body_mut() = Box::pin(Resigning { inner, chunks: Rc::clone(&self.chunks), counted, held });
            }
            Payload::Undeclared => {
                let body = gather(request, self.most, &held).await?;
                self.payload = hash_of(&body);
                self.signed.check(&self.stand_in, &self.payload)?;
                self.body = handing::needs_body(self.signed.service()).then(|| body.clone());
                *request.body_mut() = whole::again(body, Rc::new(held));
            }
        }
        Ok(())
    }

    /// Signs the request as it is sent with the real pair.
    ///
    /// # Errors
    /// The pair doesn't sign for the request's region or service.
    pub fn sign<B>(&self, request: &mut Request<B>, pair: &Pair) -> Result<(), Rejection> {
        request.headers_mut().remove(SECURITY_TOKEN);
        if let (Some(token), Place::Header) = (pair.session_token(), self.signed.place()) {
            inject::replace(request, SECURITY_TOKEN, Zeroizing::new(token.expose().clone().into_bytes()))?;
        }
        let host = request.headers().get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let head = Head {
            method: request.method(),
            path: request.uri().path(),
            query: request.uri().query(),
            headers: request.headers(),
            host,
        };
        let resigned = pair.sign(&self.signed, &head, &self.payload)?;
        if let Some(authorization) = resigned.authorization {
            inject::replace(request, AUTHORIZATION, Zeroizing::new(authorization.into_bytes()))?;
        }
        if let Some(query) = resigned.query {
            inject::query(request, &query)?;
        }
        if let Payload::Chunks { trailers, len, .. } = self.signed.payload() {
            let theirs = self.signed.check(&self.stand_in, &self.payload)?;
            *self.chunks.borrow_mut() = Some(Chunks::new(theirs, resigned.chain, *trailers, *len, self.most));
        }
        Ok(())
    }
}

/// The whole body, if it isn't longer than allowed.
async fn gather(request: &mut Request<RequestBody>, most: usize, held: &Held) -> Result<Bytes, Rejection> {
    let too_long = || {
        let why = format!(
            "the body is longer than {most} bytes (`proxy.limits.signed_body`), and its hash, which has to be signed, \
             wasn't declared in x-amz-content-sha256"
        );
        Rejection::new(Code::BodyTooLarge, why)
    };
    let announced = request.headers().get(CONTENT_LENGTH).and_then(|len| len.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|len| len > most) {
        return Err(too_long());
    }
    let mut all = BytesMut::new();
    while let Some(frame) = request.body_mut().frame().await {
        let unread = |_| Rejection::new(Code::BadRequest, "the request's body can't be read to its end");
        if let Some(piece) = frame.map_err(unread)?.data_ref() {
            if all.len() + piece.len() > most {
                return Err(too_long());
            }
            if !held.more(piece.len()) {
                return Err(Rejection::from(ChunkError::Crowded));
            }
            all.extend_from_slice(piece);
        }
    }
    Ok(all.freeze())
}

/// A body that is signed anew chunk by chunk.
struct Resigning {
    inner: RequestBody,
    chunks: Rc<RefCell<Option<Chunks>>>,
    counted: Rc<Counted>,
    held: Held,
}

impl Body for Resigning {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            let frame = ready!(self.inner.as_mut().poll_frame(cx)).transpose()?;
            let this = &*self;
            let mut chunks = this.chunks.borrow_mut();
            let Some(chunks) = chunks.as_mut() else { return Poll::Ready(Some(Err("nothing was signed".into()))) };
            let broken = |why: ChunkError| {
                this.counted.refused.set(Some(why));
                Poll::Ready(Some(Err(why.into())))
            };
            match frame.map(Frame::into_data) {
                Some(Ok(piece)) => match chunks.push(&piece) {
                    Ok(_) if !this.held.set(chunks.held()) => return broken(ChunkError::Crowded),
                    Ok(out) if out.is_empty() => {}
                    Ok(out) => return Poll::Ready(Some(Ok(Frame::data(out)))),
                    Err(why) => return broken(why),
                },
                // Trailers of the message beside those in the body: nobody signed them.
                Some(Err(_)) => {}
                None if chunks.is_whole() => return Poll::Ready(None),
                None => return broken(ChunkError::Shape),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        false
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl From<aws::Error> for Rejection {
    fn from(why: aws::Error) -> Self {
        let code = match &why {
            aws::Error::Shape(_) => Code::BadRequest,
            aws::Error::Mismatch | aws::Error::Time(_) => Code::SignatureMismatch,
            aws::Error::Scope { .. } => Code::PolicyDenied,
            aws::Error::Internal => Code::Internal,
        };
        Self::new(code, why.to_string())
    }
}

impl From<ChunkError> for Rejection {
    fn from(why: ChunkError) -> Self {
        let code = match why {
            ChunkError::Signature => Code::SignatureMismatch,
            ChunkError::TooLong => Code::BodyTooLarge,
            ChunkError::Crowded => Code::Overloaded,
            ChunkError::Shape | ChunkError::Length => Code::BadRequest,
            ChunkError::Internal => Code::Internal,
        };
        Self::new(code, why.to_string())
    }
}
