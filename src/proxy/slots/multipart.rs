//! Fields of a `multipart/form-data` body (RFC 7578, RFC 2046 section 5.1). The body is read strictly:
//! of one that two parsers could cut differently, no place is known.

use super::{Spot, Unreadable};
use crate::model::{FieldName, Slot};

/// The fields with these names, in their order. A file of such a name is none.
///
/// # Errors
/// The parts can't be told apart for certain.
pub fn spots(body: &[u8], boundary: &[u8], names: &[FieldName]) -> Result<Vec<Spot>, Unreadable> {
    let delimiter = [b"\r\n--".as_slice(), boundary].concat();
    let mut spots = Vec::new();
    // The first delimiter has no line before it that it would end.
    let mut at = match body.starts_with(&delimiter[2..]) {
        true => delimiter.len() - 2,
        false => return Err(Unreadable("it doesn't begin with its boundary")),
    };
    loop {
        match &body[at..] {
            [b'-', b'-'] | [b'-', b'-', b'\r', b'\n'] => return Ok(spots),
            [b'\r', b'\n', ..] => at += 2,
            _ => return Err(Unreadable("a boundary isn't the end of its line, or something follows the last one")),
        }
        let mut part = Part::default();
        loop {
            let len = memchr::memchr(b'\n', &body[at..]).ok_or(CUT)?;
            let line = body[at..at + len].strip_suffix(b"\r").ok_or(LINES)?;
            at += len + 1;
            if line.is_empty() {
                break;
            }
            part.take(line)?;
        }
        let len = memchr::memmem::find(&body[at..], &delimiter).ok_or(CUT)?;
        let name = part.name.ok_or(Unreadable("a part has no name"))?;
        if !part.is_file
            && let Some(name) = names.iter().find(|wanted| wanted.as_str() == name)
        {
            if part.is_coded {
                return Err(Unreadable("a slot's part has a Content-Transfer-Encoding"));
            }
            spots.push(Spot { slot: Slot::Multipart(name.clone()), range: at..at + len });
        }
        at += len + delimiter.len();
    }
}

/// Whether the secret can be a part's content: it can't where it holds the boundary, which only an
/// agent that knows the secret would choose.
pub fn can_be(secret: &[u8], boundary: &[u8]) -> bool {
    memchr::memmem::find(secret, &[b"--".as_slice(), boundary].concat()).is_none()
}

/// The boundary that a Content-Type names; `None` if it isn't certain which.
pub fn boundary(parameters: &str) -> Option<&str> {
    let mut found = None;
    for (name, value) in Parameters(parameters) {
        let value = value?;
        if name.eq_ignore_ascii_case("boundary") && found.replace(value).is_some() {
            return None;
        }
    }
    // RFC 2046 section 5.1.1.
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"'()+_,-./:=? ".contains(&b);
    found.filter(|b| (1..=70).contains(&b.len()) && b.bytes().all(fits) && !b.ends_with(' '))
}

const CUT: Unreadable = Unreadable("its last part has no end");
const LINES: Unreadable = Unreadable("a line of a part's head doesn't end with CR LF");
const HEAD: Unreadable = Unreadable("a part's head can't be read");

#[derive(Default)]
struct Part<'a> {
    name: Option<&'a str>,
    is_file: bool,
    is_coded: bool,
}

impl<'a> Part<'a> {
    fn take(&mut self, line: &'a [u8]) -> Result<(), Unreadable> {
        let line = std::str::from_utf8(line).map_err(|_| HEAD)?;
        let (field, value) = line.split_once(':').ok_or(HEAD)?;
        if !field.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') || line.chars().any(|c| c.is_control()) {
            return Err(HEAD);
        }
        if field.eq_ignore_ascii_case("content-transfer-encoding") {
            self.is_coded |= !["7bit", "8bit", "binary"].iter().any(|plain| value.trim().eq_ignore_ascii_case(plain));
        }
        if !field.eq_ignore_ascii_case("content-disposition") {
            return Ok(());
        }
        let (kind, parameters) = value.split_once(';').ok_or(HEAD)?;
        if !kind.trim().eq_ignore_ascii_case("form-data") {
            return Err(HEAD);
        }
        for (name, value) in Parameters(parameters) {
            let value = value.ok_or(HEAD)?;
            match name.to_ascii_lowercase().as_str() {
                "name" if self.name.replace(value).is_some() => return Err(Unreadable("a part has two names")),
                "name*" => return Err(HEAD),
                "filename" | "filename*" => self.is_file = true,
                _ => {}
            }
        }
        Ok(())
    }
}

/// `; name=value; name="value"`: each with its value, or with none where it can't be read for certain.
struct Parameters<'a>(&'a str);

impl<'a> Iterator for Parameters<'a> {
    type Item = (&'a str, Option<&'a str>);

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.0.trim_start_matches([' ', '\t', ';']);
        if rest.is_empty() {
            return None;
        }
        let Some((name, after)) = rest.split_once('=') else {
            self.0 = "";
            return Some((rest, None));
        };
        let (value, rest) = match after.strip_prefix('"') {
            // A backslash before a quote escapes it for some, and for others is itself.
            Some(quoted) => match quoted.split_once('"') {
                Some((value, rest)) if !value.ends_with('\\') => (Some(value), rest),
                _ => (None, ""),
            },
            None => {
                let end = after.find(';').unwrap_or(after.len());
                let value = after[..end].trim_end();
                (Some(value).filter(|v| !v.is_empty() && !v.contains(['"', ' '])), &after[end..])
            }
        };
        let ends = rest.trim_start();
        self.0 = rest;
        let certain = ends.is_empty() || ends.starts_with(';');
        Some((name, value.filter(|_| certain && !name.contains([' ', '"', ';']))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> [FieldName; 1] {
        let Ok(Slot::Multipart(name)) = "multipart:key".parse() else { panic!("a slot") };
        [name]
    }

    fn found(body: &str) -> Result<Vec<String>, Unreadable> {
        let spots = spots(body.replace('|', "\r\n").as_bytes(), b"B0", &names())?;
        let body = body.replace('|', "\r\n");
        Ok(spots.into_iter().map(|spot| body[spot.range].to_owned()).collect())
    }

    const KEY: &str = "content-disposition: form-data; name=\"key\"";

    #[test]
    fn field_is_found_by_its_name() {
        for (body, values) in [
            ("--B0|Content-Disposition: form-data; name=\"key\"||v|--B0--|".to_owned(), vec!["v"]),
            (format!("--B0|{KEY}||v|--B0--"), vec!["v"]),
            ("--B0|Content-Disposition:form-data;name=key||v|--B0--|".to_owned(), vec!["v"]),
            (format!("--B0|content-type: text/plain|{KEY}||v\r\n\r\nw|--B0--|"), vec!["v\r\n\r\nw"]),
            (format!("--B0|{KEY}|||--B0--|"), vec![""]),
            (format!("--B0|{KEY}||a|--B0|{KEY}||b|--B0--|"), vec!["a", "b"]),
            (format!("--B0|{KEY}; filename=\"x\"||v|--B0--|"), vec![]),
            (format!("--B0|{}||v|--B0--|", KEY.replace("key", "Key")), vec![]),
            (format!("--B0|{}||--B1|{KEY}||v|--B0--|", KEY.replace("key", "other")), vec![]),
            (format!("--B0|{KEY}||--B0|--B0--|"), vec!["--B0"]),
        ] {
            assert_eq!(found(&body), Ok(values.into_iter().map(str::to_owned).collect()), "{body}");
        }
    }

    #[test]
    fn body_that_two_parsers_could_cut_differently_has_no_places() {
        for body in [
            String::new(),
            "--B0--|".to_owned() + "|",
            format!("preamble|--B0|{KEY}||v|--B0--|"),
            format!("|--B0|{KEY}||v|--B0--|"),
            format!("--B0|{KEY}||v|--B0--|epilogue"),
            format!("--B0 |{KEY}||v|--B0--|"),
            format!("--B0x|{KEY}||v|--B0--|"),
            format!("--B0|{KEY}||v|--B0x|--B0--|"),
            format!("--B0\n{KEY}\n\nv\n--B0--\n"),
            format!("--B0|{KEY}\n|v|--B0--|"),
            format!("--B0|{KEY}||v|--B0"),
            format!("--B0|{KEY}||v"),
            format!("--B0|{KEY}"),
            "--B0||v|--B0--|".to_owned(),
            "--B0|content-disposition: form-data||v|--B0--|".to_owned(),
            "--B0|content-disposition: attachment; name=\"key\"||v|--B0--|".to_owned(),
            format!("--B0|{KEY}; name=\"other\"||v|--B0--|"),
            format!("--B0|{KEY}|{KEY}||v|--B0--|"),
            format!("--B0|{KEY}; name*=utf-8''x||v|--B0--|"),
            "--B0|content-disposition: form-data; name=\"key\\\"||v|--B0--|".to_owned(),
            "--B0|content-disposition: form-data; name=\"x\\\"; name=key||v|--B0--|".to_owned(),
            "--B0|content-disposition: form-data; name=key other||v|--B0--|".to_owned(),
            "--B0|content-disposition: form-data; name=\"key\"x||v|--B0--|".to_owned(),
            format!("--B0|x: 1| {KEY}||v|--B0--|"),
            format!("--B0|x y: 1|{KEY}||v|--B0--|"),
            format!("--B0|{KEY}|content-transfer-encoding: base64||v|--B0--|"),
        ] {
            assert!(found(&body).is_err(), "{body}");
        }
    }

    #[test]
    fn boundary_is_taken_only_where_it_is_certain() {
        for (parameters, expected) in [
            (" boundary=abc", Some("abc")),
            (" charset=utf-8; Boundary=\"a b:c\"", Some("a b:c")),
            (" boundary=a; boundary=b", None),
            (" boundary=\"a\\\"b\"", None),
            (" boundary=", None),
            (" boundary=\"\"", None),
            (" boundary=\"a \"", None),
            (" boundary=\"a\r\"", None),
            (" boundary", None),
            (" boundary =a", None),
            ("", None),
        ] {
            assert_eq!(boundary(parameters), expected, "{parameters}");
        }
        assert_eq!(boundary(&format!("boundary={}", "a".repeat(71))), None);
    }

    #[test]
    fn body_cut_or_changed_anywhere_gives_no_panic_and_no_place_but_the_fields_own() {
        let body = format!("--B0|{KEY}||SECRETPLACE|--B0|x: 1|{}||other|--B0--|", KEY.replace("key", "k2"));
        let body = body.replace('|', "\r\n").into_bytes();
        let whole = memchr::memmem::find(&body, b"SECRETPLACE").expect("there");
        for at in 0..body.len() {
            let _ = spots(&body[..at], b"B0", &names());
            for byte in *b"\r\n-B0\"\\;=: \0\xff" {
                let mut changed = body.clone();
                changed[at] = byte;
                for spot in spots(&changed, b"B0", &names()).unwrap_or_default() {
                    assert!(spot.range.start >= whole || at < whole, "{}", String::from_utf8_lossy(&changed));
                }
            }
        }
    }
}
