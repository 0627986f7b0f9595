//! Ways to read a text: as it stands, or with its escapes decoded, a character at a time.

use super::scrub::Encoding;

/// The bytes that begin an escape in some view.
pub(super) const INTRODUCERS: [u8; 3] = [b'%', b'\\', b'&'];

/// The longest HTML character reference that is looked at, from `&` to `;`.
const LONGEST_REFERENCE: usize = 12;

/// How a text is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum View {
    /// As it stands.
    Raw,
    /// Percent-encoded (RFC 3986 section 2.1).
    Percent,
    /// Inside a JSON string (RFC 8259 section 7).
    Json,
    /// Inside HTML or XML: character references (HTML section 13.5).
    Html,
}

/// The next unit of a text.
pub(super) enum Unit {
    /// A byte, from so many bytes of the text.
    Byte(u8, usize),
    /// A character, from so many bytes of the text.
    Char(char, usize),
    /// An escape whose end isn't there yet.
    Unfinished,
}

impl View {
    /// Every view.
    pub const ALL: [Self; 4] = [Self::Raw, Self::Percent, Self::Json, Self::Html];

    /// The byte that begins an escape; for `Raw` one that is none.
    pub const fn introducer(self) -> u8 {
        match self {
            Self::Raw => 0,
            Self::Percent => INTRODUCERS[0],
            Self::Json => INTRODUCERS[1],
            Self::Html => INTRODUCERS[2],
        }
    }

    /// What is found through it was encoded so.
    pub const fn encoding(self) -> Encoding {
        match self {
            Self::Raw => Encoding::Raw,
            Self::Percent => Encoding::Percent,
            Self::Json => Encoding::Json,
            Self::Html => Encoding::Html,
        }
    }

    /// The first unit of `text`, which isn't empty and goes on if there is `more`. What only looks
    /// like an escape stands for itself.
    pub fn unit(self, text: &[u8], more: bool) -> Unit {
        let first = text[0];
        if self == Self::Raw || first != self.introducer() {
            return Unit::Byte(first, 1);
        }
        let decoded = match self {
            Self::Raw | Self::Percent => percent(text),
            Self::Json => json(text),
            Self::Html => html(text),
        };
        match decoded {
            Decoded::Unit(unit) => unit,
            Decoded::Short if more => Unit::Unfinished,
            Decoded::Short | Decoded::Literal => Unit::Byte(first, 1),
        }
    }
}

enum Decoded {
    Unit(Unit),
    /// It may become an escape with more bytes.
    Short,
    /// It is no escape.
    Literal,
}

/// A number of exactly `digits` hexadecimal digits at the front of `text`.
fn hexadecimal(text: &[u8], digits: usize) -> Result<u32, Decoded> {
    let there = &text[..text.len().min(digits)];
    if !there.iter().all(u8::is_ascii_hexdigit) {
        return Err(Decoded::Literal);
    }
    if there.len() < digits {
        return Err(Decoded::Short);
    }
    let text = std::str::from_utf8(there).unwrap_or_default();
    u32::from_str_radix(text, 16).map_err(|_| Decoded::Literal)
}

fn percent(text: &[u8]) -> Decoded {
    match hexadecimal(&text[1..], 2) {
        Ok(byte) => Decoded::Unit(Unit::Byte(u8::try_from(byte).unwrap_or_default(), 3)),
        Err(why) => why,
    }
}

fn json(text: &[u8]) -> Decoded {
    let byte = |byte| Decoded::Unit(Unit::Byte(byte, 2));
    match text.get(1) {
        None => Decoded::Short,
        Some(b'"') => byte(b'"'),
        Some(b'\\') => byte(b'\\'),
        Some(b'/') => byte(b'/'),
        Some(b'b') => byte(8),
        Some(b'f') => byte(12),
        Some(b'n') => byte(b'\n'),
        Some(b'r') => byte(b'\r'),
        Some(b't') => byte(b'\t'),
        Some(b'u') => match hexadecimal(&text[2..], 4) {
            Ok(high @ 0xd800..0xdc00) => surrogates(high, &text[6..]),
            Ok(unit) => char::from_u32(unit).map_or(Decoded::Literal, |c| Decoded::Unit(Unit::Char(c, 6))),
            Err(why) => why,
        },
        Some(_) => Decoded::Literal,
    }
}

/// A character beyond the basic plane, as two code units.
fn surrogates(high: u32, rest: &[u8]) -> Decoded {
    let mark = &rest[..rest.len().min(2)];
    if !b"\\u".starts_with(mark) {
        return Decoded::Literal;
    }
    if mark.len() < 2 {
        return Decoded::Short;
    }
    match hexadecimal(&rest[2..], 4) {
        Ok(low @ 0xdc00..0xe000) => {
            let c = char::from_u32(0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00));
            c.map_or(Decoded::Literal, |c| Decoded::Unit(Unit::Char(c, 12)))
        }
        Ok(_) => Decoded::Literal,
        Err(why) => why,
    }
}

fn html(text: &[u8]) -> Decoded {
    let there = &text[1..text.len().min(LONGEST_REFERENCE)];
    let Some(end) = there.iter().position(|b| *b == b';') else {
        let plausible = there.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'#');
        return if plausible && text.len() < LONGEST_REFERENCE { Decoded::Short } else { Decoded::Literal };
    };
    let len = end + 2;
    let named = |byte| Decoded::Unit(Unit::Byte(byte, len));
    match &there[..end] {
        b"amp" | b"AMP" => named(b'&'),
        b"lt" | b"LT" => named(b'<'),
        b"gt" | b"GT" => named(b'>'),
        b"quot" | b"QUOT" => named(b'"'),
        b"apos" => named(b'\''),
        b"sol" => named(b'/'),
        b"bsol" => named(b'\\'),
        b"plus" => named(b'+'),
        b"equals" => named(b'='),
        b"lowbar" | b"UnderBar" => named(b'_'),
        b"hyphen" | b"dash" => named(b'-'),
        b"period" => named(b'.'),
        b"colon" => named(b':'),
        b"semi" => named(b';'),
        b"comma" => named(b','),
        b"excl" => named(b'!'),
        b"num" => named(b'#'),
        b"dollar" => named(b'$'),
        b"percnt" => named(b'%'),
        b"ast" => named(b'*'),
        b"commat" => named(b'@'),
        reference => {
            let number = match reference {
                [b'#', b'x' | b'X', digits @ ..] => number(digits, 16),
                [b'#', digits @ ..] => number(digits, 10),
                _ => None,
            };
            number.and_then(char::from_u32).map_or(Decoded::Literal, |c| Decoded::Unit(Unit::Char(c, len)))
        }
    }
}

fn number(digits: &[u8], radix: u32) -> Option<u32> {
    let plain = !digits.is_empty() && digits.iter().all(u8::is_ascii_alphanumeric);
    u32::from_str_radix(std::str::from_utf8(digits).ok()?, radix).ok().filter(|_| plain)
}
