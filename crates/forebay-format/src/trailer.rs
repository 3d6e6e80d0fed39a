//! The trailer of a record: what stands behind each payload and says what it is.
//!
//! A record is `[payload padded with zeros to the alignment][trailer padded to the alignment]`. Trailer last, so that one aligned read lands the
//! payload at a slice's start and its sums behind it. Nothing here allocates.

use forebay_types::limits::BLOCK_BYTES_MAX;
use forebay_types::{Descriptor, crc64};

use crate::bytes::{put, put_u32, put_u64, u32_at, u64_at};
use crate::layout::UNIT_BYTES;
use crate::stamp::siphash;
use crate::tombstone::{TOMBSTONES_MAX, tombstones_len};
use crate::{FormatError, SEGMENT_HEADER_BYTES};

/// Bytes of a trailer before its body.
pub const TRAILER_HEADER_BYTES: usize = 64;
/// Most bytes of a body: the longest list of tombstones, which is longer than the longest descriptor.
pub const TRAILER_BODY_BYTES_MAX: usize = tombstones_len(TOMBSTONES_MAX);
const _: () = assert!(Descriptor::ENCODED_LEN_MAX <= TRAILER_BODY_BYTES_MAX);
const _: () = assert!(SEGMENT_HEADER_BYTES.is_multiple_of(UNIT_BYTES as usize));

const MAGIC: &[u8; 8] = b"fbyTRAIL";
const WHAT: &str = "record trailer";
const GENERATION_AT: usize = 8;
const SEQ_AT: usize = 16;
const PAYLOAD_AT: usize = 24;
const BODY_LEN_AT: usize = 28;
const KIND_AT: usize = 32;
const BODY_CRC_AT: usize = 40;
const STAMP_AT: usize = 48;
const CRC_AT: usize = 56;

/// What a record holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RecordKind {
    /// A block; the body is its [`Descriptor`]'s encoding, as the client sent it.
    Block = 1,
    /// Forgotten keys; no payload, the body is a list of [`crate::Tombstone`]s.
    Tombstones = 2,
}

/// What a trailer says, but for its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trailer {
    /// The segment's.
    pub generation: u64,
    /// The segment's. Not written, only hashed: see [`TrailerView::belongs_to`].
    pub nonce: u64,
    /// Number of the original put or forget, strictly increasing in a shard; kept when the record is moved.
    pub seq: u64,
    /// Bytes of payload with padding: a multiple of the alignment. The record begins so many bytes before its trailer.
    pub payload_padded: u32,
    /// What the record holds.
    pub kind: RecordKind,
}

/// A trailer that matches its checksums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrailerView<'a> {
    /// The segment's, if [`Self::belongs_to`] says so.
    pub generation: u64,
    /// As in [`Trailer`].
    pub seq: u64,
    /// As in [`Trailer`].
    pub payload_padded: u32,
    /// As in [`Trailer`].
    pub kind: RecordKind,
    /// A descriptor's encoding or a list of tombstones.
    pub body: &'a [u8],
    body_crc: u64,
    stamp: u64,
}

/// Bytes of a trailer with its padding. The body begins [`TRAILER_HEADER_BYTES`] into it.
pub const fn trailer_len(body_len: usize, align: usize) -> usize {
    (TRAILER_HEADER_BYTES + body_len).next_multiple_of(align)
}

/// Writes a trailer and fills the rest of `out` with zeros. `out` has [`trailer_len`] bytes.
///
/// # Panics
/// When `out` cannot hold it, or the body is longer than any descriptor or list of tombstones.
pub fn encode_trailer(trailer: &Trailer, body: &[u8], out: &mut [u8]) {
    assert!(body.len() <= TRAILER_BODY_BYTES_MAX && TRAILER_HEADER_BYTES + body.len() <= out.len());
    debug_assert!(u64::from(trailer.payload_padded).is_multiple_of(UNIT_BYTES));
    debug_assert_eq!(trailer.kind == RecordKind::Tombstones, trailer.payload_padded == 0);
    let (head, rest) = out.split_at_mut(TRAILER_HEADER_BYTES);
    let (space, padding) = rest.split_at_mut(body.len());
    space.copy_from_slice(body);
    padding.fill(0);
    head.fill(0);
    put(head, 0, MAGIC);
    put_u64(head, SEQ_AT, trailer.seq);
    put_u32(head, PAYLOAD_AT, trailer.payload_padded);
    put_u32(head, BODY_LEN_AT, body.len() as u32);
    head[KIND_AT] = trailer.kind as u8;
    put_u64(head, BODY_CRC_AT, crc64(body));
    seal(head, trailer.generation, trailer.nonce);
}

/// Makes a trailer that was read from one segment one of another, for moving a record verbatim. The caller has decoded it.
///
/// # Panics
/// When it has fewer bytes than a trailer.
pub fn restamp(trailer_bytes: &mut [u8], generation: u64, nonce: u64) {
    seal(&mut trailer_bytes[..TRAILER_HEADER_BYTES], generation, nonce);
}

fn seal(head: &mut [u8], generation: u64, nonce: u64) {
    put_u64(head, GENERATION_AT, generation);
    put_u64(head, STAMP_AT, stamp(head, generation, nonce));
    put_u64(head, CRC_AT, crc64(&head[..CRC_AT]));
}

/// Hash of everything between magic and stamp, under generation and nonce.
fn stamp(head: &[u8], generation: u64, nonce: u64) -> u64 {
    siphash((nonce, generation), &[SEQ_AT, PAYLOAD_AT, KIND_AT, BODY_CRC_AT].map(|at| u64_at(head, at)))
}

/// Reads a trailer from bytes that begin with it and may go on behind it. Says nothing yet of whether it counts: see [`TrailerView::belongs_to`].
pub fn decode_trailer(bytes: &[u8]) -> Result<TrailerView<'_>, FormatError> {
    let malformed = |why| FormatError::Malformed { what: WHAT, why };
    let Some((head, rest)) = bytes.split_at_checked(TRAILER_HEADER_BYTES) else {
        return Err(FormatError::Short(WHAT));
    };
    // A scan asks this of every aligned place, nearly always in vain: the magic goes first.
    if head[..8] != *MAGIC {
        return Err(FormatError::NotForebay(WHAT));
    }
    if crc64(&head[..CRC_AT]) != u64_at(head, CRC_AT) {
        return Err(FormatError::Checksum(WHAT));
    }
    let kind = match head[KIND_AT] {
        1 => RecordKind::Block,
        2 => RecordKind::Tombstones,
        _ => return Err(malformed("a kind of record that is not known")),
    };
    if head[KIND_AT + 1..BODY_CRC_AT].iter().any(|b| *b != 0) {
        return Err(malformed("flags that are not known"));
    }
    let payload_padded = u32_at(head, PAYLOAD_AT);
    let body_len = u32_at(head, BODY_LEN_AT) as usize;
    if u64::from(payload_padded) > BLOCK_BYTES_MAX || !u64::from(payload_padded).is_multiple_of(UNIT_BYTES) {
        return Err(malformed("its payload is too long or not padded"));
    }
    if (payload_padded == 0) != (kind == RecordKind::Tombstones) {
        return Err(malformed("a block without payload, or tombstones with it"));
    }
    if body_len > TRAILER_BODY_BYTES_MAX {
        return Err(malformed("its body is too long"));
    }
    let body = rest.get(..body_len).ok_or(FormatError::Short(WHAT))?;
    let body_crc = u64_at(head, BODY_CRC_AT);
    if crc64(body) != body_crc {
        return Err(FormatError::Checksum(WHAT));
    }
    Ok(TrailerView {
        generation: u64_at(head, GENERATION_AT),
        seq: u64_at(head, SEQ_AT),
        payload_padded,
        kind,
        body,
        body_crc,
        stamp: u64_at(head, STAMP_AT),
    })
}

impl TrailerView<'_> {
    /// True when it was written by the segment's opening with this generation and nonce. Only then does the record count.
    pub fn belongs_to(&self, generation: u64, nonce: u64) -> bool {
        let lengths = u64::from(self.payload_padded) | (self.body.len() as u64) << 32;
        self.generation == generation
            && self.stamp == siphash((nonce, generation), &[self.seq, lengths, self.kind as u64, self.body_crc])
    }

    /// Bytes of this trailer with its padding.
    pub fn len_padded(&self, align: usize) -> usize {
        trailer_len(self.body.len(), align)
    }
}
