//! Reads and writes that go to the drive in parts.

use forebay_io::{DiskError, ReadInto, Shared};

/// A write that is queued or under way.
pub(crate) struct Write {
    pub(crate) token: u64,
    pub(crate) offset: u64,
    pub(crate) from: Shared,
    /// Bytes that the disk was handed.
    pub(crate) begun: usize,
    /// Parts in flight.
    pub(crate) parts: u32,
    /// The first error, once there is one.
    pub(crate) result: Result<(), DiskError>,
}

/// A read that is queued or under way.
pub(crate) struct Read {
    pub(crate) token: u64,
    pub(crate) offset: u64,
    /// What the disk was not handed yet.
    pub(crate) rest: Option<ReadInto>,
    /// Parts that the disk was handed, in their order, and what it gave back.
    pub(crate) parts: Vec<Option<ReadInto>>,
    pub(crate) in_flight: u32,
    pub(crate) result: Result<(), DiskError>,
}

impl Read {
    pub(crate) fn rest_bytes(&self) -> usize {
        self.rest.as_ref().map_or(0, ReadInto::len)
    }

    /// All its parts as one again.
    pub(crate) fn whole(self) -> Option<ReadInto> {
        let mut parts = self.parts.into_iter().flatten();
        let mut whole = parts.next()?;
        // They were cut from one, in this order.
        parts.try_for_each(|part| whole.join(part)).ok()?;
        Some(whole)
    }
}

/// An operation that the disk was handed.
pub(crate) struct Part {
    pub(crate) of: PartOf,
    pub(crate) bytes: u64,
}

#[derive(Clone, Copy)]
pub(crate) enum PartOf {
    Write(u64),
    /// And which of its parts.
    Read(u64, usize),
}
