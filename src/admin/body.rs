//! Reading requests: JSON bodies and queries, with errors in words, and the checks that all fields
//! share.

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;
use utoipa::IntoParams;

use super::Problem;
use crate::model::{Environment, Name, Timestamp};

/// A JSON body.
pub(super) struct Body<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        match axum::Json::<T>::from_request(request, state).await {
            Ok(axum::Json(body)) => Ok(Self(body)),
            Err(JsonRejection::MissingJsonContentType(_)) => Err(Problem::media_type()),
            Err(JsonRejection::JsonDataError(why)) => Err(Problem::invalid("body", cause(&why))),
            Err(JsonRejection::JsonSyntaxError(why)) => {
                Err(Problem::bad_request(format!("the body isn't JSON: {}", cause(&why))))
            }
            Err(other) if other.status() == StatusCode::PAYLOAD_TOO_LARGE => {
                Err(Problem::too_large("the body is longer than `admin.limits.body` allows"))
            }
            Err(_) => Err(Problem::bad_request("the body couldn't be read to its end")),
        }
    }
}

/// The innermost words of an error: the parser's own. It names fields and positions; a value that
/// it repeats could be a secret, so what stands in quotes or backquotes of a type error is left out.
fn cause(why: &dyn std::error::Error) -> String {
    let mut at = why;
    while let Some(inner) = at.source() {
        at = inner;
    }
    let text = at.to_string();
    match (text.find("invalid type: "), text.find("invalid value: "), text.find(", expected")) {
        (Some(begin), _, Some(end)) | (_, Some(begin), Some(end)) if begin < end => {
            format!("{}wrong type or value{}", &text[..begin], &text[end..])
        }
        _ => text,
    }
}

/// A query string.
pub(super) struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match axum::extract::Query::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Query(query)) => Ok(Self(query)),
            Err(QueryRejection::FailedToDeserializeQueryString(why)) => {
                Err(Problem::bad_request(format!("the query string can't be read: {}", cause(&why))))
            }
            Err(_) => Err(Problem::bad_request("the query string can't be read")),
        }
    }
}

/// Which page of a list.
#[derive(Debug, serde::Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Paging {
    /// Only what comes behind this id; the `next` of the page before.
    pub after: Option<String>,
    /// At most so many.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    pub limit: Option<u32>,
}

impl Paging {
    pub fn limit(&self) -> Result<u32, Problem> {
        limit(self.limit)
    }

    pub fn after(&self) -> Result<Option<String>, Problem> {
        match &self.after {
            Some(after) if uuid::Uuid::try_parse(after).is_err() => Err(Problem::invalid("after", "not an id")),
            after => Ok(after.as_ref().map(|a| a.to_ascii_lowercase())),
        }
    }
}

/// A limit within its bounds.
pub(super) fn limit(wanted: Option<u32>) -> Result<u32, Problem> {
    match wanted.unwrap_or(100) {
        limit @ 1..=1000 => Ok(limit),
        _ => Err(Problem::invalid("limit", "it is between 1 and 1000")),
    }
}

/// A name that is given to something.
pub(super) fn name(field: &str, text: &str) -> Result<Name, Problem> {
    let name: Name = text.parse().map_err(|why| Problem::invalid(field, why))?;
    match name.looks_like_key() {
        true => Err(Problem::invalid(field, "it looks like a key; a name is only what you call it")),
        false => Ok(name),
    }
}

/// An environment; development if none is given.
pub(super) fn environment(text: Option<&str>) -> Result<Environment, Problem> {
    text.map_or(Ok(Environment::default()), |text| {
        text.parse().map_err(|why: String| Problem::invalid("environment", why))
    })
}

/// The longest free text, in characters.
const MAX_TEXT: usize = 1000;

/// Free text: no control characters but line breaks, which a terminal or a database would choke on.
pub(super) fn text(field: &str, text: &str) -> Result<String, Problem> {
    if text.chars().count() > MAX_TEXT {
        return Err(Problem::invalid(field, format!("it is longer than {MAX_TEXT} characters")));
    }
    if text.chars().any(|c| c.is_control() && c != '\n') {
        return Err(Problem::invalid(field, "it holds control characters"));
    }
    Ok(text.to_owned())
}

/// A point in time as RFC 3339 has it.
pub(super) fn time(field: &str, text: &str) -> Result<Timestamp, Problem> {
    let at: jiff::Timestamp =
        text.parse().map_err(|_| Problem::invalid(field, "not a time such as 2026-01-31T12:00:00Z"))?;
    Ok(Timestamp(at.as_millisecond()))
}

/// The same, for what only makes sense in the future.
pub(super) fn still_to_come(field: &str, text: &str, now: Timestamp) -> Result<Timestamp, Problem> {
    match time(field, text)? {
        at if at > now => Ok(at),
        _ => Err(Problem::invalid(field, "it has passed already")),
    }
}
