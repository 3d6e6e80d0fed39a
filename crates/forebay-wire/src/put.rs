//! Puts, read in place: a node looks at thousands of descriptors without copying one.

use forebay_types::limits::KEYS_PER_MESSAGE_MAX;
use forebay_types::{Descriptor, NamespaceId, RegionId};

use crate::bytes::{Put, Reader, u32_at, u64_at};
use crate::decode::put_hint;
use crate::frame::{FrameHeader, Kind};
use crate::{EncodeError, Place, PutItem, ReuseHint, WireError};

/// In the kind of a put's hint: the caller keeps the blocks.
pub(crate) const CALLER_KEEPS_BIT: u8 = 0x80;
pub(crate) const PLACE_BYTES: usize = 20;
/// Place and the descriptor's length.
pub(crate) const FIXED_BYTES: usize = PLACE_BYTES + 2;

/// [`PutItem`] with a borrowed descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PutItemRef<'a> {
    /// The descriptor's encoding; not looked at yet.
    pub descriptor: &'a [u8],
    /// Where the bytes are.
    pub from: Place,
}

/// A `Put` message in place. All its items are known to be well-formed; their descriptors are not looked at.
#[derive(Debug, Clone)]
pub struct PutView<'a> {
    /// Number of the request.
    pub request: u32,
    /// Namespace of all keys.
    pub namespace: NamespaceId,
    /// Microseconds left.
    pub deadline_us: u32,
    /// Reuse hint.
    pub hint: ReuseHint,
    /// The caller keeps the blocks in memory of its own.
    pub caller_keeps: bool,
    rest: Reader<'a>,
    left: usize,
}

impl<'a> PutView<'a> {
    /// The items, in order.
    pub fn items(&self) -> impl ExactSizeIterator<Item = PutItemRef<'a>> + use<'a> {
        Items { rest: self.rest, left: self.left }
    }
}

struct Items<'a> {
    rest: Reader<'a>,
    left: usize,
}

impl<'a> Iterator for Items<'a> {
    type Item = PutItemRef<'a>;

    fn next(&mut self) -> Option<PutItemRef<'a>> {
        self.left = self.left.checked_sub(1)?;
        read(&mut self.rest).ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Items<'_> {}

/// Bytes an item takes in a message, for splitting before `MESSAGE_BYTES_MAX`.
pub fn put_item_bytes(item: &PutItem) -> usize {
    FIXED_BYTES + item.descriptor.len()
}

/// Checks a `Put` body and gives its items in place. Accepts exactly what [`crate::decode_body`] accepts.
pub fn put_view<'a>(header: &FrameHeader, body: &'a [u8]) -> Result<PutView<'a>, WireError> {
    header.check_body(body)?;
    if header.kind != Kind::Put {
        return Err(WireError::Malformed("not a put"));
    }
    let mut rest = Reader::new(body);
    let namespace = NamespaceId(rest.u32()?);
    let deadline_us = rest.u32()?;
    let (hint, caller_keeps) = put_hint(&mut rest)?;
    let left = rest.count("items in a message", KEYS_PER_MESSAGE_MAX, FIXED_BYTES)?;
    let view = PutView { request: header.request, namespace, deadline_us, hint, caller_keeps, rest, left };
    for _ in 0..left {
        read(&mut rest)?;
    }
    rest.finish()?;
    Ok(view)
}

pub(crate) fn place_bytes(place: &Place) -> [u8; PLACE_BYTES] {
    let mut out = [0; PLACE_BYTES];
    out[..4].copy_from_slice(&place.region.0.to_le_bytes());
    out[4..12].copy_from_slice(&place.offset.to_le_bytes());
    out[12..].copy_from_slice(&place.room.to_le_bytes());
    out
}

pub(crate) fn place(bytes: &[u8]) -> Place {
    Place { region: RegionId(u32_at(bytes, 0)), offset: u64_at(bytes, 4), room: u64_at(bytes, 12) }
}

pub(crate) fn write(out: &mut Vec<u8>, item: &PutItem) -> Result<(), EncodeError> {
    out.bytes(&place_bytes(&item.from));
    out.short_bytes("bytes in a descriptor", &item.descriptor, Descriptor::ENCODED_LEN_MAX)
}

#[inline]
pub(crate) fn read<'a>(body: &mut Reader<'a>) -> Result<PutItemRef<'a>, WireError> {
    let from = place(body.array::<PLACE_BYTES>()?);
    let descriptor = body.short_bytes("bytes in a descriptor", Descriptor::ENCODED_LEN_MAX)?;
    Ok(PutItemRef { descriptor, from })
}
