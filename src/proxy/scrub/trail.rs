//! Reads what begins like a secret, byte by byte and in all views at once, until it is known whether it
//! is one.
//!
//! Each view keeps the sums of what it read. Where a front ends, the places are noted at which patterns
//! that begin with it would end; there, the two sums tell whether to look closer. So each byte costs the
//! same, and pieces of a text are never read again, however small they are. The patterns of short secrets
//! have no front, so they may begin, and are looked for, at every place.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use zeroize::Zeroizing;

use super::patterns::{FRONT, PatternSet, REACH};
use super::sums::Sum;
use super::view::{Token, View, token};
use super::{Encoding, Hits, MASK};

/// How far is read before it is asked whether reading on is still needed, in bytes.
const STRETCH: usize = 64;

/// What is known of a stream from where its text isn't clean yet. Offsets are those of the stream.
#[derive(Default)]
pub(super) struct Trail {
    /// Where the text begins.
    base: u64,
    /// Up to where it was read.
    at: u64,
    /// Whether something that began hasn't ended.
    busy: bool,
    /// As it stands. The other views differ only from their first escape on.
    raw: Reading,
    others: [Option<Box<Reading>>; 3],
    /// Matches that aren't masked yet.
    spans: Vec<(u64, u64)>,
    /// Where the last match ends.
    masked: u64,
    hits: Hits,
}

/// What one view read.
#[derive(Default, Clone)]
struct Reading {
    /// How many bytes were let go of at the front of `points`.
    first: u64,
    points: VecDeque<Point>,
    /// The sum behind the last byte.
    sum: Sum,
    /// The last bytes.
    recent: u32,
    /// Where short secrets' patterns may begin that are still to end: not before this.
    divided: u64,
    /// Where the patterns begin, and where the longest that begins there ends.
    open: VecDeque<(u64, u64)>,
    /// Where a pattern would end, where it began, and its group; the nearest first.
    ends: BinaryHeap<Reverse<(u64, u64, usize)>>,
}

/// A byte that was read.
#[derive(Clone)]
struct Point {
    /// Where it stands; `None` inside a character.
    at: Option<u64>,
    /// Where its token begins.
    token: u64,
    /// The sum before it.
    sum: Sum,
}

/// The text that is read, and where it begins.
#[derive(Clone, Copy)]
struct Text<'a> {
    bytes: &'a [u8],
    base: u64,
}

impl Text<'_> {
    fn from(&self, at: u64) -> &[u8] {
        usize::try_from(at.saturating_sub(self.base)).ok().and_then(|at| self.bytes.get(at..)).unwrap_or_default()
    }
}

impl Trail {
    /// Reads on in the text, of which only the end is new. Returns how much of its front is clean once it
    /// is masked: all of it unless there is `more`.
    pub fn follow(&mut self, set: &PatternSet, bytes: &[u8], more: bool) -> usize {
        let text = Text { bytes, base: self.base };
        let mut at = usize::try_from(self.at - self.base).unwrap_or(bytes.len());
        loop {
            if !self.busy {
                match set.next(bytes, at, more) {
                    None => at = bytes.len(),
                    Some(begin) => {
                        self.busy = true;
                        at = begin;
                    }
                }
                if !self.busy {
                    self.at = self.base + at as u64;
                    return at;
                }
            }
            let (read, stalled) = self.stretch(set, text, at, more);
            at = read;
            self.at = self.base + at as u64;
            let begins = self.begins(set).map_or(at, |begins| usize::try_from(begins - self.base).unwrap_or(at));
            let over = stalled || at == bytes.len();
            if self.open(set).is_none() {
                // Nothing goes on but what may be the first bytes of a front.
                self.forget();
                if !over {
                    at = begins;
                    continue;
                }
                let clean = if more { begins } else { bytes.len() };
                self.at = self.base + clean as u64;
                return clean;
            }
            if over && more {
                let open = self.open(set).map_or(at, |open| usize::try_from(open - self.base).unwrap_or(0));
                self.trim(set);
                return open.min(begins);
            }
            if over {
                self.forget();
                self.at = self.base + bytes.len() as u64;
                return bytes.len();
            }
            self.trim(set);
        }
    }

    /// Reads some tokens. Returns how far it came, and whether it stands before one without its end.
    fn stretch(&mut self, set: &PatternSet, text: Text<'_>, from: usize, more: bool) -> (usize, bool) {
        let (bytes, mut at) = (text.bytes, from);
        let stop = bytes.len().min(from + STRETCH);
        while at < stop {
            let here = text.base + at as u64;
            let (view, plain, len) = match token(&bytes[at..], more) {
                Token::Byte => (View::Raw, None, 1),
                Token::Unfinished => return (at, true),
                Token::Escape(view, plain, len) => (view, Some(plain), len),
            };
            if plain.is_some()
                && let Some(other) = self.others.get_mut((view as usize).wrapping_sub(1))
            {
                other.get_or_insert_with(|| Box::new(self.raw.clone()));
            }
            for (offset, byte) in (0u64..).zip(&bytes[at..at + len]) {
                let place = here + offset;
                if self.raw.take(set, &[*byte], place, here) {
                    self.look(set, text, View::Raw, place + 1);
                }
            }
            for other in 0..self.others.len() {
                let Some(reading) = &mut self.others[other] else { continue };
                let its = View::ALL[other + 1];
                match &plain {
                    Some(plain) if its == view => {
                        if reading.take(set, plain.bytes(), here, here) {
                            self.look(set, text, its, here + len as u64);
                        }
                    }
                    _ => {
                        for (offset, byte) in (0u64..).zip(&bytes[at..at + len]) {
                            let Some(reading) = &mut self.others[other] else { continue };
                            if reading.take(set, &[*byte], here + offset, here) {
                                self.look(set, text, its, here + offset + 1);
                            }
                        }
                    }
                }
            }
            at += len;
        }
        (at, false)
    }

    fn reading(&mut self, view: View) -> Option<&mut Reading> {
        match (view as usize).checked_sub(1) {
            None => Some(&mut self.raw),
            Some(other) => self.others.get_mut(other)?.as_deref_mut(),
        }
    }

    /// Looks at the patterns that would end here.
    fn look(&mut self, set: &PatternSet, text: Text<'_>, view: View, end: u64) {
        let Some(reading) = self.reading(view) else { return };
        let mut found = Vec::new();
        let mut ends = |reading: &Reading, begin: u64, group: usize| {
            let group = set.group(group);
            let Some(Point { at: Some(at), sum, .. }) = reading.point(begin) else { return };
            let plain = || decoded(view, text.from(*at), group.len);
            if let Some(encoding) = set.matches(group, *sum, reading.sum, plain) {
                let escaped = end - at != group.len as u64;
                found.push((*at, end, if escaped && encoding == Encoding::Raw { view.encoding() } else { encoding }));
            }
        };
        while let Some((begin, group)) = reading.ended() {
            ends(reading, begin, group);
        }
        for group in set.short() {
            let begin = reading.read().checked_sub(set.group(group).len as u64);
            if let Some(begin) = begin.filter(|begin| *begin >= reading.divided) {
                ends(reading, begin, group);
            }
        }
        for (begin, end, encoding) in found {
            if begin >= self.masked {
                self.hits.count(encoding);
            }
            self.masked = self.masked.max(end);
            self.spans.push((begin, end));
        }
    }

    fn readings(&self) -> impl Iterator<Item = &Reading> {
        std::iter::once(&self.raw).chain(self.others.iter().flatten().map(|reading| &**reading))
    }

    /// Where the first token stands that may belong to a match.
    fn open(&self, set: &PatternSet) -> Option<u64> {
        self.readings().filter_map(|reading| Some(reading.point(reading.needed(set)?)?.token)).min()
    }

    /// Where the first token stands among the last that may be the beginning of a front.
    fn begins(&self, set: &PatternSet) -> Option<u64> {
        let of = |reading: &Reading| {
            let count = (1..FRONT.min(reading.points.len() + 1)).rev();
            let begins = count.into_iter().find(|count| set.begins_front(reading.recent, *count))?;
            Some(reading.points.get(reading.points.len() - begins)?.token)
        };
        self.readings().filter_map(of).min()
    }

    fn trim(&mut self, set: &PatternSet) {
        self.raw.trim(set);
        self.others.iter_mut().flatten().for_each(|reading| reading.trim(set));
    }

    /// Forgets what was read, and keeps what was found.
    pub fn forget(&mut self) {
        if std::mem::replace(&mut self.busy, false) {
            self.raw.clear();
            self.others = [None, None, None];
        }
        self.at = self.base;
    }

    /// Whether nothing is to be masked.
    pub fn is_clean(&self) -> bool {
        self.spans.is_empty()
    }

    /// Masks the matches in the front of the text.
    pub fn mask(&mut self, text: &mut [u8]) {
        let (base, end) = (self.base, self.base + text.len() as u64);
        let place = |offset: u64| usize::try_from(offset.clamp(base, end) - base).unwrap_or(0);
        for (begin, end) in &self.spans {
            text[place(*begin)..place(*end)].fill(MASK);
        }
        self.spans.retain(|(_, until)| *until > end);
    }

    /// So much of the front of the text is gone.
    pub fn pass(&mut self, clean: usize) {
        self.base += clean as u64;
        self.at = self.at.max(self.base);
    }

    /// What was found so far.
    pub fn hits(&self) -> &Hits {
        &self.hits
    }
}

impl Reading {
    /// Reads the bytes of a unit. Tells whether a pattern may end behind it.
    fn take(&mut self, set: &PatternSet, unit: &[u8], at: u64, token: u64) -> bool {
        for (n, byte) in unit.iter().enumerate() {
            self.points.push_back(Point { at: (n == 0).then_some(at), token, sum: self.sum });
            self.sum = set.base().step(self.sum, *byte);
            self.recent = self.recent << 8 | u32::from(*byte);
            if self.points.len() >= FRONT {
                self.front(set);
            }
            if set.divides(*byte) {
                self.divided = self.read();
            }
        }
        !set.short().is_empty() || self.ends.peek().is_some_and(|Reverse((end, ..))| *end <= self.read())
    }

    /// How many bytes were read.
    fn read(&self) -> u64 {
        self.first + self.points.len() as u64
    }

    /// Notes where patterns would end that begin with the last four bytes.
    fn front(&mut self, set: &PatternSet) {
        let groups = set.groups_of(self.recent);
        let begin = self.read() - FRONT as u64;
        if groups.is_empty() || self.point(begin).is_none_or(|point| point.at.is_none()) {
            return;
        }
        let mut last = 0;
        for group in groups {
            last = begin + set.group(group).len as u64;
            self.ends.push(Reverse((last, begin, group)));
        }
        self.open.push_back((begin, last));
    }

    fn point(&self, index: u64) -> Option<&Point> {
        self.points.get(usize::try_from(index.checked_sub(self.first)?).ok()?)
    }

    /// A pattern that would end here: where it began, and its group.
    fn ended(&mut self) -> Option<(u64, usize)> {
        let read = self.read();
        while self.ends.peek().is_some_and(|Reverse((end, ..))| *end <= read) {
            match self.ends.pop() {
                Some(Reverse((end, begin, group))) if end == read => return Some((begin, group)),
                // It would end inside of a character.
                _ => {}
            }
        }
        let over = |(_, last): &(u64, u64)| *last <= read;
        while self.open.front().is_some_and(over) {
            self.open.pop_front();
        }
        None
    }

    /// The first byte that may belong to a match which hasn't ended.
    fn needed(&self, set: &PatternSet) -> Option<u64> {
        let open = self.open.front().map(|(begin, _)| *begin);
        if set.short().is_empty() {
            return open;
        }
        // Whatever was read: what can be seen of it mustn't depend on that.
        let last = self.divided.max(self.read().saturating_sub(REACH - 1)).max(self.first);
        let short = (last < self.read()).then_some(last);
        open.into_iter().chain(short).min()
    }

    /// Lets go of what no pattern needs.
    fn trim(&mut self, set: &PatternSet) {
        let recent = self.read().saturating_sub(FRONT as u64 - 1);
        let needed = self.needed(set).map_or(recent, |begin| recent.min(begin));
        let spare = usize::try_from(needed.saturating_sub(self.first)).unwrap_or(0).min(self.points.len());
        self.points.drain(..spare);
        self.first += spare as u64;
    }

    fn clear(&mut self) {
        let Self { first, points, sum, recent, divided, open, ends } = self;
        (*first, *sum, *recent, *divided) = (0, Sum::default(), 0, 0);
        points.clear();
        open.clear();
        ends.clear();
    }
}

/// So many bytes at the front of `text` as this view reads them.
fn decoded(view: View, text: &[u8], len: usize) -> Zeroizing<Vec<u8>> {
    let mut plain = Zeroizing::new(Vec::with_capacity(len + 4));
    let mut at = 0;
    while plain.len() < len && at < text.len() {
        let Some((unit, length)) = view.unit(&text[at..], false) else { break };
        plain.extend_from_slice(unit.bytes());
        at += length;
    }
    plain
}
