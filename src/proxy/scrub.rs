//! Takes keys out of replies as they stream by.
//!
//! It holds no secret. Of each secret and encoding it keeps the first four bytes, the length and a
//! keyed 128-bit hash of the whole. What is found is overwritten by a mask of the same length, so
//! lengths and offsets hold. Only bytes that can still become a match are held back.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use bytes::{Bytes, BytesMut};
use zeroize::Zeroizing;

/// How many first bytes of a pattern are kept to find it by.
const FRONT: usize = 4;
const MASK: u8 = b'*';

/// What to look for in the replies of one host.
pub struct PatternSet {
    key: [u8; 32],
    fronts: HashMap<[u8; FRONT], Vec<Pattern>>,
    /// Which first bytes begin any pattern: the test that almost every byte fails.
    first: [bool; 256],
    longest: usize,
}

#[derive(Clone, PartialEq, Eq)]
struct Pattern {
    len: usize,
    hash: [u8; 16],
}

/// Collects patterns.
pub struct Builder(PatternSet);

impl PatternSet {
    /// A set whose hashes are keyed with a random key of the process.
    #[must_use]
    pub fn builder(key: &[u8; 32]) -> Builder {
        Builder(Self { key: *key, fronts: HashMap::new(), first: [false; 256], longest: 0 })
    }

    fn hash(&self, text: &[u8]) -> [u8; 16] {
        let mut out = [0; 16];
        out.copy_from_slice(&blake3::keyed_hash(&self.key, text).as_bytes()[..16]);
        out
    }

    /// The longest pattern that begins at the front of `text` and is whole in it.
    fn at(&self, text: &[u8]) -> Option<usize> {
        let front: [u8; FRONT] = text.get(..FRONT)?.try_into().ok()?;
        let found = self.fronts.get(&front)?;
        found.iter().find(|p| text.get(..p.len).is_some_and(|t| self.hash(t) == p.hash)).map(|p| p.len)
    }

    /// Whether text that begins like this could become a longer match with more bytes.
    fn may_become(&self, text: &[u8]) -> bool {
        match text.get(..FRONT) {
            Some(front) => {
                let Ok(front) = <[u8; FRONT]>::try_from(front) else { return false };
                self.fronts.get(&front).is_some_and(|found| found.iter().any(|p| p.len > text.len()))
            }
            None => self.fronts.keys().any(|front| front.starts_with(text)),
        }
    }

    /// Masks matches in `text`, from `from` on. Returns how many it found and where the first byte
    /// stands that can still become part of a match.
    fn mask(&self, text: &mut [u8], more: bool) -> (u32, usize) {
        let (mut at, mut hits) = (0, 0);
        while at < text.len() {
            if !self.first[usize::from(text[at])] {
                at += 1;
                continue;
            }
            if more && self.may_become(&text[at..]) {
                // A shorter match may stand here already; the longer one would cover it.
                return (hits, at);
            }
            match self.at(&text[at..]) {
                Some(len) => {
                    text[at..at + len].fill(MASK);
                    hits += 1;
                    at += len;
                }
                None => at += 1,
            }
        }
        (hits, at)
    }

    /// Whether a match could stand anywhere in `text`: cheap, and never wrong when it says no.
    fn suspicious(&self, text: &[u8]) -> bool {
        text.iter().enumerate().any(|(at, b)| {
            self.first[usize::from(*b)]
                && match text.get(at..at + FRONT).and_then(|f| <[u8; FRONT]>::try_from(f).ok()) {
                    Some(front) => self.fronts.contains_key(&front),
                    None => self.may_become(&text[at..]),
                }
        })
    }

    /// A header's value with its matches masked; `None` if there are none.
    #[must_use]
    pub fn scrub_value(&self, value: &[u8]) -> Option<Vec<u8>> {
        if !self.suspicious(value) {
            return None;
        }
        let mut text = value.to_vec();
        let (hits, _) = self.mask(&mut text, false);
        (hits > 0).then_some(text)
    }
}

impl Builder {
    /// Adds a secret in every encoding that is looked for.
    pub fn add(&mut self, secret: &[u8]) {
        self.put(secret);
        self.put(&Zeroizing::new(secret.to_ascii_uppercase()));
        self.put(&Zeroizing::new(secret.to_ascii_lowercase()));
        for upper in [false, true] {
            let hex = Zeroizing::new(if upper { hex::encode_upper(secret) } else { hex::encode(secret) });
            self.put(hex.as_bytes());
            self.put(&escaped(secret, upper, |b| !b.is_ascii_alphanumeric() && !b"-_.~".contains(&b)));
            self.put(&escaped(secret, upper, |_| true));
        }
        self.put(&json(secret, false));
        self.put(&json(secret, true));
        self.put(&entities(secret));
        self.base64(secret);
        for (before, after) in
            [("", ":"), ("x-access-token:", ""), ("oauth2:", ""), ("api:", ""), ("user:", ""), ("git:", "")]
        {
            let pair = Zeroizing::new([before.as_bytes(), secret, after.as_bytes()].concat());
            self.put(Zeroizing::new(STANDARD_NO_PAD.encode(&*pair)).as_bytes());
        }
    }

    /// Base64 at all three alignments: only the characters that the secret alone determines.
    fn base64(&mut self, secret: &[u8]) {
        for shift in 0..3usize {
            let padded = Zeroizing::new([&[0u8; 2][..shift], secret].concat());
            for engine in [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD] {
                let text = Zeroizing::new(engine.encode(&*padded));
                let from = (shift * 8).div_ceil(6);
                let to = padded.len() * 8 / 6;
                if let Some(fixed) = text.as_bytes().get(from..to) {
                    self.put(fixed);
                }
            }
        }
    }

    fn put(&mut self, text: &[u8]) {
        let Some(front) = text.get(..FRONT).and_then(|f| <[u8; FRONT]>::try_from(f).ok()) else { return };
        let pattern = Pattern { len: text.len(), hash: self.0.hash(text) };
        let list = self.0.fronts.entry(front).or_default();
        if !list.contains(&pattern) {
            list.push(pattern);
            list.sort_by_key(|p| std::cmp::Reverse(p.len));
        }
        self.0.first[usize::from(front[0])] = true;
        self.0.longest = self.0.longest.max(text.len());
    }

    /// The finished set.
    #[must_use]
    pub fn build(self) -> PatternSet {
        self.0
    }
}

fn escaped(secret: &[u8], upper: bool, which: impl Fn(u8) -> bool) -> Zeroizing<Vec<u8>> {
    let mut out = Zeroizing::new(Vec::with_capacity(secret.len() * 3));
    for b in secret {
        match which(*b) {
            true if upper => out.extend_from_slice(format!("%{b:02X}").as_bytes()),
            true => out.extend_from_slice(format!("%{b:02x}").as_bytes()),
            false => out.push(*b),
        }
    }
    out
}

fn json(secret: &[u8], full: bool) -> Zeroizing<Vec<u8>> {
    let mut out = Zeroizing::new(Vec::with_capacity(secret.len() * 6));
    for b in secret {
        match b {
            _ if full => out.extend_from_slice(format!("\\u{b:04x}").as_bytes()),
            b'"' | b'\\' | b'/' => out.extend_from_slice(&[b'\\', *b]),
            _ => out.push(*b),
        }
    }
    out
}

fn entities(secret: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut out = Zeroizing::new(Vec::with_capacity(secret.len() * 6));
    for b in secret {
        match b {
            b'&' => out.extend_from_slice(b"&amp;"),
            b'<' => out.extend_from_slice(b"&lt;"),
            b'>' => out.extend_from_slice(b"&gt;"),
            b'"' => out.extend_from_slice(b"&quot;"),
            b'\'' => out.extend_from_slice(b"&#39;"),
            _ => out.push(*b),
        }
    }
    out
}

/// Scrubs one stream.
pub struct Scrubber {
    patterns: Arc<PatternSet>,
    held: BytesMut,
    hits: u32,
}

impl Scrubber {
    /// A scrubber at the beginning of a stream.
    #[must_use]
    pub fn new(patterns: Arc<PatternSet>) -> Self {
        Self { patterns, held: BytesMut::new(), hits: 0 }
    }

    /// What is looked for.
    #[must_use]
    pub fn patterns(&self) -> &PatternSet {
        &self.patterns
    }

    /// How many matches were masked so far.
    #[must_use]
    pub fn hits(&self) -> u32 {
        self.hits
    }

    /// Takes a piece of the stream and puts out what is clean. A piece without anything suspicious
    /// passes uncopied.
    pub fn push(&mut self, data: Bytes, out: &mut VecDeque<Bytes>) {
        if self.held.is_empty() && !self.patterns.suspicious(&data) {
            out.push_back(data);
            return;
        }
        self.held.extend_from_slice(&data);
        let (hits, upto) = self.patterns.mask(&mut self.held, true);
        self.hits += hits;
        if upto > 0 {
            out.push_back(self.held.split_to(upto).freeze());
        }
    }

    /// The stream is over: what was held back goes out.
    pub fn finish(&mut self, out: &mut VecDeque<Bytes>) {
        let (hits, _) = self.patterns.mask(&mut self.held, false);
        self.hits += hits;
        if !self.held.is_empty() {
            out.push_back(self.held.split().freeze());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &[u8] = b"sk-live-51H/8x+Q\"z9&AbCdEf";

    fn set() -> Arc<PatternSet> {
        let mut builder = PatternSet::builder(&[7; 32]);
        builder.add(SECRET);
        Arc::new(builder.build())
    }

    fn flat(pieces: &VecDeque<Bytes>) -> Vec<u8> {
        pieces.iter().flat_map(|piece| piece.iter().copied()).collect()
    }

    fn run(pieces: &[&[u8]]) -> (Vec<u8>, u32) {
        let mut scrubber = Scrubber::new(set());
        let mut out = VecDeque::new();
        for piece in pieces {
            scrubber.push(Bytes::copy_from_slice(piece), &mut out);
        }
        scrubber.finish(&mut out);
        (flat(&out), scrubber.hits())
    }

    #[test]
    fn secret_split_anywhere_is_masked_and_lengths_hold() {
        let text = [b"before ".as_slice(), SECRET, b" after"].concat();
        for cut in 0..=text.len() {
            let (out, hits) = run(&[&text[..cut], &text[cut..]]);
            assert_eq!(out, [b"before ".as_slice(), &vec![MASK; SECRET.len()], b" after"].concat(), "cut at {cut}");
            assert_eq!(hits, 1);
        }
        let bytes: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(run(&bytes).1, 1);
    }

    #[test]
    fn encoded_secret_is_masked_at_every_alignment() {
        for before in ["", "a", "ab", "abc"] {
            let text = [before.as_bytes(), SECRET, b"xyz"].concat();
            for encoded in [STANDARD_NO_PAD.encode(&text), URL_SAFE_NO_PAD.encode(&text)] {
                assert_eq!(run(&[encoded.as_bytes()]).1, 1, "{before:?}");
            }
        }
        for encoded in
            [hex::encode(SECRET), hex::encode_upper(SECRET), String::from_utf8_lossy(&json(SECRET, true)).into_owned()]
        {
            assert_eq!(run(&[encoded.as_bytes()]).1, 1, "{encoded}");
        }
    }

    #[test]
    fn what_cannot_become_a_match_is_not_held_back() {
        let mut scrubber = Scrubber::new(set());
        let mut out = VecDeque::new();
        scrubber.push(Bytes::from_static(b"data: hello\n\n"), &mut out);
        assert_eq!(flat(&out), b"data: hello\n\n");
        scrubber.push(Bytes::from_static(b"data: sk-li"), &mut out);
        assert_eq!(flat(&out), b"data: hello\n\ndata: ");
    }
}
