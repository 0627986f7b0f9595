//! `name=value; name=value`, as it stands in a Cookie header (RFC 6265 section 4.2).

use super::Spot;
use crate::model::{FieldName, Slot};

/// The cookies with these names, in their order. A value in quotes is what stands between them.
pub fn spots(text: &[u8], names: &[FieldName]) -> Vec<Spot> {
    let mut spots = Vec::new();
    let mut at = 0;
    for pair in text.split(|b| *b == b';') {
        let equals = memchr::memchr(b'=', pair).unwrap_or(pair.len());
        if let Some(name) = names.iter().find(|name| name.as_str().as_bytes() == pair[..equals].trim_ascii()) {
            let value = pair.get(equals + 1..).unwrap_or_default();
            let inner = value.trim_ascii();
            let inner = inner.strip_prefix(b"\"").and_then(|v| v.strip_suffix(b"\"")).unwrap_or(inner);
            let start = at + pair.len() - value.len() + memchr::memmem::find(value, inner).unwrap_or(0);
            spots.push(Spot { slot: Slot::Cookie(name.clone()), range: start..start + inner.len() });
        }
        at += pair.len() + 1;
    }
    spots
}

/// The cookies of these fields in one, without those of this name.
pub fn without<'a>(fields: impl Iterator<Item = &'a [u8]>, name: &FieldName) -> Vec<u8> {
    let cookies = fields.flat_map(|field| field.split(|b| *b == b';')).map(<[u8]>::trim_ascii);
    let called = |cookie: &[u8]| cookie.split(|b| *b == b'=').next().unwrap_or_default().trim_ascii().to_vec();
    let others = cookies.filter(|cookie| !cookie.is_empty() && called(cookie) != name.as_str().as_bytes());
    others.collect::<Vec<_>>().join(&b"; "[..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookie_is_found_by_its_name() {
        let Ok(Slot::Cookie(name)) = "cookie:sid".parse() else { panic!("a slot") };
        for (text, values) in [
            ("sid=1", vec!["1"]),
            ("a=b; sid=1; c=d", vec!["1"]),
            ("a=b;sid= 1 ;c", vec!["1"]),
            ("sid=\"1\"", vec!["1"]),
            ("sid=\"", vec!["\""]),
            ("sid=a=b", vec!["a=b"]),
            ("sid=1; sid=2", vec!["1", "2"]),
            ("sid", vec![""]),
            ("SID=1; asid=2; sid2=3; a=sid=4", vec![]),
            ("", vec![]),
        ] {
            let found = spots(text.as_bytes(), std::slice::from_ref(&name));
            let found: Vec<_> = found.into_iter().map(|spot| &text[spot.range]).collect();
            assert_eq!(found, values, "{text}");
        }
    }
}
