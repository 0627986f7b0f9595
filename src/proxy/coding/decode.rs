//! Decodes a body as it streams by, a bounded piece at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

use super::coder::{Coder, Standing, Step};
use super::{Broken, Coding};
use crate::proxy::settings::Limits;

/// The most that comes out at once, in bytes.
const PIECE: usize = 32 * 1024;

/// What all decoders of a node hold together.
#[derive(Debug, Clone, Default)]
pub struct Memory(Arc<AtomicUsize>);

impl Memory {
    /// So many bytes are held.
    #[must_use]
    pub fn held(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// Decodes one body, through all of its codings.
pub struct Decoder {
    /// The outermost coding first: it was applied last.
    stages: Vec<Stage>,
    room: Box<[u8]>,
    /// Coded bytes that came in.
    came: u64,
    bounds: Bounds,
    memory: Memory,
    /// What of the memory is this decoder's.
    mine: usize,
}

struct Bounds {
    ratio: u64,
    free: u64,
    windows: usize,
}

struct Stage {
    coder: Coder,
    input: Bytes,
    standing: Standing,
    /// Whether its last step filled the room, so that more may come without input.
    more: bool,
    /// Bytes that came out.
    out: u64,
}

impl Decoder {
    /// A decoder of a body to which these codings were applied in this order.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn new(codings: &[Coding], limits: &Limits, memory: &Memory) -> Result<Self, Broken> {
        let stage = |coding: &Coding| {
            let coder = Coder::new(*coding, limits.window_bytes)?;
            Ok(Stage { coder, input: Bytes::new(), standing: Standing::Fresh, more: false, out: 0 })
        };
        Ok(Self {
            stages: codings.iter().rev().map(stage).collect::<Result<_, _>>()?,
            room: vec![0; PIECE].into(),
            came: 0,
            bounds: Bounds {
                ratio: limits.expansion.into(),
                free: limits.expanded_bytes as u64,
                windows: limits.windows_bytes,
            },
            memory: memory.clone(),
            mine: 0,
        })
    }

    /// Takes a piece of the coded body. What came before must have been read to its end with
    /// [`Decoder::pull`].
    pub fn push(&mut self, data: Bytes) {
        self.came += data.len() as u64;
        if let Some(first) = self.stages.first_mut() {
            first.input = data;
        }
    }

    /// The next piece of the decoded body, 32 KiB at most; `None` if it needs more input.
    ///
    /// # Errors
    /// The body can't be decoded any further.
    pub fn pull(&mut self) -> Result<Option<Bytes>, Broken> {
        self.pull_from(self.stages.len().saturating_sub(1))
    }

    fn pull_from(&mut self, at: usize) -> Result<Option<Bytes>, Broken> {
        loop {
            let Some(stage) = self.stages.get_mut(at) else { return Ok(None) };
            if stage.input.is_empty() && !stage.more {
                let Some(before) = at.checked_sub(1) else { return Ok(None) };
                let Some(input) = self.pull_from(before)? else { return Ok(None) };
                self.stages[at].input = input;
                continue;
            }
            let Step { read, wrote, standing } = stage.coder.step(&stage.input, &mut self.room)?;
            if read == 0 && wrote == 0 {
                if !stage.input.is_empty() {
                    return Err(Broken::Corrupt("its decoder takes nothing more"));
                }
                stage.more = false;
                continue;
            }
            stage.standing = standing;
            stage.more = wrote == self.room.len();
            stage.out += wrote as u64;
            let _ = stage.input.split_to(read);
            if stage.out > self.bounds.free.saturating_add(self.bounds.ratio.saturating_mul(self.came)) {
                return Err(Broken::Expands);
            }
            self.account_for()?;
            if wrote > 0 {
                return Ok(Some(Bytes::copy_from_slice(&self.room[..wrote])));
            }
        }
    }

    /// The coded body is over, and all of it was pulled.
    ///
    /// # Errors
    /// A coding isn't.
    pub fn finish(&mut self) -> Result<(), Broken> {
        if self.stages.iter().any(|stage| stage.standing == Standing::Open) {
            return Err(Broken::Cut);
        }
        Ok(())
    }

    /// Takes a share of the node's memory when the coders do.
    fn account_for(&mut self) -> Result<(), Broken> {
        let now = self.stages.iter().map(|stage| stage.coder.memory()).sum();
        if now == self.mine {
            return Ok(());
        }
        let before = self.memory.0.fetch_add(now, Ordering::Relaxed);
        self.memory.0.fetch_sub(self.mine, Ordering::Relaxed);
        let others = before.saturating_sub(self.mine);
        self.mine = now;
        if others.saturating_add(now) > self.bounds.windows { Err(Broken::Memory) } else { Ok(()) }
    }
}

impl Drop for Decoder {
    fn drop(&mut self) {
        self.memory.0.fetch_sub(self.mine, Ordering::Relaxed);
    }
}
