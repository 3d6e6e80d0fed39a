//! Blocks before they are put.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use forebay_io::Slice;
use forebay_types::limits::PIECE_BYTES;
use forebay_types::{BlockMeta, Key, NamespaceId, Part, PartName, Version};

use crate::ClientError;

/// A block to put, with whatever is known about it beside its bytes.
#[derive(Debug)]
pub struct PutBlock<'a> {
    pub(crate) bytes: PutBytes<'a>,
    pub(super) meta: BlockMeta,
}

/// A block's bytes before they are put.
#[derive(Debug)]
pub enum PutBytes<'a> {
    /// The caller's memory: copied once on a Unix socket, sent from where it is on TCP.
    Memory(Cow<'a, [u8]>),
    /// A slice from [`crate::Client::alloc`]: not copied at all on a Unix socket.
    Slice(Slice),
    /// A range of such a slice, which others keep and put from as well. It must not change until the call returns: a block whose bytes do not match
    /// the sums that were made of them is refused.
    Shared(Arc<Slice>, Range<usize>),
    /// Places of the caller's memory, one behind the other: copied once, wherever they go.
    Scattered(Vec<&'a [u8]>),
}

impl<'a> From<&'a [u8]> for PutBytes<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        PutBytes::Memory(Cow::Borrowed(bytes))
    }
}

impl From<Vec<u8>> for PutBytes<'_> {
    fn from(bytes: Vec<u8>) -> Self {
        PutBytes::Memory(Cow::Owned(bytes))
    }
}

impl From<Slice> for PutBytes<'_> {
    fn from(slice: Slice) -> Self {
        PutBytes::Slice(slice)
    }
}

impl PutBytes<'_> {
    /// In one run. Nothing of what is scattered: see [`Self::gather`].
    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            PutBytes::Memory(bytes) => bytes,
            PutBytes::Slice(slice) => slice,
            PutBytes::Shared(slice, range) => slice.get(range.clone()).unwrap_or_default(),
            PutBytes::Scattered(places) => match places.as_slice() {
                [place] => place,
                _ => &[],
            },
        }
    }

    /// Bytes.
    pub(crate) fn len(&self) -> usize {
        match self {
            PutBytes::Scattered(places) => places.iter().map(|place| place.len()).sum(),
            _ => self.as_slice().len(),
        }
    }

    /// Makes one run of them, if they are not.
    pub(crate) fn gather(&mut self) {
        if let PutBytes::Scattered(places) = self {
            *self = PutBytes::from(places.concat());
        }
    }

    /// Copies them to `to`, which is as long as they are, and shows each piece there right after it was copied, while it is near.
    pub(crate) fn copy_to(&self, to: &mut [u8], mut copied: impl FnMut(usize, &[u8])) {
        let whole = [self.as_slice()];
        let mut places = match self {
            PutBytes::Scattered(places) => places.iter(),
            _ => whole.iter(),
        };
        let mut rest: &[u8] = &[];
        for (index, piece) in to.chunks_mut(PIECE_BYTES).enumerate() {
            let mut free = &mut *piece;
            while !free.is_empty() {
                if rest.is_empty() {
                    match places.next() {
                        Some(place) => rest = place,
                        None => return,
                    }
                }
                let (run, behind) = rest.split_at(rest.len().min(free.len()));
                let (to, still) = std::mem::take(&mut free).split_at_mut(run.len());
                to.copy_from_slice(run);
                (rest, free) = (behind, still);
            }
            copied(index, piece);
        }
    }

    /// The slice they lie in, and their first byte in it.
    pub(crate) fn in_region(&self) -> Option<(&Slice, usize)> {
        match self {
            PutBytes::Memory(_) | PutBytes::Scattered(_) => None,
            PutBytes::Slice(slice) => Some((slice, 0)),
            PutBytes::Shared(slice, range) => Some((slice, range.start)),
        }
    }
}

impl<'a> PutBlock<'a> {
    /// A block of these bytes.
    pub fn new(key: Key, bytes: impl Into<PutBytes<'a>>) -> Self {
        let bytes = bytes.into();
        let meta = BlockMeta::plain(NamespaceId(0), key, Version(0), bytes.len() as u64);
        PutBlock { bytes, meta }
    }

    /// Names ranges of the block. They are in order and do not overlap.
    pub fn parts(mut self, parts: &[(&str, Range<u64>)]) -> Result<Self, ClientError> {
        let named = parts.iter().map(|(name, range)| {
            let length = range.end.checked_sub(range.start);
            let invalid = || {
                ClientError::Invalid(format!(
                    "{name:?} is not a part: its name has 1 to 16 bytes, and its range does not end before it starts"
                ))
            };
            Ok(Part {
                name: PartName::new(name).ok_or_else(invalid)?,
                offset: range.start,
                length: length.ok_or_else(invalid)?,
            })
        });
        self.meta.parts = named.collect::<Result<_, ClientError>>()?;
        match self.meta.problem() {
            // Its length has an outcome of its own, `too_large`.
            Some(problem) if self.meta.length > 0 && !self.meta.parts.is_empty() => {
                Err(ClientError::Invalid(problem.into()))
            }
            _ => Ok(self),
        }
    }

    /// The chain it belongs to: 64 bits that name its root.
    #[must_use]
    pub fn chain(mut self, root: u64) -> Self {
        self.meta.chain = root;
        self
    }

    /// The key of the block before it, and how many blocks are before it.
    #[must_use]
    pub fn behind(mut self, parent: &Key, position: u32) -> Self {
        self.meta.parent = parent.place_token();
        self.meta.position = position;
        self
    }

    /// Tokens it holds.
    #[must_use]
    pub fn tokens(mut self, tokens: u32) -> Self {
        self.meta.tokens = tokens;
        self
    }

    /// Expires then, unless it says itself when.
    pub(crate) fn or_expires(mut self, utc_s: u64) -> Self {
        if self.meta.expiry_utc_s == 0 {
            self.meta.expiry_utc_s = utc_s;
        }
        self
    }

    /// When it expires, in seconds since 1970, UTC. 0: as the handle or the namespace says.
    #[must_use]
    pub fn expiry_utc_s(mut self, seconds: u64) -> Self {
        self.meta.expiry_utc_s = seconds;
        self
    }
}
