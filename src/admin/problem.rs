//! Errors as RFC 9457 problem details.

use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::audit;
use crate::store;

/// What went wrong, why, and what to do. The media type is `application/problem+json`.
#[derive(Debug, Serialize, ToSchema)]
pub struct Problem {
    /// `about:blank`: the status and the code say what kind of problem it is.
    #[serde(rename = "type")]
    kind: &'static str,
    /// The status in words.
    title: String,
    /// The HTTP status.
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// What happened and what to do, for people.
    detail: String,
    /// A word from a closed set, for programs.
    code: &'static str,
}

impl Problem {
    fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            kind: "about:blank",
            title: status.canonical_reason().unwrap_or("Error").to_owned(),
            status: status.as_u16(),
            detail: detail.into(),
            code,
        }
    }

    /// The request can't be understood.
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", detail)
    }

    /// A field holds what can't be taken.
    pub fn invalid(field: &str, why: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", format!("{field}: {why}"))
    }

    /// There is no such thing.
    pub fn missing(what: &str) -> Self {
        Self::absent(what, format!("such {what}"))
    }

    /// It isn't there, and what to do.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", detail)
    }

    fn absent(what: &str, which: String) -> Self {
        let group = match what {
            "proxy token" => "tokens",
            "access request" => "access",
            "project" => "projects",
            "session" => "sessions",
            "tool" => "tools",
            _ => "keys",
        };
        Self::not_found(format!("there is no {which}; `sallyport {group} list` shows what is there"))
    }

    /// There is no such thing of this name.
    pub fn unnamed(what: &str, wanted: &str) -> Self {
        // Whatever isn't a name may be a secret in the wrong place.
        match wanted.parse::<crate::model::Name>() {
            Ok(name) if !name.looks_like_key() => Self::absent(what, format!("{what} {name}")),
            _ => Self::missing(what),
        }
    }

    /// If the store said only that a name is taken: whose, and what may be meant.
    pub fn taken(self, what: impl Into<String>) -> Self {
        self.instead_of(&store::Error::Taken, what)
    }

    /// If the store said only that something is referred to: what.
    pub fn referred(self, what: impl Into<String>) -> Self {
        self.instead_of(&store::Error::Referred, what)
    }

    fn instead_of(self, why: &store::Error, what: impl Into<String>) -> Self {
        if self.detail == why.to_string() { Self::conflict(what) } else { self }
    }

    /// It contradicts what is there.
    pub fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", detail)
    }

    /// Who calls is not known.
    pub fn unauthenticated(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthenticated", detail)
    }

    /// Who calls may not do this.
    pub fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", detail)
    }

    /// Too much was sent.
    pub fn too_large(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail)
    }

    /// The body isn't JSON by its own words.
    pub fn media_type() -> Self {
        let detail = "send the body as application/json";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "media_type", detail)
    }

    /// Too often.
    pub fn rate_limited() -> Self {
        let detail = "too many requests from this address; wait a moment";
        Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", detail)
    }

    /// Something that is needed doesn't answer.
    pub fn unavailable(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, detail)
    }

    /// It is our fault; the log has the details.
    pub fn internal() -> Self {
        let detail = "sallyport failed at this request; its log says more";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail)
    }
}

impl From<store::Error> for Problem {
    fn from(why: store::Error) -> Self {
        use store::Error as E;
        match why {
            E::Taken | E::Referred | E::Changed => Self::conflict(why.to_string()),
            E::Tampered { .. } => {
                tracing::error!(error = %why, "a row of the store is refused");
                Self::new(StatusCode::CONFLICT, "tampered", why.to_string())
            }
            E::Url(_) | E::Database(_) | E::Migration(_) | E::WrongKek(_) => {
                tracing::error!(error = %why, "the store can't be used");
                let detail = "the store doesn't answer. A change may have been made or not: look before you repeat it. The log says more";
                Self::unavailable("store_unavailable", detail)
            }
        }
    }
}

impl From<audit::Error> for Problem {
    fn from(why: audit::Error) -> Self {
        tracing::error!(error = %why, "the audit can't be used");
        let detail = "the audit can't be written or read, so nothing was changed. The log says more";
        Self::unavailable("audit_unavailable", detail)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let text = serde_json::to_string(&self).unwrap_or_default();
        // The line's end is for those who read it in a terminal.
        let mut response = (status, format!("{text}\n")).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        match status {
            StatusCode::UNAUTHORIZED => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"sallyport\""));
            }
            StatusCode::TOO_MANY_REQUESTS => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        response
    }
}

pub(super) async fn not_found(uri: Uri) -> Problem {
    let path: String = uri.path().chars().take(100).collect();
    Problem::not_found(format!("there is nothing at {path}; /openapi.json lists what is"))
}

pub(super) async fn method_not_allowed(method: Method) -> Problem {
    let method: String = method.as_str().chars().take(20).collect();
    let detail = format!("{method} isn't offered here; /openapi.json lists what is");
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
}
