//! The call that tells whether a service takes a key.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, COOKIE, HOST, USER_AGENT};
use http::{HeaderName, HeaderValue, Method, Request};
use serde::Deserialize;

use crate::model::{BaseUrl, Scheme, Slot};

/// A harmless call that only a valid key gets through.
#[derive(Debug, Clone)]
pub struct Check {
    method: Method,
    /// Where it goes, if not to the service's own address.
    elsewhere: Option<BaseUrl>,
    /// Path and query.
    path: String,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Bytes,
    scheme: String,
    user: String,
    status: u16,
    contains: Option<String>,
    refused: Vec<u16>,
    known: Option<String>,
}

/// The call as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Written {
    /// Such as `GET /v1/models`, at the service's address, or `GET https://HOST/PATH`.
    request: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    body: String,
    /// What stands before the key in the `bearer` slot.
    #[serde(default = "bearer")]
    scheme: String,
    /// The other half of Basic, where the key is one half.
    #[serde(default)]
    user: String,
    /// The status by which the service takes the key.
    #[serde(default = "ok")]
    status: u16,
    /// What such a reply holds as well.
    contains: Option<String>,
    /// The statuses by which it refuses the key.
    #[serde(default = "refused")]
    refused: Vec<u16>,
    /// What a refusal holds if the key is right all the same and only may not do this.
    known: Option<String>,
}

fn bearer() -> String {
    "Bearer".to_owned()
}

const fn ok() -> u16 {
    200
}

fn refused() -> Vec<u16> {
    vec![401, 403]
}

/// What a service's reply to the call means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The service takes the key.
    Valid,
    /// The service doesn't.
    Refused,
    /// The reply says neither.
    Unclear,
}

impl Check {
    pub(super) fn read(written: Written, slots: &[Slot]) -> Result<Self, String> {
        let Written { request, headers, body, scheme, user, status, contains, refused, known } = written;
        let (method, target) = request.split_once(' ').ok_or("write the request as GET /v1/models")?;
        let method: Method = method.parse().map_err(|_| "the request's method can't be read")?;
        let (elsewhere, path) = match target.find("://") {
            None => (None, target),
            Some(scheme) => {
                let end = target[scheme + 3..].find('/').map_or(target.len(), |slash| scheme + 3 + slash);
                let base = BaseUrl::parse(&target[..end]).map_err(|why| why.to_string())?;
                (Some(base), &target[end..])
            }
        };
        if !path.starts_with('/') || path.parse::<http::uri::PathAndQuery>().is_err() {
            return Err("the request's path begins with / and is percent-encoded where it has to be".to_owned());
        }
        if slots.is_empty() {
            return Err("there is no key to check".to_owned());
        }
        let header = |(name, value): (String, String)| -> Result<_, String> {
            let wrong = |_| format!("the header {name:?} can't be sent");
            Ok((name.parse().map_err(|_| wrong(()))?, value.parse().map_err(|_| wrong(()))?))
        };
        let headers = headers.into_iter().map(header).collect::<Result<_, _>>()?;
        let path = path.to_owned();
        let body = Bytes::from(body);
        Ok(Self { method, elsewhere, path, headers, body, scheme, user, status, contains, refused, known })
    }

    /// Where it goes, if not to the service's own address.
    pub(super) fn elsewhere(&self) -> Option<&BaseUrl> {
        self.elsewhere.as_ref()
    }

    /// Where it goes, for a service at this address.
    #[must_use]
    pub fn at<'a>(&'a self, base: &'a BaseUrl) -> &'a BaseUrl {
        self.elsewhere.as_ref().unwrap_or(base)
    }

    /// The call with a token in a slot, in absolute form as it is sent to a proxy. `None` if the call
    /// has no such slot.
    #[must_use]
    pub fn request(&self, base: &BaseUrl, slot: &Slot, token: &str) -> Option<Request<Bytes>> {
        let to = self.at(base);
        let (scheme, authority) = (to.scheme.as_str(), &to.authority);
        let default = match to.scheme {
            Scheme::Https => 443,
            Scheme::Http => 80,
        };
        let host = if authority.port == default { authority.host.to_string() } else { authority.to_string() };
        let query = match slot {
            Slot::Query(name) => format!("{}{name}={token}", if self.path.contains('?') { '&' } else { '?' }),
            _ => String::new(),
        };
        let mut request = Request::builder()
            .method(self.method.clone())
            .uri(format!("{scheme}://{host}{}{}{query}", to.path, self.path))
            .header(HOST, host)
            .header(USER_AGENT, concat!("sallyport/", env!("CARGO_PKG_VERSION")));
        if !self.headers.iter().any(|(name, _)| name == ACCEPT) {
            request = request.header(ACCEPT, "*/*");
        }
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let basic = |pair: String| format!("Basic {}", BASE64.encode(pair));
        let (name, value) = match slot {
            Slot::Bearer => (AUTHORIZATION, format!("{} {token}", self.scheme)),
            Slot::Header(name) => (name.clone(), token.to_owned()),
            Slot::BasicUser => (AUTHORIZATION, basic(format!("{token}:{}", self.user))),
            Slot::BasicPassword => (AUTHORIZATION, basic(format!("{}:{token}", self.user))),
            Slot::HeaderPart(name, template) => (name.clone(), template.with(token)?),
            Slot::BasicPart(template) => (AUTHORIZATION, basic(template.with(token)?)),
            Slot::Cookie(name) => (COOKIE, format!("{name}={token}")),
            Slot::Query(_) => return request.body(self.body.clone()).ok(),
            Slot::Path(_) | Slot::Form(_) | Slot::Json(_) | Slot::Multipart(_) | Slot::Frame(_) => return None,
            Slot::Signature | Slot::Presigned => return None,
        };
        request.header(name, value).body(self.body.clone()).ok()
    }

    /// What the reply means.
    #[must_use]
    pub fn verdict(&self, status: u16, body: &[u8]) -> Verdict {
        let holds = |text: &Option<String>, or: bool| {
            text.as_ref().map_or(or, |text| memchr::memmem::find(body, text.as_bytes()).is_some())
        };
        match status {
            _ if holds(&self.known, false) => Verdict::Valid,
            status if status == self.status && holds(&self.contains, true) => Verdict::Valid,
            status if status == self.status || self.refused.contains(&status) => Verdict::Refused,
            _ => Verdict::Unclear,
        }
    }
}
