//! Failures by plan.

use std::ops::Range;

use crate::DiskError;
#[cfg(doc)]
use crate::DiskOp;

/// A kind of operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpKind {
    /// [`DiskOp::Read`].
    Read,
    /// [`DiskOp::Write`].
    Write,
    /// [`DiskOp::Flush`].
    Flush,
}

/// A planned failure.
#[derive(Debug, Clone)]
pub struct Fault {
    /// Operations it is about.
    pub on: OpKind,
    /// Only those that touch these bytes; everything when absent. Means nothing for flushes.
    pub range: Option<Range<u64>>,
    /// Matching operations to let pass first.
    pub after: u64,
    /// Matching operations to fail then; `u64::MAX` for ever.
    pub times: u64,
    /// What they are told.
    pub error: DiskError,
    /// What of a write reaches the drive all the same.
    pub reaches: Reaches,
}

/// What of a write that fails reaches the drive: its owner cannot know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaches {
    /// Any mix of its sectors, by chance.
    Any,
    /// Nothing.
    Nothing,
    /// All of it.
    All,
}

impl Fault {
    /// The next operation of this kind fails with EIO.
    pub fn next(on: OpKind) -> Self {
        Fault { on, range: None, after: 0, times: 1, error: DiskError::Os(super::EIO), reaches: Reaches::Any }
    }

    /// A bad spot: every operation of this kind on these bytes fails with EIO.
    pub fn bad_spot(on: OpKind, range: Range<u64>) -> Self {
        Fault { range: Some(range), times: u64::MAX, ..Fault::next(on) }
    }

    /// The same, with this much of a write reaching the drive.
    #[must_use]
    pub fn reaching(self, reaches: Reaches) -> Self {
        Fault { reaches, ..self }
    }
}
