//! One direction of a WebSocket: frames come in, are looked at, and go out.
//!
//! A frame that fits into the buffer goes out as a frame; a longer one, and what was inflated, goes out
//! in pieces, so that a frame of our own can follow at any time. Masks of found keys are as long as what
//! they cover, so the length of a message holds unless it was compressed.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, ReadBuf};
use zeroize::Zeroizing;

use super::deflate::{Inflate, TAIL};
use super::frame::{self, CloseCode, Head, Opcode, Order, Sender, Utf8, Violation};
use super::outgoing::Outgoing;
use crate::proxy::reject::Rejection;
use crate::proxy::scrub::{Hits, PatternSet, Scrubber};
use crate::proxy::settings::Limits;

/// How much is read or inflated at a time, in bytes.
const PIECE: usize = 16 * 1024;

const TOO_LONG: Violation = Violation {
    code: CloseCode::TooBig,
    why: "a compressed message becomes longer than `proxy.limits.expansion` allows",
};

/// One direction.
pub struct Flow {
    from: Sender,
    input: BytesMut,
    limit: usize,
    expansion: Expansion,
    order: Order,
    /// The data frame whose payload arrives, and how much of it has been taken.
    arriving: Option<(Head, u64)>,
    work: Option<Work>,
    message: Option<Message>,
    /// Inflates what is looked at; `None` where nothing is compressed.
    inflate: Option<Inflate>,
    /// The longest text that is swapped as a whole, in bytes; 0 where none is.
    swaps: usize,
    deflate: bool,
    patterns: Option<Arc<PatternSet>>,
    hits: Hits,
    out: Outgoing,
    /// Payload that was sent on, in bytes.
    carried: u64,
    /// The peer sent its close frame: nothing of it is read any more.
    said_close: bool,
    ended: bool,
}

/// How much longer a message may become by inflating it.
struct Expansion {
    ratio: u64,
    /// What may come out of however little before the ratio counts, in bytes.
    free: u64,
}

/// A piece of a message's payload, unmasked, as far as it isn't taken yet.
struct Work {
    data: Bytes,
    /// Whether its message ends with it.
    last: bool,
    /// How much of a compressed message's tail was taken.
    tail: usize,
}

/// A message on its way.
struct Message {
    opcode: Opcode,
    /// Whether its payload is inflated here.
    inflated: bool,
    /// Whether it goes out compressed.
    compressed: bool,
    begun: bool,
    /// Bytes that were inflated, and what came out.
    coded: u64,
    out: u64,
    text: Option<Utf8>,
    scrubber: Option<Scrubber>,
    /// What the scrubber had masked when it was last asked.
    hits: Hits,
    /// It waits until it is whole, to be swapped then.
    held: bool,
    clean: VecDeque<Bytes>,
    /// The bytes in `clean`.
    waiting: usize,
}

/// Puts keys into a whole text; `None` where it stays as it is.
pub type Swap<'a> = dyn FnMut(&[u8]) -> Result<Option<Zeroizing<Vec<u8>>>, Rejection> + 'a;

/// Why a direction can't go on.
#[derive(Debug)]
pub enum Trouble {
    /// Its peer broke the rules.
    Violation(Violation),
    /// A message may not go on.
    Refused(Rejection),
    /// We failed.
    Ours(&'static str),
}

impl From<Violation> for Trouble {
    fn from(violation: Violation) -> Self {
        Self::Violation(violation)
    }
}

impl From<Rejection> for Trouble {
    fn from(rejection: Rejection) -> Self {
        Self::Refused(rejection)
    }
}

impl From<getrandom::Error> for Trouble {
    fn from(_: getrandom::Error) -> Self {
        Self::Ours("the system's random source failed")
    }
}

impl Flow {
    /// A direction, with what came already. With `alone` its messages may be compressed, each by itself or
    /// not.
    pub fn new(
        from: Sender,
        first: Bytes,
        limits: &Limits,
        alone: Option<bool>,
        swaps: bool,
        patterns: Option<Arc<PatternSet>>,
    ) -> Self {
        let to = match from {
            Sender::Client => Sender::Server,
            Sender::Server => Sender::Client,
        };
        let limit = limits.websocket_buffer.max(1024);
        // What can't be inflated from the beginning can't be later.
        let inflate = alone.filter(|_| patterns.is_some() || swaps).map(Inflate::new);
        Self {
            from,
            input: first.into(),
            limit,
            expansion: Expansion { ratio: limits.expansion.into(), free: limits.expanded_bytes as u64 },
            order: Order::default(),
            arriving: None,
            work: None,
            message: None,
            inflate,
            swaps: if swaps { limits.frame_slot } else { 0 },
            deflate: alone.is_some(),
            patterns,
            hits: Hits::default(),
            out: Outgoing::new(to, limit),
            carried: 0,
            said_close: false,
            ended: false,
        }
    }

    /// These bytes came from the peer already.
    pub fn came(&mut self, first: Bytes) {
        self.input.extend_from_slice(&first);
    }

    /// What waits for the other peer.
    pub fn out(&mut self) -> &mut Outgoing {
        &mut self.out
    }

    /// Payload that was sent on, in bytes.
    pub fn carried(&self) -> u64 {
        self.carried
    }

    /// What was masked since it was last asked for.
    pub fn hits(&mut self) -> Hits {
        std::mem::take(&mut self.hits)
    }

    /// Whether the peer sent its close frame.
    pub fn said_close(&self) -> bool {
        self.said_close
    }

    /// Whether nothing more comes from the peer.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// From here on these are looked for.
    ///
    /// # Errors
    /// The messages are compressed and weren't inflated from the beginning.
    pub fn look_for(&mut self, patterns: &Arc<PatternSet>) -> Result<(), ()> {
        if self.deflate && self.inflate.is_none() {
            return Err(());
        }
        if let Some(message) = &mut self.message {
            match &mut message.scrubber {
                Some(scrubber) => scrubber.look_for(Arc::clone(patterns)),
                None => message.scrubber = Some(Scrubber::new(Arc::clone(patterns))),
            }
        }
        self.patterns = Some(Arc::clone(patterns));
        Ok(())
    }

    /// Takes nothing more of the peer.
    pub fn stop(&mut self) {
        self.input = BytesMut::new();
        (self.arriving, self.work, self.message) = (None, None, None);
        self.said_close = true;
    }

    /// Reads what the peer sends, as far as there is room; whether anything came, or the end.
    pub fn poll_read<S: AsyncRead + ?Sized>(&mut self, mut stream: Pin<&mut S>, cx: &mut Context<'_>) -> bool {
        if self.ended || self.input.len() >= self.limit + frame::MAX_HEAD {
            return false;
        }
        let mut room = [std::mem::MaybeUninit::uninit(); PIECE];
        let mut room = ReadBuf::uninit(&mut room);
        match stream.as_mut().poll_read(cx, &mut room) {
            Poll::Pending => return false,
            Poll::Ready(Ok(())) if !room.filled().is_empty() => {
                // What follows a close frame is read, so that the end is seen, and forgotten.
                if !self.said_close {
                    self.input.extend_from_slice(room.filled());
                }
            }
            Poll::Ready(_) => self.ended = true,
        }
        true
    }

    /// Sends on what has come, as far as there is room; whether anything moved. Whole texts are given to
    /// `swap` where keys may be put into them.
    ///
    /// # Errors
    /// The peer broke the rules, a message may not go on, or we failed.
    pub fn advance(&mut self, swap: &mut Swap<'_>) -> Result<bool, Trouble> {
        let mut moved = false;
        while !self.said_close && self.out.has_room() && self.step(swap)? {
            moved = true;
        }
        if self.input.is_empty() {
            self.input = BytesMut::new();
        }
        Ok(moved)
    }

    fn step(&mut self, swap: &mut Swap<'_>) -> Result<bool, Trouble> {
        if self.work.is_some() {
            self.labour(swap)?;
            return Ok(true);
        }
        if self.arriving.is_some() {
            return self.take();
        }
        let Some((head, len)) = frame::read(&self.input, self.from)? else { return Ok(false) };
        if head.opcode.is_control() {
            let payload = usize::try_from(head.len).unwrap_or(usize::MAX);
            if self.input.len() < len + payload {
                return Ok(false);
            }
            self.input.advance(len);
            let payload = self.input.split_to(payload);
            self.control(&head, payload)?;
            return Ok(true);
        }
        self.order.next(&head, self.deflate)?;
        self.input.advance(len);
        if head.opcode != Opcode::Continuation {
            self.message = Some(self.begin(&head));
        }
        self.arriving = Some((head, 0));
        Ok(true)
    }

    fn begin(&self, head: &Head) -> Message {
        let inflated = head.compressed && self.inflate.is_some();
        let legible = inflated || !head.compressed;
        Message {
            opcode: head.opcode,
            inflated,
            compressed: head.compressed && !inflated,
            begun: false,
            coded: 0,
            out: 0,
            text: (legible && head.opcode == Opcode::Text).then(Utf8::default),
            scrubber: self.patterns.as_ref().map(|patterns| Scrubber::new(Arc::clone(patterns))),
            hits: Hits::default(),
            held: self.swaps > 0 && legible && head.opcode == Opcode::Text,
            clean: VecDeque::new(),
            waiting: 0,
        }
    }

    fn control(&mut self, head: &Head, mut payload: BytesMut) -> Result<(), Trouble> {
        if let Some(key) = head.mask {
            frame::mask(&mut payload, key, 0);
        }
        if head.opcode == Opcode::Close {
            frame::check_close(&payload)?;
            self.said_close = true;
            self.input = BytesMut::new();
        }
        // The code of a close frame is no text that could hold a key.
        if let Some((clean, found)) = self.patterns.as_ref().and_then(|patterns| patterns.scrub_value(&payload)) {
            self.hits.add(&found);
            payload = BytesMut::from(&clean[..]);
        }
        self.out.frame((true, false, head.opcode), [&payload[..]].into_iter())?;
        Ok(())
    }

    /// Takes the payload of the frame that arrives: whole, or what is there of it if it is too long.
    fn take(&mut self) -> Result<bool, Trouble> {
        let Some((head, taken)) = &mut self.arriving else { return Ok(false) };
        let left = usize::try_from(head.len - *taken).unwrap_or(usize::MAX);
        let fits = head.len <= self.limit as u64;
        if self.input.len() < left && (fits || self.input.is_empty()) {
            return Ok(false);
        }
        let mut piece = self.input.split_to(left.min(self.input.len()));
        if let Some(key) = head.mask {
            // Only where in the key it goes on counts.
            frame::mask(&mut piece, key, (*taken % 4) as usize);
        }
        *taken += piece.len() as u64;
        self.carried += piece.len() as u64;
        let whole = *taken == head.len;
        self.work = Some(Work { data: piece.freeze(), last: whole && head.fin, tail: 0 });
        if whole {
            self.arriving = None;
        }
        Ok(true)
    }

    /// Works on a piece of payload, at most so far that there is something to send.
    fn labour(&mut self, swap: &mut Swap<'_>) -> Result<(), Trouble> {
        let (Some(work), Some(message)) = (&mut self.work, &mut self.message) else {
            self.work = None;
            return Ok(());
        };
        let done = match (&mut self.inflate, message.inflated) {
            (Some(inflate), true) => {
                let mut room = [0; PIECE];
                let tail = if work.last { TAIL } else { &[] };
                let at_tail = work.data.is_empty();
                let data = if at_tail { tail.get(work.tail..).unwrap_or_default() } else { &work.data };
                let step = inflate.step(data, &mut room)?;
                message.coded += step.read as u64;
                message.out += step.written as u64;
                if message.out > self.expansion.free && message.out / self.expansion.ratio > message.coded {
                    return Err(TOO_LONG.into());
                }
                message.take(Bytes::copy_from_slice(&room[..step.written]))?;
                if at_tail {
                    work.tail += step.read;
                } else {
                    work.data.advance(step.read);
                }
                let done = step.done && work.data.is_empty() && work.tail == tail.len();
                if done && work.last {
                    inflate.finish();
                }
                done
            }
            _ => {
                message.take(std::mem::take(&mut work.data))?;
                true
            }
        };
        let over = done && work.last;
        if over {
            message.finish()?;
        }
        if done {
            self.work = None;
        }
        message.held &= message.waiting <= self.swaps;
        if over && message.held {
            let text: Vec<u8> = message.clean.iter().flatten().copied().collect();
            if let Some(swapped) = swap(&text)? {
                let opcode = message.opcode;
                self.message = None;
                return Ok(self.out.frame((true, false, opcode), [&swapped[..]].into_iter())?);
            }
        }
        if over || (!message.held && message.waiting > 0 && (done || message.waiting >= self.limit)) {
            let opcode = if message.begun { Opcode::Continuation } else { message.opcode };
            let compressed = message.compressed && !message.begun;
            message.begun = true;
            self.out.frame((over, compressed, opcode), message.clean.iter().map(|piece| &piece[..]))?;
            message.clean.clear();
            message.waiting = 0;
        }
        if let Some(scrubber) = &message.scrubber {
            let fresh = scrubber.hits().since(&std::mem::replace(&mut message.hits, *scrubber.hits()));
            self.hits.add(&fresh);
        }
        if over {
            self.message = None;
        }
        Ok(())
    }
}

impl Message {
    fn take(&mut self, piece: Bytes) -> Result<(), Violation> {
        if let Some(text) = &mut self.text {
            text.push(&piece)?;
        }
        if piece.is_empty() {
            return Ok(());
        }
        let before = self.clean.len();
        match &mut self.scrubber {
            Some(scrubber) => scrubber.push(piece, &mut self.clean),
            None => self.clean.push_back(piece),
        }
        self.waiting += self.clean.range(before..).map(Bytes::len).sum::<usize>();
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Violation> {
        if let Some(text) = &mut self.text {
            text.finish()?;
        }
        if let Some(scrubber) = &mut self.scrubber {
            scrubber.finish(&mut self.clean);
        }
        Ok(())
    }
}

impl Trouble {
    /// What the peer that is at fault hears, and what the other one hears.
    pub fn codes(&self, from: Sender) -> (CloseCode, CloseCode) {
        match (self, from) {
            (Self::Violation(violation), Sender::Client) => (violation.code, CloseCode::GoingAway),
            (Self::Violation(violation), Sender::Server) => (violation.code, CloseCode::BadGateway),
            (Self::Refused(_), _) => (CloseCode::Policy, CloseCode::GoingAway),
            (Self::Ours(_), _) => (CloseCode::Internal, CloseCode::Internal),
        }
    }
}
