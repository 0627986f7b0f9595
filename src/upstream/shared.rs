//! HTTP/2 connections, each of which several exchanges share.
//!
//! The windows are such that replies which nobody reads can't use up what the others on their connection need:
//! a connection's window has room for all of its streams' (RFC 9113 section 5.2).

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};

use super::gathered::Gathered;
use super::interim::{Followed, GivenUp};
use super::pool::Open;
use super::{Error, RequestBody};

/// How much of one reply an upstream may send ahead, in bytes.
const STREAM_WINDOW: u32 = 1 << 20;
/// The largest window that there is (RFC 9113 section 6.9.1).
const LARGEST_WINDOW: u32 = i32::MAX.unsigned_abs();

/// A connection.
pub(super) struct Shared {
    sender: SendRequest<RequestBody>,
    given_up: GivenUp,
    born: Instant,
    /// How many exchanges run on it.
    busy: Rc<Cell<u32>>,
    /// How many the upstream takes, as far as it has said.
    takes: Rc<Cell<u32>>,
}

/// One exchange's part of a connection; it has it until this is dropped.
pub(super) struct Share(Rc<Cell<u32>>);

impl Drop for Share {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

/// What one exchange needs to be sent.
pub(super) struct Http2 {
    pub sender: SendRequest<RequestBody>,
    pub given_up: GivenUp,
    pub share: Share,
}

impl Shared {
    /// A fresh connection, on which nothing runs. At most `streams` exchanges are to share it.
    pub async fn open<S>(
        (stream, given_up): (Followed<S>, GivenUp),
        streams: u32,
        born: Instant,
        open: Open,
    ) -> Result<Self, Error>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + 'static,
    {
        let (sender, connection) = http2::Builder::new(LocalExecutor)
            .timer(TokioTimer::new())
            .max_header_list_size(256 * 1024)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(STREAM_WINDOW.saturating_mul(streams.max(4)).min(LARGEST_WINDOW))
            .handshake(TokioIo::new(Gathered::new(stream)))
            .await
            .map_err(|_| Error::Closed { written: false })?;
        let (busy, takes) = (Rc::<Cell<u32>>::default(), Rc::new(Cell::new(streams)));
        let (of_busy, of_takes) = (Rc::clone(&busy), Rc::clone(&takes));
        let mut connection = connection;
        tokio::task::spawn_local(async move {
            let _open = open;
            let _ = poll_fn(|cx| {
                // It costs a lock, which an exchange that is alone does without.
                if of_busy.get() > 1 {
                    of_takes.set(u32::try_from(connection.current_max_send_streams()).unwrap_or(u32::MAX));
                }
                Pin::new(&mut connection).poll(cx)
            })
            .await;
        });
        Ok(Self { sender, given_up, born, busy, takes })
    }

    /// When it was opened.
    pub fn born(&self) -> Instant {
        self.born
    }

    /// Whether requests may still be sent on it.
    pub fn is_good(&self, now: Instant, lifetime: Duration) -> bool {
        !self.sender.is_closed() && now.saturating_duration_since(self.born) < lifetime
    }

    /// Whether nothing runs on it.
    pub fn is_idle(&self) -> bool {
        self.busy.get() == 0
    }

    /// Whether another exchange fits on it: the upstream says how many it takes, too.
    pub fn has_room(&self, streams: u32) -> bool {
        self.busy.get() < streams.min(self.takes.get().max(1))
    }

    /// Another exchange's part of it.
    pub fn share(&self) -> Http2 {
        self.busy.set(self.busy.get() + 1);
        Http2 { sender: self.sender.clone(), given_up: self.given_up.clone(), share: Share(Rc::clone(&self.busy)) }
    }
}

#[derive(Clone, Copy)]
struct LocalExecutor;

impl<F: Future + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}
