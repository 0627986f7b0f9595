//! The frames of WebSockets (RFC 6455 section 5): their heads, their masks, and what breaks the rules.

use std::ops::ControlFlow;

/// What a frame carries (RFC 6455 section 5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opcode {
    /// The next piece of a message.
    Continuation,
    /// The first piece of a message of text.
    Text,
    /// The first piece of a message of bytes.
    Binary,
    /// The last frame of its side.
    Close,
    /// Asks for a pong.
    Ping,
    /// Answers a ping, or nothing.
    Pong,
}

impl Opcode {
    const fn read(bits: u8) -> Option<Self> {
        match bits {
            0 => Some(Self::Continuation),
            1 => Some(Self::Text),
            2 => Some(Self::Binary),
            8 => Some(Self::Close),
            9 => Some(Self::Ping),
            10 => Some(Self::Pong),
            _ => None,
        }
    }

    const fn bits(self) -> u8 {
        match self {
            Self::Continuation => 0,
            Self::Text => 1,
            Self::Binary => 2,
            Self::Close => 8,
            Self::Ping => 9,
            Self::Pong => 10,
        }
    }

    /// Whether it is about the connection and no part of a message.
    #[must_use]
    pub const fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

/// How a WebSocket ends, as its close frame says (RFC 6455 section 7.4.1, and IANA's registry).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum CloseCode {
    /// An end goes away.
    GoingAway = 1001,
    /// The rules of frames were broken.
    Protocol = 1002,
    /// Text that is no UTF-8, or a compressed message that can't be inflated.
    Invalid = 1007,
    /// Something is not allowed: the session is over, or policy says no.
    Policy = 1008,
    /// A limit was reached.
    TooBig = 1009,
    /// We failed.
    Internal = 1011,
    /// The service behind broke the rules.
    BadGateway = 1014,
}

/// What a peer did that no peer may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Violation {
    /// What its close frame says.
    pub code: CloseCode,
    /// In words.
    pub why: &'static str,
}

impl Violation {
    const fn protocol(why: &'static str) -> Self {
        Self { code: CloseCode::Protocol, why }
    }

    /// Text that is no UTF-8, or a message that can't be inflated.
    #[must_use]
    pub const fn invalid(why: &'static str) -> Self {
        Self { code: CloseCode::Invalid, why }
    }
}

/// Who sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    /// The client, whose frames are masked.
    Client,
    /// The server, whose frames are not.
    Server,
}

/// The head of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Whether its message ends with it.
    pub fin: bool,
    /// Whether its message is compressed (RFC 7692 section 6); only on a message's first frame.
    pub compressed: bool,
    /// What it carries.
    pub opcode: Opcode,
    /// The key of its mask; a client's frame has one.
    pub mask: Option<[u8; 4]>,
    /// The length of its payload, in bytes.
    pub len: u64,
}

/// The longest payload of a control frame, in bytes (RFC 6455 section 5.5).
pub const MAX_CONTROL: usize = 125;

/// The longest head, in bytes.
pub const MAX_HEAD: usize = 14;

/// Reads a head from the beginning of `bytes`: the head and its own length, or `None` if more is needed.
///
/// # Errors
/// The frame is one that this sender may not send.
pub fn read(bytes: &[u8], from: Sender) -> Result<Option<(Head, usize)>, Violation> {
    let [first, second, rest @ ..] = bytes else { return Ok(None) };
    let fin = first & 0x80 != 0;
    let opcode = Opcode::read(first & 0x0f).ok_or(Violation::protocol("an opcode that is not defined"))?;
    if first & 0x30 != 0 {
        return Err(Violation::protocol("a reserved bit is set"));
    }
    let compressed = first & 0x40 != 0;
    let masked = second & 0x80 != 0;
    match (from, masked) {
        (Sender::Client, false) => return Err(Violation::protocol("a client's frame is not masked")),
        (Sender::Server, true) => return Err(Violation::protocol("a server's frame is masked")),
        _ => {}
    }
    let short = second & 0x7f;
    if opcode.is_control() {
        if !fin {
            return Err(Violation::protocol("a control frame is fragmented"));
        }
        if usize::from(short) > MAX_CONTROL {
            return Err(Violation::protocol("a control frame is too long"));
        }
        if compressed {
            return Err(Violation::protocol("a control frame is compressed"));
        }
    }
    let (len, rest) = match (short, rest) {
        (126, [a, b, rest @ ..]) => (u64::from(u16::from_be_bytes([*a, *b])), rest),
        (127, [a, b, c, d, e, f, g, h, rest @ ..]) => (u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]), rest),
        (126 | 127, _) => return Ok(None),
        (short, rest) => (u64::from(short), rest),
    };
    if (short == 126 && len < 126) || (short == 127 && len <= u64::from(u16::MAX)) {
        return Err(Violation::protocol("a length is not written in its shortest form"));
    }
    if len > i64::MAX.unsigned_abs() {
        return Err(Violation::protocol("a length has its highest bit set"));
    }
    let (mask, rest) = match (masked, rest) {
        (false, rest) => (None, rest),
        (true, [a, b, c, d, rest @ ..]) => (Some([*a, *b, *c, *d]), rest),
        (true, _) => return Ok(None),
    };
    Ok(Some((Head { fin, compressed, opcode, mask, len }, bytes.len() - rest.len())))
}

impl Head {
    /// Appends the head as it is sent.
    pub fn write(&self, mut push: impl FnMut(&[u8])) {
        let first = u8::from(self.fin) << 7 | u8::from(self.compressed) << 6 | self.opcode.bits();
        let masked = u8::from(self.mask.is_some()) << 7;
        match (u8::try_from(self.len), u16::try_from(self.len)) {
            (Ok(short @ 0..126), _) => push(&[first, masked | short]),
            (_, Ok(len)) => {
                push(&[first, masked | 126]);
                push(&len.to_be_bytes());
            }
            _ => {
                push(&[first, masked | 127]);
                push(&self.len.to_be_bytes());
            }
        }
        if let Some(key) = &self.mask {
            push(key);
        }
    }
}

/// Masks or unmasks a payload of which `at` bytes came before (RFC 6455 section 5.3).
pub fn mask(payload: &mut [u8], key: [u8; 4], at: usize) {
    let key: [u8; 4] = std::array::from_fn(|i| key[(at + i) % 4]);
    let wide = u64::from_ne_bytes([key[0], key[1], key[2], key[3], key[0], key[1], key[2], key[3]]);
    let mut words = payload.chunks_exact_mut(8);
    for word in &mut words {
        if let Ok(bytes) = <[u8; 8]>::try_from(&*word) {
            word.copy_from_slice(&(u64::from_ne_bytes(bytes) ^ wide).to_ne_bytes());
        }
    }
    words.into_remainder().iter_mut().zip(key.iter().cycle()).for_each(|(byte, key)| *byte ^= key);
}

/// Which message a side is in, so that its frames come in an order that makes sense.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Order {
    open: bool,
}

impl Order {
    /// The next frame of the side.
    ///
    /// # Errors
    /// It can't come here (RFC 6455 section 5.4), or it is compressed and no extension was agreed on.
    pub fn next(&mut self, head: &Head, deflate: bool) -> Result<(), Violation> {
        if head.opcode.is_control() {
            return Ok(());
        }
        let goes_on = head.opcode == Opcode::Continuation;
        match (goes_on, self.open) {
            (true, false) => return Err(Violation::protocol("a continuation of no message")),
            (false, true) => return Err(Violation::protocol("a message begins inside another")),
            _ => {}
        }
        if head.compressed && (goes_on || !deflate) {
            return Err(Violation::protocol("a reserved bit is set"));
        }
        self.open = !head.fin;
        Ok(())
    }
}

/// Checks text piece by piece (RFC 6455 section 8.1).
#[derive(Debug, Default)]
pub struct Utf8 {
    /// The first bytes of a character whose others are still to come.
    begun: Vec<u8>,
}

impl Utf8 {
    /// The next piece.
    ///
    /// # Errors
    /// What came so far is no beginning of any text.
    pub fn push(&mut self, mut piece: &[u8]) -> Result<(), Violation> {
        while let ([byte, rest @ ..], false) = (piece, self.begun.is_empty()) {
            self.begun.push(*byte);
            piece = rest;
            let begun = std::mem::take(&mut self.begun);
            if let ControlFlow::Break(unfinished) = check(&begun)? {
                self.begun = unfinished.to_vec();
            }
        }
        if let ControlFlow::Break(unfinished) = check(piece)? {
            self.begun = unfinished.to_vec();
        }
        Ok(())
    }

    /// The text is over.
    ///
    /// # Errors
    /// It ends inside a character.
    pub fn finish(&mut self) -> Result<(), Violation> {
        match std::mem::take(&mut self.begun).is_empty() {
            true => Ok(()),
            false => Err(NO_TEXT),
        }
    }
}

const NO_TEXT: Violation = Violation::invalid("text that is not UTF-8");

/// Breaks with the first bytes of a character that isn't whole yet.
fn check(piece: &[u8]) -> Result<ControlFlow<&[u8]>, Violation> {
    match std::str::from_utf8(piece) {
        Ok(_) => Ok(ControlFlow::Continue(())),
        Err(why) if why.error_len().is_some() => Err(NO_TEXT),
        Err(why) => Ok(ControlFlow::Break(piece.get(why.valid_up_to()..).unwrap_or_default())),
    }
}

/// Checks the payload of a close frame (RFC 6455 sections 5.5.1 and 7.4).
///
/// # Errors
/// It has half a code, a code that may not be sent, or a reason that is no text.
pub fn check_close(payload: &[u8]) -> Result<(), Violation> {
    let [a, b, reason @ ..] = payload else {
        return if payload.is_empty() { Ok(()) } else { Err(Violation::protocol("a close frame has half a code")) };
    };
    match u16::from_be_bytes([*a, *b]) {
        1000..=1003 | 1007..=1014 | 3000..=4999 => {}
        _ => return Err(Violation::protocol("a close code that may not be sent")),
    }
    std::str::from_utf8(reason).map(|_| ()).map_err(|_| NO_TEXT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(bytes: &[u8], from: Sender) -> Result<Option<(Head, usize)>, &'static str> {
        read(bytes, from).map_err(|why| why.why)
    }

    fn written(head: &Head) -> Vec<u8> {
        let mut out = Vec::new();
        head.write(|bytes| out.extend_from_slice(bytes));
        out
    }

    /// RFC 6455 section 5.7.
    #[test]
    fn examples_of_the_rfc_are_read_and_written_as_they_stand_there() {
        let head = |fin, opcode, mask, len| Head { fin, compressed: false, opcode, mask, len };
        let key = [0x37, 0xfa, 0x21, 0x3d];
        for (bytes, from, expected) in [
            (&b"\x81\x05Hello"[..], Sender::Server, head(true, Opcode::Text, None, 5)),
            (b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58", Sender::Client, head(true, Opcode::Text, Some(key), 5)),
            (b"\x01\x03Hel", Sender::Server, head(false, Opcode::Text, None, 3)),
            (b"\x80\x02lo", Sender::Server, head(true, Opcode::Continuation, None, 2)),
            (b"\x89\x05Hello", Sender::Server, head(true, Opcode::Ping, None, 5)),
            (b"\x82\x7e\x01\x00", Sender::Server, head(true, Opcode::Binary, None, 256)),
            (b"\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00", Sender::Server, head(true, Opcode::Binary, None, 65536)),
        ] {
            let (read, len) = parse(bytes, from).expect("allowed").expect("whole");
            assert_eq!(read, expected);
            assert_eq!(written(&read), bytes[..len]);
            for part in 0..len {
                assert_eq!(parse(&bytes[..part], from), Ok(None), "{part} bytes of {bytes:?}");
            }
        }
        let mut payload = *b"\x7f\x9f\x4d\x51\x58";
        mask(&mut payload, key, 0);
        assert_eq!(&payload, b"Hello");
    }

    #[test]
    fn mask_goes_on_wherever_a_payload_is_cut() {
        let plain: Vec<u8> = (0..100).collect();
        let key = [1, 2, 3, 4];
        let mut whole = plain.clone();
        mask(&mut whole, key, 0);
        let by_hand: Vec<u8> = plain.iter().enumerate().map(|(i, b)| b ^ key[i % 4]).collect();
        assert_eq!(whole, by_hand);
        for cut in 0..plain.len() {
            let mut pieces = plain.clone();
            let (front, back) = pieces.split_at_mut(cut);
            mask(front, key, 0);
            mask(back, key, cut);
            assert_eq!(pieces, whole, "cut at {cut}");
        }
    }

    #[test]
    fn frames_that_nobody_may_send_are_refused() {
        for (bytes, from, why) in [
            (&b"\x81\x05Hello"[..], Sender::Client, "a client's frame is not masked"),
            (b"\x81\x85\x01\x02\x03\x04Hello", Sender::Server, "a server's frame is masked"),
            (b"\xa1\x00", Sender::Server, "a reserved bit is set"),
            (b"\x91\x00", Sender::Server, "a reserved bit is set"),
            (b"\x83\x00", Sender::Server, "an opcode that is not defined"),
            (b"\x8b\x00", Sender::Server, "an opcode that is not defined"),
            (b"\x09\x00", Sender::Server, "a control frame is fragmented"),
            (b"\x89\x7e\x00\x7e", Sender::Server, "a control frame is too long"),
            (b"\xc9\x00", Sender::Server, "a control frame is compressed"),
            (b"\x82\x7e\x00\x7d", Sender::Server, "a length is not written in its shortest form"),
            (b"\x82\x7f\0\0\0\0\0\0\xff\xff", Sender::Server, "a length is not written in its shortest form"),
            (b"\x82\x7f\x80\0\0\0\0\0\0\0", Sender::Server, "a length has its highest bit set"),
        ] {
            assert_eq!(parse(bytes, from), Err(why), "{bytes:?}");
        }
    }

    #[test]
    fn messages_come_one_after_the_other() {
        let frame = |fin, opcode, compressed| Head { fin, compressed, opcode, mask: None, len: 0 };
        let text = |fin| frame(fin, Opcode::Text, false);
        let more = |fin| frame(fin, Opcode::Continuation, false);
        let ping = frame(true, Opcode::Ping, false);
        for (frames, deflate, good) in [
            (vec![text(true), text(true)], false, true),
            (vec![text(false), ping, more(false), ping, more(true), text(true)], false, true),
            (vec![more(true)], false, false),
            (vec![text(true), more(true)], false, false),
            (vec![text(false), text(true)], false, false),
            (vec![frame(false, Opcode::Text, true), more(true)], true, true),
            (vec![frame(true, Opcode::Text, true)], false, false),
            (vec![text(false), frame(true, Opcode::Continuation, true)], true, false),
        ] {
            let mut order = Order::default();
            assert_eq!(frames.iter().all(|head| order.next(head, deflate).is_ok()), good, "{frames:?}");
        }
    }

    #[test]
    fn text_is_checked_across_its_pieces() {
        let text = "a\u{e9}\u{20ac}\u{1f600}z".as_bytes();
        for size in 1..=text.len() {
            let mut check = Utf8::default();
            assert!(text.chunks(size).all(|piece| check.push(piece).is_ok()) && check.finish().is_ok(), "{size}");
        }
        for bad in [&b"\xc0\xaf"[..], b"a\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xff", b"\xe2\x82"] {
            for size in 1..=bad.len() {
                let mut check = Utf8::default();
                let good = bad.chunks(size).all(|piece| check.push(piece).is_ok()) && check.finish().is_ok();
                assert!(!good, "{bad:?} by {size}");
            }
        }
    }

    #[test]
    fn close_frames_say_what_may_be_said() {
        for good in [&b""[..], b"\x03\xe8", b"\x03\xf0bye", b"\x0b\xb8", b"\x0f\xa0"] {
            assert_eq!(check_close(good), Ok(()), "{good:?}");
        }
        for bad in
            [&b"\x03"[..], b"\x03\xec", b"\x03\xed", b"\x03\xee", b"\x03\xf7", b"\x00\x00", b"\x13\x88", b"\x07\xd0"]
        {
            assert_eq!(check_close(bad).map_err(|why| why.code), Err(CloseCode::Protocol), "{bad:?}");
        }
        assert_eq!(check_close(b"\x03\xe8\xff").map_err(|why| why.code), Err(CloseCode::Invalid));
    }
}
