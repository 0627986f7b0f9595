//! The documents of minted kinds, as they are stored.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::super::form::{self, FormError, Text};
use super::client::{Client, ClientAuth};
use super::jwt::{Algorithm, JwtError, SigningKey};
use super::recipe::{Assertion, GithubApp, Grant, Recipe};
use crate::model::{KeyKind, TokenEndpoint};

const GOOGLE_TOKEN_URL: &str = "https://oauth2.googleapis.com/token";
const GOOGLE_SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
const MAX_SCOPES: usize = 100;

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
}
