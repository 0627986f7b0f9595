//! A body that is signed in chunks, each joined to the one before it (Amazon S3 API Reference,
//! "Signature Calculations for the Authorization Header: Transferring Payload in Multiple Chunks", and
//! "... Including Trailing Headers").
//!
//! A chunk is preceded by its signature, so it is held until it is whole. Its signature is verified and
//! replaced by ours; the length of what is sent is that of what came.

use bytes::{Buf as _, Bytes, BytesMut};

use super::Link;
use super::signer::hash_of;

/// How long a signature of Signature Version 4A is in a body, filled up with stars.
const PADDED: usize = 144;
/// The longest line before a chunk or in the trailers, in bytes.
const LONGEST_LINE: usize = 8 * 1024;
/// The most trailers.
const MOST_TRAILERS: usize = 64;

/// Why a body isn't sent on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    /// It isn't cut into chunks as was announced.
    #[error("the request's body isn't made of signed chunks, as it was announced to be")]
    Shape,
    /// A chunk's signature isn't right.
    #[error(
        "the AWS signature of a chunk of the request's body isn't right: the chunk was changed, left out or put elsewhere"
    )]
    Signature,
    /// A chunk is longer than what is held.
    #[error("a chunk of the request's body is longer than allowed (`proxy.limits.signed_body`)")]
    TooLong,
    /// The chunks hold more or less than announced.
    #[error("the request's body isn't as long as X-Amz-Decoded-Content-Length says")]
    Length,
    /// Too much is held of all such bodies together.
    #[error("too many bodies are held at once so that they can be signed (`proxy.limits.signed_bodies`)")]
    Crowded,
    /// Our own signature can't be made.
    #[error("the request's body can't be signed")]
    Internal,
}

enum Expect {
    /// The line before a chunk.
    Line,
    /// A chunk of so many bytes and its line end; what stood before and behind its signature.
    Chunk { len: usize, line: Bytes, signature: std::ops::Range<usize> },
    /// A line of the trailers, or the empty one that ends them.
    Trailer,
    /// The empty line behind the last chunk.
    LastLine,
    /// Nothing.
    End,
}

/// Signs a body again while it passes.
pub struct Chunks {
    theirs: Link,
    ours: Link,
    trailers: bool,
    left: u64,
    most: usize,
    held: BytesMut,
    expect: Expect,
    canonical_trailers: String,
    count: usize,
    trailer_signed: bool,
}

impl Chunks {
    /// For a body whose head was signed by both. It holds chunks of at most `most` bytes, `len` in all.
    #[must_use]
    pub fn new(theirs: Link, ours: Link, trailers: bool, len: u64, most: usize) -> Self {
        let (held, canonical_trailers) = (BytesMut::new(), String::new());
        let expect = Expect::Line;
        Self {
            theirs,
            ours,
            trailers,
            left: len,
            most,
            held,
            expect,
            canonical_trailers,
            count: 0,
            trailer_signed: false,
        }
    }

    /// Takes a piece of the body; what can be sent of it.
    ///
    /// # Errors
    /// The body isn't what was signed.
    pub fn push(&mut self, piece: &[u8]) -> Result<Bytes, ChunkError> {
        self.held.extend_from_slice(piece);
        let mut out = BytesMut::new();
        while self.step(&mut out)? {}
        Ok(out.freeze())
    }

    /// How much of the body is held, in bytes.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Whether the body has come to its end.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        matches!(self.expect, Expect::End)
    }

    fn step(&mut self, out: &mut BytesMut) -> Result<bool, ChunkError> {
        match &self.expect {
            Expect::Line => {
                let Some(line) = self.line()? else { return Ok(false) };
                let text = std::str::from_utf8(&line).map_err(|_| ChunkError::Shape)?;
                let (size, rest) = text.split_once(";chunk-signature=").ok_or(ChunkError::Shape)?;
                let plain = (1..=8).contains(&size.len()) && size.bytes().all(|b| b.is_ascii_hexdigit());
                let len = if plain {
                    usize::from_str_radix(size, 16).map_err(|_| ChunkError::Shape)?
                } else {
                    return Err(ChunkError::Shape);
                };
                if len > self.most {
                    return Err(ChunkError::TooLong);
                }
                self.left = self.left.checked_sub(len as u64).ok_or(ChunkError::Length)?;
                let signature = text.len() - rest.len()..text.len();
                self.expect = Expect::Chunk { len, line, signature };
                Ok(true)
            }
            Expect::Chunk { len, line, signature } => {
                let (len, line, signature) = (*len, line.clone(), signature.clone());
                // The last chunk's line end belongs to the trailers, or is the empty line.
                let whole = if len == 0 { 0 } else { len + 2 };
                if self.held.len() < whole {
                    return Ok(false);
                }
                let mut chunk = self.held.split_to(whole);
                if len > 0 && chunk.get(len..) != Some(b"\r\n") {
                    return Err(ChunkError::Shape);
                }
                let ours = self.chunk_signature(chunk.get(..len).unwrap_or_default(), &line[signature.clone()])?;
                out.extend_from_slice(&line[..signature.start]);
                out.extend_from_slice(ours.as_bytes());
                out.extend_from_slice(b"\r\n");
                out.unsplit(std::mem::take(&mut chunk));
                self.expect = match (len, self.trailers) {
                    (0, _) if self.left > 0 => return Err(ChunkError::Length),
                    (0, true) => Expect::Trailer,
                    (0, false) => Expect::LastLine,
                    _ => Expect::Line,
                };
                Ok(true)
            }
            Expect::Trailer => {
                let Some(line) = self.line()? else { return Ok(false) };
                self.trailer(&line, out)?;
                Ok(true)
            }
            Expect::LastLine => {
                let Some(line) = self.line()? else { return Ok(false) };
                if !line.is_empty() {
                    return Err(ChunkError::Shape);
                }
                out.extend_from_slice(b"\r\n");
                self.expect = Expect::End;
                Ok(true)
            }
            Expect::End if self.held.is_empty() => Ok(false),
            Expect::End => Err(ChunkError::Shape),
        }
    }

    /// The next line, without its end.
    fn line(&mut self) -> Result<Option<Bytes>, ChunkError> {
        let Some(end) = memchr::memmem::find(&self.held, b"\r\n") else {
            return if self.held.len() > LONGEST_LINE { Err(ChunkError::Shape) } else { Ok(None) };
        };
        let line = self.held.split_to(end).freeze();
        self.held.advance(2);
        Ok(Some(line))
    }

    fn chunk_signature(&mut self, chunk: &[u8], theirs: &[u8]) -> Result<String, ChunkError> {
        let tail = format!("{}\n{}", hash_of(b""), hash_of(chunk));
        self.next("-PAYLOAD", &tail, theirs)
    }

    /// Verifies the next signature of the agent's chain, and makes that of ours.
    fn next(&mut self, kind: &str, tail: &str, theirs: &[u8]) -> Result<String, ChunkError> {
        let padded = std::str::from_utf8(theirs).map_err(|_| ChunkError::Shape)?;
        let theirs = padded.trim_end_matches('*');
        if !self.theirs.signer.is_of_text(&self.theirs.text(kind, tail), theirs) {
            return Err(ChunkError::Signature);
        }
        theirs.clone_into(&mut self.theirs.previous);
        let text = self.ours.text(kind, tail);
        let mut ours = self.ours.signer.sign_text(&text).map_err(|_| ChunkError::Internal)?;
        self.ours.previous.clone_from(&ours);
        if padded.len() == PADDED {
            ours.push_str(&"*".repeat(PADDED.saturating_sub(ours.len())));
        }
        if ours.len() == padded.len() { Ok(ours) } else { Err(ChunkError::Shape) }
    }

    fn trailer(&mut self, line: &[u8], out: &mut BytesMut) -> Result<(), ChunkError> {
        self.count += 1;
        if line.is_empty() {
            if !self.trailer_signed {
                return Err(ChunkError::Signature);
            }
            out.extend_from_slice(b"\r\n");
            self.expect = Expect::End;
            return Ok(());
        }
        // Nothing may follow what signs the others.
        if self.trailer_signed || self.count > MOST_TRAILERS {
            return Err(ChunkError::Shape);
        }
        let text = std::str::from_utf8(line).map_err(|_| ChunkError::Shape)?;
        let (name, value) = text.split_once(':').ok_or(ChunkError::Shape)?;
        if name == "x-amz-trailer-signature" {
            let tail = hash_of(self.canonical_trailers.as_bytes());
            let ours = self.next("-TRAILER", &tail, value.as_bytes())?;
            out.extend_from_slice(format!("{name}:{ours}").as_bytes());
            self.trailer_signed = true;
        } else {
            self.canonical_trailers.push_str(&format!("{}:{}\n", name.to_ascii_lowercase(), value.trim()));
            out.extend_from_slice(line);
        }
        out.extend_from_slice(b"\r\n");
        Ok(())
    }
}

impl Link {
    pub(super) fn text(&self, kind: &str, tail: &str) -> String {
        let Self { signer, time, scope, previous } = self;
        format!("{}{kind}\n{time}\n{scope}\n{previous}\n{tail}", signer.name())
    }
}
