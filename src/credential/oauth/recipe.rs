//! What the document of a minted kind says, and the request that it makes.

use std::collections::BTreeMap;

use http::header::ACCEPT;
use http::{HeaderValue, Request};
use serde_json::json;
use zeroize::Zeroizing;

use super::super::form::Text;
use super::client::{Client, Form, post, post_form, refresh_document};
use super::jwt::{JwtError, SigningKey};
use crate::model::{Timestamp, TokenEndpoint};

/// What a document says: where to ask, for what, and with what.
pub struct Recipe {
    pub(super) endpoint: TokenEndpoint,
    pub(super) scopes: Vec<String>,
    pub(super) grant: Grant,
}

pub(super) enum Grant {
    ClientCredentials { client: Client, audience: Option<String> },
    RefreshToken { client: Client, refresh_token: Text },
    Assertion(Box<Assertion>),
    GithubApp(Box<GithubApp>),
}

pub(super) struct Assertion {
    pub issuer: String,
    pub subject: Option<String>,
    pub audience: String,
    pub key_id: Option<String>,
    pub pem: Text,
    pub key: SigningKey,
}

pub(super) struct GithubApp {
    pub app_id: String,
    pub permissions: BTreeMap<String, String>,
    pub repositories: Vec<String>,
    pub pem: Text,
    pub key: SigningKey,
}

/// How long an assertion holds, in seconds (GitHub takes at most 10 minutes).
const ASSERTION_SECS: i64 = 9 * 60;
/// How far the other clock may lag, in seconds.
const CLOCK_SECS: i64 = 60;
impl Recipe {
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
