//! One core's memcpy.

use forebay_io::Region;

use crate::watch::Window;
use crate::{Failed, Outcome, why};

/// Copies blocks of 1 MiB between two spans, in the very kind of memory that a client's blocks land in.
pub(crate) struct Memcpy {
    from: forebay_io::Slice,
    to: forebay_io::Slice,
}

/// Far over any cache.
const SPAN: usize = 256 << 20;
const ROUNDS: usize = 8;

impl Memcpy {
    pub(crate) fn new() -> Outcome<Memcpy> {
        let span = || -> Outcome<forebay_io::Slice> {
            let region = Region::owned(SPAN).map_err(why("memory for memcpy"))?;
            let mut slice = region.alloc(SPAN).ok_or_else(|| Failed("memory for memcpy: no room".into()))?;
            slice.fill(7);
            Ok(slice)
        };
        Ok(Memcpy { from: span()?, to: span()? })
    }

    /// Copies [`Self::BYTES`]; the microseconds of each block.
    pub(crate) fn run(&mut self) -> Vec<f64> {
        const BLOCK: usize = 1 << 20;
        let mut window = Window::start(1);
        for round in 0..ROUNDS {
            for i in 0..SPAN / BLOCK {
                let (a, b) = (i * BLOCK, (i * 97 + round) % (SPAN / BLOCK) * BLOCK);
                self.to[a..a + BLOCK].copy_from_slice(&self.from[b..b + BLOCK]);
                window.came();
            }
        }
        std::hint::black_box(&self.to[..]);
        window.us()
    }

    /// What one run copies.
    pub(crate) const BYTES: usize = ROUNDS * SPAN;
}
