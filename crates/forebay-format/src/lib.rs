//! Disk bytes to values and back. Drawn to the byte in `docs/disk-format.md`; the two change together, with the golden files.
//!
//! The room knows where each thing lies on a drive and what its bytes mean. It opens no file, decides nothing, and takes every byte it reads for
//! hostile: decoding ends in a value that can be relied on or in a [`FormatError`]. What is done per block (trailers, footer entries) does not allocate.

mod bytes;
mod error;
mod footer;
pub mod fuzz;
pub mod layout;
mod namespaces;
mod segment;
mod stamp;
mod superblock;
mod tombstone;
mod trailer;
mod usage;

pub use error::{FormatError, LayoutError};
pub use footer::{
    EntryKind, FOOTER_ENTRY_BYTES, FOOTER_TAIL_BYTES, FooterCheck, FooterEncoder, FooterEntries, FooterEntry,
    FooterTail, encode_footer, footer_bytes, footer_entries_bytes,
};
pub use layout::{DriveLayout, SliceLayout, slice_bytes_min};
pub use namespaces::{ClockMark, NAMESPACE_TABLE_BYTES_MAX, NamespaceRow, NamespaceTable, WriteMark};
pub use segment::{SEGMENT_HEADER_BYTES, SegmentHeader, SegmentKind};
pub use superblock::{DriveSuperblock, Features, SUPERBLOCK_BYTES, SliceSuperblock, VERSION};
pub use tombstone::{
    TOMBSTONE_BYTES, TOMBSTONES_MAX, Tombstone, Tombstones, decode_tombstones, encode_tombstones, tombstones_len,
};
pub use trailer::{
    RecordKind, TRAILER_BODY_BYTES_MAX, TRAILER_HEADER_BYTES, Trailer, TrailerView, decode_trailer, encode_trailer,
    restamp, trailer_len,
};
pub use usage::{
    USAGE_HEADER_BYTES, USAGE_ROWS_MAX, USAGE_VERSION, UsageLog, decode_usage_log, encode_usage_entry,
    encode_usage_header,
};
