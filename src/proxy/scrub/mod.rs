//! Takes keys out of replies as they stream by.
//!
//! It holds no secret: see [`PatternSet`]. A text is looked at as it stands and as percent-, JSON- and
//! HTML-decoded, so a secret is found however its characters are escaped. What is found is overwritten
//! by a mask of the same length, so lengths and offsets hold. Only bytes that can still become a match
//! are held back.
//!
//! That tells the front of a secret to whoever has guesses sent back to them in pieces. Where a short
//! secret ([`SHORT_SECRET`](crate::vault::SHORT_SECRET)) is looked for, the last bytes of any text are held
//! back up to the last control character, which no such secret holds: lines and events leave as they come.
//!
//! Most text holds nothing that begins like a secret: a search for that, many bytes at a time, is all
//! that it costs ([`PatternSet::next`]). From such a place on the text is read byte by byte (`trail`),
//! at a cost that doesn't grow with the secrets' lengths, whatever the text is.

mod patterns;
mod sums;
#[cfg(test)]
mod tests;
mod trail;
mod view;

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

pub use patterns::{Builder, PatternSet};
use trail::Trail;

const MASK: u8 = b'*';

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

impl PatternSet {
    /// Whether nothing in this text, which is whole, even begins like a match.
    #[must_use]
    pub fn is_clean(&self, text: &[u8]) -> bool {
        self.next(text, 0, false).is_none()
    }

    /// A header's value with its matches masked, and what they were; `None` if there are none.
    #[must_use]
    pub fn scrub_value(&self, value: &[u8]) -> Option<(Vec<u8>, Hits)> {
        self.next(value, 0, false)?;
        let mut trail = Trail::default();
        trail.follow(self, value, false);
        let mut text = value.to_vec();
        trail.mask(&mut text);
        (trail.hits().all() > 0).then(|| (text, *trail.hits()))
    }
}

/// Scrubs one stream.
pub struct Scrubber {
    patterns: Arc<PatternSet>,
    held: BytesMut,
    trail: Trail,
}

impl Scrubber {
    /// A scrubber at the beginning of a stream.
    #[must_use]
    pub fn new(patterns: Arc<PatternSet>) -> Self {
        Self { patterns, held: BytesMut::new(), trail: Trail::default() }
    }

    /// From here on these are looked for, also in what is held back.
    pub fn look_for(&mut self, patterns: Arc<PatternSet>) {
        self.patterns = patterns;
        self.trail.forget();
    }

    /// What is looked for.
    #[must_use]
    pub fn patterns(&self) -> &PatternSet {
        &self.patterns
    }

    /// How many matches were masked so far.
    #[must_use]
    pub fn hits(&self) -> &Hits {
        self.trail.hits()
    }

    /// Takes a piece of the stream and puts out what is clean. A piece without a match passes uncopied.
    pub fn push(&mut self, mut data: Bytes, out: &mut VecDeque<Bytes>) {
        if !self.held.is_empty() {
            self.held.extend_from_slice(&data);
            let clean = self.trail.follow(&self.patterns, &self.held, true);
            return self.put_out(clean, out);
        }
        let clean = self.trail.follow(&self.patterns, &data, true);
        if self.trail.is_clean() {
            self.held.extend_from_slice(&data[clean..]);
            data.truncate(clean);
            self.trail.pass(clean);
            if !data.is_empty() {
                out.push_back(data);
            }
        } else {
            self.held.extend_from_slice(&data);
            self.put_out(clean, out);
        }
    }

    /// The stream is over: what was held back goes out. Another stream may begin.
    pub fn finish(&mut self, out: &mut VecDeque<Bytes>) {
        if !self.held.is_empty() {
            let clean = self.trail.follow(&self.patterns, &self.held, false);
            self.put_out(clean, out);
        }
    }

    fn put_out(&mut self, clean: usize, out: &mut VecDeque<Bytes>) {
        self.trail.mask(&mut self.held[..clean]);
        self.trail.pass(clean);
        if clean > 0 {
            out.push_back(self.held.split_to(clean).freeze());
        }
    }
}
