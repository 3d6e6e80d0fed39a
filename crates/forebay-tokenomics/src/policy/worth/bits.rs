//! What a rank of worth holds, in 32 bits: when a block was used last, the class of its past, where the end of its chain lies, and its place before it.

use super::super::Rank;

/// A rank, taken apart. None that is used is all 0: moments begin with 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Bits {
    /// When it was used last, 14 bits: see [`super::moments::Moments`].
    pub(super) moment: u16,
    /// Class of its past.
    pub(super) class: u8,
    /// Level of the end of the longest prompt it was used in, 4 bits.
    pub(super) end: u8,
    /// Its place in the request it was used in last, 0 the first key, 63 the last. By its share and not by its depth: what lies side by side near the end
    /// of a long prompt must be told apart, or it leaves in any order.
    pub(super) place: u8,
}

const MOMENT_BITS: u32 = 14;
const PLACE_BITS: u32 = 6;
/// Places there are.
pub(super) const PLACES: u8 = 1 << PLACE_BITS;
/// The last moment there is.
pub(super) const MOMENT_MAX: u16 = (1 << MOMENT_BITS) - 1;

impl Bits {
    pub(super) fn of(rank: Rank) -> Bits {
        Bits {
            moment: (rank >> (32 - MOMENT_BITS)) as u16,
            class: (rank >> (PLACE_BITS + 4)) as u8,
            end: (rank >> PLACE_BITS) as u8 & 15,
            place: rank as u8 & (PLACES - 1),
        }
    }

    pub(super) fn rank(self) -> Rank {
        let end = u32::from(self.end & 15) << PLACE_BITS;
        let low = u32::from(self.class) << (PLACE_BITS + 4) | end | u32::from(self.place & (PLACES - 1));
        u32::from(self.moment) << (32 - MOMENT_BITS) | low
    }
}

/// The place of the `depth`-th of `items` keys.
pub(super) fn place_of(depth: u32, items: u32) -> u8 {
    let place = u64::from(depth) * u64::from(PLACES) / u64::from(items.max(1));
    place.min(u64::from(PLACES - 1)) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rank_is_its_parts() {
        let bits = Bits { moment: 0x2bcd, class: 215, end: 15, place: 37 };
        assert_eq!(Bits::of(bits.rank()), bits);
        assert_eq!(Bits::of(Bits { moment: MOMENT_MAX, ..bits }.rank()).moment, MOMENT_MAX);
        assert_eq!([0, 10, 99, 100, 200].map(|depth| place_of(depth, 100)), [0, 6, 63, 63, 63]);
    }
}
