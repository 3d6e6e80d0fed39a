//! How large blocks, drive and memory are made, so that a replay fits the machine and nothing is evicted.

use forebay_types::limits::{BLOCK_BYTES_MAX, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN};
use forebay_types::{Descriptor, format_size};

const ALIGN: u64 = 4096;
/// Drive a run takes unless told otherwise: small enough for a laptop.
const DRIVE_BYTES_MOST: u64 = 8 << 30;
/// Bytes a run fetches unless told otherwise, for generated sessions (a first impression) and for a trace (a proof).
const GENERATED_TRAFFIC_BYTES: u64 = 12 << 30;
const TRACE_TRAFFIC_BYTES: u64 = 80 << 30;
/// The same for generated sessions with the real KV of a model: fewer requests, larger blocks.
const MODEL_TRAFFIC_BYTES: u64 = 24 << 30;
/// Blocks below this are smaller than a drive's page and save nothing.
const BLOCK_BYTES_LEAST: u64 = 4096;
const MEMORY_LEAST: u64 = 64 << 20;
const MEMORY_MOST: u64 = 4 << 30;

/// What is to be replayed and what there is to do it with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Need {
    /// Distinct blocks.
    pub(crate) distinct: u64,
    /// Block references.
    pub(crate) references: u64,
    /// Tokens of a block.
    pub(crate) block_tokens: u64,
    /// KV bytes a token, if asked for.
    pub(crate) bytes_per_token: Option<u64>,
    /// KV bytes a token that the model really has.
    pub(crate) model_bytes_per_token: u64,
    /// Whether a trace is replayed.
    pub(crate) trace: bool,
    /// Free bytes where the drive will lie.
    pub(crate) free_bytes: u64,
    /// Memory for the node, if asked for.
    pub(crate) memory: Option<u64>,
    /// Memory of the machine that is free.
    pub(crate) memory_free: u64,
}

/// Sizes of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sizes {
    /// KV bytes a token.
    pub(crate) bytes_per_token: u64,
    /// Bytes of a block.
    pub(crate) block_bytes: u64,
    /// `--capacity`.
    pub(crate) capacity: u64,
    /// `--segment`.
    pub(crate) segment: u64,
    /// `--memory`.
    pub(crate) memory: u64,
}

/// Chooses sizes, or says in one sentence why it cannot.
pub(crate) fn choose(need: &Need) -> Result<Sizes, String> {
    let bytes_per_token = match need.bytes_per_token {
        Some(bytes) => bytes,
        None => fitting_bytes_per_token(need),
    };
    let block_bytes = bytes_per_token * need.block_tokens;
    if block_bytes > BLOCK_BYTES_MAX {
        return Err(format!(
            "{bytes_per_token} bytes of KV a token make blocks of {}, and the largest block is {}; give a smaller --bytes-per-token",
            format_size(block_bytes),
            format_size(BLOCK_BYTES_MAX)
        ));
    }
    let (capacity, segment) = drive(need.distinct, block_bytes);
    let usable = need.free_bytes / 10 * 9;
    if capacity > usable {
        return Err(format!(
            "the drive of this run needs {} for {} blocks of {} and {} are free; give a smaller --bytes-per-token, fewer --requests, or a --dir \
             with more room",
            format_size(capacity),
            need.distinct,
            format_size(block_bytes),
            format_size(need.free_bytes)
        ));
    }
    let quarter = (need.distinct * record_bytes(block_bytes) / 4).next_multiple_of(1 << 20);
    let most = MEMORY_MOST.min(need.memory_free / 2).max(MEMORY_LEAST);
    let memory = need.memory.unwrap_or_else(|| quarter.max(block_bytes * 16).clamp(MEMORY_LEAST, most));
    Ok(Sizes { bytes_per_token, block_bytes, capacity, segment, memory })
}

impl Sizes {
    /// Whether a run of that many block references is what one expects who did not say how much to replay.
    pub(crate) fn is_modest(&self, references: u64) -> bool {
        self.capacity <= DRIVE_BYTES_MOST && references.saturating_mul(self.block_bytes) <= MODEL_TRAFFIC_BYTES
    }
}

/// The most KV a token that keeps drive and traffic in bounds: a power of two, and never more than the model's own.
fn fitting_bytes_per_token(need: &Need) -> u64 {
    let traffic = if need.trace { TRACE_TRAFFIC_BYTES } else { GENERATED_TRAFFIC_BYTES };
    let drive_most = DRIVE_BYTES_MOST.min(need.free_bytes / 2);
    let fits = |bytes: u64| {
        let block = bytes * need.block_tokens;
        let moved = need.references.saturating_mul(block);
        block <= BLOCK_BYTES_MAX
            && moved <= traffic
            && drive(need.distinct, block).0 <= drive_most
            && bytes <= need.model_bytes_per_token
    };
    let least = (BLOCK_BYTES_LEAST / need.block_tokens).max(1);
    (0..32).map(|shift| least << shift).take_while(|bytes| fits(*bytes)).last().unwrap_or(least)
}

/// Bytes of a record on the drive.
fn record_bytes(block_bytes: u64) -> u64 {
    // 64 bytes are ample for the fixed part of a trailer.
    let trailer = 64 + Descriptor::encoded_len(block_bytes, 0) as u64;
    block_bytes.next_multiple_of(ALIGN) + trailer.next_multiple_of(ALIGN)
}

/// Capacity and segment of a drive on which nothing of `distinct` blocks is evicted.
fn drive(distinct: u64, block_bytes: u64) -> (u64, u64) {
    let record = record_bytes(block_bytes);
    let blocks = distinct.saturating_mul(record);
    let segment = (blocks / 256).next_power_of_two().max((4 * record).next_power_of_two());
    let segment = segment.clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX);
    // What a segment cannot use: its header, footer and the end that is too short for a record. Then spares, the cleaner's reserve, open
    // segments, and what is put in the moment of the kill.
    let per_segment = ((segment - segment / 16) / record).max(1);
    let segments = distinct.div_ceil(per_segment);
    let segments = segments + segments / 8 + 24;
    ((segments * segment).next_multiple_of(1 << 20) + (64 << 20), segment)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn need() -> Need {
        Need {
            distinct: 25_000,
            references: 1_000_000,
            block_tokens: 64,
            bytes_per_token: None,
            model_bytes_per_token: 131_072,
            trace: false,
            free_bytes: 80 << 30,
            memory: None,
            memory_free: 16 << 30,
        }
    }

    #[test]
    fn a_first_run_moves_gigabytes_and_stays_small_on_the_drive() {
        let sizes = choose(&need()).unwrap();
        let moved = 1_000_000 * sizes.block_bytes;
        assert!((4 << 30..=12 << 30).contains(&moved), "{moved}");
        assert!(sizes.capacity < 2 << 30, "{}", sizes.capacity);
        assert!(sizes.memory >= MEMORY_LEAST);
    }

    #[test]
    fn a_long_trace_gets_the_smallest_blocks_and_room_for_all_of_them() {
        let long = Need { distinct: 639_462, references: 16_885_000, trace: true, ..need() };
        let sizes = choose(&long).unwrap();
        assert_eq!(sizes.block_bytes, 4096);
        assert!(sizes.capacity > 639_462 * 8192 && sizes.capacity < 10 << 30, "{}", sizes.capacity);
    }

    #[test]
    fn what_was_asked_for_is_kept_and_what_does_not_fit_is_said_in_one_sentence() {
        let exact = choose(&Need { bytes_per_token: Some(100), ..need() }).unwrap();
        assert_eq!((exact.bytes_per_token, exact.block_bytes), (100, 6400));
        let real = Need { bytes_per_token: Some(131_072), ..need() };
        let why = choose(&real).unwrap_err();
        assert!(why.contains("--bytes-per-token") && !why.contains('\n'), "{why}");
        assert!(choose(&Need { bytes_per_token: Some(4 << 20), ..need() }).unwrap_err().contains("largest block"));
        assert!(choose(&Need { free_bytes: 100 << 20, ..need() }).unwrap_err().contains("are free"));
    }

    #[test]
    fn the_largest_block_is_a_quarter_of_a_segment_or_less() {
        for bytes in [64, 131_072, 327_680, 516_096] {
            let sizes =
                choose(&Need { distinct: 100, bytes_per_token: Some(bytes), free_bytes: 1 << 40, ..need() }).unwrap();
            assert!(sizes.segment / 4 >= sizes.block_bytes && sizes.capacity / sizes.segment >= 16);
        }
    }
}
