//! The documents of minted kinds, and the request that each makes of its document.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use http::{HeaderValue, Method, Request};
use serde::{Deserialize, Serialize};
use serde_json::json;
use zeroize::Zeroizing;

use super::super::form::{self, FormError, Text};
use super::jwt::{Algorithm, JwtError, SigningKey};
use crate::model::{KeyKind, Timestamp, TokenEndpoint};

/// What a document says: where to ask, for what, and with what.
pub struct Recipe {
    endpoint: TokenEndpoint,
    scopes: Vec<String>,
    grant: Grant,
}

enum Grant {
    ClientCredentials { client: Client, audience: Option<String> },
    RefreshToken { client: Client, refresh_token: Text },
    Assertion(Box<Assertion>),
    GithubApp(Box<GithubApp>),
}

/// How a client shows its secret (RFC 6749 section 2.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
enum ClientAuth {
    /// `client_secret_basic`
    #[default]
    Basic,
    /// `client_secret_post`
    Post,
}

/// Who asks: an identifier, and its secret unless the client is public.
pub(super) struct Client {
    id: String,
    secret: Option<Text>,
    auth: ClientAuth,
}

struct Assertion {
    issuer: String,
    subject: Option<String>,
    audience: String,
    key_id: Option<String>,
    pem: Text,
    key: SigningKey,
}

struct GithubApp {
    app_id: String,
    permissions: BTreeMap<String, String>,
    repositories: Vec<String>,
    pem: Text,
    key: SigningKey,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClientCredentialsForm {
    token_url: String,
    client_id: String,
    client_secret: Text,
    #[serde(default)]
    auth: ClientAuth,
    #[serde(default)]
    scopes: Vec<String>,
    audience: Option<String>,
}

/// Also what gcloud writes for a user (`application_default_credentials.json`).
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RefreshTokenForm {
    token_url: Option<String>,
    client_id: String,
    client_secret: Option<Text>,
    refresh_token: Text,
    #[serde(default)]
    auth: ClientAuth,
    #[serde(default)]
    scopes: Vec<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(default, rename = "account")]
    _account: serde::de::IgnoredAny,
    #[serde(default, rename = "quota_project_id")]
    _quota_project_id: serde::de::IgnoredAny,
    #[serde(default, rename = "universe_domain")]
    _universe_domain: serde::de::IgnoredAny,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JwtBearerForm {
    token_url: String,
    issuer: String,
    subject: Option<String>,
    audience: Option<String>,
    key_id: Option<String>,
    algorithm: Option<Algorithm>,
    private_key: Text,
    #[serde(default)]
    scopes: Vec<String>,
}

/// The file as Google issues it, and what it doesn't say: scopes, and for whom.
#[derive(Deserialize)]
struct ServiceAccountForm {
    #[serde(rename = "type")]
    kind: String,
    client_email: String,
    private_key_id: Option<String>,
    private_key: Text,
    token_uri: String,
    #[serde(default)]
    scopes: Vec<String>,
    subject: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GithubAppForm {
    app_id: Id,
    installation_id: u64,
    private_key: Text,
    api_url: Option<String>,
    #[serde(default)]
    permissions: BTreeMap<String, String>,
    #[serde(default)]
    repositories: Vec<String>,
}

/// A number or a text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Id {
    Number(u64),
    Text(String),
}

/// How long an assertion holds, in seconds (GitHub takes at most 10 minutes).
const ASSERTION_SECS: i64 = 9 * 60;
/// How far the other clock may lag, in seconds.
const CLOCK_SECS: i64 = 60;
const GOOGLE_TOKEN_URL: &str = "https://oauth2.googleapis.com/token";
const GOOGLE_SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
const MAX_SCOPES: usize = 100;

/// What stands in the form of each kind, for errors.
const fn form_of(kind: KeyKind) -> &'static str {
    match kind {
        KeyKind::ClientCredentials => {
            r#"{"token_url": "https://...", "client_id": "...", "client_secret": "...", "auth": "basic" or "post", "scopes": [...], "audience": "..."}; the last three may be left out"#
        }
        KeyKind::RefreshToken => {
            r#"{"token_url": "https://...", "client_id": "...", "client_secret": "...", "refresh_token": "...", "auth": "basic" or "post", "scopes": [...]}, or the file that gcloud writes"#
        }
        KeyKind::JwtBearer => {
            r#"{"token_url": "https://...", "issuer": "...", "private_key": "-----BEGIN ...", "subject": "...", "audience": "...", "key_id": "...", "algorithm": "RS256" or "ES256", "scopes": [...]}"#
        }
        KeyKind::ServiceAccount => {
            r#"the JSON key file as Google issues it; "scopes": [...] and "subject" may be added"#
        }
        KeyKind::GithubApp => {
            r#"{"app_id": 1, "installation_id": 2, "private_key": "-----BEGIN RSA PRIVATE KEY-----...", "permissions": {...}, "repositories": [...], "api_url": "https://api.github.com"}"#
        }
        _ => "",
    }
}

fn field(part: &'static str, why: &'static str) -> FormError {
    FormError::Field { part, why }
}

fn endpoint(part: &'static str, text: &str) -> Result<TokenEndpoint, FormError> {
    text.parse().map_err(|_| {
        field(part, "is no URL such as https://login.example.com/oauth2/token; http is for loopback addresses only")
    })
}

fn signing_key(pem: &Text) -> Result<SigningKey, FormError> {
    SigningKey::from_pem(pem.expose()).map_err(|why| {
        let why = match why {
            JwtError::Pem => "is no private key in PEM, which begins with -----BEGIN PRIVATE KEY-----",
            JwtError::Kind | JwtError::Sign => "is neither an RSA key of at least 2048 bits nor a P-256 key",
        };
        field("private_key", why)
    })
}

/// A scope as RFC 6749 section 3.3 has it.
fn is_scope(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| matches!(b, 0x21 | 0x23..=0x5b | 0x5d..=0x7e))
}

fn client(id: String, secret: Option<Text>, auth: ClientAuth) -> Result<Client, FormError> {
    form::check_text("client_id", &id)?;
    if let Some(secret) = &secret {
        form::check_secret("client_secret", secret.expose())?;
    }
    Ok(Client { id, secret, auth })
}

impl Recipe {
    /// Reads the document of a minted kind.
    ///
    /// # Errors
    /// It isn't in the kind's form. The error holds nothing of it.
    pub fn read(kind: KeyKind, text: &[u8]) -> Result<Self, FormError> {
        let form = form_of(kind);
        let recipe = match kind {
            KeyKind::ClientCredentials => Self::client_credentials(form::parse(kind, form, text)?)?,
            KeyKind::RefreshToken => Self::refresh_token(form::parse(kind, form, text)?)?,
            KeyKind::JwtBearer => Self::jwt_bearer(form::parse(kind, form, text)?)?,
            KeyKind::ServiceAccount => Self::service_account(form::parse(kind, form, text)?)?,
            KeyKind::GithubApp => Self::github_app(form::parse(kind, form, text)?)?,
            _ => return Err(field("kind", "mints nothing")),
        };
        if recipe.scopes.len() > MAX_SCOPES || !recipe.scopes.iter().all(|scope| is_scope(scope)) {
            return Err(field("scopes", "holds what is no scope, or more than 100 of them"));
        }
        Ok(recipe)
    }

    fn client_credentials(form: ClientCredentialsForm) -> Result<Self, FormError> {
        let client = client(form.client_id, Some(form.client_secret), form.auth)?;
        let grant = Grant::ClientCredentials { client, audience: form.audience };
        Ok(Self { endpoint: endpoint("token_url", &form.token_url)?, scopes: form.scopes, grant })
    }

    fn refresh_token(form: RefreshTokenForm) -> Result<Self, FormError> {
        let url = match (form.token_url.as_deref(), form.kind.as_deref()) {
            (Some(url), None) => url,
            (None, Some("authorized_user")) => GOOGLE_TOKEN_URL,
            _ => return Err(field("token_url", "is missing")),
        };
        let client = client(form.client_id, form.client_secret, form.auth)?;
        form::check_secret("refresh_token", form.refresh_token.expose())?;
        let grant = Grant::RefreshToken { client, refresh_token: form.refresh_token };
        Ok(Self { endpoint: endpoint("token_url", url)?, scopes: form.scopes, grant })
    }

    fn jwt_bearer(form: JwtBearerForm) -> Result<Self, FormError> {
        let key = signing_key(&form.private_key)?;
        if form.algorithm.is_some_and(|wanted| wanted != key.algorithm()) {
            return Err(field("algorithm", "isn't the one that goes with private_key"));
        }
        let endpoint = endpoint("token_url", &form.token_url)?;
        let assertion = Assertion {
            issuer: form.issuer,
            subject: form.subject,
            audience: form.audience.unwrap_or_else(|| endpoint.to_string()),
            key_id: form.key_id,
            pem: form.private_key,
            key,
        };
        Ok(Self { endpoint, scopes: form.scopes, grant: Grant::Assertion(Box::new(assertion)) })
    }

    fn service_account(form: ServiceAccountForm) -> Result<Self, FormError> {
        if form.kind != "service_account" {
            return Err(field("type", "isn't service_account"));
        }
        let key = signing_key(&form.private_key)?;
        let scopes = if form.scopes.is_empty() { vec![GOOGLE_SCOPE.to_owned()] } else { form.scopes };
        let endpoint = endpoint("token_uri", &form.token_uri)?;
        let assertion = Assertion {
            issuer: form.client_email,
            subject: form.subject,
            // Google compares this text with its own.
            audience: form.token_uri,
            key_id: form.private_key_id,
            pem: form.private_key,
            key,
        };
        Ok(Self { endpoint, scopes, grant: Grant::Assertion(Box::new(assertion)) })
    }

    fn github_app(form: GithubAppForm) -> Result<Self, FormError> {
        let base = form.api_url.as_deref().unwrap_or("https://api.github.com").trim_end_matches('/');
        let url = format!("{base}/app/installations/{}/access_tokens", form.installation_id);
        let app_id = match form.app_id {
            Id::Number(number) => number.to_string(),
            Id::Text(text) => text,
        };
        let key = signing_key(&form.private_key)?;
        let app = GithubApp {
            app_id,
            permissions: form.permissions,
            repositories: form.repositories,
            pem: form.private_key,
            key,
        };
        Ok(Self { endpoint: endpoint("api_url", &url)?, scopes: Vec::new(), grant: Grant::GithubApp(Box::new(app)) })
    }

    /// Where access tokens are asked for.
    #[must_use]
    pub fn endpoint(&self) -> &TokenEndpoint {
        &self.endpoint
    }

    /// What is asked for; empty leaves it to the endpoint.
    #[must_use]
    pub fn scopes(&self) -> &[String] {
        &self.scopes
    }

    /// What a GitHub App's token may do; empty is whatever its installation may.
    #[must_use]
    pub fn permissions(&self) -> Option<&BTreeMap<String, String>> {
        match &self.grant {
            Grant::GithubApp(app) => Some(&app.permissions),
            _ => None,
        }
    }

    /// Shows what must not come back in a reply.
    pub(in super::super) fn secret_parts(&self, show: &mut dyn FnMut(&[u8])) {
        let mut part = |text: &Text| show(text.expose().as_bytes());
        match &self.grant {
            Grant::ClientCredentials { client, .. } => client.secret.iter().for_each(&mut part),
            Grant::RefreshToken { client, refresh_token } => {
                client.secret.iter().for_each(&mut part);
                part(refresh_token);
            }
            Grant::Assertion(assertion) => part(&assertion.pem),
            Grant::GithubApp(app) => part(&app.pem),
        }
    }

    /// The request that asks for an access token. `unique` makes an assertion one of its kind.
    ///
    /// # Errors
    /// The assertion can't be signed, or a part can't stand in a header.
    pub fn request(&self, now: Timestamp, unique: &str) -> Result<Request<Zeroizing<Vec<u8>>>, JwtError> {
        let secs = now.millis() / 1000;
        let mut form = Form::default();
        let mut authorization = None;
        match &self.grant {
            Grant::ClientCredentials { client, audience } => {
                form.put("grant_type", "client_credentials");
                if let Some(audience) = audience {
                    form.put("audience", audience);
                }
                authorization = client.authenticate(&mut form);
            }
            Grant::RefreshToken { client, refresh_token } => {
                form.put("grant_type", "refresh_token");
                form.put("refresh_token", refresh_token.expose());
                authorization = client.authenticate(&mut form);
            }
            Grant::Assertion(assertion) => {
                form.put("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer");
                let mut claims = json!({
                    "iss": assertion.issuer,
                    "aud": assertion.audience,
                    "iat": secs,
                    "exp": secs + ASSERTION_SECS,
                    "jti": unique,
                });
                if let Some(subject) = &assertion.subject {
                    claims["sub"] = subject.as_str().into();
                }
                if !self.scopes.is_empty() {
                    claims["scope"] = self.scopes.join(" ").into();
                }
                form.put("assertion", &assertion.key.sign(assertion.key_id.as_deref(), &claims)?);
            }
            Grant::GithubApp(app) => return self.of_github(app, secs),
        }
        if !self.scopes.is_empty() && !matches!(self.grant, Grant::Assertion(_)) {
            form.put("scope", &self.scopes.join(" "));
        }
        post_form(&self.endpoint, form, authorization)
    }

    /// "Create an installation access token for an app" of GitHub's REST API, version 2022-11-28.
    fn of_github(&self, app: &GithubApp, secs: i64) -> Result<Request<Zeroizing<Vec<u8>>>, JwtError> {
        // GitHub asks for an `iat` a minute in the past.
        let claims = json!({ "iat": secs - CLOCK_SECS, "exp": secs + ASSERTION_SECS, "iss": app.app_id });
        let assertion = app.key.sign(None, &claims)?;
        let mut body = json!({});
        if !app.permissions.is_empty() {
            body["permissions"] = json!(app.permissions);
        }
        if !app.repositories.is_empty() {
            body["repositories"] = json!(app.repositories);
        }
        let authorization = Zeroizing::new(format!("Bearer {}", &*assertion));
        let body = Zeroizing::new(body.to_string().into_bytes());
        let mut request =
            post(&self.endpoint, body, HeaderValue::from_static("application/json"), Some(authorization))?;
        request.headers_mut().insert("x-github-api-version", HeaderValue::from_static("2022-11-28"));
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static("application/vnd.github+json"));
        Ok(request)
    }

    /// The same document with the refresh token that came in place of the old one; `None` if this isn't
    /// a key with a refresh token.
    #[must_use]
    pub fn with_refresh_token(&self, fresh: &str) -> Option<Zeroizing<Vec<u8>>> {
        match &self.grant {
            Grant::RefreshToken { client, .. } => refresh_document(&self.endpoint, client, fresh, &self.scopes),
            _ => None,
        }
    }
}

/// A form for a token endpoint.
pub(super) fn post_form(
    endpoint: &TokenEndpoint,
    form: Form,
    authorization: Option<Zeroizing<String>>,
) -> Result<Request<Zeroizing<Vec<u8>>>, JwtError> {
    post(endpoint, form.0, HeaderValue::from_static("application/x-www-form-urlencoded"), authorization)
}

fn post(
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
