//! Why bytes are not what they should be, and why a drive cannot be laid out.

use forebay_types::format_size;

/// Why bytes from a drive are not what was looked for. Never a bug: drives return anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// All zeros: nothing was ever written here.
    #[error("there is no {0} of Forebay here, only zeros")]
    Blank(&'static str),
    /// Something that does not begin as it should.
    #[error("there is no {0} of Forebay here; these bytes belong to something else")]
    NotForebay(&'static str),
    /// Written by a newer build.
    #[error(
        "the {what} has format version {found} and this build reads up to {known}; start the newer build that wrote it"
    )]
    NewerVersion {
        /// Of what.
        what: &'static str,
        /// Version found.
        found: u32,
        /// Newest version known.
        known: u32,
    },
    /// Feature bits without which it cannot be read.
    #[error("the {what} needs features {bits:#x} that this build does not have; start the newer build that wrote it")]
    UnknownFeatures {
        /// Of what.
        what: &'static str,
        /// The unknown bits.
        bits: u64,
    },
    /// A checksum differs.
    #[error("the {0} does not match its checksum")]
    Checksum(&'static str),
    /// Fewer bytes than it needs.
    #[error("the {0} is cut short")]
    Short(&'static str),
    /// Whole by its checksum, yet its fields contradict each other or their bounds.
    #[error("the {what} is malformed: {why}")]
    Malformed {
        /// What.
        what: &'static str,
        /// In which way.
        why: &'static str,
    },
    /// More than its place on the drive holds.
    #[error("the {what} has {found} bytes and its place holds {most}")]
    TooLarge {
        /// What.
        what: &'static str,
        /// Bytes it has.
        found: usize,
        /// Bytes there is room for.
        most: usize,
    },
}

impl FormatError {
    /// True when nothing of Forebay was found, rather than something damaged or newer: the place may be formatted without losing anything of ours.
    pub fn is_foreign(&self) -> bool {
        matches!(self, FormatError::Blank(_) | FormatError::NotForebay(_))
    }
}

/// Why a drive or slice of this size cannot be laid out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// Fewer than 16 segments.
    #[error(
        "a shard with segments of {} needs at least {} of drive, and {} is too small; give a larger --capacity, fewer --shards or a smaller --segment",
        format_size(*.segment_bytes), format_size(*.need), format_size(*.found)
    )]
    TooSmall {
        /// Bytes found.
        found: u64,
        /// Bytes at least.
        need: u64,
        /// With segments of this size.
        segment_bytes: u64,
    },
    /// More than 65,535 segments.
    #[error(
        "a shard has at most 65,535 segments, and {} in segments of {} are more; give more --shards or a larger --segment",
        format_size(*.found), format_size(*.segment_bytes)
    )]
    TooLarge {
        /// Bytes found.
        found: u64,
        /// With segments of this size.
        segment_bytes: u64,
    },
    /// Not a power of two between 4 and 256 MiB.
    #[error("a segment is a power of two between 4 MiB and 256 MiB, and {0} bytes are not")]
    SegmentBytes(u64),
    /// An alignment that no drive asks for.
    #[error(
        "direct I/O is aligned to a power of two between 512 and 4096 bytes, and {0} is not; this drive cannot be used"
    )]
    Align(usize),
    /// A drive has 1 to 1024 slices.
    #[error("a drive is cut in 1 to 1024 shards, and {0} is not among them")]
    Slices(u32),
}
