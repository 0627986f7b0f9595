//! HTTP/2 connections, each of which several exchanges share.
//!
//! The windows are such that replies which nobody reads can't use up what the others on their connection need:
//! a connection's window has room for all of its streams' (RFC 9113 section 5.2).

use std::cell::{Cell, RefCell};
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
    /// Whether the upstream takes as many as run. Of a request that waited in h2 for its turn, the head would go
    /// out even if nobody were there any more.
    pub fn fits(&self, sender: &SendRequest<Bytes>) -> bool {
        self.0.count.get() <= takes(sender)
    }

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

/// How many streams the upstream takes, as far as it has said.
fn takes(sender: &SendRequest<Bytes>) -> u32 {
    u32::try_from(sender.current_max_send_streams()).unwrap_or(u32::MAX)
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
        let (sender, connection) = Builder::new()
            .enable_push(false)
            .initial_max_send_streams(STREAMS_AT_FIRST)
            .max_header_list_size(HEAD)
            .max_send_buffer_size(SEND_BUFFER)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(STREAM_WINDOW.saturating_mul(streams.max(4)).min(LARGEST_WINDOW))
            .handshake(Gathered::new(stream))
            .await
            .map_err(|_| Error::Closed { written: false })?;
        tokio::task::spawn_local(async move {
            let _open = open;
            let _ = connection.await;
        });
        Ok(Self { authority, sender: RefCell::new(sender), given_up, born, exchanges: Rc::default() })
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
        let count = self.exchanges.count.get();
        count < streams && count < takes(&self.sender.borrow())
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
