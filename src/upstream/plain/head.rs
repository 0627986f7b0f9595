//! A reply's head: its fields where they lie, and where its body ends.

use std::mem::MaybeUninit;
use std::ops::Range;
use std::task::{Context, Poll, ready};

use bytes::Buf as _;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use super::Line;
use crate::upstream::Error;

/// The longest head of a reply, in bytes.
const HEAD: usize = 256 * 1024;
/// The most fields of a reply.
const FIELDS: usize = 256;
/// How many fields are read without an allocation.
const FEW: usize = 48;

/// A field of a head, by its places in the input.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    name: (u32, u32),
    value: (u32, u32),
}

impl Field {
    /// Where this field, which was parsed out of `text`, stands in it. `None` past 4 GiB.
    #[must_use]
    pub fn new(field: &httparse::Header<'_>, text: &[u8]) -> Option<Self> {
        let within = |part: &[u8]| {
            let start = u32::try_from(part.as_ptr().addr().checked_sub(text.as_ptr().addr())?).ok()?;
            Some((start, start.checked_add(u32::try_from(part.len()).ok()?)?))
        };
        Some(Self { name: within(field.name.as_bytes())?, value: within(field.value)? })
    }

    /// Its name and value in the text that it was parsed out of.
    #[must_use]
    pub fn of<'a>(&self, text: &'a [u8]) -> (&'a [u8], &'a [u8]) {
        let part = |(start, end): (u32, u32)| text.get(start as usize..end as usize).unwrap_or_default();
        (part(self.name), part(self.value))
    }

    /// Its line as it stands in that text, if there is nothing to set right about it: one space before the value,
    /// and CR LF right behind it.
    #[must_use]
    pub fn line<'a>(&self, text: &'a [u8]) -> Option<&'a [u8]> {
        let line = text.get(self.name.0 as usize..self.value.1 as usize + 2)?;
        let between = text.get(self.name.1 as usize..self.value.0 as usize)?;
        (between == b": " && line.ends_with(b"\r\n")).then_some(line)
    }

    /// Puts its line into a head that is sent: the name in lower case, and as [`line`](Self::line) has it.
    pub fn put(&self, text: &[u8], out: &mut Vec<u8>) {
        let (name, value) = self.of(text);
        let from = out.len();
        match self.line(text) {
            Some(line) => out.extend_from_slice(line),
            None => [name, b": ", value, b"\r\n"].into_iter().for_each(|part| out.extend_from_slice(part)),
        }
        out.get_mut(from..from + name.len()).unwrap_or_default().make_ascii_lowercase();
    }

    /// Where its value stands.
    #[must_use]
    pub fn value(&self) -> Range<usize> {
        self.value.0 as usize..self.value.1 as usize
    }
}

/// How the end of a reply's body is known (RFC 9112 section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// There is none.
    Empty,
    /// By its length, in bytes.
    Length(u64),
    /// By the last chunk.
    Chunked,
    /// By the connection's end.
    Close,
}

/// The head of a reply.
#[derive(Debug)]
pub struct Head {
    /// Its status.
    pub status: StatusCode,
    /// Whether the connection may be used again after its body.
    pub(super) lasts: bool,
    pub(super) len: usize,
    pub(super) framing: Framing,
}

impl Head {
    /// The length of head and body, if the head says it.
    pub(super) fn whole(&self) -> Option<usize> {
        match self.framing {
            Framing::Empty => Some(self.len),
            Framing::Length(body) => self.len.checked_add(usize::try_from(body).ok()?),
            Framing::Chunked | Framing::Close => None,
        }
    }

    /// Where the body begins, in bytes from the head's first.
    #[must_use]
    pub fn body_at(&self) -> usize {
        self.len
    }
}

impl Line {
    /// Reads the next head; interim ones too.
    pub(super) fn poll_head(&mut self, cx: &mut Context<'_>, method: &Method) -> Poll<Result<Head, Error>> {
        loop {
            if self.head_ended()
                && let Some(head) = self.parse(method)?
            {
                return Poll::Ready(Ok(head));
            }
            if self.input.len() >= HEAD {
                return Poll::Ready(Err(Error::Http));
            }
            match ready!(self.poll_fill(cx)) {
                Ok(0) | Err(_) => return Poll::Ready(Err(Error::Closed { written: true })),
                Ok(_) => {}
            }
        }
    }

    /// Whether an empty line is there that wasn't before: only then it is worth parsing.
    fn head_ended(&mut self) -> bool {
        let mut at = self.seen.saturating_sub(2);
        while let Some(found) = memchr::memchr(b'\n', self.input.get(at..).unwrap_or_default()) {
            at += found + 1;
            if matches!(self.input.get(at..), Some([b'\n', ..] | [b'\r', b'\n', ..])) {
                return true;
            }
        }
        self.seen = self.input.len();
        false
    }

    fn parse(&mut self, method: &Method) -> Result<Option<Head>, Error> {
        let mut few = [const { MaybeUninit::uninit() }; FEW];
        match self.parse_into(method, &mut few) {
            Err(httparse::Error::TooManyHeaders) => {
                let mut all = vec![MaybeUninit::uninit(); FIELDS];
                self.parse_into(method, &mut all).map_err(|_| Error::Http)
            }
            parsed => parsed.map_err(|_| Error::Http),
        }
    }

    fn parse_into<'a>(
        &'a mut self,
        method: &Method,
        room: &mut [MaybeUninit<httparse::Header<'a>>],
    ) -> Result<Option<Head>, httparse::Error> {
        let mut reply = httparse::Response::new(&mut []);
        let parsed =
            httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut reply, &self.input, room)?;
        let httparse::Status::Complete(len) = parsed else {
            // An empty line before the status line, as parsers skip them.
            self.seen = self.input.len();
            return Ok(None);
        };
        let status = reply.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(httparse::Error::Status)?;
        self.fields.clear();
        let (mut framing, mut framings, mut lasts) = (Framing::Close, 0, reply.version == Some(1));
        for field in reply.headers.iter() {
            self.fields.push(Field::new(field, &self.input).ok_or(httparse::Error::HeaderValue)?);
            let is = |name: &str| field.name.eq_ignore_ascii_case(name);
            match field.name.len() {
                10 if is("connection") => {
                    let mut options = field.value.split(|b| *b == b',').map(<[u8]>::trim_ascii);
                    lasts &= !options.any(|option| option.eq_ignore_ascii_case(b"close"));
                }
                14 if is("content-length") => {
                    framings += 1;
                    framing = Framing::Length(content_length(field.value).ok_or(httparse::Error::HeaderValue)?);
                }
                // A transfer coding beneath the chunks isn't decoded by anyone behind here.
                17 if is("transfer-encoding") => {
                    framings += 1;
                    let chunked = field.value.eq_ignore_ascii_case(b"chunked") && reply.version == Some(1);
                    framing = if chunked { Framing::Chunked } else { return Err(httparse::Error::HeaderValue) };
                }
                _ => {}
            }
        }
        // Two parsers could read it differently, or it switches to a protocol that nobody asked for.
        if framings > 1 || status == StatusCode::SWITCHING_PROTOCOLS {
            return Err(httparse::Error::HeaderValue);
        }
        let never = status.is_informational()
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
            || *method == Method::HEAD;
        if never {
            framing = Framing::Empty;
        }
        lasts &= framing != Framing::Close;
        Ok(Some(Head { status, lasts, len, framing }))
    }

    /// Leaves a head behind.
    pub(super) fn drop_head(&mut self, head: &Head) {
        self.input.advance(head.len.min(self.input.len()));
        self.seen = 0;
    }

    /// Gives back what a connection doesn't need while it is idle.
    pub(super) fn rest(&mut self) {
        self.seen = 0;
        if self.input.capacity() > ROOM {
            self.input = bytes::BytesMut::new();
        }
    }

    pub(super) fn put_fields(&self, headers: &mut HeaderMap) -> Result<(), Error> {
        for field in &self.fields {
            let (name, value) = field.of(&self.input);
            let name = HeaderName::from_bytes(name).map_err(|_| Error::Http)?;
            headers.append(name, HeaderValue::from_bytes(value).map_err(|_| Error::Http)?);
        }
        Ok(())
    }
}

/// How much an idle connection keeps for what it will read, in bytes.
const ROOM: usize = 2048;

/// `Content-Length` (RFC 9110 section 8.6): digits and nothing else.
#[must_use]
pub fn content_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}
