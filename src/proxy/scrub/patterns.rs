//! What to look for in the replies of one host.
//!
//! Of each secret and encoding a set keeps the first four bytes (its *front*), the length, a keyed
//! 128-bit hash of the whole, and 16 bits of a keyed polynomial of it. The polynomial of any piece of a
//! text comes in constant time from two sums over the text, so what begins like a secret, however often
//! and however long it is, costs a subtraction; only one of 65,536 such pieces is hashed. The 16 bits
//! tell no more than 16 bits of a secret, to someone who reads the process's memory and its key as well.
//!
//! Whoever has texts of theirs sent back may learn a front, by what is held back behind it or by how long
//! the search takes. Of a *short* secret too little would be left, so it has none: the polynomial of every
//! piece of the text that is as long as one of its patterns is looked at, and as much is held back behind
//! any text whatever ([`REACH`]).

use std::ops::Range;

use aho_corasick::{AhoCorasick, Input, MatchKind, Span, packed};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

use super::Encoding;
use super::sums::{Base, Sum};
use super::view::{INTRODUCERS, Token, View, token};
use crate::vault::SHORT_SECRET;

/// How many first bytes of a pattern are kept to find it by.
pub(super) const FRONT: usize = 4;

/// The longest pattern that a short secret may have, in hexadecimal digits; the same for all of them, so
/// that it doesn't tell how long one is.
pub(super) const REACH: u64 = 2 * (SHORT_SECRET as u64 - 1);

/// What to look for in the replies of one host.
pub struct PatternSet {
    key: [u8; 32],
    base: Base,
    /// Sorted. As numbers in big-endian order they sort like the texts that they are.
    fronts: Vec<u32>,
    /// For each front, the lengths of the patterns that begin with it.
    lengths: Vec<Range<usize>>,
    groups: Vec<Group>,
    /// The groups of short secrets' patterns, one for each length.
    short: Range<usize>,
    /// Whether a short secret holds a control character.
    controls: bool,
    patterns: Vec<Pattern>,
    /// Without one every place is looked at one by one: slow, and right all the same.
    finder: Option<Finder>,
    /// Marks fronts by a few bits of them, to look up only what is likely there.
    marks: Box<[u64; MARKS / 64]>,
    /// At which of the four places of a front a byte may stand, a bit for each.
    places: [u8; 256],
    shortest: usize,
}

const MARKS: usize = 1 << 12;

/// Patterns of one front and length, sorted by their prints.
pub(super) struct Group {
    pub len: usize,
    /// The base to the power of the length.
    power: Sum,
    of: Range<usize>,
}

struct Pattern {
    print: u16,
    hash: [u8; 16],
    encoding: Encoding,
}

/// Finds fronts many bytes at a time.
enum Finder {
    Packed(packed::Searcher),
    Automaton(AhoCorasick),
}

/// Collects patterns.
pub struct Builder {
    key: [u8; 32],
    base: Base,
    all: Vec<(Front, usize, Pattern)>,
    /// Whether a short secret holds a control character.
    controls: bool,
}

/// What a pattern is found by. Those without a front sort first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Front {
    /// Its length alone.
    None,
    /// Its first bytes.
    Bytes(u32),
}

impl PatternSet {
    /// A set whose hashes are keyed with a random key of the process.
    #[must_use]
    pub fn builder(key: &[u8; 32]) -> Builder {
        let seed = blake3::keyed_hash(key, b"the base of the polynomial");
        Builder { key: *key, base: Base::new(seed.as_bytes()), all: Vec::new(), controls: false }
    }

    pub(super) fn base(&self) -> &Base {
        &self.base
    }

    /// The groups of patterns that begin with this front.
    pub(super) fn groups_of(&self, front: u32) -> Range<usize> {
        let mark = mark_of(front);
        if self.marks[mark / 64] >> (mark % 64) & 1 == 0 {
            return 0..0;
        }
        self.fronts.binary_search(&front).map_or(0..0, |at| self.lengths[at].clone())
    }

    /// The groups of the patterns of short secrets, which may begin anywhere.
    pub(super) fn short(&self) -> Range<usize> {
        self.short.clone()
    }

    /// Whether no pattern of a short secret goes on behind this byte: secrets that can stand in a header
    /// hold no control character, so lines and the frames of many protocols end with one.
    pub(super) fn divides(&self, byte: u8) -> bool {
        byte.is_ascii_control() && !self.controls
    }

    pub(super) fn group(&self, at: usize) -> &Group {
        &self.groups[at]
    }

    /// The encoding of the pattern of this group whose text has these sums before and behind it, and
    /// is `text`; that is read only if the sums fit.
    pub(super) fn matches(
        &self,
        group: &Group,
        before: Sum,
        behind: Sum,
        text: impl FnOnce() -> Zeroizing<Vec<u8>>,
    ) -> Option<Encoding> {
        let print = self.base.print(before, behind, group.power);
        let patterns = &self.patterns[group.of.clone()];
        let first = patterns.partition_point(|p| p.print < print);
        let mut candidates = patterns[first..].iter().take_while(|p| p.print == print).peekable();
        candidates.peek()?;
        let hash = hash(&self.key, &text());
        candidates.find(|p| p.hash == hash).map(|p| p.encoding)
    }

    /// Whether some front begins with the last `count` bytes of `recent`; with one to three of them.
    pub(super) fn begins_front(&self, recent: u32, count: usize) -> bool {
        let shift = 8 * (FRONT - count);
        let lowest = recent << shift;
        let at = self.fronts.partition_point(|front| *front < lowest);
        self.fronts.get(at).is_some_and(|front| front >> shift == lowest >> shift)
    }

    /// Where, from `from` on, the first token stands in or behind which a pattern may begin; `None` if
    /// none may. The text goes on if there is `more`. `from` is the beginning of a token.
    pub(super) fn next(&self, text: &[u8], from: usize, more: bool) -> Option<usize> {
        if !more && text.len().saturating_sub(from) < self.shortest {
            return None;
        }
        if !self.short.is_empty() {
            return (from < text.len()).then_some(from);
        }
        let mut literal = match &self.finder {
            Some(finder) => finder.find(text, from),
            None => (from..text.len()).find(|at| self.front_at(View::Raw, &text[*at..], false)),
        };
        // An escape among the bytes of that front may belong to one that begins before it.
        let end = literal.map_or(text.len(), |place| text.len().min(place + FRONT));
        // The last two escapes: a place within one is that of its beginning.
        let (mut at, mut last) = (from, [from..from, from..from]);
        let begin = |place: usize, last: &[Range<usize>; 2]| {
            last.iter().find(|token| token.contains(&place)).map_or(place, |token| token.start)
        };
        while let Some(found) = memchr::memchr3(INTRODUCERS[0], INTRODUCERS[1], INTRODUCERS[2], &text[at..end]) {
            at += found;
            match token(&text[at..], more) {
                Token::Byte => at += 1,
                Token::Unfinished => {
                    let place = begin(at.saturating_sub(FRONT - 1).max(from), &last);
                    return Some(literal.map_or(place, |literal| literal.min(place)));
                }
                Token::Escape(view, plain, len) => {
                    let places = self.places[usize::from(plain.bytes()[0])];
                    for place in (0..FRONT).rev().filter(|place| places >> place & 1 == 1) {
                        if let Some(start) = at.checked_sub(place).filter(|start| *start >= from)
                            && self.front_at(view, &text[start..], more)
                        {
                            let place = begin(start, &last);
                            return Some(literal.map_or(place, |literal| literal.min(place)));
                        }
                    }
                    let [_, before] = last;
                    last = [before, at..at + len];
                    literal = literal.map(|place| if last[1].contains(&place) { at } else { place });
                    at += len;
                    if at >= end {
                        break;
                    }
                }
            }
        }
        if literal.is_some() {
            return literal;
        }
        // A front that is cut off by the end.
        let cut_off = |count: &usize| {
            let recent = text[text.len() - count..].iter().fold(0, |recent, byte| recent << 8 | u32::from(*byte));
            self.begins_front(recent, *count)
        };
        let there = text.len().saturating_sub(from).min(FRONT - 1);
        (1..=there).rev().filter(|_| more).find(cut_off).map(|count| begin(text.len() - count, &last))
    }

    /// Whether `text`, read in this view, begins with a front or may yet.
    fn front_at(&self, view: View, text: &[u8], more: bool) -> bool {
        let (mut recent, mut count, mut at) = (0u32, 0, 0);
        while at < text.len() {
            let Some((plain, len)) = view.unit(&text[at..], more) else { break };
            for byte in plain.bytes() {
                recent = recent << 8 | u32::from(*byte);
                count += 1;
                if count == FRONT {
                    return !self.groups_of(recent).is_empty();
                }
            }
            at += len;
        }
        more && (count == 0 || self.begins_front(recent, count))
    }
}

impl Finder {
    fn new(fronts: &[u32]) -> Option<Self> {
        let texts = || fronts.iter().map(|front| front.to_be_bytes());
        let mut config = packed::Config::new();
        let searcher = config.match_kind(packed::MatchKind::LeftmostFirst).builder().extend(texts()).build();
        let automaton = || AhoCorasick::builder().match_kind(MatchKind::LeftmostFirst).build(texts()).ok();
        searcher.map(Self::Packed).or_else(|| automaton().map(Self::Automaton))
    }

    fn find(&self, text: &[u8], from: usize) -> Option<usize> {
        match self {
            Self::Packed(searcher) => searcher.find_in(text, Span::from(from..text.len())).map(|m| m.start()),
            Self::Automaton(automaton) => automaton.find(Input::new(text).range(from..)).map(|m| m.start()),
        }
    }
}

impl Builder {
    /// Adds a secret in every encoding that is looked for.
    pub fn add(&mut self, secret: &[u8]) {
        let short = secret.len() < SHORT_SECRET;
        self.controls |= short && secret.iter().any(u8::is_ascii_control);
        let mut put = |text: &[u8], encoding| self.put(text, encoding, short);
        put(secret, Encoding::Raw);
        put(&Zeroizing::new(secret.to_ascii_uppercase()), Encoding::Raw);
        put(&Zeroizing::new(secret.to_ascii_lowercase()), Encoding::Raw);
        if secret.contains(&b' ') {
            // A form's plus (HTML "application/x-www-form-urlencoded").
            let plus = |byte: &u8| if *byte == b' ' { b'+' } else { *byte };
            put(&Zeroizing::new(secret.iter().map(plus).collect::<Vec<_>>()), Encoding::Percent);
        }
        put(Zeroizing::new(hex::encode(secret)).as_bytes(), Encoding::Hex);
        put(Zeroizing::new(hex::encode_upper(secret)).as_bytes(), Encoding::Hex);
        self.base64(secret, short);
    }

    /// Base64 at all three alignments: only the characters that the secret alone determines.
    fn base64(&mut self, secret: &[u8], short: bool) {
        for shift in 0..3usize {
            let padded = Zeroizing::new([&[0u8; 2][..shift], secret].concat());
            for engine in [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD] {
                let text = Zeroizing::new(engine.encode(&*padded));
                let from = (shift * 8).div_ceil(6);
                let to = padded.len() * 8 / 6;
                if let Some(fixed) = text.as_bytes().get(from..to) {
                    self.put(fixed, Encoding::Base64, short);
                }
            }
        }
    }

    fn put(&mut self, text: &[u8], encoding: Encoding, short: bool) {
        let Some(front) = text.first_chunk::<FRONT>() else { return };
        let pattern = Pattern { print: self.base.print_of(text), hash: hash(&self.key, text), encoding };
        let front = if short { Front::None } else { Front::Bytes(u32::from_be_bytes(*front)) };
        let same = |(f, len, p): &(Front, usize, Pattern)| *f == front && *len == text.len() && p.hash == pattern.hash;
        if !self.all.iter().any(same) {
            self.all.push((front, text.len(), pattern));
        }
    }

    /// How many patterns there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.all.len()
    }

    /// The finished set.
    #[must_use]
    pub fn build(mut self) -> PatternSet {
        self.all.sort_by_key(|(front, len, pattern)| (*front, *len, pattern.print));
        let mut set = PatternSet {
            key: self.key,
            fronts: Vec::new(),
            lengths: Vec::new(),
            groups: Vec::new(),
            short: 0..0,
            controls: self.controls,
            patterns: Vec::with_capacity(self.all.len()),
            finder: None,
            marks: Box::new([0; MARKS / 64]),
            places: [0; 256],
            shortest: self.all.iter().map(|(_, len, _)| *len).min().unwrap_or(usize::MAX),
            base: self.base,
        };
        for (front, len, pattern) in self.all {
            let known = set.fronts.len();
            if let Front::Bytes(front) = front
                && set.fronts.last() != Some(&front)
            {
                set.fronts.push(front);
                set.lengths.push(set.groups.len()..set.groups.len());
                let mark = mark_of(front);
                set.marks[mark / 64] |= 1 << (mark % 64);
                for (place, byte) in front.to_be_bytes().into_iter().enumerate() {
                    set.places[usize::from(byte)] |= 1 << place;
                }
            }
            if set.fronts.len() > known || set.groups.last().is_none_or(|group| group.len != len) {
                let at = set.patterns.len();
                set.groups.push(Group { len, power: set.base.power(len), of: at..at });
                set.lengths.last_mut().unwrap_or(&mut set.short).end = set.groups.len();
            }
            set.patterns.push(pattern);
            if let Some(group) = set.groups.last_mut() {
                group.of.end = set.patterns.len();
            }
        }
        set.finder = Finder::new(&set.fronts);
        set
    }
}

fn mark_of(front: u32) -> usize {
    (front.wrapping_mul(0x9e37_79b1) >> 20) as usize
}

fn hash(key: &[u8; 32], text: &[u8]) -> [u8; 16] {
    let mut out = [0; 16];
    out.copy_from_slice(&blake3::keyed_hash(key, text).as_bytes()[..16]);
    out
}
