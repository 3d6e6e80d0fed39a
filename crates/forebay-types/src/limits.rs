//! Every ceiling that more than one room must agree on, written once, with its reason.

/// A piece: the unit of checksums and of range reads, in bytes. 64 KiB keeps sums at 1/8192 of the payload and lets a
/// range read verify what it fetched without fetching the block.
pub const PIECE_BYTES: usize = 64 * 1024;

/// One step of copying or checking on a shard's thread, in bytes: about 20 us at memory speed, so that no turn of the
/// loop exceeds 100 us.
pub const STEP_BYTES: usize = 256 * 1024;

/// Largest payload of one DATA frame, in bytes: lets small answers pass between the frames of large ones.
pub const DATA_FRAME_BYTES_MAX: usize = 256 * 1024;

/// Largest block, in bytes, whatever the segment. A shard's own limit is a quarter of its segment if that is smaller.
pub const BLOCK_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Smallest segment, in bytes.
pub const SEGMENT_BYTES_MIN: u64 = 4 * 1024 * 1024;
/// Largest segment, in bytes: a quarter of it is the largest block.
pub const SEGMENT_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Fewest segments of a shard: with fewer, evicting one loses too much at once and two spares cost too much.
pub const SEGMENTS_MIN: u64 = 16;
/// Most segments of a shard: segment numbers are 16 bits in the index, and one value is kept apart.
pub const SEGMENTS_MAX: u64 = 65_535;

/// Most parts of one block: a layer group has a handful; 64 leaves room without letting a table outgrow its block.
pub const PARTS_MAX: usize = 64;
/// Bytes of a part's name.
pub const PART_NAME_BYTES: usize = 16;

/// Most keys in one message: 4,096 keys of 64-token blocks are a prompt of 262,144 tokens; more go in a next message.
pub const KEYS_PER_MESSAGE_MAX: usize = 4096;
/// Largest message body that is not DATA, in bytes: a put of `KEYS_PER_MESSAGE_MAX` small descriptors fits.
pub const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Most namespaces in one catalogue: their table must fit its place on a drive.
pub const NAMESPACES_MAX: usize = 4096;
/// Longest name of a namespace, in bytes.
pub const NAMESPACE_NAME_BYTES_MAX: usize = 64;
/// Longest value of a fingerprint field, in bytes: a path-like model id or a hex digest.
pub const FINGERPRINT_VALUE_BYTES_MAX: usize = 256;

/// Lease granted by `match_prefix` unless asked otherwise, in milliseconds.
pub const LEASE_MS_DEFAULT: u64 = 2_000;
/// Longest lease, in milliseconds: nothing can hold eviction up for ever.
pub const LEASE_MS_MAX: u64 = 30_000;

/// Deadline of a call unless asked otherwise, in microseconds. Long enough for a 64 MiB block from a slow drive.
pub const DEADLINE_US_DEFAULT: u64 = 5_000_000;
/// Longest deadline, in microseconds.
pub const DEADLINE_US_MAX: u64 = 60_000_000;

/// Bytes a client lets a node have unsent towards it on one connection.
pub const CREDIT_BYTES_DEFAULT: u64 = 32 * 1024 * 1024;

/// Room a landing needs behind a block's payload for padding and its trailer, in bytes, at a drive alignment of 4 KiB
/// and up to 1 MiB of payload. Longer blocks need more: see [`crate::Descriptor::landing_room`].
pub const LANDING_ROOM_BYTES: usize = 8 * 1024;
