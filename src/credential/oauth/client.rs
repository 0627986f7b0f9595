//! Who asks a token endpoint, and the request that carries it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use http::{HeaderValue, Method, Request};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::super::form::Text;
use super::jwt::JwtError;
use crate::model::TokenEndpoint;

/// How a client shows its secret (RFC 6749 section 2.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum ClientAuth {
    /// `client_secret_basic`
    #[default]
    Basic,
    /// `client_secret_post`
    Post,
}

/// Who asks: an identifier, and its secret unless the client is public.
pub(super) struct Client {
    pub id: String,
    pub secret: Option<Text>,
    pub auth: ClientAuth,
}

/// A form for a token endpoint.
pub(super) fn post_form(
    endpoint: &TokenEndpoint,
    form: Form,
    authorization: Option<Zeroizing<String>>,
) -> Result<Request<Zeroizing<Vec<u8>>>, JwtError> {
    post(endpoint, form.0, HeaderValue::from_static("application/x-www-form-urlencoded"), authorization)
}

pub(super) fn post(
    endpoint: &TokenEndpoint,
    body: Zeroizing<Vec<u8>>,
    kind: HeaderValue,
    authorization: Option<Zeroizing<String>>,
) -> Result<Request<Zeroizing<Vec<u8>>>, JwtError> {
    let mut request = Request::new(body);
    *request.method_mut() = Method::POST;
    *request.uri_mut() = endpoint.path.clone().into();
    let headers = request.headers_mut();
    headers.insert(CONTENT_TYPE, kind);
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("sallyport/", env!("CARGO_PKG_VERSION"))));
    if let Some(text) = authorization {
        let bytes = crate::credential::wiped(Zeroizing::new(text.as_bytes().to_vec()));
        let mut value = HeaderValue::from_maybe_shared(bytes).map_err(|_| JwtError::Sign)?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    Ok(request)
}

/// The document of a key with this refresh token.
pub(super) fn refresh_document(
    endpoint: &TokenEndpoint,
    client: &Client,
    refresh_token: &str,
    scopes: &[String],
) -> Option<Zeroizing<Vec<u8>>> {
    #[derive(Serialize)]
    struct Document<'a> {
        token_url: String,
        client_id: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        client_secret: Option<&'a str>,
        refresh_token: &'a str,
        auth: ClientAuth,
        scopes: &'a [String],
    }
    let client_secret = client.secret.as_ref().map(Text::expose);
    // Long enough from the beginning, so that growing leaves no copy behind: escaped, a byte becomes at
    // most six.
    let long = refresh_token.len() + client_secret.map_or(0, str::len) + client.id.len();
    let named: usize = scopes.iter().map(|scope| scope.len() + 1).sum();
    let mut out = Zeroizing::new(Vec::with_capacity((long + named) * 6 + 4096));
    let document = Document {
        token_url: endpoint.to_string(),
        client_id: &client.id,
        client_secret,
        refresh_token,
        auth: client.auth,
        scopes,
    };
    serde_json::to_writer(&mut *out, &document).ok()?;
    Some(out)
}

impl Client {
    pub fn posting(id: String, secret: Option<Text>) -> Self {
        Self { id, secret, auth: ClientAuth::Post }
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    /// Shows the client's secret in one of the two ways; a public client says its name only.
    pub fn authenticate(&self, form: &mut Form) -> Option<Zeroizing<String>> {
        match (&self.secret, self.auth) {
            (Some(secret), ClientAuth::Basic) => {
                // Both parts are form-encoded first (RFC 6749 section 2.3.1).
                let mut pair = Form(Zeroizing::new(Vec::with_capacity(256)));
                pair.encode(&self.id);
                pair.0.push(b':');
                pair.encode(secret.expose());
                let encoded = Zeroizing::new(BASE64.encode(&*pair.0));
                Some(Zeroizing::new(format!("Basic {}", &*encoded)))
            }
            (Some(secret), ClientAuth::Post) => {
                form.put("client_id", &self.id);
                form.put("client_secret", secret.expose());
                None
            }
            (None, _) => {
                form.put("client_id", &self.id);
                None
            }
        }
    }
}

/// `application/x-www-form-urlencoded` (WHATWG URL, section 5).
pub struct Form(pub Zeroizing<Vec<u8>>);

impl Default for Form {
    fn default() -> Self {
        Self(Zeroizing::new(Vec::with_capacity(8192)))
    }
}

impl Form {
    /// Adds a field.
    pub fn put(&mut self, name: &str, value: &str) {
        if !self.0.is_empty() {
            self.0.push(b'&');
        }
        self.encode(name);
        self.0.push(b'=');
        self.encode(value);
    }

    fn encode(&mut self, text: &str) {
        const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
        for byte in text.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'*' => self.0.push(byte),
                b' ' => self.0.push(b'+'),
                _ => {
                    let digits = [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]];
                    self.0.extend_from_slice(&[b'%', digits[0], digits[1]]);
                }
            }
        }
    }
}
