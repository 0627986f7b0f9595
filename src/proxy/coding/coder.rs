//! One content coding, decoded piece by piece: each call reads some of what is there and writes as
//! much as fits, so that little input never becomes much memory.

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};
use flate2::{Decompress, FlushDecompress, Status};
use zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer};

use super::{Broken, Coding};

/// The state of one coding's decoder.
pub(super) enum Coder {
    Inflate(Box<Inflate>),
    Brotli(Box<Brotli>),
    Zstd(DCtx<'static>),
}

/// Where a coded text stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nothing of it was read: what is empty decodes to nothing.
    Fresh,
    /// It has begun.
    Open,
    /// It is whole. Some codings may go on with another part.
    Whole,
}

/// What one call did.
pub(super) struct Step {
    pub read: usize,
    pub wrote: usize,
    pub standing: Standing,
}

/// DEFLATE (RFC 1951) in one of its wrappings.
pub(super) struct Inflate {
    engine: Option<Decompress>,
    gzip: bool,
    whole: bool,
    /// The first byte of `deflate`, which alone doesn't tell whether there is a zlib header.
    first: Option<u8>,
    /// Whether zeros that pad the last gzip member were read.
    padded: bool,
}

pub(super) struct Brotli {
    state: BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>,
    /// The window that the stream asks for, once its first byte is read.
    window: Option<usize>,
    whole: bool,
    largest: usize,
}

impl Coder {
    /// A decoder at the beginning, whose window takes no more than `window` bytes.
    pub fn new(coding: Coding, window: usize) -> Result<Self, Broken> {
        Ok(match coding {
            Coding::Gzip | Coding::Deflate => Self::Inflate(Box::new(Inflate {
                engine: None,
                gzip: coding == Coding::Gzip,
                whole: false,
                first: None,
                padded: false,
            })),
            Coding::Brotli => {
                let alloc = StandardAlloc::default;
                let state = BrotliState::new_strict(alloc(), alloc(), alloc());
                Self::Brotli(Box::new(Brotli { state, window: None, whole: false, largest: window }))
            }
            Coding::Zstd => {
                let mut context = DCtx::try_create().ok_or(Broken::Memory)?;
                let log = window.clamp(1 << 10, ZSTD_WINDOW).ilog2();
                context.set_parameter(DParameter::WindowLogMax(log)).map_err(|_| Broken::Memory)?;
                Self::Zstd(context)
            }
        })
    }

    /// The memory that it holds, in bytes; roughly, and never much too little.
    pub fn memory(&self) -> usize {
        match self {
            Self::Inflate(inflate) if inflate.engine.is_none() => 0,
            Self::Inflate(_) => INFLATE,
            Self::Brotli(brotli) => brotli.window.map_or(0, |window| window + BROTLI_TABLES),
            Self::Zstd(context) => context.sizeof(),
        }
    }

    /// Reads from the front of `input` and writes to the front of `output`.
    ///
    /// # Errors
    /// The input isn't coded so, goes on behind its end, or takes too large a window.
    pub fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step, Broken> {
        match self {
            Self::Inflate(inflate) => inflate.step(input, output),
            Self::Brotli(brotli) => brotli.step(input, output),
            Self::Zstd(context) => {
                let (mut from, mut to) = (InBuffer::around(input), OutBuffer::around(output));
                let left = context.decompress_stream(&mut to, &mut from);
                let left = left.map_err(|code| Broken::Corrupt(zstd_safe::get_error_name(code)))?;
                let standing = if left == 0 { Standing::Whole } else { Standing::Open };
                Ok(Step { read: from.pos(), wrote: to.pos(), standing })
            }
        }
    }
}

impl Inflate {
    fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step, Broken> {
        if self.whole && !input.is_empty() {
            return self.behind_the_end(input, output);
        }
        let Some(engine) = &mut self.engine else {
            return self.begin(input, output);
        };
        let (read, wrote) = (engine.total_in(), engine.total_out());
        let status = engine
            .decompress(input, output, FlushDecompress::None)
            .map_err(|_| Broken::Corrupt("the deflated text or its checksum is wrong"))?;
        self.whole = status == Status::StreamEnd;
        let moved = |now: u64, before: u64| usize::try_from(now - before).unwrap_or(usize::MAX);
        let standing = if self.whole { Standing::Whole } else { Standing::Open };
        Ok(Step { read: moved(engine.total_in(), read), wrote: moved(engine.total_out(), wrote), standing })
    }

    /// What `deflate` means differs among servers: with the zlib header (RFC 9110 section 8.4.1.2), or
    /// without. No encoder begins a bare stream with what reads as a zlib header.
    fn begin(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step, Broken> {
        if self.gzip {
            self.engine = Some(Decompress::new_gzip(15));
            return self.step(input, output);
        }
        match (self.first, input) {
            (_, []) => {
                let standing = if self.first.is_some() { Standing::Open } else { Standing::Fresh };
                Ok(Step { read: 0, wrote: 0, standing })
            }
            (None, [first, ..]) => {
                self.first = Some(*first);
                Ok(Step { read: 1, wrote: 0, standing: Standing::Open })
            }
            (Some(first), [second, ..]) => {
                let check = u16::from_be_bytes([first, *second]);
                let zlib = first & 0x0f == 8 && first >> 4 <= 7 && check.is_multiple_of(31);
                self.engine = Some(Decompress::new(zlib));
                let fed = self.step(&[first], output)?;
                match (fed.read, fed.wrote) {
                    (1, 0) => self.step(input, output),
                    _ => Err(Broken::Corrupt("the deflated text can't be begun")),
                }
            }
        }
    }

    /// Behind a gzip member another one may follow (RFC 1952 section 2.2), or padding of zeros; behind
    /// a deflated text nothing.
    fn behind_the_end(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step, Broken> {
        let zeros = input.iter().take_while(|byte| **byte == 0).count();
        if self.gzip && zeros > 0 {
            self.padded = true;
            return Ok(Step { read: zeros, wrote: 0, standing: Standing::Whole });
        }
        if !self.gzip || self.padded {
            return Err(Broken::Corrupt("something follows the end of the deflated text"));
        }
        self.engine = Some(Decompress::new_gzip(15));
        self.whole = false;
        self.step(input, output)
    }
}

impl Brotli {
    fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step, Broken> {
        if self.whole && !input.is_empty() {
            return Err(Broken::Corrupt("something follows the end of the brotli stream"));
        }
        if self.window.is_none() {
            let Some(first) = input.first() else {
                return Ok(Step { read: 0, wrote: 0, standing: Standing::Fresh });
            };
            let window = 1usize << window_bits(*first)?;
            if window > self.largest {
                return Err(Broken::Window);
            }
            self.window = Some(window);
        }
        let (mut left, mut read) = (input.len(), 0);
        let (mut room, mut wrote, mut total) = (output.len(), 0, 0);
        let result = BrotliDecompressStream(
            &mut left,
            &mut read,
            input,
            &mut room,
            &mut wrote,
            output,
            &mut total,
            &mut self.state,
        );
        match result {
            BrotliResult::ResultFailure => return Err(Broken::Corrupt("the brotli stream is wrong")),
            BrotliResult::ResultSuccess => self.whole = true,
            BrotliResult::NeedsMoreInput | BrotliResult::NeedsMoreOutput => {}
        }
        let standing = if self.whole { Standing::Whole } else { Standing::Open };
        Ok(Step { read, wrote, standing })
    }
}

/// The size of a brotli stream's window, as the power of two (RFC 7932 section 9.1). The pattern that
/// the format keeps back is that of "large windows", which no reply may have.
fn window_bits(first: u8) -> Result<u32, Broken> {
    match (first & 1, first >> 1 & 7, first >> 4 & 7) {
        (0, ..) => Ok(16),
        (_, 0, 0) => Ok(17),
        (_, 0, 1) => Err(Broken::Window),
        (_, 0, n) => Ok(8 + u32::from(n)),
        (_, n, _) => Ok(17 + u32::from(n)),
    }
}

/// What inflating takes: a window of 32 KiB, tables and state.
const INFLATE: usize = 48 * 1024;
/// What brotli's tables take beside the window.
const BROTLI_TABLES: usize = 256 * 1024;
/// The largest window of zstd as a content coding (RFC 9659 section 3).
const ZSTD_WINDOW: usize = 8 << 20;
