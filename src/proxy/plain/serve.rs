//! The steps of a plain exchange from what is decided to the reply.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Buf as _, BytesMut};
use http::Method;
use tokio::io::{AsyncRead, AsyncWrite};

use super::agent::Agent;
use super::ask::{self, Read};
use super::decide::{Ready, decide};
use super::{Went, answer};
use crate::credential::Credential;
use crate::proxy::account::Account;
use crate::proxy::core::Core;
use crate::proxy::exchange::{failed, fresh, stale};
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
}

/// Serves the request that begins what was read.
pub(super) async fn serve<S>(core: &Rc<Core>, tunnel: &Rc<Tunnel>, agent: &mut Agent<S>) -> Went
where
    S: AsyncRead + AsyncWrite + Fill + Unpin,
{
    let settings = &core.shared.settings;
    let mut waited = false;
    let asked = loop {
        match ask::read(&agent.input, &mut agent.fields, &settings.limits) {
            Read::Head(asked) if asked.len() <= agent.input.len() => break asked,
            Read::Head(_) | Read::Part if agent.more(settings.deadlines.whole_body, &mut waited).await => {}
            _ => return Went::Elsewhere,
        }
    };
    let Some(mut ready) = decide(core, tunnel, &asked, &agent.input, &agent.fields) else { return Went::Elsewhere };
    let began = ready.began;
    let (connection, dialled) = match core.upstream.plain(ready.place.clone(), began.instant()) {
        PlainCheckout::Pooled(connection) => (Ok(connection), None),
        PlainCheckout::Unfit => return Went::Elsewhere,
        PlainCheckout::New(dialling) => {
            let dial = Instant::now();
            match unless_stopped(agent, &ready.run, dialling).await {
                Ok(Err(upstream::Error::NoCommonProtocol)) => return Went::Elsewhere,
                Ok(Err(why)) => (Err(Some(failed(why))), None),
                Ok(Ok(connection)) => (Ok(connection), Some(dial.elapsed())),
                Err(Stop::Ended(ended)) => (Err(Some(Rejection::from(ended))), None),
                Err(Stop::Gone) => (Err(None), None),
            }
        }
    };
    let mut account = Account::open(Rc::clone(core), Rc::clone(tunnel), ready.exchange, ready.method.clone(), began);
    account.to(&ready.target);
    tunnel.begun.set(tunnel.begun.get() + 1);
    if let Some(session) = &ready.session {
        account.of_session(session);
    }
    let mut of = Of { core, tunnel, exchange: ready.exchange, head: ready.method == Method::HEAD, lasts: asked.lasts };
    let mut connection = match connection {
        Ok(connection) => connection,
        Err(why) => {
            agent.input.advance(asked.len());
            return match why {
                Some(rejection) => of.refuse(agent, account, &rejection).await,
                None => Went::Lost,
            };
        }
    };
    account.counted().bytes_in.set(asked.body as u64);
    let body = agent.input.get(asked.head..asked.len()).unwrap_or_default();
    let sent = send(core, tunnel, &mut ready, dialled, &mut account, &mut connection, body).await;
    agent.input.advance(asked.len());
    match sent {
        Ok(rest) => of.answer(agent, account, connection, rest, ready).await,
        Err(rejection) => of.refuse(agent, account, &rejection).await,
    }
}

/// Records the use, opens the key and puts it in: the request as it goes out.
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
        fresh(core, &ready.authorized, now)?;
        if let Some(ended) = ready.run.ended_at(now.time()) {
            return Err(Rejection::from(ended));
        }
    }
    let (exchange, digest) = (ready.exchange, ready.digest);
    let gone = || Rejection::new(Code::Internal, "the permit is gone");
    let permit = ready.take_permit().ok_or_else(gone)?;
    let (found, target) = (ready.identified.found.first().ok_or_else(gone)?, &ready.target);
    let (usage, at) = (Use::of(found), now.time());
    let intended = Intended { tunnel, exchange, target, usage, policies: &digest, permit: &permit, at };
    let (receipt, draft) = intended.record_among_others(core).await?;
    account.owe(found.token.session.id, Some(Arc::clone(permit.rule())), draft);
    // Others were recorded meanwhile.
    let now = Moment::read(&*core.shared.clock, core.timed.mark());
    if core.shared.registry.is_stale(now) {
        return Err(stale());
    }
    if let Some(ended) = ready.run.ended_at(now.time()) {
        return Err(Rejection::from(ended));
    }
    let Credential::Pasted(secret) = put::opened(core, exchange, &found.key, permit, receipt)? else {
        return Err(Rejection::new(Code::Internal, "what the key holds isn't put into a header"));
    };
    let secret = inject::fit(&found.slot, &secret)?;
    let (before, behind) = ready.head.split_at_checked(ready.hole).ok_or_else(gone)?;
    core.shared.metrics.injected(found.key.provider.as_str(), found.slot.label());
    let took = core.timed.mark().saturating_duration_since(ready.began.instant());
    core.timed.overhead(tunnel.mode.as_str(), took.saturating_sub(dialled.unwrap_or_default()));
    connection.begin([before, secret, behind, body]).await.map_err(failed)
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
}

impl Of<'_> {
    async fn answer<S>(
        &mut self,
        agent: &mut Agent<S>,
        mut account: Box<Account>,
        mut connection: Plain,
        rest: Rest,
        mut ready: Box<Ready>,
    ) -> Went
    where
        S: AsyncRead + AsyncWrite + Fill + Unpin,
    {
        let replied =
            connection.ask(rest, &ready.method, self.core.timed.mark(), |cx| poll_stop(agent, &ready.run, cx)).await;
        let head = match replied {
            Ok(head) => head,
            Err(Unanswered::Failed(why)) => return self.refuse(agent, account, &failed(why)).await,
            Err(Unanswered::Stopped(Stop::Ended(ended))) => return self.refuse(agent, account, &ended.into()).await,
            Err(Unanswered::Stopped(Stop::Gone)) => return Went::Lost,
        };
        let patterns = match ready.search.patterns() {
            Ok(patterns) => patterns,
            Err(rejection) => return self.refuse(agent, account, &rejection).await,
        };
        self.lasts &= !self.core.draining.begun();
        let date = self.core.date(account.began().time());
        if let Some(reply) = answer::whole(&connection, &head, patterns.as_deref(), &date, self.lasts) {
            let body = if reply.apart {
                connection.into_body(&head)
            } else {
                connection.done(&head);
                BytesMut::new()
            };
            account.counted().bytes_out.set(reply.body as u64);
            account.close(head.status.as_u16(), None);
            drop((account, ready));
            behind_the_ready().await;
            return match agent.say_both(&reply.front, &body).await {
                Ok(()) if self.lasts => Went::On,
                Ok(()) => Went::Out,
                Err(_) => Went::Lost,
            };
        }
        let response = match connection.response(&head) {
            Ok(response) => response,
            Err(why) => return self.refuse(agent, account, &failed(why)).await,
        };
        let Ready { search, run, .. } = *ready;
        match relay::relay(response, search, Some(run), account) {
            Ok(response) => answer::stream(agent, response, &date, self.head, self.lasts).await,
            Err((rejection, account)) => self.refuse(agent, account, &rejection).await,
        }
    }

    async fn refuse<S>(&self, agent: &mut Agent<S>, mut account: Box<Account>, rejection: &Rejection) -> Went
    where
        S: AsyncRead + AsyncWrite + Fill + Unpin,
    {
        self.core.refused(self.exchange, self.tunnel, account.authority(), account.asker(), rejection);
        account.close(rejection.status(), Some(rejection));
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

fn poll_stop<S>(agent: &mut Agent<S>, run: &Run, cx: &mut Context<'_>) -> Poll<Stop>
where
    S: AsyncRead + AsyncWrite + Fill + Unpin,
{
    match run.poll_ended(cx) {
        Poll::Ready(ended) => Poll::Ready(Stop::Ended(ended)),
        Poll::Pending => agent.poll_gone(cx).map(|()| Stop::Gone),
    }
}

/// The future's result, unless the exchange stops first.
async fn unless_stopped<S, T>(
    agent: &mut Agent<S>,
    run: &Run,
    mut future: Pin<Box<dyn Future<Output = T> + '_>>,
) -> Result<T, Stop>
where
    S: AsyncRead + AsyncWrite + Fill + Unpin,
{
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(out) => Poll::Ready(Ok(out)),
        Poll::Pending => poll_stop(agent, run, cx).map(Err),
    })
    .await
}
