//! A block's descriptor: the bytes that say what it is and carry its sums.
//!
//! Computed once by the client that puts, then carried verbatim: on the wire, in the record on the drive, back on the
//! wire, and checked at the client that gets. Drawn to the byte in `docs/disk-format.md`, section "Descriptor".

use crate::limits::{LANDING_ROOM_BYTES, PART_NAME_BYTES, PARTS_MAX};
use crate::{BlockMeta, CheckKind, Key, NamespaceId, Part, PartName, PieceSums, Version, crc64, pieces_of};

const LAYOUT: u16 = 1;
const FIXED_BYTES: usize = 96;
const PART_BYTES: usize = PART_NAME_BYTES + 16;
const SUM_BYTES: usize = 8;
const CRC_BYTES: usize = 8;

/// What a block is and its pieces' sums.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// What the block is.
    pub meta: BlockMeta,
    /// One sum a piece.
    pub sums: PieceSums,
}

/// Why bytes are not a descriptor. Bytes from a drive or a peer can never be a bug: they are one of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DescriptorError {
    /// Fewer bytes than it needs.
    #[error("descriptor is cut short")]
    Short,
    /// Its own checksum differs.
    #[error("descriptor does not match its checksum")]
    Checksum,
    /// A layout, check kind or codec of a newer build.
    #[error("descriptor of a layout this build does not know")]
    Unknown,
    /// Fields that contradict each other.
    #[error("descriptor is malformed: {0}")]
    Malformed(&'static str),
}

impl Descriptor {
    /// Describes `block`, computing its sums. `meta.length` must be the block's.
    pub fn of(meta: BlockMeta, block: &[u8]) -> Self {
        debug_assert_eq!(meta.length, block.len() as u64);
        let sums = PieceSums::of(&meta.binding(), block);
        Descriptor { meta, sums }
    }

    /// Bytes of the encoding of a block of `length` bytes with `parts` parts.
    pub fn encoded_len(length: u64, parts: usize) -> usize {
        FIXED_BYTES + parts * PART_BYTES + pieces_of(length) * SUM_BYTES + CRC_BYTES
    }

    /// Bytes of the encoding that begins with `bytes`, as its fixed part says. `None` when that part is cut short or names a block that cannot be.
    /// For encodings that lie in front of other bytes; whether this one is whole, [`Self::decode`] says.
    pub fn encoded_len_of(bytes: &[u8]) -> Option<usize> {
        let fixed = bytes.get(..FIXED_BYTES)?;
        let parts = usize::from(u16::from_le_bytes([fixed[6], fixed[7]]));
        let length = u64::from_le_bytes(std::array::from_fn(|i| fixed[40 + i]));
        (parts <= PARTS_MAX && length <= crate::limits::BLOCK_BYTES_MAX).then(|| Self::encoded_len(length, parts))
    }

    /// Largest encoding of any block, in bytes.
    pub const ENCODED_LEN_MAX: usize = FIXED_BYTES + PARTS_MAX * PART_BYTES + 1024 * SUM_BYTES + CRC_BYTES;

    /// Bytes behind the payload's end that a slice needs for a direct landing of a block of up to `length` bytes: padding and the record's trailer.
    pub fn landing_room(length: u64) -> usize {
        let worst = 4096 + (64 + Self::encoded_len(length, PARTS_MAX)).next_multiple_of(4096);
        worst.max(LANDING_ROOM_BYTES)
    }

    /// Appends the encoding to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        let m = &self.meta;
        out.extend_from_slice(&LAYOUT.to_le_bytes());
        out.push(m.check as u8);
        out.push(SUM_BYTES as u8);
        out.push(m.codec);
        out.push(0);
        out.extend_from_slice(&(m.parts.len() as u16).to_le_bytes());
        out.extend_from_slice(&m.namespace.0.to_le_bytes());
        out.extend_from_slice(&m.tokens.to_le_bytes());
        out.extend_from_slice(&m.key.0);
        for word in [m.version.0, m.length, m.chain, m.parent, u64::from(m.position), m.expiry_utc_s, m.place, 0] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        debug_assert_eq!(out.len() - start, FIXED_BYTES);
        for part in &m.parts {
            out.extend_from_slice(&part.name.bytes());
            out.extend_from_slice(&part.offset.to_le_bytes());
            out.extend_from_slice(&part.length.to_le_bytes());
        }
        for sum in &self.sums.0 {
            out.extend_from_slice(&sum.to_le_bytes());
        }
        let crc = crc64(&out[start..]);
        out.extend_from_slice(&crc.to_le_bytes());
    }

    /// Decodes what [`Self::encode`] wrote; `bytes` is exactly one encoding.
    pub fn decode(bytes: &[u8]) -> Result<Self, DescriptorError> {
        use DescriptorError::{Checksum, Malformed, Short, Unknown};
        if bytes.len() < FIXED_BYTES + CRC_BYTES {
            return Err(Short);
        }
        let (body, crc) = bytes.split_at(bytes.len() - CRC_BYTES);
        let u64_at = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let u32_at = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        if crc64(body).to_le_bytes() != crc {
            return Err(Checksum);
        }
        if u16::from_le_bytes([bytes[0], bytes[1]]) != LAYOUT
            || bytes[2] != CheckKind::Crc64Bound as u8
            || usize::from(bytes[3]) != SUM_BYTES
            || bytes[4] != 0
        {
            return Err(Unknown);
        }
        let parts = usize::from(u16::from_le_bytes([bytes[6], bytes[7]]));
        let position = u64_at(64);
        let mut meta = BlockMeta {
            namespace: NamespaceId(u32_at(8)),
            tokens: u32_at(12),
            key: Key(std::array::from_fn(|i| bytes[16 + i])),
            version: Version(u64_at(32)),
            length: u64_at(40),
            chain: u64_at(48),
            parent: u64_at(56),
            position: u32::try_from(position).map_err(|_| Malformed("position exceeds 32 bits"))?,
            expiry_utc_s: u64_at(72),
            place: u64_at(80),
            check: CheckKind::Crc64Bound,
            codec: 0,
            parts: Vec::new(),
        };
        if parts > PARTS_MAX || meta.length > crate::limits::BLOCK_BYTES_MAX {
            return Err(Malformed("more parts or bytes than a block may have"));
        }
        if bytes.len() != Self::encoded_len(meta.length, parts) {
            return Err(Malformed("its length does not fit its parts and pieces"));
        }
        for at in (0..parts).map(|i| FIXED_BYTES + i * PART_BYTES) {
            let name = PartName::from_bytes(std::array::from_fn(|i| bytes[at + i])).ok_or(Malformed("part name"))?;
            meta.parts.push(Part {
                name,
                offset: u64_at(at + PART_NAME_BYTES),
                length: u64_at(at + PART_NAME_BYTES + 8),
            });
        }
        if let Some(problem) = meta.problem() {
            return Err(Malformed(problem));
        }
        let sums_at = FIXED_BYTES + parts * PART_BYTES;
        let sums = (0..pieces_of(meta.length)).map(|i| u64_at(sums_at + i * SUM_BYTES)).collect();
        Ok(Descriptor { meta, sums: PieceSums(sums) })
    }

    /// True when `block` is the whole block this describes.
    pub fn verify(&self, block: &[u8]) -> bool {
        block.len() as u64 == self.meta.length && self.sums.verify(&self.meta.binding(), 0, block)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> (Descriptor, Vec<u8>) {
        let block: Vec<u8> = (0..200_000u32).map(|i| (i * 7) as u8).collect();
        let mut meta = BlockMeta::plain(NamespaceId(3), Key([9; 16]), Version(77), block.len() as u64);
        meta.position = 4;
        meta.parts = vec![
            Part { name: PartName::new("kv").unwrap(), offset: 0, length: 150_000 },
            Part { name: PartName::new("scales").unwrap(), offset: 150_000, length: 50_000 },
        ];
        (Descriptor::of(meta, &block), block)
    }

    #[test]
    fn a_descriptor_survives_the_way_there_and_back() {
        let (descriptor, block) = sample();
        let mut bytes = Vec::new();
        descriptor.encode(&mut bytes);
        assert_eq!(bytes.len(), Descriptor::encoded_len(block.len() as u64, 2));
        assert_eq!(Descriptor::encoded_len_of(&[&bytes[..], &[7; 99]].concat()), Some(bytes.len()));
        let back = Descriptor::decode(&bytes).unwrap();
        assert_eq!(back, descriptor);
        assert!(back.verify(&block));
        assert!(!back.verify(&block[1..]));
    }

    #[test]
    fn every_flipped_bit_of_a_descriptor_is_found() {
        let (descriptor, _) = sample();
        let mut bytes = Vec::new();
        descriptor.encode(&mut bytes);
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Descriptor::decode(&bytes).is_err(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        for cut in 0..bytes.len() {
            assert!(Descriptor::decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
    }
}
