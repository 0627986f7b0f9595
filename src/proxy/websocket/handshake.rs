//! The opening handshake (RFC 6455 section 4; RFC 8441 over HTTP/2).

use std::rc::Rc;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::header::{
    CONNECTION, CONTENT_LENGTH, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::ext::Protocol;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::deflate::{self, Agreed};
use super::relay::{Decided, Socket};
use crate::model::TokenHash;
use crate::proxy::account::Account;
use crate::proxy::core::Core;
use crate::proxy::reject::{Code, Rejection};
use crate::proxy::relay::{self, Reply};
use crate::proxy::running::Run;
use crate::proxy::search::Search;
use crate::proxy::upgrade::{Became, WEBSOCKET};
use crate::upstream::ReplyBody;

/// What an agent asks for.
pub struct Asked {
    /// The nonce that goes to the upstream.
    key: HeaderValue,
    /// The subprotocols, as the agent wrote them.
    protocols: Vec<String>,
    /// The offers of compression, as the agent wrote them.
    offers: Vec<String>,
    /// How the agent's stream is come by, over HTTP/2.
    stream: Option<OnUpgrade>,
}

/// Whether the request asks for a WebSocket, and for nothing else.
pub fn is_asked_for<B>(request: &Request<B>) -> bool {
    match request.version() == Version::HTTP_2 {
        true => request.extensions().get::<Protocol>().is_some_and(|p| p.as_str() == WEBSOCKET),
        false => only(request.headers(), &UPGRADE).is_some_and(|value| value.eq_ignore_ascii_case(WEBSOCKET)),
    }
}

/// Reads what a request asks for that asks for a WebSocket, and makes it the GET that it stands for.
///
/// # Errors
/// It doesn't ask as RFC 6455 section 4.1 or RFC 8441 section 5 have it.
pub fn read(request: &mut Request<Incoming>) -> Result<Asked, Rejection> {
    let over_http2 = request.version() == Version::HTTP_2;
    let bad = |why: &'static str| Err(Rejection::new(Code::BadRequest, why));
    let headers = request.headers();
    if !request.body().is_end_stream() {
        return bad("a WebSocket's handshake has no body");
    }
    if !over_http2 {
        if request.version() != Version::HTTP_11 || request.method() != Method::GET {
            return bad("a WebSocket's handshake is a GET of HTTP/1.1");
        }
        if !names(headers, &CONNECTION, "upgrade") {
            return bad("a WebSocket's handshake has Connection: Upgrade");
        }
    }
    if only(headers, &SEC_WEBSOCKET_VERSION) != Some("13") {
        return bad("a WebSocket's handshake has Sec-WebSocket-Version: 13");
    }
    let key = match over_http2 {
        true => fresh_key()?,
        false => {
            let nonce = only(headers, &SEC_WEBSOCKET_KEY).and_then(|key| BASE64.decode(key).ok());
            if nonce.is_none_or(|nonce| nonce.len() != NONCE) {
                return bad("a WebSocket's handshake has 16 bytes in Sec-WebSocket-Key");
            }
            headers.get(SEC_WEBSOCKET_KEY).cloned().unwrap_or(HeaderValue::from_static(""))
        }
    };
    let protocols = list(headers, &SEC_WEBSOCKET_PROTOCOL)?.split(',').map(|name| name.trim().to_owned()).collect();
    let offers = deflate::offers(&list(headers, &SEC_WEBSOCKET_EXTENSIONS)?).into_iter().map(str::to_owned).collect();
    let stream = over_http2.then(|| hyper::upgrade::on(&mut *request));
    request.extensions_mut().remove::<Protocol>();
    request.headers_mut().remove(UPGRADE);
    *request.method_mut() = Method::GET;
    Ok(Asked { key, protocols, offers, stream })
}

/// The bytes of a nonce (RFC 6455 section 4.1).
const NONCE: usize = 16;

fn fresh_key() -> Result<HeaderValue, Rejection> {
    let mut nonce = [0; NONCE];
    let random = getrandom::fill(&mut nonce).ok().and_then(|()| HeaderValue::try_from(BASE64.encode(nonce)).ok());
    random.ok_or_else(|| Rejection::new(Code::Internal, "the system's random source failed"))
}

/// The value of a header that there is once.
pub(in crate::proxy) fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok().map(str::trim),
        _ => None,
    }
}

/// Whether a list in a header has this element, without regard to case.
pub(in crate::proxy) fn names(headers: &HeaderMap, name: &HeaderName, wanted: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|element| element.trim().eq_ignore_ascii_case(wanted))
}

/// A list that may come in several headers, as one.
fn list(headers: &HeaderMap, name: &HeaderName) -> Result<String, Rejection> {
    let values: Result<Vec<_>, _> = headers.get_all(name).iter().map(HeaderValue::to_str).collect();
    let unread = |_| Rejection::new(Code::BadRequest, format!("the {name} header isn't text"));
    values.map(|values| values.join(", ")).map_err(unread)
}

impl Asked {
    /// Makes the request, which is fit to send otherwise, the handshake with the upstream.
    pub fn ask(&self, headers: &mut HeaderMap) {
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        headers.insert(SEC_WEBSOCKET_KEY, self.key.clone());
        headers.remove(SEC_WEBSOCKET_EXTENSIONS);
        headers.remove(SEC_WEBSOCKET_ACCEPT);
        headers.remove(CONTENT_LENGTH);
        if let Ok(offers) = HeaderValue::try_from(self.offers.join(", "))
            && !self.offers.is_empty()
        {
            headers.insert(SEC_WEBSOCKET_EXTENSIONS, offers);
        }
    }

    /// Checks the upstream's acceptance (RFC 6455 section 4.1), and what it agreed to of compression.
    fn check(&self, headers: &HeaderMap) -> Result<Option<Agreed>, Rejection> {
        let wrong = |why: &'static str| Err(Rejection::new(Code::UpstreamUnreachable, why));
        if !only(headers, &UPGRADE).is_some_and(|value| value.eq_ignore_ascii_case("websocket"))
            || !names(headers, &CONNECTION, "upgrade")
        {
            return wrong("the upstream switched to another protocol than WebSocket");
        }
        let accept = [self.key.as_bytes(), GUID].concat();
        let accept = BASE64.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &accept));
        if only(headers, &SEC_WEBSOCKET_ACCEPT) != Some(&accept) {
            return wrong("the upstream's Sec-WebSocket-Accept doesn't answer the handshake's key");
        }
        let Ok(extensions) = list(headers, &SEC_WEBSOCKET_EXTENSIONS) else {
            return wrong("the upstream's Sec-WebSocket-Extensions can't be read");
        };
        if extensions.is_empty() {
            return Ok(None);
        }
        let offers: Vec<&str> = self.offers.iter().map(String::as_str).collect();
        match deflate::accepted(&extensions, &offers) {
            Some(agreed) => Ok(Some(agreed)),
            None => wrong("the upstream accepted an extension that wasn't offered"),
        }
    }

    /// Makes the subprotocol that the upstream chose the one that the agent offered: its name may have
    /// held a token there, has the key's mask now, and would be none that the agent knows.
    fn name_protocol(&self, headers: &mut HeaderMap) -> Result<(), Rejection> {
        let wrong = |why: &'static str| Rejection::new(Code::UpstreamUnreachable, why);
        if !headers.contains_key(SEC_WEBSOCKET_PROTOCOL) {
            return Ok(());
        }
        let chosen = only(headers, &SEC_WEBSOCKET_PROTOCOL)
            .ok_or_else(|| wrong("the upstream's Sec-WebSocket-Protocol can't be read"))?;
        if self.protocols.iter().any(|offered| offered == chosen) {
            return Ok(());
        }
        let masked = |offered: &&String| {
            let Some((token, _)) = TokenHash::find(offered.as_bytes()) else { return false };
            let (before, after) = (&offered[..token.start], &offered[token.end..]);
            let middle = chosen.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
            middle.is_some_and(|middle| !middle.is_empty() && middle.bytes().all(|b| b == b'*'))
        };
        let offered = self.protocols.iter().find(masked);
        let offered = offered.and_then(|offered| HeaderValue::try_from(offered.as_str()).ok());
        let offered = offered.ok_or_else(|| wrong("the upstream chose a subprotocol that wasn't offered"))?;
        headers.insert(SEC_WEBSOCKET_PROTOCOL, offered);
        Ok(())
    }
}

/// What is put behind the nonce (RFC 6455 section 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Turns the upstream's answer into the agent's. What is no acceptance is relayed like any reply.
///
/// # Errors
/// The upstream accepted something that nobody asked for, or its answer can't be searched for keys.
pub fn answer(
    core: &Rc<Core>,
    asked: Asked,
    mut response: Response<ReplyBody>,
    search: Search,
    run: Run,
    decided: Decided,
    account: Box<Account>,
) -> Result<Response<Reply>, (Rejection, Box<Account>)> {
    let switched = response.body_mut().switched();
    let Some(switched) = switched else {
        // Over HTTP/2 a success would be an acceptance.
        if asked.stream.is_some() && response.status().is_success() {
            let why = "the upstream answered a WebSocket's handshake as if it were a request";
            return Err((Rejection::new(Code::UpstreamUnreachable, why), account));
        }
        return relay::relay(response, search, Some(run), account);
    };
    let agreed = match asked.check(response.headers()) {
        Ok(agreed) => agreed,
        Err(rejection) => return Err((rejection, account)),
    };
    let (mut search, mut account) = (search, account);
    let (mut parts, _) = response.into_parts();
    parts.version = Version::HTTP_11;
    let patterns = match search.patterns() {
        Ok(patterns) => patterns,
        Err(rejection) => return Err((rejection, account)),
    };
    if let Err(rejection) = relay::fit_head(&mut parts, &search, patterns.as_deref(), &mut account) {
        return Err((rejection, account));
    }
    parts.headers.remove(CONTENT_LENGTH);
    if let Err(rejection) = asked.name_protocol(&mut parts.headers) {
        return Err((rejection, account));
    }
    if asked.stream.is_some() {
        (parts.status, account.status) = (StatusCode::OK, StatusCode::OK.as_u16());
    }
    let socket = Socket::new(core, switched, agreed, search, patterns, run, decided, account);
    match asked.stream {
        None => {
            parts.headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
            parts.headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
            Ok(Response::from_parts(parts, Reply::Switched(Some(Became::WebSocket(Box::new(socket))))))
        }
        Some(stream) => {
            parts.headers.remove(SEC_WEBSOCKET_ACCEPT);
            tokio::task::spawn_local(async move {
                if let Ok(stream) = stream.await {
                    socket.relay(TokioIo::new(stream), bytes::Bytes::new()).await;
                }
            });
            Ok(Response::from_parts(parts, Reply::Own(None)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(offers: &[&str], protocols: &[&str]) -> Asked {
        let owned = |all: &[&str]| all.iter().map(|one| (*one).to_owned()).collect();
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        Asked { key, protocols: owned(protocols), offers: owned(offers), stream: None }
    }

    fn accepting(more: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let usual = [
            ("upgrade", "websocket"),
            ("connection", "Upgrade"),
            ("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        ];
        for (name, value) in usual.iter().chain(more) {
            headers.insert(*name, HeaderValue::from_static(value));
        }
        headers
    }

    /// RFC 6455 section 1.3.
    #[test]
    fn only_an_answer_to_the_handshakes_key_is_an_acceptance() {
        for (more, offers, good) in [
            (&[][..], &[][..], true),
            (&[("upgrade", "WebSocket"), ("connection", "keep-alive, upgrade")], &[], true),
            (&[("sec-websocket-accept", "HSmrc0sMlYUkAGmm5OPpG2HaGWk=")], &[], false),
            (&[("upgrade", "h2c")], &[], false),
            (&[("connection", "keep-alive")], &[], false),
            (&[("sec-websocket-extensions", "permessage-deflate")], &[], false),
            (&[("sec-websocket-extensions", "permessage-deflate")], &["permessage-deflate"], true),
            (&[("sec-websocket-extensions", "x-other")], &["permessage-deflate"], false),
        ] {
            assert_eq!(asked(offers, &[]).check(&accepting(more)).is_ok(), good, "{more:?}");
        }
    }

    #[test]
    fn chosen_subprotocol_is_one_that_the_agent_offered() {
        let token = crate::model::ProxyToken::generate(Default::default(), &Default::default()).expect("random");
        let with_token = format!("openai-insecure-api-key.{}", token.expose());
        let asked = asked(&[], &["realtime", &with_token]);
        for (chosen, named) in [
            ("realtime", Some("realtime")),
            ("openai-insecure-api-key.*************", Some(with_token.as_str())),
            ("openai-insecure-api-key.", None),
            ("other", None),
            ("", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(chosen));
            let named_so =
                asked.name_protocol(&mut headers).ok().and_then(|()| only(&headers, &SEC_WEBSOCKET_PROTOCOL));
            assert_eq!(named_so, named, "{chosen}");
        }
    }
}
