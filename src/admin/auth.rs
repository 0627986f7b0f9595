//! Who calls, and how often.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};

use super::{Admin, Problem};
use crate::model::{OrgId, TokenHash};
use crate::session::records::{Principal, Role};
use crate::store::Find;

/// Where a request comes from; the listener puts it among the request's extensions.
#[derive(Debug, Clone, Copy)]
pub enum Peer {
    /// The data directory's own user: through `admin.sock`, or in the same process.
    Local,
    /// Somebody on the network, who has to show a bearer token.
    Network(SocketAddr),
}

/// Who was found to call.
#[derive(Debug, Clone)]
pub struct Caller {
    name: String,
    org: OrgId,
    role: Role,
}

impl Caller {
    fn local() -> Self {
        Self { name: "local".to_owned(), org: OrgId::DEFAULT, role: Role::Admin }
    }

    /// The principal's name, for the audit.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The tenant that the principal belongs to.
    #[must_use]
    pub fn org(&self) -> OrgId {
        self.org
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parts.extensions.get::<Self>().cloned().ok_or_else(Problem::internal)
    }
}

/// What the guard at the API's door knows.
#[derive(Clone)]
pub(super) struct Guard {
    admin: Arc<Admin>,
    /// Of those who are known, by name.
    requests: Arc<DefaultKeyedRateLimiter<String>>,
    /// Of what everybody may ask, by address.
    public: Arc<DefaultKeyedRateLimiter<IpAddr>>,
    /// Failed authentications, by address.
    failures: Arc<DefaultKeyedRateLimiter<IpAddr>>,
}

/// Who a request says it is from.
struct Claim {
    peer: Option<Peer>,
    /// The one Authorization header; none if there are several.
    authorization: Option<HeaderValue>,
    /// Whether everybody may ask this.
    public: bool,
}

impl Claim {
    fn of(request: &Request) -> Self {
        let mut headers = request.headers().get_all(header::AUTHORIZATION).iter();
        let first = headers.next().cloned();
        Self {
            peer: request.extensions().get::<Peer>().copied(),
            authorization: first.filter(|_| headers.next().is_none()),
            public: matches!(request.uri().path(), "/healthz" | "/readyz"),
        }
    }
}

/// The most addresses that the limiters remember before those at rest are forgotten.
const ADDRESSES: usize = 10_000;

impl Guard {
    pub fn new(admin: Arc<Admin>) -> Self {
        let each_second = Quota::per_second(admin.settings.requests_per_second);
        let (requests, public) = (Arc::new(RateLimiter::keyed(each_second)), Arc::new(RateLimiter::keyed(each_second)));
        let failures = Arc::new(RateLimiter::keyed(Quota::per_minute(admin.settings.failures_per_minute)));
        Self { admin, requests, public, failures }
    }

    async fn caller(&self, who: Claim) -> Result<Option<Caller>, Problem> {
        let from = match who.peer {
            Some(Peer::Local) => return Ok(Some(Caller::local())),
            Some(Peer::Network(from)) => from.ip(),
            None => return Err(Problem::internal()),
        };
        if self.failures.len() > ADDRESSES {
            self.public.retain_recent();
            self.failures.retain_recent();
        }
        if who.public {
            return match self.public.check_key(&from) {
                Ok(()) => Ok(None),
                Err(_) => Err(Problem::rate_limited()),
            };
        }
        match self.authenticate(who).await {
            // Those who are known are limited by who they are: nobody else at their address can lock
            // them out.
            Ok(caller) if self.requests.check_key(&caller.name).is_err() => Err(Problem::rate_limited()),
            Ok(caller) => Ok(Some(caller)),
            // Past the limit a failure is told no more than that.
            Err(_) if self.failures.check_key(&from).is_err() => Err(Problem::rate_limited()),
            Err(problem) => Err(problem),
        }
    }

    async fn authenticate(&self, who: Claim) -> Result<Caller, Problem> {
        const HOW: &str = "send `Authorization: Bearer TOKEN`; a fresh data directory has one in its file admin.token";
        let Some(value) = who.authorization else {
            return Err(Problem::unauthenticated(format!("there is no admin token: {HOW}")));
        };
        let token = value.as_bytes();
        let bearer = token.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"bearer "));
        if !bearer {
            return Err(Problem::unauthenticated(format!("the credentials aren't a bearer token: {HOW}")));
        }
        // The look-up is by the token's hash, so its time tells nothing of a stored token.
        let hash = TokenHash::of(token[7..].trim_ascii());
        let find = Find::all().with_bytes("token_hash", hash.as_bytes()).limit(1);
        let found: Option<Principal> = self.admin.store.find(OrgId::DEFAULT, find).await?.pop();
        match found {
            Some(Principal { enabled: true, org, role, name, .. }) => Ok(Caller { name: name.to_string(), org, role }),
            _ => Err(Problem::unauthenticated(format!("the admin token isn't known: {HOW}"))),
        }
    }
}

/// What a role may do: a viewer looks, a user also asks for access and mints tokens, an admin does
/// everything.
fn may(role: Role, method: &Method, path: &str) -> bool {
    let looks = matches!(*method, Method::GET | Method::HEAD);
    match role {
        Role::Admin => true,
        Role::User => {
            looks
                || (method == Method::POST
                    && (path == "/api/v1/mcp/access-requests"
                        || path.ends_with("/proxy-token")
                        || path == "/api/v1/policy/explain"))
        }
        Role::Viewer => looks,
    }
}

/// Lets a request in, or not; counts it and times it.
pub(super) async fn guard(State(guard): State<Guard>, mut request: Request, next: Next) -> Response {
    let began = tokio::time::Instant::now();
    let method = label(request.method());
    let limit = guard.admin.settings.deadline;
    let metrics = Arc::clone(&guard.admin.metrics);
    let claim = Claim::of(&request);
    let answer = async {
        match guard.caller(claim).await {
            Ok(Some(caller)) if !may(caller.role, request.method(), request.uri().path()) => {
                Problem::forbidden(format!("the principal {} may not do this", caller.name)).into_response()
            }
            Ok(caller) => {
                if let Some(caller) = caller {
                    request.extensions_mut().insert(caller);
                }
                next.run(request).await
            }
            Err(problem) => problem.into_response(),
        }
    };
    let response = match tokio::time::timeout(limit, answer).await {
        Ok(response) => response,
        Err(_) => Problem::unavailable("timeout", "the request took longer than `admin.deadline`").into_response(),
    };
    metrics.admin_request(method, response.status().as_u16(), began.elapsed());
    response
}

/// A method as a label: a closed set.
fn label(method: &Method) -> &'static str {
    match *method {
        Method::GET | Method::HEAD => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        _ => "other",
    }
}

/// Describes the bearer token in the API's description.
pub(super) struct Scheme;

impl utoipa::Modify for Scheme {
    fn modify(&self, api: &mut utoipa::openapi::OpenApi) {
        let bearer = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        api.components.get_or_insert_default().add_security_scheme("bearer", bearer);
    }
}
