//! Piece sums: what makes a wrong byte visible.
//!
//! `sum = CRC-64/NVME(piece) xor mix(namespace, key, version, length, piece index)`. The checksum finds changed bytes;
//! the mix finds right bytes in the wrong place: another key's block, another version's piece, a piece moved or cut.

use crate::limits::PIECE_BYTES;
use crate::{Key, NamespaceId, Version};

/// CRC-64/NVME of `bytes`.
pub fn crc64(bytes: &[u8]) -> u64 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, bytes)
}

/// CRC-64/NVME of bytes that come piece by piece.
#[derive(Debug)]
pub struct Crc64(crc_fast::Digest);

impl Default for Crc64 {
    fn default() -> Self {
        Crc64(crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme))
    }
}

impl Crc64 {
    /// Takes what comes next.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Of all that came so far.
    pub fn sum(&self) -> u64 {
        self.0.finalize()
    }
}

/// Number of pieces of a block of `length` bytes; the last may be short.
pub fn pieces_of(length: u64) -> usize {
    length.div_ceil(PIECE_BYTES as u64) as usize
}

/// What a block's sums are bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SumBinding {
    base: u64,
}

impl SumBinding {
    /// Binds sums to a block's identity. `length` is the whole block's, in bytes.
    pub fn new(namespace: NamespaceId, key: Key, version: Version, length: u64) -> Self {
        let (low, high) = key.halves();
        let base = [u64::from(namespace.0), low, high, version.0, length]
            .into_iter()
            .fold(0x466f_7265_6261_7931, |h, word| scramble(h ^ word));
        SumBinding { base }
    }

    /// The sum of piece `index` holding `bytes`.
    pub fn sum(&self, index: usize, bytes: &[u8]) -> u64 {
        crc64(bytes) ^ scramble(self.base ^ index as u64)
    }

    /// The sum of piece `index` whose bytes come in several runs.
    pub fn sum_of_runs<'a>(&self, index: usize, runs: impl IntoIterator<Item = &'a [u8]>) -> u64 {
        let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme);
        runs.into_iter().for_each(|run| digest.update(run));
        digest.finalize() ^ scramble(self.base ^ index as u64)
    }
}

/// The finaliser of SplitMix64 after one step (Steele, Lea, Flood 2014): every input bit reaches every output bit.
fn scramble(word: u64) -> u64 {
    let mut z = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The sums of one block's pieces, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PieceSums(pub Vec<u64>);

impl PieceSums {
    /// Computes the sums of a whole block.
    pub fn of(binding: &SumBinding, block: &[u8]) -> Self {
        PieceSums(block.chunks(PIECE_BYTES).enumerate().map(|(i, piece)| binding.sum(i, piece)).collect())
    }

    /// True when `bytes`, whole pieces starting at piece `first` (the block's last may be short), match. See [`verify_range`].
    pub fn verify(&self, binding: &SumBinding, first: usize, bytes: &[u8]) -> bool {
        verify_range(&self.0, binding, first, bytes)
    }
}

/// True when `bytes`, starting at piece `first` of a block with `sums`, match. Every piece must be whole, but for the block's last.
/// Says nothing about bytes that are not there: callers check the length.
pub fn verify_range(sums: &[u64], binding: &SumBinding, first: usize, bytes: &[u8]) -> bool {
    let mut pieces = bytes.chunks(PIECE_BYTES).enumerate();
    pieces.all(|(i, piece)| sums.get(first + i).is_some_and(|sum| *sum == binding.sum(first + i, piece)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binding() -> SumBinding {
        SumBinding::new(NamespaceId(7), Key([3; 16]), Version(9), 150_000)
    }

    #[test]
    fn the_sum_of_known_bytes_is_known() {
        // CRC-64/NVME check value from the NVM Express NVM Command Set specification: "123456789".
        assert_eq!(crc64(b"123456789"), 0xae8b_1486_0a79_9888);
    }

    #[test]
    fn a_piece_in_runs_has_the_sum_of_the_piece() {
        let piece: Vec<u8> = (0..60_000u32).map(|i| (i / 7) as u8).collect();
        let whole = binding().sum(3, &piece);
        for cut in [0, 1, 4096, 59_999, 60_000] {
            let (a, b) = piece.split_at(cut);
            assert_eq!(binding().sum_of_runs(3, [a, b]), whole);
        }
        assert_ne!(binding().sum_of_runs(3, [&piece[1..], &piece[..1]]), whole, "in another order");
    }

    #[test]
    fn right_bytes_in_the_wrong_place_do_not_verify() {
        let block: Vec<u8> = (0..150_000u32).map(|i| (i / 251) as u8).collect();
        let sums = PieceSums::of(&binding(), &block);
        assert_eq!(sums.0.len(), 3);
        assert!(sums.verify(&binding(), 0, &block));
        assert!(sums.verify(&binding(), 1, &block[PIECE_BYTES..]));
        assert!(!sums.verify(&binding(), 1, &block[..PIECE_BYTES]), "a piece at another index");
        for other in [
            SumBinding::new(NamespaceId(8), Key([3; 16]), Version(9), 150_000),
            SumBinding::new(NamespaceId(7), Key([4; 16]), Version(9), 150_000),
            SumBinding::new(NamespaceId(7), Key([3; 16]), Version(8), 150_000),
            SumBinding::new(NamespaceId(7), Key([3; 16]), Version(9), 150_001),
        ] {
            assert!(!sums.verify(&other, 0, &block));
        }
        let mut flipped = block.clone();
        flipped[149_999] ^= 1;
        assert!(!sums.verify(&binding(), 0, &flipped));
    }
}
