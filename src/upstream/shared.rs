//! HTTP/2 connections, each of which several exchanges share.
//!
//! The windows are such that replies which nobody reads can't use up what the others on their connection need:
//! a connection's window has room for all of its streams' (RFC 9113 section 5.2).

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use http::uri::Authority;

use super::alarm::Alarm;
use super::gathered::Gathered;
use super::interim::{Followed, GivenUp};
use super::pool::Open;
use super::{Error, http2};

/// How much of one reply an upstream may send ahead, in bytes.
const STREAM_WINDOW: u32 = 1 << 20;
/// The largest window that there is (RFC 9113 section 6.9.1).
const LARGEST_WINDOW: u32 = i32::MAX.unsigned_abs();
/// The largest head of a reply, in bytes as HTTP/2 counts them.
const HEAD: u32 = 256 * 1024;
/// How much of one request's body waits to be written, in bytes.
const SEND_BUFFER: usize = 1 << 20;
/// How many exchanges run before the upstream has said how many it takes (RFC 9113 section 6.5.2).
const STREAMS_AT_FIRST: usize = 100;

/// A connection.
pub(super) struct Shared {
    authority: Authority,
    sender: RefCell<SendRequest<Bytes>>,
    given_up: GivenUp,
    born: Instant,
    exchanges: Rc<Exchanges>,
    /// How many the upstream takes, as far as it has said.
    takes: Rc<Cell<u32>>,
}

/// Those that run on a connection.
#[derive(Default)]
struct Exchanges {
    count: Cell<u32>,
    /// Of those that ended.
    alarms: RefCell<Vec<Alarm>>,
}

/// One exchange's part of a connection; it has it until this is dropped.
pub(super) struct Share(Rc<Exchanges>);

impl Share {
    /// Keeps the alarm of the exchange, which has ended well, for the next one.
    pub fn keep(&self, alarm: Alarm) {
        self.0.alarms.borrow_mut().push(alarm);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.0.count.set(self.0.count.get().saturating_sub(1));
    }
}

/// What one exchange needs to be sent.
pub(super) struct Http2 {
    /// As it stands in a URI.
    pub authority: Authority,
    pub sender: SendRequest<Bytes>,
    pub given_up: GivenUp,
    pub share: Share,
}

impl Shared {
    /// A fresh connection to this authority, on which nothing runs. At most `streams` exchanges are to share it.
    pub async fn open<S>(
        (stream, given_up): (Followed<S>, GivenUp),
        authority: Authority,
        streams: u32,
        born: Instant,
        open: Open,
    ) -> Result<Self, Error>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + 'static,
    {
        let (sender, mut connection) = Builder::new()
            .enable_push(false)
            .initial_max_send_streams(STREAMS_AT_FIRST)
            .max_header_list_size(HEAD)
            .max_send_buffer_size(SEND_BUFFER)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(STREAM_WINDOW.saturating_mul(streams.max(4)).min(LARGEST_WINDOW))
            .handshake(Gathered::new(stream))
            .await
            .map_err(|_| Error::Closed { written: false })?;
        let (exchanges, takes) = (Rc::<Exchanges>::default(), Rc::new(Cell::new(streams)));
        let (running, of_takes) = (Rc::clone(&exchanges), Rc::clone(&takes));
        tokio::task::spawn_local(async move {
            let _open = open;
            let _ = poll_fn(|cx| {
                // It costs a lock, which an exchange that is alone does without.
                if running.count.get() > 1 {
                    of_takes.set(u32::try_from(connection.max_concurrent_send_streams()).unwrap_or(u32::MAX));
                }
                Pin::new(&mut connection).poll(cx)
            })
            .await;
        });
        Ok(Self { authority, sender: RefCell::new(sender), given_up, born, exchanges, takes })
    }

    /// When it was opened.
    pub fn born(&self) -> Instant {
        self.born
    }

    /// Whether requests may still be sent on it.
    pub fn is_good(&self, now: Instant, lifetime: Duration) -> bool {
        now.saturating_duration_since(self.born) < lifetime && http2::is_open(&mut self.sender.borrow_mut())
    }

    /// Whether nothing runs on it.
    pub fn is_idle(&self) -> bool {
        self.exchanges.count.get() == 0
    }

    /// Whether another exchange fits on it: the upstream says how many it takes, too.
    pub fn has_room(&self, streams: u32) -> bool {
        self.exchanges.count.get() < streams.min(self.takes.get().max(1))
    }

    /// Another exchange's part of it, and an alarm.
    pub fn share(&self) -> (Http2, Alarm) {
        let of = &self.exchanges;
        of.count.set(of.count.get() + 1);
        let (sender, given_up) = (self.sender.borrow().clone(), self.given_up.clone());
        let alarm = of.alarms.borrow_mut().pop().unwrap_or_default();
        (Http2 { authority: self.authority.clone(), sender, given_up, share: Share(Rc::clone(of)) }, alarm)
    }
}
