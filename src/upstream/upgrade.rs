//! Requests that ask their connection to become another protocol (RFC 9110 section 7.8).
//!
//! Such a connection is dialled for its request alone, speaks HTTP/1.1 whatever others to the same
//! authority speak, and never goes to a pool: what it turns into belongs to one agent.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::alarm::Alarm;
use super::interim::{Interim, Watched};
use super::pool::Open;
use super::{Error, RequestBody, Stage};

/// Bytes both ways.
pub trait Io: AsyncRead + AsyncWrite {}

impl<S: AsyncRead + AsyncWrite> Io for S {}

/// What a connection became.
pub struct Switched {
    /// The stream behind the reply's head.
    pub stream: Pin<Box<dyn Io>>,
    /// What the upstream sent right behind the head; it comes before the rest of the stream.
    pub first: Bytes,
    _open: Open,
}

/// A connection that was dialled for one request.
pub(super) struct Alone {
    pub stream: Pin<Box<dyn Io>>,
    pub interim: Rc<Interim>,
    pub open: Open,
}

impl Alone {
    /// Sends the request and waits for its reply's head; with 101 comes what the connection became.
    pub async fn send(
        self,
        request: Request<RequestBody>,
        alarm: &mut Alarm,
        limit: std::time::Duration,
    ) -> Result<(Response<Incoming>, Option<Switched>), Error> {
        let (mut sender, mut connection) = http1::Builder::new()
            .max_buf_size(256 * 1024)
            .max_headers(256)
            .handshake(TokioIo::new(Watched::new(self.stream, Rc::clone(&self.interim))))
            .await
            .map_err(|_| Error::Closed { written: false })?;
        self.interim.expect();
        let mut over = false;
        let exchanged = async {
            let mut sending = pin!(sender.send_request(request));
            let sent = poll_fn(|cx| {
                over = over || Pin::new(&mut connection).poll(cx).is_ready();
                sending.as_mut().poll(cx)
            });
            let response = sent.await?;
            if response.status() == StatusCode::SWITCHING_PROTOCOLS && !over {
                poll_fn(|cx| Pin::new(&mut connection).poll(cx)).await?;
            }
            Ok::<_, hyper::Error>(response)
        };
        let response = match alarm.limit(limit, pin!(exchanged)).await {
            None => return Err(Error::Timeout(Stage::Headers)),
            Some(Err(_)) if self.interim.too_many() => return Err(Error::Interim),
            Some(Err(why)) if why.is_parse() => return Err(Error::Http),
            Some(Err(_)) => return Err(Error::Closed { written: true }),
            Some(Ok(response)) => response,
        };
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let parts = connection.into_parts();
            let stream = parts.io.into_inner().into_inner();
            return Ok((response, Some(Switched { stream, first: parts.read_buf, _open: self.open })));
        }
        if !over {
            let open = self.open;
            tokio::task::spawn_local(async move {
                let _open = open;
                let _ = connection.await;
            });
        }
        Ok((response, None))
    }
}
