//! Takes keys out of replies as they stream by.
//!
//! It holds no secret. Of each secret and encoding it keeps the first four bytes, the length and a
//! keyed 128-bit hash of the whole. A text is looked at as it stands and as percent-, JSON- and
//! HTML-decoded, so a secret is found however its characters are escaped. What is found is
//! overwritten by a mask of the same length, so lengths and offsets hold. Only bytes that can still
//! become a match are held back.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use aho_corasick::AhoCorasick;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use bytes::{Bytes, BytesMut};
use zeroize::Zeroizing;

use super::view::{INTRODUCERS, Unit, View};

/// How many first bytes of a pattern are kept to find it by.
const FRONT: usize = 4;
const MASK: u8 = b'*';

/// What to look for in the replies of one host.
pub struct PatternSet {
    key: [u8; 32],
    fronts: HashMap<[u8; FRONT], Vec<Pattern>>,
    /// Finds fronts many bytes at a time.
    finder: Option<AhoCorasick>,
    /// Which bytes begin a pattern, or an escape that could stand for one.
    first: [bool; 256],
    /// The length of the shortest pattern; escapes only make a text longer.
    shortest: usize,
}

#[derive(Clone, PartialEq, Eq)]
struct Pattern {
    len: usize,
    hash: [u8; 16],
    encoding: Encoding,
}

/// How a secret stood in a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// As it is, or in upper or lower case.
    Raw,
    /// With characters percent-encoded (RFC 3986 section 2.1).
    Percent,
    /// With characters escaped as in a JSON string (RFC 8259 section 7).
    Json,
    /// With HTML character references.
    Html,
    /// In hexadecimal digits.
    Hex,
    /// In base64 (RFC 4648 sections 4 and 5).
    Base64,
}

impl Encoding {
    const ALL: [Self; 6] = [Self::Raw, Self::Percent, Self::Json, Self::Html, Self::Hex, Self::Base64];

    /// The label of metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Percent => "percent",
            Self::Json => "json",
            Self::Html => "html",
            Self::Hex => "hex",
            Self::Base64 => "base64",
        }
    }
}

/// How many matches were masked, by encoding.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Hits([u32; Encoding::ALL.len()]);

impl Hits {
    fn count(&mut self, encoding: Encoding) {
        self.0[encoding as usize] += 1;
    }

    /// Takes in others.
    pub fn add(&mut self, others: &Self) {
        self.0.iter_mut().zip(others.0).for_each(|(mine, theirs)| *mine += theirs);
    }

    /// What came on top of `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        Self(std::array::from_fn(|at| self.0[at].saturating_sub(before.0[at])))
    }

    /// In all encodings together.
    #[must_use]
    pub fn all(&self) -> u32 {
        self.0.iter().sum()
    }

    /// The encodings with matches.
    pub fn each(&self) -> impl Iterator<Item = (Encoding, u32)> + '_ {
        Encoding::ALL.into_iter().zip(self.0).filter(|(_, count)| *count > 0)
    }
}

/// Collects patterns.
pub struct Builder(PatternSet);

/// What stands at a place of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Here {
    /// Nothing that is looked for.
    Nothing,
    /// A match of so many bytes.
    Match(usize, Encoding),
    /// What could become a match, or a longer one, with more bytes.
    Perhaps,
}

impl PatternSet {
    /// A set whose hashes are keyed with a random key of the process.
    #[must_use]
    pub fn builder(key: &[u8; 32]) -> Builder {
        Builder(Self { key: *key, fronts: HashMap::new(), finder: None, first: [false; 256], shortest: usize::MAX })
    }

    fn hash(&self, text: &[u8]) -> [u8; 16] {
        let mut out = [0; 16];
        out.copy_from_slice(&blake3::keyed_hash(&self.key, text).as_bytes()[..16]);
        out
    }

    /// What begins at the front of `text`, which goes on if there is `more`.
    fn here(&self, text: &[u8], more: bool) -> Here {
        let mut found = Here::Nothing;
        for view in View::ALL {
            // Without an escape in its first bytes a text has one front in all views.
            if view != View::Raw
                && !text.iter().take(FRONT).any(|b| *b == view.introducer())
                && !text.get(..FRONT).is_some_and(|front| self.fronts.contains_key(front))
            {
                continue;
            }
            found = match (found, self.through(view, text, more)) {
                (_, Here::Perhaps) => return Here::Perhaps,
                (Here::Match(a, _), Here::Match(b, encoding)) if b > a => Here::Match(b, encoding),
                (Here::Nothing, here) => here,
                (found, _) => found,
            };
        }
        found
    }

    /// The same, decoded by one view.
    fn through(&self, view: View, text: &[u8], more: bool) -> Here {
        let unfinished = if more { Here::Perhaps } else { Here::Nothing };
        let mut plain = Zeroizing::new(Vec::with_capacity(128));
        let mut at = 0;
        let mut wanted: &[Pattern] = &[];
        let mut best = Here::Nothing;
        loop {
            if plain.len() == FRONT && wanted.is_empty() {
                let Some(found) = self.fronts.get(&plain[..FRONT]) else { return Here::Nothing };
                wanted = found;
            }
            if !wanted.is_empty() {
                if let Some(found) = wanted.iter().find(|p| p.len == plain.len() && self.hash(&plain) == p.hash) {
                    let escaped = at != plain.len() && found.encoding == Encoding::Raw;
                    best = Here::Match(at, if escaped { view.encoding() } else { found.encoding });
                }
                if wanted.iter().all(|p| p.len <= plain.len()) {
                    return best;
                }
            }
            if at == text.len() {
                // What began here may go on; before its front is whole, only what begins like one.
                let like_a_front = || self.fronts.keys().any(|front| front.starts_with(&plain));
                let open = !wanted.is_empty() || like_a_front();
                return if open && more { Here::Perhaps } else { best };
            }
            match view.unit(&text[at..], more) {
                Unit::Byte(byte, len) => {
                    plain.push(byte);
                    at += len;
                }
                Unit::Char(c, len) => {
                    let mut utf8 = [0; 4];
                    // A front or a length that falls into the middle of a character can't match.
                    plain.extend_from_slice(c.encode_utf8(&mut utf8).as_bytes());
                    at += len;
                    if plain.len() > FRONT && wanted.is_empty() {
                        let Some(found) = plain.get(..FRONT).and_then(|front| self.fronts.get(front)) else {
                            return Here::Nothing;
                        };
                        wanted = found;
                    }
                }
                Unit::Unfinished => {
                    let open = !wanted.is_empty() || self.fronts.keys().any(|front| front.starts_with(&plain));
                    return if open { unfinished } else { best };
                }
            }
        }
    }

    /// Masks matches in `text`. Returns how many it found and where the first byte stands that can
    /// still become part of a match.
    fn mask(&self, text: &mut [u8], more: bool) -> (Hits, usize) {
        let (mut at, mut hits) = (0, Hits::default());
        while at < text.len() {
            if !self.first[usize::from(text[at])] {
                at += 1;
                continue;
            }
            match self.here(&text[at..], more) {
                Here::Nothing => at += 1,
                Here::Match(len, encoding) => {
                    text[at..at + len].fill(MASK);
                    hits.count(encoding);
                    at += len;
                }
                Here::Perhaps => return (hits, at),
            }
        }
        (hits, at)
    }

    /// Whether a match could stand anywhere in `text`: cheap, and never wrong when it says no.
    fn suspicious(&self, text: &[u8], more: bool) -> bool {
        if !more && text.len() < self.shortest {
            return false;
        }
        if self.finder.as_ref().is_some_and(|finder| finder.is_match(text)) {
            return true;
        }
        let here = |at: usize| self.first[usize::from(text[at])] && self.here(&text[at..], more) != Here::Nothing;
        // A front that is cut off by the end.
        let tail = text.len().saturating_sub(FRONT - 1);
        if more && (tail..text.len()).any(here) {
            return true;
        }
        // A front with an escape among its bytes begins at most three bytes before it.
        memchr::memchr3_iter(INTRODUCERS[0], INTRODUCERS[1], INTRODUCERS[2], text)
            .any(|escape| (escape.saturating_sub(FRONT - 1)..=escape).any(here))
    }

    /// A header's value with its matches masked, and what they were; `None` if there are none.
    #[must_use]
    pub fn scrub_value(&self, value: &[u8]) -> Option<(Vec<u8>, Hits)> {
        if !self.suspicious(value, false) {
            return None;
        }
        let mut text = value.to_vec();
        let (hits, _) = self.mask(&mut text, false);
        (hits.all() > 0).then_some((text, hits))
    }
}

impl Builder {
    /// Adds a secret in every encoding that is looked for.
    pub fn add(&mut self, secret: &[u8]) {
        self.put(secret, Encoding::Raw);
        self.put(&Zeroizing::new(secret.to_ascii_uppercase()), Encoding::Raw);
        self.put(&Zeroizing::new(secret.to_ascii_lowercase()), Encoding::Raw);
        self.put(Zeroizing::new(hex::encode(secret)).as_bytes(), Encoding::Hex);
        self.put(Zeroizing::new(hex::encode_upper(secret)).as_bytes(), Encoding::Hex);
        self.base64(secret);
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
                    self.put(fixed, Encoding::Base64);
                }
            }
        }
    }

    fn put(&mut self, text: &[u8], encoding: Encoding) {
        let Some(front) = text.get(..FRONT).and_then(|f| <[u8; FRONT]>::try_from(f).ok()) else { return };
        let pattern = Pattern { len: text.len(), hash: self.0.hash(text), encoding };
        self.0.shortest = self.0.shortest.min(text.len());
        let list = self.0.fronts.entry(front).or_default();
        if !list.contains(&pattern) {
            list.push(pattern);
        }
        self.0.first[usize::from(front[0])] = true;
    }

    /// The finished set.
    #[must_use]
    pub fn build(mut self) -> PatternSet {
        // Without a finder every byte would be looked at one by one: slow, and right all the same.
        self.0.finder =
            AhoCorasick::builder().match_kind(aho_corasick::MatchKind::LeftmostFirst).build(self.0.fronts.keys()).ok();
        for introducer in INTRODUCERS {
            self.0.first[usize::from(introducer)] = true;
        }
        self.0
    }
}

/// Scrubs one stream.
pub struct Scrubber {
    patterns: Arc<PatternSet>,
    held: BytesMut,
    hits: Hits,
}

impl Scrubber {
    /// A scrubber at the beginning of a stream.
    #[must_use]
    pub fn new(patterns: Arc<PatternSet>) -> Self {
        Self { patterns, held: BytesMut::new(), hits: Hits::default() }
    }

    /// From here on these are looked for, also in what is held back.
    pub fn look_for(&mut self, patterns: Arc<PatternSet>) {
        self.patterns = patterns;
    }

    /// What is looked for.
    #[must_use]
    pub fn patterns(&self) -> &PatternSet {
        &self.patterns
    }

    /// How many matches were masked so far.
    #[must_use]
    pub fn hits(&self) -> &Hits {
        &self.hits
    }

    /// Takes a piece of the stream and puts out what is clean. A piece without anything suspicious
    /// passes uncopied.
    pub fn push(&mut self, data: Bytes, out: &mut VecDeque<Bytes>) {
        if self.held.is_empty() && !self.patterns.suspicious(&data, true) {
            out.push_back(data);
            return;
        }
        self.held.extend_from_slice(&data);
        let (hits, upto) = self.patterns.mask(&mut self.held, true);
        self.hits.add(&hits);
        if upto > 0 {
            out.push_back(self.held.split_to(upto).freeze());
        }
    }

    /// The stream is over: what was held back goes out.
    pub fn finish(&mut self, out: &mut VecDeque<Bytes>) {
        let (hits, _) = self.patterns.mask(&mut self.held, false);
        self.hits.add(&hits);
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
        (flat(&out), scrubber.hits().all())
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
        for encoded in [hex::encode(SECRET), hex::encode_upper(SECRET)] {
            assert_eq!(run(&[encoded.as_bytes()]).1, 1, "{encoded}");
        }
    }

    #[test]
    fn secret_is_found_however_its_characters_are_escaped_and_wherever_it_is_cut() {
        let texts = [
            "sk-live-51H%2F8x%2BQ%22z9%26AbCdEf".to_owned(),
            "sk-live-51H/8x+Q%22z9%26AbCdEf".to_owned(),
            "%73k%2dlive-51H/8x+Q\"z9&AbCdEf".to_owned(),
            "sk-live-51H/8x+Q\\\"z9&AbCdEf".to_owned(),
            "sk-live-51H\\/8x+Q\\u0022z9\\u0026AbCdEf".to_owned(),
            SECRET.iter().map(|b| format!("\\u{b:04X}")).collect(),
            SECRET.iter().map(|b| format!("%{b:02x}")).collect(),
            "sk-live-51H/8x+Q&quot;z9&amp;AbCdEf".to_owned(),
            "s&#107;-live-51H&#x2F;8x&plus;Q&#34;z9&#x26;AbCdEf".to_owned(),
        ];
        for text in &texts {
            let whole = format!("a \\n & % {text} b");
            for cut in 0..=whole.len() {
                let (out, hits) = run(&[&whole.as_bytes()[..cut], &whole.as_bytes()[cut..]]);
                let expected = format!("a \\n & % {} b", "*".repeat(text.len()));
                assert_eq!(String::from_utf8_lossy(&out), expected, "{text} cut at {cut}");
                assert_eq!(hits, 1);
            }
            let mut set = PatternSet::builder(&[7; 32]);
            set.add(SECRET);
            assert!(set.build().scrub_value(whole.as_bytes()).is_some(), "{text}");
        }
    }

    #[test]
    fn text_full_of_escapes_passes_unchanged() {
        let text = "100% of \"x\\n\\\" & &amp; &bogus; %zz %2 \\u12 \\ud800 &#x; &#999999999; %".repeat(50);
        for size in [1, 3, 64, 1000] {
            let pieces: Vec<&[u8]> = text.as_bytes().chunks(size).collect();
            let (out, hits) = run(&pieces);
            assert_eq!((String::from_utf8_lossy(&out).as_ref(), hits), (text.as_str(), 0));
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
