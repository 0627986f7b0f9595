//! Which scheme, authority and path a request means, from its connection, target and Host.

use http::header::HOST;
use http::{Method, Request, Version};

use super::Mode;
use super::core::{Core, Routes};
use super::reject::{Code, Rejection};
use super::tunnel::Tunnel;
use crate::model::{Authority, Scheme, nearest};
use crate::upstream::Word;

/// Where a request goes.
#[derive(Debug, Clone)]
pub struct Target {
    /// With TLS or without.
    pub scheme: Scheme,
    /// The host and port.
    pub authority: Authority,
    /// Path and query, byte for byte as they are sent on.
    pub path_and_query: http::uri::PathAndQuery,
    /// By whose word its address is dialled, whatever keys are used.
    pub by: Word,
}

impl Target {
    /// The path without the query.
    pub fn path(&self) -> &str {
        self.path_and_query.path()
    }
}

/// Reads the target of a request.
///
/// # Errors
/// The names disagree, the request is malformed, or its method is never forwarded.
pub fn read<B>(core: &Core, tunnel: &Tunnel, request: &Request<B>) -> Result<Target, Rejection> {
    let method = request.method();
    let never = |known: &Method| method.as_str().eq_ignore_ascii_case(known.as_str());
    if never(&Method::TRACE) || never(&Method::CONNECT) {
        return Err(Rejection::new(Code::MethodRefused, format!("{method} is never forwarded")));
    }
    if request.version() == Version::HTTP_2 && list_size(request) > core.shared.settings.limits.head_bytes {
        return Err(Rejection::new(Code::TooLarge, "the request's head is longer than allowed"));
    }
    if tunnel.wrong_name {
        return Err(Rejection::new(Code::AuthorityMismatch, "CONNECT and the TLS server name name different hosts"));
    }
    if request.uri().path() == "*" && method != Method::OPTIONS {
        return Err(Rejection::new(Code::BadRequest, "the target * is for OPTIONS only"));
    }
    match tunnel.mode {
        Mode::Forward => match &tunnel.target {
            Some((scheme, authority)) => inside_tunnel(*scheme, authority, request),
            None => absolute(tunnel, request),
        },
        Mode::Gateway => gateway(core, request),
    }
}

/// The target of an HTTP/1.1 request with this one `Host`, in origin form; `None` if there is more to it
/// than that, or it would be refused.
pub fn plain(core: &Core, tunnel: &Tunnel, host: &str, path: &[u8]) -> Option<Target> {
    match (tunnel.mode, &tunnel.target) {
        _ if tunnel.wrong_name => None,
        (Mode::Forward, Some((scheme, authority))) if authority.is_written(host, scheme.default_port()) => {
            let path_and_query = path.try_into().ok()?;
            Some(Target { scheme: *scheme, authority: authority.clone(), path_and_query, by: Word::Check })
        }
        (Mode::Forward, _) => None,
        (Mode::Gateway, _) => routed(core, path).ok(),
    }
}

/// The size of the fields as HTTP/2 counts it, in bytes (RFC 9113 section 6.5.2).
fn list_size<B>(request: &Request<B>) -> usize {
    let fields = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 32);
    request.uri().path_and_query().map_or(0, |path| path.as_str().len()) + fields.sum::<usize>()
}

fn origin_path<B>(request: &Request<B>) -> http::uri::PathAndQuery {
    request.uri().path_and_query().cloned().unwrap_or_else(|| http::uri::PathAndQuery::from_static("/"))
}

/// The one Host header of an HTTP/1.1 request; `None` on HTTP/2, where it may be absent.
fn host<B>(request: &Request<B>) -> Result<Option<&str>, Rejection> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let bad = |why: &'static str| Rejection::new(Code::BadRequest, why);
    match (hosts.next(), hosts.next()) {
        (Some(_), Some(_)) => Err(bad("more than one Host header")),
        (Some(host), None) => host.to_str().map(Some).map_err(|_| bad("the Host header isn't text")),
        (None, _) if request.version() < Version::HTTP_2 => Err(bad("the Host header is missing")),
        (None, _) => Ok(None),
    }
}

fn agrees(authority: &Authority, text: &str, port: u16) -> Result<(), Rejection> {
    if authority.is_written(text, port) {
        return Ok(());
    }
    let named = Authority::parse(text, port)
        .map_err(|why| Rejection::new(Code::BadRequest, format!("the request's host can't be read: {why}")))?;
    match named == *authority {
        true => Ok(()),
        false => Err(Rejection::new(
            Code::AuthorityMismatch,
            format!("the tunnel is to {authority}, the request for {named}"),
        )),
    }
}

fn inside_tunnel<B>(scheme: Scheme, authority: &Authority, request: &Request<B>) -> Result<Target, Rejection> {
    // A Host without a port means the scheme's port, but clients leave out the port of CONNECT too.
    if let Some(host) = host(request)? {
        agrees(authority, host, scheme.default_port())?;
    }
    if let Some(named) = request.uri().authority() {
        if request.uri().scheme_str().is_some_and(|s| s != scheme.as_str()) {
            return Err(Rejection::new(Code::BadRequest, "the request's scheme isn't that of its tunnel"));
        }
        agrees(authority, named.as_str(), scheme.default_port())?;
    }
    Ok(Target { scheme, authority: authority.clone(), path_and_query: origin_path(request), by: Word::Check })
}

fn absolute<B>(tunnel: &Tunnel, request: &Request<B>) -> Result<Target, Rejection> {
    let bad = |why: String| Rejection::new(Code::BadRequest, why);
    let scheme = match request.uri().scheme_str() {
        Some("http") => Scheme::Http,
        Some("https") if tunnel.in_clear => {
            let why = "an https:// request without a tunnel is readable on its way here; it is served on this machine \
                       or behind TLS (`listen.proxy_tls`): send CONNECT";
            return Err(bad(why.to_owned()));
        }
        Some("https") => Scheme::Https,
        Some(_) => return Err(bad("only http and https are forwarded".to_owned())),
        None => return Err(bad("this is a proxy: send CONNECT, or a request with an absolute URL".to_owned())),
    };
    let text = request.uri().authority().map_or("", |a| a.as_str());
    let authority =
        Authority::parse(text, scheme.default_port()).map_err(|why| bad(format!("the URL's host: {why}")))?;
    if let Some(host) = host(request)? {
        agrees(&authority, host, scheme.default_port())?;
    }
    Ok(Target { scheme, authority, path_and_query: origin_path(request), by: Word::Check })
}

/// `/openai/v1/models` -> the route `openai`'s base URL and `/v1/models`.
fn gateway<B>(core: &Core, request: &Request<B>) -> Result<Target, Rejection> {
    host(request)?;
    routed(core, origin_path(request).as_str().as_bytes())
}

fn routed(core: &Core, whole: &[u8]) -> Result<Target, Rejection> {
    let unread = || Rejection::new(Code::BadRequest, "the path can't be read");
    let rest = whole.strip_prefix(b"/").unwrap_or_default();
    let (name, tail) = rest.split_at(memchr::memchr2(b'/', b'?', rest).unwrap_or(rest.len()));
    let name = std::str::from_utf8(name).map_err(|_| unread())?;
    let routes = core.shared.routes.load();
    let route = routes.get(name).ok_or_else(|| unrouted(&routes, name))?;
    let mut path = Vec::with_capacity(route.base_path.len() + 1 + tail.len());
    path.extend_from_slice(route.base_path.as_bytes());
    if !tail.starts_with(b"/") {
        path.push(b'/');
    }
    path.extend_from_slice(tail);
    let path_and_query = http::uri::PathAndQuery::from_maybe_shared(path).map_err(|_| unread())?;
    Ok(Target { scheme: route.scheme, authority: route.authority.clone(), path_and_query, by: route.by })
}

/// The path's first segment names no route. It isn't repeated: whatever isn't a route may be a key.
fn unrouted(routes: &Routes, wanted: &str) -> Rejection {
    let mut names: Vec<&str> = routes.keys().map(String::as_str).collect();
    names.sort_unstable();
    let near = nearest(&wanted.to_ascii_lowercase(), names.iter().copied());
    let what = match (wanted, near) {
        ("", _) => "the path begins with no route".to_owned(),
        (_, Some(near)) => format!("the path's first segment names no route (is /{near} meant?)"),
        _ => "the path's first segment names no route".to_owned(),
    };
    let rest = if names.len() > MOST_NAMED { ", ..." } else { "" };
    names.truncate(MOST_NAMED);
    Rejection::new(Code::RouteUnknown, format!("{what}. The routes: /{}{rest}", names.join(", /")))
}

/// How many routes an error names.
const MOST_NAMED: usize = 20;
