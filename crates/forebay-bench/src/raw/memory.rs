//! One core's memcpy.

use forebay_io::Region;

use crate::watch::Watch;
use crate::{Failed, Outcome, why};

/// Copies blocks of 1 MiB between two spans, in the very kind of memory that a client's blocks land in.
pub(crate) struct Memcpy {
    from: forebay_io::Slice,
    to: forebay_io::Slice,
}

/// Far over any cache.
const SPAN: usize = 256 << 20;

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

    /// GB/s.
    pub(crate) fn gb_s(&mut self) -> f64 {
        const BLOCK: usize = 1 << 20;
        const ROUNDS: usize = 8;
        let watch = Watch::start();
        for round in 0..ROUNDS {
            for i in 0..SPAN / BLOCK {
                let (a, b) = (i * BLOCK, (i * 97 + round) % (SPAN / BLOCK) * BLOCK);
                self.to[a..a + BLOCK].copy_from_slice(&self.from[b..b + BLOCK]);
            }
        }
        let gb_s = (ROUNDS * SPAN) as f64 / watch.s() / 1e9;
        std::hint::black_box(&self.to[..]);
        gb_s
    }
}
