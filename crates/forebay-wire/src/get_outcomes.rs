//! Outcomes of gets, read and written without a heap block per hit: thousands of small hits are one message.

use forebay_types::limits::{KEYS_PER_MESSAGE_MAX, MESSAGE_BYTES_MAX};
use forebay_types::{Descriptor, LandingKind, MissReason, Tier};

use crate::bytes::{Put, Reader, u32_at, u64_at, within};
use crate::encode::{begin, seal};
use crate::frame::{FrameHeader, HEADER_BYTES, Kind};
use crate::{EncodeError, GetOutcome, WireError};

/// Item number, tag, two codes, a zero.
pub(crate) const HEAD_BYTES: usize = 8;
/// Offset, length and trailer offset.
const HIT_BYTES: usize = 24;
const HIT: u8 = 1;
const MISS: u8 = 2;
const TOO_SMALL: u8 = 3;

/// [`GetOutcome`] with a borrowed descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GetOutcomeRef<'a> {
    /// See [`GetOutcome::Hit`].
    Hit {
        /// From where.
        tier: Tier,
        /// How it came.
        landing: LandingKind,
        /// First byte that was sent.
        offset: u64,
        /// Bytes that were sent.
        length: u64,
        /// The descriptor's encoding, or empty.
        descriptor: &'a [u8],
        /// Where the trailer lies, or 0.
        trailer_offset: u64,
    },
    /// See [`GetOutcome::Miss`].
    Miss(MissReason),
    /// See [`GetOutcome::TooSmall`].
    TooSmall {
        /// Bytes of payload.
        need: u64,
    },
}

impl GetOutcomeRef<'_> {
    /// The same, owned.
    pub fn owned(self) -> GetOutcome {
        match self {
            GetOutcomeRef::Hit { tier, landing, offset, length, descriptor, trailer_offset } => {
                GetOutcome::Hit { tier, landing, offset, length, descriptor: descriptor.to_vec(), trailer_offset }
            }
            GetOutcomeRef::Miss(reason) => GetOutcome::Miss(reason),
            GetOutcomeRef::TooSmall { need } => GetOutcome::TooSmall { need },
        }
    }

    /// Bytes it takes in a message.
    fn encoded_len(&self) -> usize {
        match self {
            GetOutcomeRef::Hit { descriptor, .. } => HEAD_BYTES + HIT_BYTES + 2 + descriptor.len(),
            GetOutcomeRef::Miss(_) => HEAD_BYTES,
            GetOutcomeRef::TooSmall { .. } => HEAD_BYTES + 8,
        }
    }
}

impl GetOutcome {
    /// The same, borrowed.
    pub fn borrowed(&self) -> GetOutcomeRef<'_> {
        match self {
            GetOutcome::Hit { tier, landing, offset, length, descriptor, trailer_offset } => GetOutcomeRef::Hit {
                tier: *tier,
                landing: *landing,
                offset: *offset,
                length: *length,
                descriptor,
                trailer_offset: *trailer_offset,
            },
            GetOutcome::Miss(reason) => GetOutcomeRef::Miss(*reason),
            GetOutcome::TooSmall { need } => GetOutcomeRef::TooSmall { need: *need },
        }
    }
}

/// Bytes an outcome takes in a message, for splitting before `MESSAGE_BYTES_MAX`.
pub fn get_outcome_bytes(outcome: &GetOutcome) -> usize {
    outcome.borrowed().encoded_len()
}

/// Writes a `GetOutcomes` message outcome by outcome, straight into the output.
#[derive(Debug)]
pub struct GetOutcomesWriter<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
    request: u32,
    count: usize,
}

impl<'a> GetOutcomesWriter<'a> {
    /// Begins a message behind what `out` holds.
    pub fn new(out: &'a mut Vec<u8>, request: u32) -> Self {
        let start = begin(out, 4);
        out.u32(0);
        GetOutcomesWriter { out, start, request, count: 0 }
    }

    /// Appends an outcome. False: the message is full, and the outcome belongs into the next one.
    ///
    /// # Panics
    /// If the descriptor is longer than any block's, or the item's number is over the ceiling: those are bugs of the caller.
    pub fn push(&mut self, item: u32, outcome: GetOutcomeRef<'_>) -> bool {
        let body = self.out.len() - self.start - HEADER_BYTES;
        if self.count == KEYS_PER_MESSAGE_MAX || body + outcome.encoded_len() > MESSAGE_BYTES_MAX {
            return false;
        }
        let written = write(self.out, item, &outcome);
        assert!(written.is_ok(), "an outcome that no get has: {written:?}");
        self.count += 1;
        true
    }

    /// Outcomes so far.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Ends the message. Without any outcome, takes it back.
    pub fn finish(self) {
        if self.count == 0 {
            self.out.truncate(self.start);
            return;
        }
        let at = self.start + HEADER_BYTES;
        self.out[at..at + 4].copy_from_slice(&(self.count as u32).to_le_bytes());
        let sealed = seal(self.out, self.start, Kind::GetOutcomes, self.request);
        debug_assert!(sealed.is_ok(), "push keeps the ceiling");
    }
}

/// The outcomes of a `GetOutcomes` message, in place. All are known to be well-formed.
#[derive(Debug, Clone)]
pub struct GetOutcomesView<'a> {
    request: u32,
    rest: Reader<'a>,
    left: usize,
}

impl GetOutcomesView<'_> {
    /// Number of the request.
    pub fn request(&self) -> u32 {
        self.request
    }
}

impl<'a> Iterator for GetOutcomesView<'a> {
    type Item = (u32, GetOutcomeRef<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        read(&mut self.rest).ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for GetOutcomesView<'_> {}

/// Checks a `GetOutcomes` body and gives its outcomes in place. Accepts exactly what [`crate::decode_body`] accepts.
pub fn get_outcomes_view<'a>(header: &FrameHeader, body: &'a [u8]) -> Result<GetOutcomesView<'a>, WireError> {
    header.check_body(body)?;
    if header.kind != Kind::GetOutcomes {
        return Err(WireError::Malformed("not outcomes of a get"));
    }
    let mut rest = Reader::new(body);
    let left = rest.count("outcomes in a message", KEYS_PER_MESSAGE_MAX, HEAD_BYTES)?;
    let view = GetOutcomesView { request: header.request, rest, left };
    for _ in 0..left {
        read(&mut rest)?;
    }
    rest.finish()?;
    Ok(view)
}

#[inline]
pub(crate) fn write(out: &mut Vec<u8>, item: u32, outcome: &GetOutcomeRef<'_>) -> Result<(), EncodeError> {
    within("as an item's number", item as usize, KEYS_PER_MESSAGE_MAX - 1)?;
    let head = |tag, a, b| {
        let i = item.to_le_bytes();
        [i[0], i[1], i[2], i[3], tag, a, b, 0]
    };
    match *outcome {
        GetOutcomeRef::Hit { tier, landing, offset, length, descriptor, trailer_offset } => {
            within("bytes in a descriptor", descriptor.len(), Descriptor::ENCODED_LEN_MAX)?;
            let mut fixed = [0; HEAD_BYTES + HIT_BYTES + 2];
            fixed[..8].copy_from_slice(&head(HIT, tier.code(), landing.code()));
            fixed[8..16].copy_from_slice(&offset.to_le_bytes());
            fixed[16..24].copy_from_slice(&length.to_le_bytes());
            fixed[24..32].copy_from_slice(&trailer_offset.to_le_bytes());
            fixed[32..].copy_from_slice(&(descriptor.len() as u16).to_le_bytes());
            out.bytes(&fixed);
            out.bytes(descriptor);
        }
        GetOutcomeRef::Miss(reason) => out.bytes(&head(MISS, reason.code(), 0)),
        GetOutcomeRef::TooSmall { need } => {
            out.bytes(&head(TOO_SMALL, 0, 0));
            out.u64(need);
        }
    }
    Ok(())
}

#[inline(always)]
pub(crate) fn read<'a>(body: &mut Reader<'a>) -> Result<(u32, GetOutcomeRef<'a>), WireError> {
    let head = body.array::<HEAD_BYTES>()?;
    let item = u32_at(head, 0);
    if item as usize >= KEYS_PER_MESSAGE_MAX {
        let max = KEYS_PER_MESSAGE_MAX as u64 - 1;
        return Err(WireError::Limit { what: "as an item's number", have: u64::from(item), max });
    }
    let outcome = match [head[4], head[5], head[6], head[7]] {
        [HIT, tier, landing, 0] => {
            let fixed = body.array::<HIT_BYTES>()?;
            GetOutcomeRef::Hit {
                tier: Tier::from_code(tier).ok_or(WireError::Malformed("an unknown tier"))?,
                landing: LandingKind::from_code(landing).ok_or(WireError::Malformed("an unknown landing"))?,
                offset: u64_at(fixed, 0),
                length: u64_at(fixed, 8),
                trailer_offset: u64_at(fixed, 16),
                descriptor: body.short_bytes("bytes in a descriptor", Descriptor::ENCODED_LEN_MAX)?,
            }
        }
        [MISS, reason, 0, 0] => {
            GetOutcomeRef::Miss(MissReason::from_code(reason).ok_or(WireError::Malformed("an unknown miss"))?)
        }
        [TOO_SMALL, 0, 0, 0] => GetOutcomeRef::TooSmall { need: body.u64()? },
        _ => return Err(WireError::Malformed("an unknown outcome of a get")),
    };
    Ok((item, outcome))
}
