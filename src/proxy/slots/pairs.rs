//! `name=value&name=value`, as it stands in a query and in a form (URL Standard, section 5.1).

use zeroize::Zeroizing;

use super::Spot;
use crate::model::{FieldName, Slot};

/// The parameters with these names, in their order.
pub fn spots(text: &[u8], names: &[FieldName], slot: fn(FieldName) -> Slot) -> Vec<Spot> {
    let mut spots = Vec::new();
    let mut at = 0;
    for pair in text.split(|b| *b == b'&') {
        let equals = memchr::memchr(b'=', pair).unwrap_or(pair.len());
        if let Some(name) = names.iter().find(|name| is_coded(&pair[..equals], name.as_str().as_bytes())) {
            let start = at + (equals + 1).min(pair.len());
            spots.push(Spot { slot: slot(name.clone()), range: start..at + pair.len() });
        }
        at += pair.len() + 1;
    }
    spots
}

/// The text without the parameters of this name.
pub fn without(text: &str, name: &FieldName) -> String {
    let other =
        |pair: &&str| !is_coded(pair.split('=').next().unwrap_or_default().as_bytes(), name.as_str().as_bytes());
    text.split('&').filter(other).collect::<Vec<_>>().join("&")
}

/// Whether `coded` is this name, with whichever of its characters percent-encoded.
fn is_coded(coded: &[u8], name: &[u8]) -> bool {
    let mut rest = coded;
    for byte in name {
        rest = match rest {
            [b'%', high, low, rest @ ..] => {
                let digit = |d: u8| char::from(d).to_digit(16);
                if digit(*high).zip(digit(*low)).map(|(h, l)| h * 16 + l) != Some(u32::from(*byte)) {
                    return false;
                }
                rest
            }
            [plain, rest @ ..] if plain == byte => rest,
            _ => return false,
        };
    }
    rest.is_empty()
}

/// The secret percent-encoded (RFC 3986 section 2.1): all but unreserved characters, and these.
pub fn encoded(secret: &[u8], also_plain: &[u8]) -> Zeroizing<Vec<u8>> {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let mut out = Zeroizing::new(Vec::with_capacity(secret.len() * 3));
    for byte in secret {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) || also_plain.contains(byte) {
            out.push(*byte);
        } else {
            out.extend_from_slice(&[b'%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str, name: &str) -> Vec<String> {
        let Ok(Slot::Query(name)) = format!("query:{name}").parse() else { panic!("a slot") };
        let spots = spots(text.as_bytes(), &[name], Slot::Query);
        spots.into_iter().map(|spot| text[spot.range].to_owned()).collect()
    }

    #[test]
    fn parameter_is_found_by_its_name_however_that_is_coded() {
        for (text, values) in [
            ("key=1", vec!["1"]),
            ("a=b&key=1&c=d", vec!["1"]),
            ("key", vec![""]),
            ("key=", vec![""]),
            ("key=a=b", vec!["a=b"]),
            ("key=1&key=2", vec!["1", "2"]),
            ("%6bey=1&k%65%79=2", vec!["1", "2"]),
            ("Key=1", vec![]),
            ("akey=1&keys=2&key[]=3", vec![]),
            ("a;key=1", vec![]),
            ("a?key=1", vec![]),
            ("%256bey=1", vec![]),
            ("ke%=1&%6=1&%zz=2", vec![]),
            ("", vec![]),
            ("&&=&", vec![]),
        ] {
            assert_eq!(found(text, "key"), values, "{text}");
        }
    }

    #[test]
    fn encoded_secret_has_no_character_with_a_meaning_and_decodes_to_itself() {
        let secret: Vec<u8> = (0..=255).collect();
        let text = encoded(&secret, b"");
        assert!(text.iter().all(|b| b.is_ascii_alphanumeric() || b"%-._~".contains(b)));
        let mut at = 0;
        let mut decoded = Vec::new();
        while at < text.len() {
            let escaped = text[at] == b'%';
            let unit = std::str::from_utf8(&text[at + usize::from(escaped)..at + if escaped { 3 } else { 1 }]);
            let unit = unit.expect("text");
            decoded.push(if escaped { u8::from_str_radix(unit, 16).expect("hex") } else { unit.as_bytes()[0] });
            at += if escaped { 3 } else { 1 };
        }
        assert_eq!(decoded, secret);
    }
}
