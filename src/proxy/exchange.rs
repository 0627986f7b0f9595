//! The spine: one request and its reply, as a list of steps.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{CONNECTION, CONTENT_TYPE, EXPECT, PROXY_AUTHORIZATION, RANGE};
use http::{HeaderName, HeaderValue, Method, Request, Response, Version};
use http_body::Body as _;
use hyper::body::Incoming;

use super::account::Account;
use super::authorize::{self, Authorized, Question};
use super::core::Core;
use super::held::Held;
use super::identify::{self, Finder, Found, Identified};
use super::reject::{Code, Rejection};
use super::relay::{self, Reply};
use super::running::Run;
use super::search::Search;
use super::target;
use super::tunnel::{Tunnel, authenticate};
use super::upgrade::{self, Asked};
use super::upload::Upload;
use super::websocket::Decided;
use super::{Mode, bounds, certificate, forward, issue, mint, put, signed, whole};
use crate::credential::aws::ChunkError;
use crate::model::{ExchangeId, KeyId, OrgId};
use crate::policy::Unsearched;
use crate::session::live::{LiveSession, LiveToken};
use crate::session::registry::Moment;
use crate::upstream::{self, Checkout, Place};

/// How often a request is tried again on a fresh connection when a pooled one turned out closed
/// before anything was written.
const TRIES: usize = 3;

/// Serves one request. Every way out closes the account: record, metrics and log line.
pub async fn serve(core: Rc<Core>, tunnel: Rc<Tunnel>, mut request: Request<Incoming>) -> Response<Reply> {
    let began = Moment::now(&*core.shared.clock);
    let exchange = core.exchange_id_at(began.time());
    let asked = upgrade::read(&mut request);
    let grpc = is_grpc(&request);
    let expects = request.headers().get(EXPECT).is_some_and(is_continue);
    let version = request.version();
    let unread = !request.body().is_end_stream();
    let account = Account::open(Rc::clone(&core), Rc::clone(&tunnel), exchange, request.method().clone(), began);
    let (counted, settings) = (account.counted(), &core.shared.settings);
    let request = request.map(|body| Upload::new(body, version, Rc::clone(&counted), settings.deadlines.idle_body));
    counted.undecided.set(unread);
    // Boxed, since its state is large: this future's own is moved about before it is polled.
    let served = Box::pin(run(&core, &tunnel, exchange, request, asked, account)).await;
    counted.undecided.set(false);
    match served {
        Ok(response) => {
            counted.left.take();
            response
        }
        Err((rejection, mut account)) => {
            core.refused(exchange, &tunnel, account.authority(), account.asker(), &rejection);
            account.close(rejection.status(), Some(&rejection));
            if version == Version::HTTP_2 {
                counted.linger(settings.deadlines.linger);
            }
            if grpc {
                return rejection.in_grpc(exchange).map(|_| Reply::Own(None));
            }
            let mut response = rejection.response(exchange).map(|body| Reply::Own(Some(body)));
            // A body that isn't read to its end may never end: no other request follows it.
            let (most, deadline) = (settings.limits.whole_body, settings.deadlines.whole_body);
            if unread && version == Version::HTTP_11 && !counted.read_rest(most, deadline, expects).await {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            response
        }
    }
}

/// RFC 9110 section 10.1.1; there are no other expectations.
fn is_continue(expect: &HeaderValue) -> bool {
    expect.as_bytes().eq_ignore_ascii_case(b"100-continue")
}

/// Whether the request is a gRPC call, which reads refusals in words of its own.
fn is_grpc(request: &Request<Incoming>) -> bool {
    request.version() == Version::HTTP_2
        && request.method() == Method::POST
        && request.headers().get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

type Refused = (Rejection, Box<Account>);

async fn run(
    core: &Rc<Core>,
    tunnel: &Rc<Tunnel>,
    exchange: ExchangeId,
    mut request: Request<Upload>,
    asked: Result<Option<Asked>, Rejection>,
    mut account: Box<Account>,
) -> Result<Response<Reply>, Refused> {
    macro_rules! step {
        ($result:expr) => {
            match $result {
                Ok(value) => value,
                Err(rejection) => return Err((Rejection::from(rejection), account)),
            }
        };
    }
    let shared = &core.shared;
    let asked = step!(asked);
    // Of what is decided before anything is awaited.
    let mut now = account.began();
    let target = step!(target::read(core, tunnel, &request));
    account.to(&target);
    let session = step!(who(core, tunnel, &request, now));
    if let Some(session) = &session {
        account.of_session(session);
    }
    let bound = core.bound(target.scheme, &target.authority);
    if issue::concerns(&bound, request.method(), &target) {
        let session = session.as_ref();
        let answered =
            Box::pin(issue::serve(core, tunnel, exchange, request, &target, &bound, session, &mut account)).await;
        return answered.map_err(|rejection| (rejection, account));
    }
    let version = request.version();
    let mut finder = Finder {
        registry: &shared.registry,
        bound: bound.keys(),
        places: bound.places(),
        target: &target,
        session: session.as_ref(),
        now: now.time(),
    };
    if !bound.places().cookies.is_empty() && version == Version::HTTP_2 {
        upstream::join_cookies(request.headers_mut());
    }
    core.timed.begin();
    let mut identified = finder.head(request.headers());
    core.timed.looked_up();
    let (mut whole, mut waited) = (None, Duration::ZERO);
    if let Ok(found) = &mut identified
        && bound.places().in_body()
    {
        let reading = Instant::now();
        // Boxed, since few hosts have such slots and its state would be part of every exchange.
        let settled = !found.found.is_empty();
        whole = step!(Box::pin(whole::read(core, &mut request, bound.places(), settled)).await);
        waited = reading.elapsed();
        now = Moment::now(&*shared.clock);
        finder.now = now.time();
        if let Some(Err(why)) = whole.as_ref().map(|body| finder.body(found, body)) {
            identified = Err(why);
        }
    }
    if identified.is_err()
        && let Some(token) = identify::first_known(request.headers(), &target, whole.as_ref(), &shared.registry)
    {
        account.of_token(&token);
    }
    let identified = step!(identified);
    account.inert(identified.inert);
    let method = request.method().clone();
    // It is asked only of requests without a token.
    let from_browser = identified.found.is_empty() && authorize::from_browser(request.headers());
    let question = Question {
        exchange,
        mode: tunnel.mode,
        session: session.as_ref(),
        method: &method,
        from_browser,
        target: &target,
        upgrade: asked.as_ref().map(Asked::protocol),
        bound: bound.keys(),
        unbound: shared.settings.unbound,
        registry: &shared.registry,
    };
    let mut policies = shared.policies.current();
    for found in &identified.found {
        if let Err(misplaced) = bounds::check(core, &found.token.session, &tunnel.from) {
            account.of_token(&found.token);
            step!(Err(misplaced));
        }
    }
    let authorized = authorize::authorize(&policies, &question, &identified);
    if let (Err(_), Some(found)) = (&authorized, identified.found.first()) {
        account.of_token(&found.token);
    }
    let mut authorized = step!(authorized);
    step!(fresh(core, &authorized, now));
    // Before a key is used, it is certain that the reply can be searched for it.
    let asker = identified.found.first().map(|found| &found.token.session).or(session.as_ref()).cloned();
    let part = request.headers().contains_key(RANGE);
    let mut search = step!(Search::new(core, &target, Rc::clone(&bound), asker, part, now.time()));
    step!(search.patterns());
    let filled = match &authorized {
        Authorized::Fill(fill) => Some(fill.0.id),
        _ => None,
    };
    let tokens = identified.found.iter().map(|found| Arc::clone(&found.token));
    let run = match enter(core, tokens, session.as_ref(), filled) {
        // A WebSocket is looked after in any case: policies may change while it is open.
        None if asked.is_some() => Some(core.running.enter([], None)),
        run => run,
    };
    if mint::concerns(&identified, &authorized) {
        let (wanted, session) = ((&method, &target, question.upgrade), session.as_ref());
        let ready = Box::pin(mint::ready(core, tunnel, exchange, wanted, &identified, &authorized, session));
        step!(step!(guard(run.as_ref(), ready).await));
        // It may have taken seconds.
        now = Moment::now(&*shared.clock);
        step!(fresh(core, &authorized, now));
    }

    let mut signed = step!(signed::read(core, &identified, &request));
    if signed.is_some() && asked.is_some() {
        step!(Err(Rejection::new(Code::BadRequest, "no WebSocket is opened with a key that signs requests")));
    }

    // Whoever waits for 100 (Continue) is told by the upstream, unless the body was needed here.
    let streams = version == Version::HTTP_11 && whole.is_none() && signed.is_none();
    let expects = streams && !request.body().is_end_stream() && request.headers().get(EXPECT).is_some_and(is_continue);
    // What is sent is what was decided on.
    step!(forward::fit(request.headers_mut(), &target, bound.host(), search.back()));
    let arrives = |name: &HeaderName| request.headers().contains_key(name);
    if !identified.found.iter().filter_map(Found::header).all(arrives) {
        step!(Err(Rejection::new(Code::BadRequest, "the Connection header names a field that must arrive")));
    }
    if let Some(asked) = &asked {
        asked.ask(request.headers_mut());
    }
    let wanted = forward::wanted(version);
    let mut originals = slots_as_they_came(&request, &identified, &authorized);
    *request.uri_mut() = http::Uri::from(target.path_and_query.clone());
    *request.version_mut() = Version::HTTP_11;
    if expects {
        request.extensions_mut().insert(upstream::Expects);
    }
    let mut request: Request<upstream::RequestBody> = request.map(|body| Box::pin(body) as upstream::RequestBody);

    if let Some(signed) = &mut signed {
        // No key is put into it, so it is a body like any other.
        if let Some(body) = whole.take() {
            body.put(&mut request);
        }
        let room = Held::new(core.signed_bodies(), shared.settings.limits.signed_bodies);
        let held = Box::pin(signed.hold(&mut request, account.counted(), shared.settings.limits.signed_body, room));
        step!(step!(guard(run.as_ref(), held).await));
    }
    if let Some(operation) = signed::hands_out(signed.as_ref(), &authorized, bound.keys(), &target, &request)
        && !search.forwards(Unsearched::Credentials)
    {
        step!(Err(signed::withheld(&operation)));
    }

    let org = identified.found.first().map_or(OrgId::DEFAULT, |found| found.token.session.org);
    let by = forward::word(&target, &identified, &authorized);
    let mut attempt = 0;
    loop {
        attempt += 1;
        let place = Place::of(org, target.scheme, &target.authority).by(by);
        let checkout = match &asked {
            _ if certificate::concerns(&identified, &authorized) => {
                let owed = step!(certificate::owe(
                    core,
                    tunnel,
                    exchange,
                    &target,
                    &identified,
                    policies.digest(),
                    now,
                    &mut authorized,
                    session.as_ref(),
                    &mut request,
                    &mut account
                ));
                step!(owed.checkout(core, place, asked.is_none().then_some(wanted), now))
            }
            None => core.upstream.checkout(place, wanted, now.instant()),
            Some(_) => core.upstream.alone(place),
        };
        let connection = match checkout {
            Checkout::Pooled(connection) => connection,
            Checkout::New(dialling) => {
                let dial = Instant::now();
                let connection = step!(step!(guard(run.as_ref(), dialling).await).map_err(failed));
                waited += dial.elapsed();
                now = Moment::now(&*shared.clock);
                step!(fresh(core, &authorized, now));
                connection
            }
        };
        // The session is looked at once more: connecting may have taken seconds.
        if let Some(ended) = run.as_ref().and_then(|run| run.ended_at(now.time())) {
            step!(Err(Rejection::from(ended)));
        }
        let receipts = put::record(
            core,
            tunnel,
            exchange,
            &target,
            &identified,
            policies.digest(),
            now.time(),
            &authorized,
            session.as_ref(),
            &mut account,
        );
        let receipts = step!(receipts.await);
        if !receipts.is_empty() {
            // Others were recorded meanwhile.
            now = Moment::now(&*shared.clock);
            step!(fresh(core, &authorized, now));
            if let Some(ended) = run.as_ref().and_then(|run| run.ended_at(now.time())) {
                step!(Err(Rejection::from(ended)));
            }
        }
        let mut body = whole.clone();
        step!(put::put(
            core,
            exchange,
            &identified,
            now.time(),
            authorized,
            receipts,
            signed.as_ref(),
            &mut request,
            body.as_mut()
        ));
        if let Some(body) = body {
            body.put(&mut request);
        }
        core.timed.overhead(
            tunnel.mode.as_str(),
            core.timed.mark().saturating_duration_since(account.began().instant()).saturating_sub(waited),
        );
        let refusal = connection.refusal();
        let sent = step!(guard(run.as_ref(), pin!(connection.send(request))).await);
        if let (Err(_), Some(why)) = (&sent, refusal.and_then(|refusal| refusal.words())) {
            return Err((Rejection::new(Code::UpstreamTls, why), account));
        }
        match sent {
            Ok(response) => {
                mint::answered(core, &identified, response.status());
                let relayed = match (asked, run) {
                    (Some(asked), Some(run)) => {
                        let mode = tunnel.mode;
                        let upgrade = asked.protocol().to_owned();
                        let decided =
                            Decided { exchange, mode, session, from_browser, target, method, upgrade, identified };
                        asked.answer(core, response, search, run, decided, account)
                    }
                    (_, run) => relay::relay(response, search, run, account),
                };
                return relayed;
            }
            Err((upstream::Error::Closed { written: false }, Some(back))) if attempt < TRIES => {
                request = back;
                now = Moment::now(&*shared.clock);
                account.abandon();
                *request.uri_mut() = http::Uri::from(target.path_and_query.clone());
                for (name, value) in &originals {
                    match value {
                        Some(value) => drop(request.headers_mut().insert(name, value.clone())),
                        None => drop(request.headers_mut().remove(name)),
                    }
                }
                policies = shared.policies.current();
                authorized = step!(authorize::authorize(&policies, &question, &identified));
                originals = slots_as_they_came(&request, &identified, &authorized);
            }
            Err(_) if account.counted().refused.get().is_some() => {
                let why = account.counted().refused.get().unwrap_or(ChunkError::Shape);
                return Err((Rejection::from(why), account));
            }
            Err(_) if account.counted().broken.get() => {
                let why = "the request's body can't be read to its end";
                return Err((Rejection::new(Code::BadRequest, why), account));
            }
            Err((why, _)) => return Err((failed(why), account)),
        }
    }
}

/// Whose proxy credentials came with the request: those of CONNECT, or its own in absolute form.
fn who<B>(
    core: &Core,
    tunnel: &Tunnel,
    request: &Request<B>,
    now: Moment,
) -> Result<Option<Arc<LiveSession>>, Rejection> {
    match (&tunnel.session, tunnel.mode, &tunnel.target) {
        (Some(session), ..) => match session.ended(now.time()) {
            Some(ended) => Err(ended.into()),
            None => Ok(Some(Arc::clone(session))),
        },
        (None, Mode::Forward, None) => {
            let credentials = request.headers().get(PROXY_AUTHORIZATION).map(HeaderValue::as_bytes);
            authenticate(core, credentials, tunnel)
        }
        _ => Ok(None),
    }
}

/// Whether revocations can still be known, where a key is about to be used.
pub(super) fn fresh(core: &Core, authorized: &Authorized, now: Moment) -> Result<(), Rejection> {
    match authorized {
        Authorized::Plain => Ok(()),
        _ if !core.shared.registry.is_stale(now) => Ok(()),
        _ => Err(stale()),
    }
}

/// Revocations can't be known.
pub(super) fn stale() -> Rejection {
    Rejection::new(Code::StoreUnavailable, "the store has been out of reach for too long")
}

/// Enters the exchange among those that end with their tokens; or, if it has none, with the session of its proxy
/// credentials and the key that is `filled` in.
pub(super) fn enter(
    core: &Core,
    tokens: impl IntoIterator<Item = Arc<LiveToken>>,
    session: Option<&Arc<LiveSession>>,
    filled: Option<KeyId>,
) -> Option<Run> {
    let mut tokens = tokens.into_iter().peekable();
    if tokens.peek().is_some() {
        return Some(core.running.enter(tokens, None));
    }
    session.map(|session| core.running.enter([], Some(core.shared.registry.live_use(session, filled))))
}

async fn guard<F: Future>(run: Option<&Run>, future: F) -> Result<F::Output, Rejection> {
    match run {
        Some(run) => run.guard(future).await.map_err(Rejection::from),
        None => Ok(future.await),
    }
}

/// The slots' headers as they are without a key, for another try.
fn slots_as_they_came<B>(
    request: &Request<B>,
    identified: &Identified,
    authorized: &Authorized,
) -> Vec<(HeaderName, Option<HeaderValue>)> {
    let filled = match authorized {
        Authorized::Fill(fill) => identify::header_of(&fill.1),
        _ => None,
    };
    let names = identified.found.iter().filter_map(Found::header).chain(filled);
    names.map(|name| (name.clone(), request.headers().get(name).cloned())).collect()
}

/// What the upstream's failure means to the agent.
pub(super) fn failed(why: upstream::Error) -> Rejection {
    use upstream::Error as E;
    let code = match &why {
        E::Blocked { .. } => Code::DestinationBlocked,
        E::Tls(_) => Code::UpstreamTls,
        E::Timeout(_) => Code::UpstreamTimeout,
        _ => Code::UpstreamUnreachable,
    };
    Rejection::new(code, why.to_string())
}
