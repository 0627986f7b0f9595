//! Ways to read a text: as it stands, or with its escapes decoded.
//!
//! An escape begins with a byte that stands in no other kind of escape, so a text falls into the same
//! tokens for all views: bytes that stand for themselves, and escapes that one view decodes and the
//! others read as they stand.

use super::Encoding;

/// The bytes that begin an escape in some view.
pub(super) const INTRODUCERS: [u8; 3] = [b'%', b'\\', b'&'];

/// The longest HTML character reference that is looked at, from `&` to `;`: that of the grave accent
/// is the longest name of an ASCII character.
const LONGEST_REFERENCE: usize = "&DiacriticalGrave;".len();

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

/// What an escape stands for: a byte, or a character in UTF-8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plain {
    bytes: [u8; 4],
    len: u8,
}

/// What stands at the front of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token {
    /// A byte that stands for itself in every view.
    Byte,
    /// An escape of so many bytes in one view.
    Escape(View, Plain, usize),
    /// What may become an escape with more bytes.
    Unfinished,
}

impl View {
    /// Every view; the one that decodes nothing is the first.
    pub const ALL: [Self; 4] = [Self::Raw, Self::Percent, Self::Json, Self::Html];

    /// What is found through it was encoded so.
    pub const fn encoding(self) -> Encoding {
        match self {
            Self::Raw => Encoding::Raw,
            Self::Percent => Encoding::Percent,
            Self::Json => Encoding::Json,
            Self::Html => Encoding::Html,
        }
    }

    /// The first unit of `text` as this view reads it, and how long it is; `None` if its end isn't there.
    pub fn unit(self, text: &[u8], more: bool) -> Option<(Plain, usize)> {
        match token(text, more) {
            Token::Escape(view, plain, len) if view == self => Some((plain, len)),
            Token::Unfinished => None,
            Token::Byte | Token::Escape(..) => Some((Plain::byte(text.first().copied().unwrap_or_default()), 1)),
        }
    }
}

impl Plain {
    fn byte(byte: u8) -> Self {
        Self { bytes: [byte, 0, 0, 0], len: 1 }
    }

    fn char(c: char) -> Self {
        let mut bytes = [0; 4];
        let len = c.encode_utf8(&mut bytes).len() as u8;
        Self { bytes, len }
    }

    /// The bytes; at least one.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// What stands at the front of `text`, which isn't empty and goes on if there is `more`. What only looks
/// like an escape stands for itself.
pub(super) fn token(text: &[u8], more: bool) -> Token {
    let (view, decoded) = match text.first() {
        Some(b'%') => (View::Percent, percent(text)),
        Some(b'\\') => (View::Json, json(text)),
        Some(b'&') => (View::Html, html(text, more)),
        _ => return Token::Byte,
    };
    match decoded {
        Ok((plain, len)) => Token::Escape(view, plain, len),
        Err(Not::Yet) if more => Token::Unfinished,
        Err(Not::Yet | Not::One) => Token::Byte,
    }
}

/// Why there is no escape.
enum Not {
    /// It may become one with more bytes.
    Yet,
    /// It is none.
    One,
}

type Decoded = Result<(Plain, usize), Not>;

/// A number of exactly `digits` hexadecimal digits at the front of `text`.
fn hexadecimal(text: &[u8], digits: usize) -> Result<u32, Not> {
    let mut number = 0;
    for at in 0..digits {
        let Some(byte) = text.get(at) else { return Err(Not::Yet) };
        let digit = (*byte as char).to_digit(16).ok_or(Not::One)?;
        number = number << 4 | digit;
    }
    Ok(number)
}

fn percent(text: &[u8]) -> Decoded {
    let number = hexadecimal(&text[1..], 2)?;
    Ok((Plain::byte(number.to_le_bytes()[0]), 3))
}

fn json(text: &[u8]) -> Decoded {
    let byte = match text.get(1) {
        None => return Err(Not::Yet),
        Some(byte @ (b'"' | b'\\' | b'/')) => *byte,
        Some(b'b') => 8,
        Some(b'f') => 12,
        Some(b'n') => b'\n',
        Some(b'r') => b'\r',
        Some(b't') => b'\t',
        Some(b'u') => {
            return match hexadecimal(&text[2..], 4)? {
                high @ 0xd800..0xdc00 => surrogates(high, &text[6..]),
                unit => char::from_u32(unit).map(|c| (Plain::char(c), 6)).ok_or(Not::One),
            };
        }
        Some(_) => return Err(Not::One),
    };
    Ok((Plain::byte(byte), 2))
}

/// A character beyond the basic plane, as two code units.
fn surrogates(high: u32, rest: &[u8]) -> Decoded {
    let mark = &rest[..rest.len().min(2)];
    if !b"\\u".starts_with(mark) {
        return Err(Not::One);
    }
    if mark.len() < 2 {
        return Err(Not::Yet);
    }
    match hexadecimal(&rest[2..], 4)? {
        low @ 0xdc00..0xe000 => {
            let c = char::from_u32(0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00));
            c.map(|c| (Plain::char(c), 12)).ok_or(Not::One)
        }
        _ => Err(Not::One),
    }
}

fn html(text: &[u8], more: bool) -> Decoded {
    let there = &text[1..text.len().min(LONGEST_REFERENCE)];
    let goes_on = more && text.len() < LONGEST_REFERENCE;
    if let [b'#', digits @ ..] = there {
        // A numeric reference also ends where its digits do (HTML section 13.2.5.80).
        let (digits, radix, before) = match digits {
            [b'x' | b'X', digits @ ..] => (digits, 16, 3),
            digits => (digits, 10, 2),
        };
        let count = digits.iter().take_while(|b| (**b as char).is_digit(radix)).count();
        if count == digits.len() && goes_on {
            return Err(Not::Yet);
        }
        let number = std::str::from_utf8(&digits[..count]).ok().and_then(|d| u32::from_str_radix(d, radix).ok());
        let c = number.and_then(char::from_u32).ok_or(Not::One)?;
        let closed = usize::from(digits.get(count) == Some(&b';'));
        return Ok((Plain::char(c), before + count + closed));
    }
    let end = there.iter().position(|b| !b.is_ascii_alphanumeric()).unwrap_or(there.len());
    let reference = &there[..end];
    if end == there.len() && goes_on {
        return Err(Not::Yet);
    }
    if there.get(end) == Some(&b';') {
        return named(reference).map(|byte| (Plain::byte(byte), end + 2)).ok_or(Not::One);
    }
    // These few also end without a semicolon (HTML section 13.5).
    const OLD: [(&[u8], u8); 8] = [
        (b"amp", b'&'),
        (b"AMP", b'&'),
        (b"lt", b'<'),
        (b"LT", b'<'),
        (b"gt", b'>'),
        (b"GT", b'>'),
        (b"quot", b'"'),
        (b"QUOT", b'"'),
    ];
    let old = OLD.iter().find(|(name, _)| reference.starts_with(name));
    old.map(|(name, byte)| (Plain::byte(*byte), name.len() + 1)).ok_or(Not::One)
}

/// The ASCII characters that have names (HTML section 13.5).
fn named(reference: &[u8]) -> Option<u8> {
    Some(match reference {
        b"Tab" => b'\t',
        b"NewLine" => b'\n',
        b"excl" => b'!',
        b"quot" | b"QUOT" => b'"',
        b"num" => b'#',
        b"dollar" => b'$',
        b"percnt" => b'%',
        b"amp" | b"AMP" => b'&',
        b"apos" => b'\'',
        b"lpar" => b'(',
        b"rpar" => b')',
        b"ast" | b"midast" => b'*',
        b"plus" => b'+',
        b"comma" => b',',
        b"period" => b'.',
        b"sol" => b'/',
        b"colon" => b':',
        b"semi" => b';',
        b"lt" | b"LT" => b'<',
        b"equals" => b'=',
        b"gt" | b"GT" => b'>',
        b"quest" => b'?',
        b"commat" => b'@',
        b"lsqb" | b"lbrack" => b'[',
        b"bsol" => b'\\',
        b"rsqb" | b"rbrack" => b']',
        b"Hat" => b'^',
        b"lowbar" | b"UnderBar" => b'_',
        b"grave" | b"DiacriticalGrave" => b'`',
        b"lcub" | b"lbrace" => b'{',
        b"verbar" | b"vert" | b"VerticalLine" => b'|',
        b"rcub" | b"rbrace" => b'}',
        // Not ASCII in the standard, and written for it all the same.
        b"hyphen" | b"dash" => b'-',
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(text: &str) -> Option<(String, usize)> {
        match token(text.as_bytes(), false) {
            Token::Escape(_, plain, len) => Some((String::from_utf8_lossy(plain.bytes()).into_owned(), len)),
            _ => None,
        }
    }

    #[test]
    fn escapes_stand_for_what_their_standards_say() {
        for (text, expected, len) in [
            ("%2f", "/", 3),
            ("%41B", "A", 3),
            ("\\\"", "\"", 2),
            ("\\\\u0041", "\\", 2),
            ("\\u00e9", "\u{e9}", 6),
            ("\\ud83d\\ude00", "\u{1f600}", 12),
            ("&amp;", "&", 5),
            ("&amp=", "&", 4),
            ("&lbrace;", "{", 8),
            ("&DiacriticalGrave;", "`", 18),
            ("&#65;", "A", 5),
            ("&#65B", "A", 4),
            ("&#x41;", "A", 6),
            ("&#X041z", "A", 6),
            ("&#0000000065;", "A", 13),
        ] {
            assert_eq!(decoded(text), Some((expected.to_owned(), len)), "{text}");
        }
        for text in
            ["%4", "%zz", "\\x41", "\\u12", "\\ud800", "\\ude00", "&bogus;", "& amp;", "&#;", "&#x;", "&am;", "&T"]
        {
            assert_eq!(decoded(text), None, "{text}");
        }
    }

    #[test]
    fn escape_that_is_cut_off_is_unfinished_and_nothing_else_is() {
        for text in ["%", "%4", "\\", "\\u00", "\\ud83d\\u", "&", "&am", "&#6", "&DiacriticalGrav", "&#x000000000000"] {
            assert_eq!(token(text.as_bytes(), true), Token::Unfinished, "{text}");
        }
        for text in ["%z", "\\x", "&a b", "&DiacriticalGraveAndMore", "a"] {
            assert_eq!(token(text.as_bytes(), true), Token::Byte, "{text}");
        }
    }
}
