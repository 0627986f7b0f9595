//! Strings of a JSON document by their pointers (RFC 8259, RFC 6901). The document is read strictly:
//! of one that two parsers could read differently, no place is known.

use std::ops::Range;

use zeroize::Zeroizing;

use super::{Spot, Unreadable};
use crate::model::{Pointer, Slot};

/// How deep a document may be nested.
const MAX_DEPTH: usize = 128;

/// The values at these pointers, in the document's order; a string without its quotes, anything else
/// but `null` as it stands.
///
/// # Errors
/// It isn't JSON, is nested too deep, or has a member twice on the way to a pointer's place.
pub fn spots(text: &[u8], pointers: &[Pointer]) -> Result<Vec<Spot>, Unreadable> {
    if std::str::from_utf8(text).is_err() {
        return Err(Unreadable("it isn't UTF-8"));
    }
    let mut reader = Reader { text, at: 0, spots: Vec::new() };
    reader.value(&pointers.iter().collect::<Vec<_>>(), 0)?;
    reader.space();
    match reader.at == text.len() {
        true => Ok(reader.spots),
        false => Err(MALFORMED),
    }
}

/// The secret as it stands in a string; `None` if it isn't text.
pub fn escaped(secret: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    std::str::from_utf8(secret).ok()?;
    let mut out = Zeroizing::new(Vec::with_capacity(secret.len() * 2));
    for byte in secret {
        if matches!(byte, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(*byte);
    }
    Some(out)
}

const MALFORMED: Unreadable = Unreadable("it isn't JSON");
const TWICE: Unreadable = Unreadable("a member on the way to a slot is there twice");

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
    spots: Vec<Spot>,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    fn take(&mut self, byte: u8) -> bool {
        let there = self.peek() == Some(byte);
        self.at += usize::from(there);
        there
    }

    fn expect(&mut self, byte: u8) -> Result<(), Unreadable> {
        if self.take(byte) { Ok(()) } else { Err(MALFORMED) }
    }

    /// A value in which these pointers lead further, or to which they lead, by their steps from `depth`.
    fn value(&mut self, pointers: &[&Pointer], depth: usize) -> Result<(), Unreadable> {
        if depth > MAX_DEPTH {
            return Err(Unreadable("it is nested too deep"));
        }
        self.space();
        let start = self.at;
        match self.peek() {
            Some(b'{') => self.object(pointers, depth)?,
            Some(b'[') => self.array(pointers, depth)?,
            Some(b'"') => {
                self.string()?;
            }
            Some(b'-' | b'0'..=b'9') => self.number()?,
            Some(b't') => self.word(b"true")?,
            Some(b'f') => self.word(b"false")?,
            Some(b'n') => self.word(b"null")?,
            _ => return Err(MALFORMED),
        }
        let value = &self.text[start..self.at];
        for pointer in pointers.iter().filter(|pointer| pointer.steps().len() == depth && value != b"null") {
            let range = if value[0] == b'"' { start + 1..self.at - 1 } else { start..self.at };
            self.spots.push(Spot { slot: Slot::Json((*pointer).clone()), range });
        }
        Ok(())
    }

    fn object(&mut self, pointers: &[&Pointer], depth: usize) -> Result<(), Unreadable> {
        let mut seen = vec![false; pointers.len()];
        self.at += 1;
        self.space();
        if self.take(b'}') {
            return Ok(());
        }
        loop {
            self.space();
            let name = self.string()?;
            let mut further = Vec::new();
            if !pointers.is_empty() {
                let name = unescaped(&self.text[name]).ok_or(MALFORMED)?;
                for (pointer, seen) in pointers.iter().zip(&mut seen) {
                    if pointer.steps().get(depth).is_some_and(|step| *step == name) {
                        if std::mem::replace(seen, true) {
                            return Err(TWICE);
                        }
                        further.push(*pointer);
                    }
                }
            }
            self.space();
            self.expect(b':')?;
            self.value(&further, depth + 1)?;
            self.space();
            if self.take(b'}') {
                return Ok(());
            }
            self.expect(b',')?;
        }
    }

    fn array(&mut self, pointers: &[&Pointer], depth: usize) -> Result<(), Unreadable> {
        self.at += 1;
        self.space();
        if self.take(b']') {
            return Ok(());
        }
        for n in 0_usize.. {
            let here = |pointer: &&&Pointer| pointer.steps().get(depth).is_some_and(|step| *step == n.to_string());
            let further: Vec<_> = pointers.iter().filter(here).copied().collect();
            self.value(&further, depth + 1)?;
            self.space();
            if self.take(b']') {
                break;
            }
            self.expect(b',')?;
        }
        Ok(())
    }

    /// What stands between the quotes.
    fn string(&mut self) -> Result<Range<usize>, Unreadable> {
        self.expect(b'"')?;
        let start = self.at;
        loop {
            match self.peek().ok_or(MALFORMED)? {
                b'"' => {
                    self.at += 1;
                    return Ok(start..self.at - 1);
                }
                0..0x20 => return Err(MALFORMED),
                b'\\' => {
                    self.at += 1;
                    match self.peek() {
                        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 1,
                        Some(b'u') if unit(&self.text[self.at..]).is_some() => self.at += 5,
                        _ => return Err(MALFORMED),
                    }
                }
                _ => self.at += 1,
            }
        }
    }

    fn number(&mut self) -> Result<(), Unreadable> {
        self.take(b'-');
        if !self.take(b'0') {
            self.digits()?;
        }
        if self.take(b'.') {
            self.digits()?;
        }
        if self.take(b'e') || self.take(b'E') {
            let _ = self.take(b'+') || self.take(b'-');
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), Unreadable> {
        let start = self.at;
        while self.peek().is_some_and(|b| b.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at > start { Ok(()) } else { Err(MALFORMED) }
    }

    fn word(&mut self, word: &[u8]) -> Result<(), Unreadable> {
        let there = self.text[self.at..].starts_with(word);
        self.at += word.len();
        if there { Ok(()) } else { Err(MALFORMED) }
    }
}

/// The code unit of `u` and four hexadecimal digits.
fn unit(text: &[u8]) -> Option<u16> {
    let digits = text.get(1..5)?;
    digits.iter().try_fold(0, |sum, d| Some(sum * 16 + u16::try_from(char::from(*d).to_digit(16)?).ok()?))
}

/// A string's text; `None` if an escape in it is no character.
fn unescaped(raw: &[u8]) -> Option<String> {
    let mut units = Vec::new();
    let mut rest = std::str::from_utf8(raw).ok()?.chars();
    while let Some(c) = rest.next() {
        if c != '\\' {
            units.extend_from_slice(c.encode_utf16(&mut [0; 2]));
            continue;
        }
        units.push(match rest.next()? {
            'b' => 8,
            'f' => 12,
            'n' => 10,
            'r' => 13,
            't' => 9,
            'u' => {
                let tail = rest.as_str();
                let code = unit(format!("u{}", tail.get(..4)?).as_bytes())?;
                rest = tail[4..].chars();
                code
            }
            plain => u16::try_from(u32::from(plain)).ok()?,
        });
    }
    String::from_utf16(&units).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pointer(text: &str) -> Pointer {
        let Ok(Slot::Json(pointer)) = format!("json:{text}").parse() else { panic!("{text} is no pointer") };
        pointer
    }

    fn found(text: &str, at: &str) -> Result<Vec<String>, Unreadable> {
        let spots = spots(text.as_bytes(), &[pointer(at)])?;
        Ok(spots.into_iter().map(|spot| text[spot.range].to_owned()).collect())
    }

    #[test]
    fn string_is_found_by_its_pointer_however_names_are_escaped() {
        for (text, at, value) in [
            (r#"{"key":"v"}"#, "/key", vec!["v"]),
            (r#" { "a" : [ 1 , { "key" : "v" } ] } "#, "/a/1/key", vec!["v"]),
            (r#"{"\u006b\u0065y":"v"}"#, "/key", vec!["v"]),
            (r#"{"a/b":{"m~n":"v"}}"#, "/a~1b/m~0n", vec!["v"]),
            (r#"{"\ud83d\ude00":"v"}"#, "/\u{1f600}", vec!["v"]),
            (r#"{"":"v"}"#, "/", vec!["v"]),
            (r#"{"0":"v"}"#, "/0", vec!["v"]),
            (r#"["v"]"#, "/0", vec!["v"]),
            (r#"["v"]"#, "/00", vec![]),
            (r#"{"key":null}"#, "/key", vec![]),
            (r#"{"key":7}"#, "/key", vec!["7"]),
            (r#"{"key":{"key":"v"}}"#, "/key", vec![r#"{"key":"v"}"#]),
            (r#"{"key":{"key":"v"}}"#, "/key/key", vec!["v"]),
            (r#"{"a":"{\"key\":\"v\"}"}"#, "/key", vec![]),
            (r#"{"Key":"v","key ":"v"}"#, "/key", vec![]),
            (r#"{"b":1,"b":2,"key":"v"}"#, "/key", vec!["v"]),
            (r#""key""#, "/key", vec![]),
            (r#"{"key":"a\"b\\"}"#, "/key", vec![r#"a\"b\\"#]),
            (r#"{"key":""}"#, "/key", vec![""]),
        ] {
            assert_eq!(found(text, at), Ok(value.into_iter().map(str::to_owned).collect()), "{text} {at}");
        }
    }

    #[test]
    fn what_two_parsers_could_read_differently_has_no_places() {
        let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
        for text in [
            "",
            "{",
            r#"{"key":"v""#,
            r#"{"key":"v"}}"#,
            r#"{"key":"v"} {"key":"v"}"#,
            r#"{"key":"v",}"#,
            r#"{'key':'v'}"#,
            r#"{key:"v"}"#,
            r#"{"key":"v" /* */}"#,
            r#"{"key":"v"}//"#,
            r#"{"key":"v","key":"w"}"#,
            r#"{"key":"v","k\u0065y":"w"}"#,
            r#"{"key":"v","x":01}"#,
            r#"{"key":"v","x":+1}"#,
            r#"{"key":"v","x":.5}"#,
            r#"{"key":"v","x":1.}"#,
            r#"{"key":"v","x":NaN}"#,
            r#"{"key":"v","x":nul}"#,
            r#"{"key":"\x"}"#,
            r#"{"key":"\u12g4"}"#,
            r#"{"\ud83d":"v"}"#,
            "{\"key\":\"a\nb\"}",
            "{\"key\":\"a\0b\"}",
            "\u{feff}{\"key\":\"v\"}",
            &deep,
        ] {
            assert!(found(text, "/key").is_err(), "{text}");
        }
        assert!(spots(b"{\"key\":\"\xff\"}", &[pointer("/key")]).is_err());
        assert_eq!(found(r#"{"a":{"key":"v"},"a":{}}"#, "/a/key"), Err(TWICE));
    }

    #[test]
    fn any_text_cut_or_changed_anywhere_gives_no_panic_and_agrees_with_a_parser() {
        let text = r#"{"a":[1,-0.5e+7,true,{"key":"v\u00e9\\\"x","b":[[],{}]}],"c":"\ud83d\ude00","d":null}"#;
        let at = [pointer("/a/3/key"), pointer("/c"), pointer("/d")];
        let strict = |text: &[u8]| serde_json::from_slice::<serde_json::Value>(text).is_ok();
        for cut in 0..text.len() {
            let _ = spots(&text.as_bytes()[..cut], &at).map(|_| panic!("cut at {cut}"));
            for byte in *b"\"\\{}[],:0-.e \n\0\xff/ut" {
                let mut changed = text.as_bytes().to_vec();
                changed[cut] = byte;
                if spots(&changed, &at).is_ok() {
                    // Lone surrogates in values are left to whoever reads them.
                    let known = strict(&changed) || changed.windows(3).any(|w| w == b"\\ud");
                    assert!(known, "{}", String::from_utf8_lossy(&changed));
                }
            }
        }
    }

    #[test]
    fn escaped_secret_reads_as_itself() {
        let secret = "a\"b\\c/\u{e9}";
        let escaped = escaped(secret.as_bytes()).expect("text");
        let json = [b"\"".as_slice(), &escaped, b"\""].concat();
        assert_eq!(serde_json::from_slice::<String>(&json).expect("JSON"), secret);
        assert!(super::escaped(b"\xff").is_none());
    }
}
