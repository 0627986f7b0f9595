//! One table: what went wrong -> status, public code, hint, and the label that metrics and audit
//! records carry. Nothing else in the proxy picks a status.

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};

use crate::model::ExchangeId;
use crate::session::live::Ended;

/// Why an exchange was refused or failed, in the words that agents see (`Sallyport-Error`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the table below says of each what it means and what to do")]
pub enum Code {
    TokenUnknown,
    TokenExpired,
    TokenRevoked,
    TokenMisplaced,
    SessionExpired,
    SessionRevoked,
    SessionLimit,
    HostNotAllowed,
    RouteUnknown,
    PolicyDenied,
    KeyDisabled,
    KeyExpired,
    CredentialUnregistered,
    SignatureMismatch,
    CredentialRefused,
    CredentialUnavailable,
    CredentialsWithheld,
    ScopeNotAllowed,
    DestinationBlocked,
    AuthorityMismatch,
    BadRequest,
    TooLarge,
    BodyTooLarge,
    MethodRefused,
    ProxyAuthRequired,
    UpstreamUnreachable,
    UpstreamTls,
    UpstreamTimeout,
    UpstreamEncoding,
    RateLimited,
    AuditUnavailable,
    StoreUnavailable,
    Overloaded,
    Internal,
}

/// Whose fault it is; the log level and the audit outcome follow from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The request can't be served as it is.
    Client,
    /// A rule, a session or a token says no.
    Denied,
    /// The upstream failed.
    Upstream,
    /// A limit of ours was reached.
    Overloaded,
    /// We failed.
    Internal,
}

impl Code {
    /// Status, public code, fault, title and hint of the code.
    const fn row(self) -> (u16, &'static str, Fault, &'static str, &'static str) {
        use Fault::{Client, Denied, Internal, Overloaded, Upstream};
        match self {
            Self::TokenUnknown => (
                403,
                "token_unknown",
                Denied,
                "The proxy token is not known",
                "Mint a token with `sallyport tokens mint` or start the command again with `sallyport run`.",
            ),
            Self::TokenExpired => {
                (403, "token_expired", Denied, "The proxy token has expired", "Mint a new token in a live session.")
            }
            Self::TokenRevoked => {
                (403, "token_revoked", Denied, "The proxy token was revoked", "Ask whoever revoked it for a new one.")
            }
            Self::TokenMisplaced => (
                403,
                "token_misplaced",
                Denied,
                "The proxy token stands where it may not",
                "Use it with its own session, from where that may be used (`sallyport sessions show`), and in a slot that \
                 its key names (`sallyport keys show`).",
            ),
            Self::SessionExpired => (403, "session_expired", Denied, "The session has expired", "Start a new session."),
            Self::SessionRevoked => {
                (403, "session_revoked", Denied, "The session was revoked", "Ask whoever revoked it for a new one.")
            }
            Self::HostNotAllowed => (
                403,
                "host_not_allowed",
                Denied,
                "The host is not among the key's destinations",
                "Send the request to a host of the key, or add the host with `sallyport keys edit`.",
            ),
            Self::RouteUnknown => (
                404,
                "route_unknown",
                Client,
                "There is no such gateway route",
                "Begin the path with a route, as /openai/v1/models does. `sallyport providers list` shows the \
                 routes that are there by themselves, and `gateway.routes` adds others.",
            ),
            Self::PolicyDenied => (
                403,
                "policy_denied",
                Denied,
                "No policy allows this request",
                "`sallyport policy explain \"METHOD URL\" --key NAME` says which rule decided and why.",
            ),
            Self::KeyDisabled => {
                (403, "key_disabled", Denied, "The key is disabled", "`sallyport keys enable` allows it again.")
            }
            Self::KeyExpired => (
                403,
                "key_expired",
                Denied,
                "The key has expired",
                "`sallyport keys edit KEY --expires-at TIME` gives it another end.",
            ),
            Self::CredentialUnregistered => (
                403,
                "credential_unregistered",
                Denied,
                "The credential in the request is no proxy token",
                "Real keys don't pass: register the key with `sallyport keys add` and use its proxy token.",
            ),
            Self::SignatureMismatch => (
                403,
                "signature_mismatch",
                Denied,
                "The request's signature isn't right",
                "Sign with the access key id and the secret access key that were minted together, as the last step \
                 before sending, and with a clock that is right.",
            ),
            Self::DestinationBlocked => (
                403,
                "destination_blocked",
                Denied,
                "The host's address is not public",
                "If it is meant, pin it with `upstream.resolve` or allow its network with `upstream.allow_private`.",
            ),
            Self::AuthorityMismatch => (
                421,
                "authority_mismatch",
                Client,
                "The names of the host don't agree",
                "CONNECT, TLS server name and Host must name one host and port.",
            ),
            Self::BadRequest => {
                (400, "bad_request", Client, "The request can't be read", "Mend the request; the detail says where.")
            }
            Self::BodyTooLarge => (
                413,
                "too_large",
                Client,
                "The request's body is too long",
                "Send less at once, or let the operator raise the limit that the detail names.",
            ),
            Self::TooLarge => (
                431,
                "too_large",
                Client,
                "The request's head is too large",
                "Shorten it, or raise `proxy.limits.head` or `proxy.limits.headers`.",
            ),
            Self::MethodRefused => (
                405,
                "method_refused",
                Client,
                "The method is refused",
                "TRACE and nested CONNECT are never forwarded.",
            ),
            Self::ProxyAuthRequired => (
                407,
                "proxy_auth_required",
                Client,
                "Proxy credentials are missing or wrong",
                "Use http://SESSION:SECRET@HOST:PORT as the proxy's URL; `sallyport sessions start` prints it.",
            ),
            Self::UpstreamUnreachable => (
                502,
                "upstream_unreachable",
                Upstream,
                "The upstream can't be reached",
                "Check the host's name and that it is up.",
            ),
            Self::UpstreamTls => (
                502,
                "upstream_tls",
                Upstream,
                "TLS with the upstream failed",
                "The detail says why. An authority of your own goes into `upstream.extra_ca`; no setting skips the \
                 verification.",
            ),
            Self::UpstreamTimeout => {
                (504, "upstream_timeout", Upstream, "The upstream took too long", "See `upstream.deadlines`.")
            }
            Self::SessionLimit => (
                429,
                "session_limit",
                Denied,
                "The session has reached a limit",
                "Use the tokens that it has, or wait until some end; see `credential.issued`.",
            ),
            Self::CredentialRefused => (
                502,
                "credential_refused",
                Upstream,
                "The key's token endpoint doesn't take what the key holds",
                "Give the key another value with `sallyport keys rotate`, or connect it again.",
            ),
            Self::CredentialUnavailable => (
                503,
                "credential_unavailable",
                Upstream,
                "The key's token endpoint gives no access token at the moment",
                "Try again later; the detail says what it answered.",
            ),
            Self::CredentialsWithheld => (
                403,
                "credentials_withheld",
                Denied,
                "The reply would hand out credentials",
                "Store a key that already may do what they are for: `sallyport keys add --kind aws`. A policy lets such \
                 replies pass, with real credentials in them, by `replies: { credentials: forward }`.",
            ),
            Self::ScopeNotAllowed => (
                403,
                "scope_not_allowed",
                Denied,
                "The key may not be used for that scope",
                "Ask for scopes that the key has; `sallyport keys rotate` with another document gives it others.",
            ),
            Self::UpstreamEncoding => (
                502,
                "upstream_encoding",
                Upstream,
                "The reply can't be searched for keys",
                "gzip, deflate, br and zstd are decoded, within `proxy.limits`. A policy lets other codings pass \
                 unsearched with `replies: { unknown_coding: forward }`.",
            ),
            Self::RateLimited => (
                429,
                "rate_limited",
                Denied,
                "Too much, too fast",
                "Wait for the time in `Retry-After`; the detail names the limit.",
            ),
            Self::AuditUnavailable => (
                503,
                "audit_unavailable",
                Internal,
                "The audit record can't be written",
                "No key is used without its record. Check the disk of the data directory.",
            ),
            Self::StoreUnavailable => (
                503,
                "store_unavailable",
                Internal,
                "The store has been out of reach for too long",
                "What was revoked can't be known, so no key is used. Check the database.",
            ),
            Self::Overloaded => {
                (503, "overloaded", Overloaded, "A limit was reached", "Try again later; see `proxy.limits`.")
            }
            Self::Internal => {
                (500, "internal", Internal, "sallyport failed", "The log has the reason under the request's id.")
            }
        }
    }

    /// The public code, also the label of metrics and audit records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.row().1
    }

    /// Whose fault it is.
    #[must_use]
    pub const fn fault(self) -> Fault {
        self.row().2
    }
}

/// A refused or failed exchange: the code and what happened this time. The detail never holds a
/// key, a token, or text of the request beyond names of hosts, headers and rules.
#[derive(Debug, Clone)]
pub struct Rejection {
    /// What went wrong.
    pub code: Code,
    /// What happened this time.
    pub detail: Cow<'static, str>,
}

impl Rejection {
    /// A rejection with this code and detail.
    pub fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { code, detail: detail.into() }
    }

    /// The status that the agent gets.
    #[must_use]
    pub const fn status(&self) -> u16 {
        self.code.row().0
    }

    /// The reply that the agent gets (RFC 9457 problem details).
    #[must_use]
    pub fn response(&self, exchange: ExchangeId) -> Response<Bytes> {
        let (status, code, _, title, hint) = self.code.row();
        let body = serde_json::json!({
            "type": format!("urn:sallyport:error:{code}"),
            "title": title,
            "status": status,
            "detail": self.detail,
            "code": code,
            "requestId": exchange.to_string(),
            "hint": hint,
        });
        // The line's end is for those who read it in a terminal.
        let mut response = Response::new(Bytes::from(format!("{body}\n")));
        *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert("sallyport-error", HeaderValue::from_static(code));
        if let Ok(id) = HeaderValue::from_str(&exchange.to_string()) {
            headers.insert("sallyport-request-id", id);
        }
        if self.code == Code::ProxyAuthRequired {
            headers.insert("proxy-authenticate", HeaderValue::from_static("Basic realm=\"sallyport\""));
        }
        let wait = match status {
            429 => Some("60"),
            503 => Some("1"),
            _ => None,
        };
        if let Some(wait) = wait {
            headers.insert(RETRY_AFTER, HeaderValue::from_static(wait));
        }
        response
    }

    /// The same for a gRPC call: status and words stand where its clients look for them (a reply of
    /// "Trailers-Only" in gRPC's "PROTOCOL-HTTP2.md"), and `Sallyport-Error` beside them.
    #[must_use]
    pub fn in_grpc(&self, exchange: ExchangeId) -> Response<Bytes> {
        let (status, code, _, title, hint) = self.code.row();
        let grpc = match status {
            401 | 407 => "16",
            403 => "7",
            413 | 414 | 429 | 431 => "8",
            502..=504 => "14",
            500 => "13",
            _ => "3",
        };
        let mut response = self.response(exchange).map(|_| Bytes::new());
        *response.status_mut() = StatusCode::OK;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from_static(grpc));
        let words = format!("{code}: {title}: {}. {hint}", self.detail);
        // Percent-encoded but for what is printable and no percent sign.
        let mut message = String::with_capacity(words.len());
        for byte in words.bytes() {
            match byte {
                b' '..=b'~' if byte != b'%' => message.push(char::from(byte)),
                _ => message.push_str(&format!("%{byte:02X}")),
            }
        }
        if let Ok(message) = HeaderValue::try_from(message) {
            headers.insert("grpc-message", message);
        }
        response
    }

    /// The same as it is sent over HTTP/1.1 (RFC 9112), with this `Connection`.
    #[must_use]
    pub fn in_http1(&self, exchange: ExchangeId, connection: &str) -> Vec<u8> {
        let response = self.response(exchange);
        let mut head = format!("HTTP/1.1 {}\r\n", response.status());
        for (name, value) in response.headers() {
            head.push_str(&format!("{name}: {}\r\n", value.to_str().unwrap_or_default()));
        }
        head.push_str(&format!("content-length: {}\r\nconnection: {connection}\r\n\r\n", response.body().len()));
        [head.as_bytes(), response.body()].concat()
    }
}

impl From<Ended> for Rejection {
    fn from(ended: Ended) -> Self {
        let (code, detail) = match ended {
            Ended::TokenRevoked => (Code::TokenRevoked, "the token was revoked"),
            Ended::TokenExpired => (Code::TokenExpired, "the token's time is over"),
            Ended::SessionRevoked => (Code::SessionRevoked, "the token's session was revoked"),
            Ended::SessionExpired => (Code::SessionExpired, "the token's session is over"),
            Ended::KeyDisabled => (Code::KeyDisabled, "the token's key is disabled or deleted"),
            Ended::KeyExpired => (Code::KeyExpired, "the token's key has expired"),
            Ended::GrantRevoked => (Code::TokenRevoked, "the session may no longer use the token's key"),
        };
        Self::new(code, detail)
    }
}
