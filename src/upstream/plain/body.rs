//! A reply's body as it comes.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::{Frame, SizeHint};
use tokio_util::io::poll_read_buf;

use super::head::{Framing, Head};
use super::{Line, Plain};
use crate::upstream::Error;
use crate::upstream::alarm::Alarm;
use crate::upstream::fill::PIECE;

/// The longest line that begins a chunk, and the longest trailers, in bytes.
const AROUND: usize = 16 * 1024;
/// The most fields of the trailers.
const TRAILERS: usize = 64;

/// The most that is read at once of a body, in bytes: four TLS records, which go on with one write.
const MOST: usize = 4 * PIECE;

/// Where in a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// So many bytes are left of it.
    Length(u64),
    /// Before a chunk.
    Size,
    /// So many bytes are left of the chunk.
    Chunk(u64),
    /// Behind a chunk's bytes.
    Crlf,
    /// Behind the last chunk.
    Trailers,
    /// It goes on until the connection ends.
    Close,
    /// It is over.
    Over,
}

/// A body on its way, and its connection.
pub struct PlainBody {
    connection: Option<Plain>,
    at: At,
    lasts: bool,
    /// How much is read at once, in bytes: more where as much was there already.
    room: usize,
}

impl PlainBody {
    pub(super) fn new(mut connection: Plain, head: &Head) -> Self {
        connection.line.drop_head(head);
        let at = match head.framing {
            Framing::Empty | Framing::Length(0) => At::Over,
            Framing::Length(len) => At::Length(len),
            Framing::Chunked => At::Size,
            Framing::Close => At::Close,
        };
        Self { connection: Some(connection), at, lasts: head.lasts, room: PIECE }
    }

    /// The connection's alarm, for the waits of the body.
    pub fn take_alarm(&mut self) -> Alarm {
        self.connection.as_mut().map(|connection| std::mem::take(&mut connection.alarm)).unwrap_or_default()
    }

    /// Gives the connection back to its pool, if the body is over.
    pub fn ended(&mut self, alarm: &mut Alarm) {
        if self.at == At::Over
            && let Some(mut connection) = self.connection.take()
        {
            connection.alarm = std::mem::take(alarm);
            connection.give_back(self.lasts);
        }
    }

    /// Whether nothing more comes.
    pub fn is_end_stream(&self) -> bool {
        self.at == At::Over
    }

    /// How much is left, as far as it is known.
    pub fn size_hint(&self) -> SizeHint {
        match self.at {
            At::Length(left) => SizeHint::with_exact(left),
            At::Over => SizeHint::with_exact(0),
            _ => SizeHint::default(),
        }
    }

    /// The next piece, or the trailers.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let Some(connection) = &mut self.connection else { return Poll::Ready(None) };
        let broken = || Poll::Ready(Some(Err(Error::Closed { written: true })));
        loop {
            let input = &mut connection.line.input;
            let step = match self.at {
                At::Over => return Poll::Ready(None),
                At::Length(_) | At::Chunk(_) | At::Close if input.is_empty() => None,
                At::Length(left) => {
                    let piece = split(input, left);
                    let left = left.saturating_sub(piece.len() as u64);
                    self.at = if left == 0 { At::Over } else { At::Length(left) };
                    Some(piece)
                }
                At::Chunk(left) => {
                    let piece = split(input, left);
                    let left = left.saturating_sub(piece.len() as u64);
                    self.at = if left == 0 { At::Crlf } else { At::Chunk(left) };
                    Some(piece)
                }
                At::Close => Some(input.split().freeze()),
                At::Crlf if input.len() < 2 => None,
                At::Crlf => {
                    if !input.starts_with(b"\r\n") {
                        return Poll::Ready(Some(Err(Error::Http)));
                    }
                    input.advance(2);
                    self.at = At::Size;
                    continue;
                }
                At::Size => match httparse::parse_chunk_size(input) {
                    Ok(httparse::Status::Complete((len, size))) => {
                        input.advance(len);
                        self.at = if size == 0 { At::Trailers } else { At::Chunk(size) };
                        continue;
                    }
                    Ok(httparse::Status::Partial) if input.len() < AROUND => None,
                    _ => return Poll::Ready(Some(Err(Error::Http))),
                },
                At::Trailers => match trailers(input) {
                    Ok(None) if input.len() < AROUND => None,
                    Ok(Some((len, fields))) => {
                        input.advance(len);
                        self.at = At::Over;
                        return Poll::Ready((!fields.is_empty()).then(|| Ok(Frame::trailers(fields))));
                    }
                    _ => return Poll::Ready(Some(Err(Error::Http))),
                },
            };
            if let Some(piece) = step {
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            match ready!(connection.poll_more(cx, self.room)) {
                Ok(0) if self.at == At::Close => self.at = At::Over,
                Ok(0) | Err(_) => return broken(),
                Ok(read) if read >= self.room => self.room = (2 * self.room).min(MOST),
                Ok(_) => {}
            }
        }
    }
}

impl Plain {
    /// Reads more of a body, straight to where it is handed on from.
    fn poll_more(&mut self, cx: &mut Context<'_>, room: usize) -> Poll<std::io::Result<usize>> {
        let Line { wire, input, .. } = &mut *self.line;
        input.reserve(room);
        poll_read_buf(Pin::new(wire), cx, input)
    }
}

/// Up to `most` bytes off the front.
fn split(input: &mut BytesMut, most: u64) -> Bytes {
    let len = usize::try_from(most).map_or(input.len(), |most| most.min(input.len()));
    input.split_to(len).freeze()
}

/// The trailers at the front, and how long they are; `None` while they aren't all there.
fn trailers(input: &[u8]) -> Result<Option<(usize, HeaderMap)>, Error> {
    let mut room = [httparse::EMPTY_HEADER; TRAILERS];
    match httparse::parse_headers(input, &mut room) {
        Ok(httparse::Status::Partial) => Ok(None),
        Ok(httparse::Status::Complete((len, fields))) => {
            let mut all = HeaderMap::new();
            for field in fields {
                let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Error::Http)?;
                all.append(name, HeaderValue::from_bytes(field.value).map_err(|_| Error::Http)?);
            }
            Ok(Some((len, all)))
        }
        Err(_) => Err(Error::Http),
    }
}
