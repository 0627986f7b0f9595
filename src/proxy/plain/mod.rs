//! The plain exchange, which most are: HTTP/1.1 on both sides, a request whose head is all that is to be
//! decided on, and one token in one header of it, or none where no key is bound.
//!
//! It takes the steps of [`super::exchange`] with the same code for each decision, but on the bytes as
//! they came: nothing is parsed into maps, and request and reply go out with one write each. What was decided
//! about a head holds for the next one like it ([`again`]). Whatever
//! isn't plain, and whatever would be refused, is left alone: nothing was said or recorded of it yet,
//! and the connection goes on in the full way with all that was read ([`intercept::serve_http1`]).

mod again;
mod agent;
mod answer;
mod ask;
mod decide;
mod serve;
mod upload;

use std::pin::pin;
use std::rc::Rc;
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite};

use super::core::Core;
use super::intercept;
use super::step::{Next, then};
use super::tunnel::Tunnel;
use super::wire::Prefixed;
use crate::upstream::Fill;
use agent::{Agent, Came};

/// How an exchange left its agent's connection.
#[derive(Debug, PartialEq, Eq)]
enum Went {
    /// Ready for another request.
    On,
    /// At its end, in good order.
    Out,
    /// Of no more use.
    Lost,
    /// As it was: what was read is none of a plain exchange.
    Elsewhere,
}

/// Serves HTTP/1.1 on the stream until either side is done.
pub async fn serve<S>(core: Rc<Core>, stream: S, tunnel: Rc<Tunnel>) -> Next
where
    S: AsyncRead + AsyncWrite + Fill + Unpin + 'static,
{
    let mut agent = Agent::new(stream, &core.shared.settings.deadlines);
    let mut draining = pin!(core.draining.wait());
    let mut since = Instant::now();
    loop {
        if agent.input.is_empty() {
            match agent.wait(since, core.shared.settings.deadlines.head, draining.as_mut()).await {
                Came::Bytes => {}
                Came::Nothing => return agent.close().await,
                Came::End => return None,
            }
        }
        match serve::serve(&core, &tunnel, &mut agent).await {
            Went::On if core.draining.begun() => return agent.close().await,
            Went::On => {
                since = core.timed.mark();
                agent.rest();
            }
            Went::Out => return agent.close().await,
            Went::Lost => return None,
            Went::Elsewhere => break,
        }
    }
    let (input, stream) = agent.into_parts();
    then(intercept::serve_http1(core, Prefixed::new(input.freeze(), stream), tunnel))
}
