//! The steps of a plain exchange from what is decided to the reply.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf as _, BytesMut};
use http::{Method, StatusCode};
use prometheus::IntCounter;
use tokio::io::{AsyncRead, AsyncWrite};

use super::agent::Agent;
use super::ask::{self, Extent, Read};
use super::decide::{Ready, decide};
use super::upload::{Broken, Upload};
use super::{Went, answer};
use crate::audit::OutcomeWord;
use crate::credential::Credential;
use crate::proxy::account::Account;
use crate::proxy::core::Core;
use crate::proxy::exchange::{failed, stale};
use crate::proxy::record::{Intended, Use};
use crate::proxy::reject::{Code, Rejection};
use crate::proxy::running::Run;
use crate::proxy::tunnel::Tunnel;
use crate::proxy::{inject, put, relay};
use crate::session::live::Ended;
use crate::session::registry::Moment;
use crate::upstream::plain::{Plain, Rest, Unanswered};
use crate::upstream::{self, Fill, PlainCheckout};

/// Why an exchange stops while it waits.
enum Stop {
    /// Its token, session or key ended.
    Ended(Ended),
    /// Its agent is gone.
    Gone,
    /// What it sends was broken off.
    Broken(Broken),
}

/// Serves the request that begins what was read.
pub(super) async fn serve<S>(core: &Rc<Core>, tunnel: &Rc<Tunnel>, agent: &mut Agent<S>) -> Went
where
    S: AsyncRead + AsyncWrite + Fill + Unpin,
{
    let settings = &core.shared.settings;
    let (most, mut waited) = (settings.limits.head_bytes, false);
    let (extent, mut ready) = loop {
        let read = match agent.last.extent(&agent.input, most) {
            Some(extent) => Read::Again(extent),
            None => ask::read(&agent.input, &mut agent.fields, &settings.limits),
        };
        let is_there = |extent: Extent| extent.len() <= agent.input.len() || extent.body > settings.limits.whole_body;
        match read {
            Read::Again(extent) if is_there(extent) => {
                if let Some(ready) = agent.last.decide(core, tunnel, &agent.input, extent) {
                    break (extent, ready);
                }
            }
            Read::Head(ask) if is_there(ask.extent) => {
                match decide(core, tunnel, &ask, &agent.input, &agent.fields, &mut agent.last) {
                    Some(ready) => break (ask.extent, ready),
                    None => return Went::Elsewhere,
                }
            }
            Read::Again(_) | Read::Head(_) | Read::Part
                if agent.more(settings.deadlines.whole_body, &mut waited).await => {}
            _ => return Went::Elsewhere,
        }
    };
    let began = ready.began;
    let (connection, dialled) = match core.upstream.plain(&ready.decided.place, began.instant()) {
        PlainCheckout::Pooled(connection) => (Ok(connection), None),
        PlainCheckout::Unfit => return Went::Elsewhere,
        PlainCheckout::New(dialling) => {
            let dial = Instant::now();
            match unless_stopped(agent, ready.run.as_ref(), dialling).await {
                Ok(Err(upstream::Error::NoCommonProtocol)) => return Went::Elsewhere,
                Ok(Err(why)) => (Err(Some(failed(why))), None),
                Ok(Ok(connection)) => {
                    // Others may have begun meanwhile.
                    ready.alone = false;
                    (Ok(connection), Some(dial.elapsed()))
                }
                Err(Stop::Ended(ended)) => (Err(Some(Rejection::from(ended))), None),
                Err(Stop::Gone | Stop::Broken(_)) => (Err(None), None),
            }
        }
    };
    let method = ready.decided.method.clone();
    let head = method == Method::HEAD;
    let mut account = Account::open(Rc::clone(core), Rc::clone(tunnel), ready.exchange, method, began);
    account.to(&ready.decided.target);
    account.like(&ready.decided.who);
    tunnel.begun.set(tunnel.begun.get() + 1);
    if let Some(session) = &tunnel.session {
        account.of_session(session);
    }
    // What goes out with the head: all of the request, or what there is of it.
    let beginning = agent.input.len().min(extent.len());
    let left = extent.len().saturating_sub(beginning);
    let idle = settings.deadlines.idle_body;
    let upload = (left > 0).then(|| Box::new(Upload::new(left, account.counted(), idle)));
    let mut of = Of { core, tunnel, exchange: ready.exchange, head, lasts: extent.lasts, upload };
    let mut connection = match connection {
        Ok(connection) => connection,
        Err(why) => {
            agent.input.advance(beginning);
            return match why {
                Some(rejection) => of.refuse(agent, account, &rejection).await,
                None => Went::Lost,
            };
        }
    };
    let body = agent.input.get(extent.head..beginning).unwrap_or_default();
    account.counted().bytes_in.set(body.len() as u64);
    let sent = send(core, tunnel, &mut ready, dialled, &mut account, &mut connection, body).await;
    agent.input.advance(beginning);
    match sent {
        Ok(rest) => of.answer(agent, account, connection, rest, ready).await,
        Err(rejection) => of.refuse(agent, account, &rejection).await,
    }
}

/// Records the use, opens the key and puts it in, if one is to be used: the request as it goes out.
async fn send(
    core: &Core,
    tunnel: &Tunnel,
    ready: &mut Ready,
    dialled: Option<Duration>,
    account: &mut Account,
    connection: &mut Plain,
    body: &[u8],
) -> Result<Rest, Rejection> {
    let mut now = ready.began;
    if dialled.is_some() {
        // It may have taken seconds.
        now = Moment::now(&*core.shared.clock);
        core.timed.begin_at(now.instant());
        if ready.permit.is_some() && core.shared.registry.is_stale(now) {
            return Err(stale());
        }
        check_ended(ready, now)?;
    }
    if ready.decided.found.is_none() {
        note_overhead(core, tunnel, ready, dialled);
        return connection.begin([&ready.head().text, body, b"", b""]).await.map_err(failed);
    }
    let gone = || Rejection::new(Code::Internal, "the permit is gone");
    let permit = ready.permit.take().ok_or_else(gone)?;
    let (exchange, decided) = (ready.exchange, &ready.decided);
    let (found, target) = (decided.found.as_ref().ok_or_else(gone)?, &decided.target);
    let (usage, at) = (Use::of(found), now.time());
    let intended = Intended { tunnel, exchange, target, usage, policies: &decided.digest, permit: &permit, at };
    // The head's only token stands in a field, and no route's base URL holds one.
    let (receipt, draft) = if ready.alone {
        intended.record_with(core, target.path())?
    } else {
        intended.record_among_others(core, target.path(), core.timed.mark()).await?
    };
    account.owe(found.token.session.id, Some(Arc::clone(permit.rule())), draft);
    // Others were recorded meanwhile.
    let now = Moment::read(&*core.shared.clock, core.timed.mark());
    if core.shared.registry.is_stale(now) {
        return Err(stale());
    }
    check_ended(ready, now)?;
    let Credential::Pasted(opened) = put::opened(core, exchange, &found.key, permit, receipt)? else {
        return Err(Rejection::new(Code::Internal, "what the key holds isn't put into a header"));
    };
    let secret = inject::fit(&found.slot, &opened)?;
    let head = ready.head();
    let (before, behind) = head.text.split_at_checked(head.hole).ok_or_else(gone)?;
    let sent = connection.begin([before, secret, behind, body]).await.map_err(failed);
    drop(opened);
    // Counted while the upstream has it.
    decided.injections.iter().for_each(IntCounter::inc);
    note_overhead(core, tunnel, ready, dialled);
    sent
}

/// Refuses if its session, token or key ended meanwhile.
fn check_ended(ready: &Ready, now: Moment) -> Result<(), Rejection> {
    match ready.run.as_ref().and_then(|run| run.ended_at(now.time())) {
        Some(ended) => Err(Rejection::from(ended)),
        None => Ok(()),
    }
}

/// How long it took until the request was ready to be sent.
fn note_overhead(core: &Core, tunnel: &Tunnel, ready: &Ready, dialled: Option<Duration>) {
    let took = core.timed.mark().saturating_duration_since(ready.began.instant());
    core.timed.overhead(tunnel.mode.as_str(), took.saturating_sub(dialled.unwrap_or_default()));
}

/// What an exchange is to those who answer.
struct Of<'a> {
    core: &'a Rc<Core>,
    tunnel: &'a Rc<Tunnel>,
    exchange: crate::model::ExchangeId,
    /// Whether the request is a HEAD, so that its reply has no body.
    head: bool,
    /// Whether the agent's connection goes on.
    lasts: bool,
    /// What is left of the request, if it isn't there yet.
    upload: Option<Box<Upload>>,
}

impl Of<'_> {
    async fn answer<S>(
        &mut self,
        agent: &mut Agent<S>,
        account: Box<Account>,
        mut connection: Plain,
        rest: Rest,
        mut ready: Box<Ready>,
    ) -> Went
    where
        S: AsyncRead + AsyncWrite + Fill + Unpin,
    {
        let replied = connection
            .ask(rest, &ready.decided.method, self.core.timed.mark(), ready.alone, |cx, to| {
                poll_stop(agent, self.upload.as_deref_mut().zip(to), ready.run.as_ref(), cx)
            })
            .await;
        let mut head = match replied {
            Ok(head) => head,
            Err(Unanswered::Failed(why)) => return self.refuse(agent, account, &failed(why)).await,
            Err(Unanswered::Stopped(Stop::Ended(ended))) => return self.refuse(agent, account, &ended.into()).await,
            Err(Unanswered::Stopped(Stop::Gone)) => return Went::Lost,
            Err(Unanswered::Stopped(Stop::Broken(Broken::ByUpstream))) => {
                let why = failed(upstream::Error::Closed { written: true });
                return self.refuse(agent, account, &why).await;
            }
            Err(Unanswered::Stopped(Stop::Broken(Broken::ByAgent))) => {
                let why = "the request's body can't be read to its end";
                return self.refuse(agent, account, &Rejection::new(Code::BadRequest, why)).await;
            }
        };
        let patterns = match ready.search.patterns() {
            Ok(patterns) => patterns,
            Err(rejection) => return self.refuse(agent, account, &rejection).await,
        };
        self.lasts &= !self.core.draining.begun();
        let date = self.core.date(account.began().time());
        let mut beside = None;
        if let Some(upload) = self.upload.take_if(|upload| !upload.is_over()) {
            let to;
            (connection, to) = connection.share(&mut head);
            beside = Some((upload, to));
        } else if let Some(reply) = answer::whole(&connection, &head, patterns.as_deref(), &date, self.lasts) {
            let body = if reply.apart {
                connection.into_body(&head)
            } else {
                connection.done(&head);
                BytesMut::new()
            };
            if !ready.alone {
                behind_the_ready().await;
            }
            return self.say_whole(agent, account, &ready, head.status, &reply, &body).await;
        }
        let response = match connection.response(&head) {
            Ok(response) => response,
            Err(why) => {
                self.upload = beside.map(|(upload, _)| upload);
                return self.refuse(agent, account, &failed(why)).await;
            }
        };
        let Ready { search, run, .. } = *ready;
        match relay::relay(response, search, run, account) {
            Ok(response) => {
                let went = answer::stream(agent, response, &date, self.head, self.lasts, beside.as_mut()).await;
                let Some((upload, to)) = beside.filter(|_| went != Went::Lost) else { return went };
                if upload.finish(agent, to).await { went } else { Went::Out }
            }
            Err((rejection, account)) => {
                self.upload = beside.map(|(upload, _)| upload);
                self.refuse(agent, account, &rejection).await
            }
        }
    }

    /// Says a reply that is there whole. Only then is written what became of the exchange: its agent doesn't wait
    /// for that.
    async fn say_whole<S>(
        &self,
        agent: &mut Agent<S>,
        mut account: Box<Account>,
        ready: &Ready,
        status: StatusCode,
        reply: &answer::Whole,
        body: &[u8],
    ) -> Went
    where
        S: AsyncRead + AsyncWrite + Fill + Unpin,
    {
        // Until it is said, the exchange can only end as one that was cut.
        account.status = status.as_u16();
        let say = agent.say_both(&reply.front, body);
        let said = match &ready.run {
            Some(run) => run.guard(say).await,
            None => Ok(say.await),
        };
        match said {
            Ok(Ok(())) => {
                account.counted().bytes_out.set(reply.body as u64);
                account.close(status.as_u16(), None);
                if self.lasts { Went::On } else { Went::Out }
            }
            Ok(Err(_)) => Went::Lost,
            Err(ended) => {
                account.cut(OutcomeWord::Aborted, Some(Rejection::from(ended).code));
                Went::Lost
            }
        }
    }

    async fn refuse<S>(&mut self, agent: &mut Agent<S>, mut account: Box<Account>, rejection: &Rejection) -> Went
    where
        S: AsyncRead + AsyncWrite + Fill + Unpin,
    {
        self.core.refused(self.exchange, self.tunnel, account.authority(), account.asker(), rejection);
        account.close(rejection.status(), Some(rejection));
        if let Some(upload) = self.upload.take() {
            // A body that isn't read to its end may never end: no other request follows it.
            self.lasts &= upload.read_rest(agent, &self.core.shared.settings).await;
        }
        let mut reply = rejection.in_http1(self.exchange, if self.lasts { "keep-alive" } else { "close" });
        if self.head
            && let Some(end) = memchr::memmem::find(&reply, b"\r\n\r\n")
        {
            reply.truncate(end + 4);
        }
        match agent.say(&reply).await {
            Ok(()) if self.lasts => Went::On,
            Ok(()) => Went::Out,
            Err(_) => Went::Lost,
        }
    }
}

/// Lets everything else that is ready go first. Replies of one turn of the core go out in a row then: an
/// agent's processor that is woken for each of them costs more than the reply.
async fn behind_the_ready() {
    let mut waited = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut waited, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Looks whether the exchange has to stop, and passes on what is left of the request.
fn poll_stop<S>(
    agent: &mut Agent<S>,
    upload: Option<(&mut Upload, Pin<&mut dyn AsyncWrite>)>,
    run: Option<&Run>,
    cx: &mut Context<'_>,
) -> Poll<Stop>
where
    S: AsyncRead + AsyncWrite + Fill + Unpin,
{
    if let Some(run) = run
        && let Poll::Ready(ended) = run.poll_ended(cx)
    {
        return Poll::Ready(Stop::Ended(ended));
    }
    if let Some((upload, to)) = upload.filter(|(upload, _)| !upload.is_over())
        && let Err(broken) = ready!(upload.poll(agent, to, cx))
    {
        return Poll::Ready(Stop::Broken(broken));
    }
    agent.poll_gone(cx).map(|()| Stop::Gone)
}

/// The future's result, unless the exchange stops first.
async fn unless_stopped<S, T>(
    agent: &mut Agent<S>,
    run: Option<&Run>,
    mut future: Pin<Box<dyn Future<Output = T> + '_>>,
) -> Result<T, Stop>
where
    S: AsyncRead + AsyncWrite + Fill + Unpin,
{
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(out) => Poll::Ready(Ok(out)),
        Poll::Pending => poll_stop(agent, None, run, cx).map(Err),
    })
    .await
}
