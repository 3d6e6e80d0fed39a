//! What a rank is worth at a moment, by what was learned.

use crate::returns::Returns;
use crate::space::{SpaceCost, tokens_of};

use super::super::{COLDEST, Rank};
use super::VALUE_MAX;
use super::bits::{Bits, PLACES};
use super::moments::Moments;

/// Tokens before a block, about.
pub(super) fn tokens_before(bits: Bits) -> f64 {
    tokens_of(bits.end) * f64::from(bits.place) / f64::from(PLACES)
}

pub(super) fn space_of(spaces: &[SpaceCost], space: u16) -> &SpaceCost {
    spaces.get(usize::from(space)).unwrap_or(&spaces[0])
}

/// What a rank is worth while worth decides.
pub(super) struct Judge<'w> {
    pub(super) moments: &'w Moments,
    pub(super) returns: &'w Returns,
    pub(super) spaces: &'w [SpaceCost],
    pub(super) scale: f64,
}

impl Judge<'_> {
    pub(super) fn worth(&self, rank: Rank, space: u16) -> u32 {
        if rank == COLDEST {
            return 0;
        }
        let bits = Bits::of(rank);
        let rate = self.returns.index(usize::from(bits.class), self.moments.age_s(bits.moment));
        let space = space_of(self.spaces, space);
        let seconds_by_byte = space.density(bits.end);
        // Of equals the tail goes first.
        let place = 1.0 - f64::from(bits.place) / f64::from(PLACES) / 64.0;
        (rate * seconds_by_byte * self.scale * place).min(VALUE_MAX) as u32
    }
}
