//! One block on its way: its sums, and where it stands.

use forebay_io::Slice;
use forebay_types::{BlockMeta, Descriptor, NamespaceId, PieceSums, Version, pieces_of};

use super::block::{PutBlock, PutBytes};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Waiting,
    /// The node reads it from its slice.
    InRegion,
    /// The node says when its bytes may come.
    Announced,
    /// Its bytes are on their way.
    Going,
    Done,
}

/// A block on its way.
pub(crate) struct PutItemState<'b> {
    pub(crate) index: u32,
    pub(super) meta: BlockMeta,
    pub(super) bytes: PutBytes<'b>,
    /// Length at the start; the bytes may be gone when the outcome comes.
    pub(super) length: usize,
    /// The descriptor's encoding, once its sums are computed.
    pub(super) descriptor: Vec<u8>,
    pub(super) request: u32,
    pub(super) state: State,
}

impl<'b> PutItemState<'b> {
    pub(crate) fn new(index: u32, block: PutBlock<'b>, namespace: NamespaceId, version: Version) -> Self {
        let PutBlock { bytes, mut meta } = block;
        let length = bytes.len();
        meta.namespace = namespace;
        meta.version = version;
        PutItemState { index, meta, bytes, length, descriptor: Vec::new(), request: 0, state: State::Waiting }
    }

    pub(crate) fn place(&self) -> u64 {
        self.meta.place
    }

    /// Computes the sums, over a copy in `to` if there is one.
    pub(super) fn describe(&mut self, to: Option<&mut Slice>) {
        let binding = self.meta.binding();
        let sums = match to {
            None => {
                // They go through a socket, in one run.
                self.bytes.gather();
                PieceSums::of(&binding, self.bytes.as_slice())
            }
            // The sums are of what the node will read.
            Some(to) => {
                let mut sums = Vec::with_capacity(pieces_of(self.length as u64));
                self.bytes.copy_to(to, |index, piece| sums.push(binding.sum(index, piece)));
                PieceSums(sums)
            }
        };
        Descriptor { meta: self.meta.clone(), sums }.encode(&mut self.descriptor);
    }
}
