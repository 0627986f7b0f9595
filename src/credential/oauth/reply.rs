//! What a token endpoint answered, judged (RFC 6749 section 5).

use std::time::Duration;

use http::StatusCode;
use serde::Deserialize;

use super::super::form::Text;
use super::{Failure, FailureKind, Settings};
use crate::model::{KeyKind, Timestamp, TokenEndpoint};
use crate::vault::MIN_SECRET;

/// An access token and what came with it.
#[derive(Debug)]
pub struct Granted {
    /// The access token.
    pub access_token: Text,
    /// How long it counts as good.
    pub lifetime: Duration,
    /// How long it holds, if the endpoint said.
    pub holds: Option<Duration>,
    /// The refresh token that takes the place of the one that was used.
    pub refresh_token: Option<Text>,
    /// What it is good for, if the endpoint said.
    pub scope: Option<String>,
}

/// The longest access or refresh token, in bytes.
const MAX_TOKEN: usize = 32 * 1024;

#[derive(Deserialize)]
struct Answer {
    access_token: Option<Text>,
    /// GitHub's word for an installation's access token.
    token: Option<Text>,
    token_type: Option<String>,
    expires_in: Option<Number>,
    /// GitHub's: RFC 3339.
    expires_at: Option<String>,
    refresh_token: Option<Text>,
    scope: Option<String>,
    error: Option<String>,
}

/// Some endpoints write numbers as texts.
#[derive(Deserialize)]
#[serde(untagged)]
enum Number {
    Number(f64),
    Text(String),
}

impl Number {
    fn seconds(&self) -> Option<f64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Text(text) => text.trim().parse().ok(),
        }
    }
}

/// The error codes that are repeated; whatever else an endpoint writes may hold anything.
const CODES: &[&str] = &[
    // RFC 6749 section 5.2, and section 4.1.2.1.
    "invalid_request",
    "invalid_client",
    "invalid_grant",
    "unauthorized_client",
    "unsupported_grant_type",
    "invalid_scope",
    "access_denied",
    "server_error",
    "temporarily_unavailable",
    // RFC 8628 section 3.5.
    "authorization_pending",
    "slow_down",
    "expired_token",
    // GitHub's and Slack's own.
    "bad_refresh_token",
    "bad_verification_code",
    "incorrect_client_credentials",
    "incorrect_device_code",
    "device_flow_disabled",
    "invalid_refresh_token",
    "bad_client_secret",
];

/// The code of an error answer, if it is one of those that are known.
#[must_use]
pub fn error_code(body: &[u8]) -> Option<&'static str> {
    let answer: Answer = serde_json::from_slice(body).ok()?;
    known(answer.error.as_deref()?)
}

/// The code, if it is one of those that are repeated.
#[must_use]
pub fn known(code: &str) -> Option<&'static str> {
    CODES.iter().find(|known| **known == code).copied()
}

/// Reads the answer of a token endpoint.
///
/// # Errors
/// It is a refusal, or can't be used. The words hold nothing of it but a status and a known code.
pub fn read(
    endpoint: &TokenEndpoint,
    status: StatusCode,
    body: &[u8],
    settings: &Settings,
    now: Timestamp,
) -> Result<Granted, Failure> {
    let at = &endpoint.authority;
    let broken = |why: &str| Failure::new(FailureKind::Unavailable, format!("the token endpoint at {at} {why}"));
    if status.is_redirection() {
        return Err(broken("answered with a redirect, which isn't followed"));
    }
    if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS || status == StatusCode::REQUEST_TIMEOUT {
        return Err(broken(&format!("answered {}", status.as_u16())));
    }
    let answer: Option<Answer> = serde_json::from_slice(body).ok();
    if let Some(code) = answer.as_ref().and_then(|a| a.error.as_deref()) {
        let code = known(code).unwrap_or("an error of its own");
        if code == "server_error" || code == "temporarily_unavailable" {
            return Err(broken(&format!("answered {code}")));
        }
        let detail = format!("the token endpoint at {at} refused what the key holds: {code}");
        return Err(Failure::new(FailureKind::Refused, detail));
    }
    if !status.is_success() {
        let detail = format!("the token endpoint at {at} refused what the key holds: it answered {}", status.as_u16());
        return Err(Failure::new(FailureKind::Refused, detail));
    }
    let answer = answer.ok_or_else(|| broken("gave an answer that is no JSON of a token"))?;
    granted(answer, settings, now).map_err(broken)
}

fn granted(answer: Answer, settings: &Settings, now: Timestamp) -> Result<Granted, &'static str> {
    let (access_token, of_github) = match (answer.access_token, answer.token) {
        (Some(token), _) => (token, false),
        (None, Some(token)) => (token, true),
        (None, None) => return Err("gave no access token"),
    };
    check(&access_token)?;
    // Slack calls its bearer tokens by what they act for.
    let bearer = |kind: &str| ["bearer", "bot", "user"].iter().any(|known| kind.eq_ignore_ascii_case(known));
    match answer.token_type.as_deref() {
        Some(kind) if bearer(kind) => {}
        None if of_github => {}
        _ => return Err("gave a token of another type than Bearer"),
    }
    if let Some(fresh) = &answer.refresh_token {
        check(fresh)?;
    }
    let holds = match (&answer.expires_in, &answer.expires_at) {
        (Some(number), _) => Some(seconds(number.seconds().ok_or(NO_LIFETIME)?)?),
        (None, Some(at)) => {
            let at: jiff::Timestamp = at.parse().map_err(|_| NO_LIFETIME)?;
            let left = Timestamp(at.as_millisecond()).since(now);
            Some(seconds(left.as_secs_f64())?)
        }
        (None, None) => None,
    };
    let lifetime = holds.unwrap_or(settings.assumed_lifetime).min(settings.longest_lifetime);
    Ok(Granted { access_token, lifetime, holds, refresh_token: answer.refresh_token, scope: answer.scope })
}

const NO_LIFETIME: &str = "gave a token whose lifetime is no number of seconds to come";
/// What counts as for ever, in seconds.
const FOR_EVER: f64 = 1e9;

fn seconds(number: f64) -> Result<Duration, &'static str> {
    match number {
        n if n.is_finite() && n >= 1.0 => Ok(Duration::from_secs_f64(n.min(FOR_EVER))),
        _ => Err(NO_LIFETIME),
    }
}

/// Whether a token can be put into a header and searched for in replies (RFC 6750 section 2.1).
fn check(token: &Text) -> Result<(), &'static str> {
    let text = token.expose();
    if text.len() < MIN_SECRET {
        return Err("gave a token that is too short to be searched for in replies");
    }
    if text.len() > MAX_TOKEN {
        return Err("gave a token that is too long");
    }
    match text.bytes().all(|b| b.is_ascii_graphic()) {
        true => Ok(()),
        false => Err("gave a token with characters that no header may hold"),
    }
}

/// How long before its end a token of this kind stops being used: clocks differ, and requests travel.
#[must_use]
pub fn margin(lifetime: Duration) -> Duration {
    (lifetime / 10).min(Duration::from_secs(10))
}

/// Whether the answer to this kind may bring another refresh token.
#[must_use]
pub const fn rotates(kind: KeyKind) -> bool {
    matches!(kind, KeyKind::RefreshToken)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(status: u16, body: &str) -> Result<Granted, Failure> {
        let endpoint = "https://login.example.com/token".parse().expect("an endpoint");
        let status = StatusCode::from_u16(status).expect("a status");
        let now = Timestamp(1_700_000_000_000);
        read(&endpoint, status, body.as_bytes(), &Settings::default(), now)
    }

    #[test]
    fn good_answers_are_taken_and_lifetimes_bounded() {
        let hours = |n: u64| Duration::from_secs(n * 3600);
        for (body, lifetime) in [
            (r#"{"access_token":"ya29.abcdefgh","token_type":"Bearer","expires_in":3600}"#, hours(1)),
            (r#"{"access_token":"ya29.abcdefgh","token_type":"bearer","expires_in":"3600"}"#, hours(1)),
            (r#"{"access_token":"ya29.abcdefgh","token_type":"BEARER"}"#, Duration::from_secs(300)),
            (r#"{"access_token":"ya29.abcdefgh","token_type":"Bearer","expires_in":1e300}"#, hours(12)),
            (r#"{"access_token":"ya29.abcdefgh","token_type":"Bearer","expires_in":9223372036854775808}"#, hours(12)),
            (r#"{"token":"ghs_abcdefgh","expires_at":"2023-11-14T23:13:20Z"}"#, hours(1)),
        ] {
            assert_eq!(judged(200, body).unwrap_or_else(|why| panic!("{body}: {why}")).lifetime, lifetime, "{body}");
        }
    }

    #[test]
    fn bad_answers_are_refused_and_nothing_of_them_is_repeated() {
        use FailureKind::{Refused, Unavailable};
        for (status, body, kind, says) in [
            (302, r#"{"access_token":"hunter2hunter2","token_type":"Bearer"}"#, Unavailable, "redirect"),
            (500, "hunter2hunter2", Unavailable, "500"),
            (429, "hunter2hunter2", Unavailable, "429"),
            (400, r#"{"error":"invalid_grant","error_description":"hunter2hunter2"}"#, Refused, "invalid_grant"),
            (200, r#"{"error":"bad_refresh_token","x":"hunter2hunter2"}"#, Refused, "bad_refresh_token"),
            (200, r#"{"ok":false,"error":"hunter2hunter2"}"#, Refused, "an error of its own"),
            (401, "hunter2hunter2", Refused, "401"),
            (200, "hunter2hunter2", Unavailable, "no JSON"),
            (200, r#"{"token_type":"Bearer"}"#, Unavailable, "no access token"),
            (200, r#"{"access_token":"hunter2hunter2"}"#, Unavailable, "another type"),
            (200, r#"{"access_token":"hunter2hunter2","token_type":"DPoP"}"#, Unavailable, "another type"),
            (200, r#"{"access_token":"hunter2","token_type":"Bearer"}"#, Unavailable, "too short"),
            (200, r#"{"access_token":"hunter2\r\nhunter2: 1","token_type":"Bearer"}"#, Unavailable, "no header"),
            (
                200,
                r#"{"access_token":"hunter2hunter2","token_type":"Bearer","expires_in":-1}"#,
                Unavailable,
                "lifetime",
            ),
            (200, r#"{"access_token":"hunter2hunter2","token_type":"Bearer","expires_in":0}"#, Unavailable, "lifetime"),
            (
                200,
                r#"{"access_token":"hunter2hunter2","token_type":"Bearer","expires_in":"x"}"#,
                Unavailable,
                "lifetime",
            ),
            (200, r#"{"token":"hunter2hunter2","expires_at":"2020-01-01T00:00:00Z"}"#, Unavailable, "lifetime"),
            (
                200,
                r#"{"access_token":"hunter2hunter2","token_type":"Bearer","refresh_token":"hunter2\nhunter2"}"#,
                Unavailable,
                "no header",
            ),
        ] {
            let why = judged(status, body).map(|_| ()).expect_err(body);
            assert_eq!(why.kind, kind, "{body}: {why}");
            assert!(why.detail.contains(says) && !format!("{why:?}").contains("hunter2"), "{body}: {why}");
        }
    }
}
