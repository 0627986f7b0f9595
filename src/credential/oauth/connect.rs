//! What `keys connect` says to a service and hears from it: authorization code with PKCE (RFC 6749
//! section 4.1, RFC 7636, for native apps RFC 8252), and the device flow (RFC 8628). No I/O.

use std::collections::BTreeMap;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use http::Request;
use serde::Deserialize;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::client::{Client, Form, post_form, refresh_document};
use super::issued::decoded;
use super::jwt::JwtError;
use crate::credential::form::Text;
use crate::model::TokenEndpoint;

/// A client that a service knows, and where that service gives tokens.
pub struct Registered {
    /// Where tokens are given.
    pub token: TokenEndpoint,
    client: Client,
    scopes: Vec<String>,
    spaced_by: String,
}

/// One try to have a person say yes.
pub struct Try {
    state: Zeroizing<String>,
    verifier: Zeroizing<String>,
    redirect: String,
}

/// What came to the address that the browser was sent back to.
pub enum Callback {
    /// The person said yes.
    Code(Zeroizing<String>),
    /// The person or the service said no; the code of it if it is a known one.
    Refused(&'static str),
    /// It isn't the answer to this try: another path, another state, another issuer.
    NotOurs(&'static str),
}

/// What a device shows its user (RFC 8628 section 3.2).
#[derive(Debug, Deserialize)]
pub struct DeviceCodes {
    device_code: Text,
    /// What the user types in.
    pub user_code: String,
    /// Where.
    #[serde(alias = "verification_url")]
    pub verification_uri: String,
    /// For how long, in seconds.
    pub expires_in: u64,
    /// How long to wait between two questions, in seconds.
    #[serde(default = "five")]
    pub interval: u64,
}

const fn five() -> u64 {
    5
}

/// The path that the browser is sent back to.
pub const CALLBACK: &str = "/callback";

impl Registered {
    /// The client with this identifier. A secret is shown in the body (`client_secret_post`), which every
    /// service takes.
    #[must_use]
    pub fn new(
        token: TokenEndpoint,
        id: String,
        secret: Option<Zeroizing<String>>,
        scopes: Vec<String>,
        spaced_by: String,
    ) -> Self {
        Self { token, client: Client::posting(id, secret.map(Text::new)), scopes, spaced_by }
    }

    fn scope(&self) -> String {
        self.scopes.join(&self.spaced_by)
    }

    /// The address to open in a browser.
    #[must_use]
    pub fn address(&self, authorize: &TokenEndpoint, tried: &Try, extra: &BTreeMap<String, String>) -> String {
        let mut form = Form::default();
        form.put("response_type", "code");
        form.put("client_id", self.client.id());
        form.put("redirect_uri", &tried.redirect);
        if !self.scopes.is_empty() {
            form.put("scope", &self.scope());
        }
        form.put("state", &tried.state);
        form.put("code_challenge", &tried.challenge());
        form.put("code_challenge_method", "S256");
        for (name, value) in extra {
            form.put(name, value);
        }
        let mark = if authorize.path.query().is_some() { '&' } else { '?' };
        format!("{authorize}{mark}{}", String::from_utf8_lossy(&form.0))
    }

    /// Gives the code in for tokens (RFC 6749 section 4.1.3).
    ///
    /// # Errors
    /// It can't be made.
    pub fn redeem(&self, tried: &Try, code: &str) -> Result<Request<Zeroizing<Vec<u8>>>, JwtError> {
        let mut form = Form::default();
        form.put("grant_type", "authorization_code");
        form.put("code", code);
        form.put("redirect_uri", &tried.redirect);
        form.put("code_verifier", &tried.verifier);
        let authorization = self.client.authenticate(&mut form);
        post_form(&self.token, form, authorization)
    }

    /// Asks for a device's codes (RFC 8628 section 3.1).
    ///
    /// # Errors
    /// It can't be made.
    pub fn device(&self, device: &TokenEndpoint) -> Result<Request<Zeroizing<Vec<u8>>>, JwtError> {
        let mut form = Form::default();
        form.put("client_id", self.client.id());
        if !self.scopes.is_empty() {
            form.put("scope", &self.scope());
        }
        post_form(device, form, None)
    }

    /// Asks whether the user has said yes (RFC 8628 section 3.4).
    ///
    /// # Errors
    /// It can't be made.
    pub fn poll(&self, codes: &DeviceCodes) -> Result<Request<Zeroizing<Vec<u8>>>, JwtError> {
        let mut form = Form::default();
        form.put("grant_type", "urn:ietf:params:oauth:grant-type:device_code");
        form.put("device_code", codes.device_code.expose());
        let authorization = self.client.authenticate(&mut form);
        post_form(&self.token, form, authorization)
    }

    /// The document of a key with this refresh token.
    #[must_use]
    pub fn document(&self, refresh_token: &str) -> Option<Zeroizing<Vec<u8>>> {
        refresh_document(&self.token, &self.client, refresh_token, &[])
    }
}

/// Random text of 43 characters: 256 bits.
fn random() -> Result<Zeroizing<String>, getrandom::Error> {
    let mut bytes = Zeroizing::new([0u8; 32]);
    getrandom::fill(&mut *bytes)?;
    Ok(Zeroizing::new(BASE64URL.encode(*bytes)))
}

impl Try {
    /// A fresh one, whose browser is sent back to this port of the loopback address (RFC 8252 section
    /// 7.3).
    ///
    /// # Errors
    /// The random source failed.
    pub fn new(port: u16) -> Result<Self, getrandom::Error> {
        let redirect = format!("http://127.0.0.1:{port}{CALLBACK}");
        Ok(Self { state: random()?, verifier: random()?, redirect })
    }

    /// RFC 7636 section 4.2.
    fn challenge(&self) -> String {
        BASE64URL.encode(digest(&SHA256, self.verifier.as_bytes()))
    }

    /// Reads the request target that a browser came with. What isn't for this try is told apart from
    /// what was refused, since anybody on this machine can send it.
    #[must_use]
    pub fn came(&self, target: &str, issuer: Option<&str>) -> Callback {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        if path != CALLBACK {
            return Callback::NotOurs("there is nothing at this path");
        }
        let value = |wanted: &str| {
            let mut found = query.split('&').filter_map(|field| {
                let (name, value) = field.split_once('=')?;
                (name == wanted).then(|| decoded(value.as_bytes()))?
            });
            match (found.next(), found.next()) {
                (Some(one), None) => Some(one),
                _ => None,
            }
        };
        let state = value("state").unwrap_or_default();
        if !bool::from(state.as_bytes().ct_eq(self.state.as_bytes())) {
            return Callback::NotOurs("the state isn't the one that was sent");
        }
        if let (Some(is), Some(wanted)) = (value("iss"), issuer)
            && *is != wanted
        {
            return Callback::NotOurs("the answer comes from another issuer");
        }
        match (value("code"), value("error")) {
            (Some(code), None) if !code.is_empty() => Callback::Code(code),
            (_, Some(error)) => Callback::Refused(super::reply::known(&error).unwrap_or("an error of its own")),
            _ => Callback::NotOurs("it holds neither a code nor an error"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenge_is_that_of_rfc_7636() {
        let verifier = Zeroizing::new("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk".to_owned());
        let tried = Try { state: Zeroizing::default(), verifier, redirect: String::new() };
        assert_eq!(tried.challenge(), "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
    }

    #[test]
    fn only_the_answer_to_this_try_is_taken() {
        let tried = Try::new(1).expect("random");
        let state = &*tried.state;
        let issuer = Some("https://issuer.test");
        for (target, taken) in [
            (format!("/callback?code=a%20b&state={state}"), Some(Ok("a b"))),
            (format!("/callback?code=x&state={state}&iss=https%3A%2F%2Fissuer.test"), Some(Ok("x"))),
            (format!("/callback?error=access_denied&state={state}"), Some(Err("access_denied"))),
            (format!("/callback?error=<script>&state={state}"), Some(Err("an error of its own"))),
            ("/callback?code=x&state=wrong".to_owned(), None),
            ("/callback?code=x".to_owned(), None),
            (format!("/callback?code=x&state={state}&state={state}"), None),
            (format!("/callback?code=x&state={state}&iss=https%3A%2F%2Fother.test"), None),
            (format!("/callback?code=&state={state}"), None),
            (format!("/other?code=x&state={state}"), None),
        ] {
            let got = match tried.came(&target, issuer) {
                Callback::Code(code) => Some(Ok(code.to_string())),
                Callback::Refused(code) => Some(Err(code)),
                Callback::NotOurs(_) => None,
            };
            assert_eq!(got, taken.map(|taken| taken.map(str::to_owned)), "{target}");
        }
    }
}
