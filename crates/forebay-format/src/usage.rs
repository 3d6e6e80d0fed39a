//! The usage log: a header, then entries one behind the other, each with a number and a checksum. Drawn to the byte in `docs/usage-log.md`.

use forebay_types::limits::{NAMESPACE_NAME_BYTES_MAX, NAMESPACES_MAX};
use forebay_types::{NamespaceId, Tenant, USAGE_COUNTS, Usage, UsageRow, crc64};

use crate::FormatError;
use crate::bytes::{put, put_u32, put_u64, u32_at, u64_at};

/// Version of the usage log's format.
pub const USAGE_VERSION: u32 = 1;
/// Bytes of its header.
pub const USAGE_HEADER_BYTES: usize = 64;
/// Most rows of an entry: one for each namespace of a node.
pub const USAGE_ROWS_MAX: usize = NAMESPACES_MAX;

const WHAT: &str = "usage log";
const MAGIC: &[u8; 8] = b"FBUSAGE\0";
const HEADER_CRC_AT: usize = USAGE_HEADER_BYTES - 8;
const ENTRY_MAGIC: &[u8; 4] = b"FBUE";
const ENTRY_HEAD_BYTES: usize = 24;
const CRC_BYTES: usize = 8;
const COUNTS: usize = USAGE_COUNTS.len();
const COUNTS_AT: usize = 24;
const NAME_AT: usize = COUNTS_AT + COUNTS * 8;
const ROW_BYTES_MAX: usize = (NAME_AT + 1 + NAMESPACE_NAME_BYTES_MAX).next_multiple_of(8);
const ENTRY_BYTES_MAX: usize = ENTRY_HEAD_BYTES + USAGE_ROWS_MAX * ROW_BYTES_MAX + CRC_BYTES;

/// What a usage log holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UsageLog {
    /// Rows of all whole entries, in their order.
    pub rows: Vec<UsageRow>,
    /// Number of the entry to be written next.
    pub next_sequence: u64,
    /// Bytes up to the last whole entry's end. What lies behind was being written when the writer ended.
    pub whole_bytes: usize,
    /// Entries that were there once and cannot be read, in this file and in those it was made from.
    pub lost_entries: u64,
    /// Some of them are lost in this file: it has bad bytes in front of good ones.
    pub is_damaged: bool,
}

/// Encodes a header.
pub fn encode_usage_header(first_sequence: u64, lost_entries: u64) -> [u8; USAGE_HEADER_BYTES] {
    let mut out = [0; USAGE_HEADER_BYTES];
    put(&mut out, 0, MAGIC);
    put_u32(&mut out, 8, USAGE_VERSION);
    put_u32(&mut out, 12, COUNTS as u32);
    put_u64(&mut out, 16, first_sequence);
    put_u64(&mut out, 24, lost_entries);
    let crc = crc64(&out[..HEADER_CRC_AT]);
    put_u64(&mut out, HEADER_CRC_AT, crc);
    out
}

/// Appends an entry of at most [`USAGE_ROWS_MAX`] rows.
pub fn encode_usage_entry(sequence: u64, rows: &[UsageRow], out: &mut Vec<u8>) {
    assert!(rows.len() <= USAGE_ROWS_MAX);
    let start = out.len();
    out.extend_from_slice(ENTRY_MAGIC);
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&sequence.to_le_bytes());
    out.extend_from_slice(&(rows.len() as u32).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    for row in rows {
        encode_row(row, out);
    }
    let length = out.len() - start + CRC_BYTES;
    put_u32(&mut out[start..], 4, length as u32);
    let crc = crc64(&out[start..]);
    out.extend_from_slice(&crc.to_le_bytes());
}

fn encode_row(row: &UsageRow, out: &mut Vec<u8>) {
    let begin = out.len();
    out.extend_from_slice(&row.from_utc_s.to_le_bytes());
    out.extend_from_slice(&row.until_utc_s.to_le_bytes());
    out.extend_from_slice(&row.tenant.0.to_le_bytes());
    out.extend_from_slice(&row.namespace.0.to_le_bytes());
    for count in row.usage.counts() {
        out.extend_from_slice(&count.to_le_bytes());
    }
    let name = &row.name.as_bytes()[..row.name.len().min(NAMESPACE_NAME_BYTES_MAX)];
    out.push(name.len() as u8);
    out.extend_from_slice(name);
    out.resize(begin + (out.len() - begin).next_multiple_of(8), 0);
}

/// Reads a log: all that is whole, wherever it was cut or damaged. An error only where it is not a usage log of this build.
pub fn decode_usage_log(bytes: &[u8]) -> Result<UsageLog, FormatError> {
    let mut log = decode_header(bytes)?;
    log.whole_bytes = USAGE_HEADER_BYTES;
    let mut at = USAGE_HEADER_BYTES;
    while at < bytes.len() {
        let (from, entry) = match decode_entry(&bytes[at..]) {
            Some(entry) => (at, entry),
            None => match next_entry(bytes, at + 1) {
                Some(found) => found,
                None => break,
            },
        };
        // Entries may only be left out where bytes are bad: what repeats an earlier one was never written by us.
        let lost = entry
            .sequence
            .checked_sub(log.next_sequence)
            .ok_or(FormatError::Malformed { what: WHAT, why: "an entry has the number of an earlier one" })?;
        log.lost_entries = log.lost_entries.saturating_add(lost);
        log.is_damaged |= lost > 0 || from != at;
        log.next_sequence = entry.sequence + 1;
        log.rows.extend(entry.rows);
        at = from + entry.bytes;
        log.whole_bytes = at;
    }
    Ok(log)
}

fn decode_header(bytes: &[u8]) -> Result<UsageLog, FormatError> {
    // A short one that does not begin as ours is somebody else's, not cut short.
    if !bytes.starts_with(&MAGIC[..bytes.len().min(MAGIC.len())]) {
        return Err(FormatError::NotForebay(WHAT));
    }
    let header = bytes.get(..USAGE_HEADER_BYTES).ok_or(FormatError::Short(WHAT))?;
    if crc64(&header[..HEADER_CRC_AT]) != u64_at(header, HEADER_CRC_AT) {
        return Err(FormatError::Checksum(WHAT));
    }
    let found = u32_at(header, 8);
    if found > USAGE_VERSION {
        return Err(FormatError::NewerVersion { what: WHAT, found, known: USAGE_VERSION });
    }
    if u32_at(header, 12) as usize != COUNTS {
        return Err(FormatError::Malformed { what: WHAT, why: "its version has another number of counts" });
    }
    Ok(UsageLog { next_sequence: u64_at(header, 16), lost_entries: u64_at(header, 24), ..UsageLog::default() })
}

/// The first whole entry from there on.
fn next_entry(bytes: &[u8], from: usize) -> Option<(usize, Entry)> {
    let places = bytes[from..].windows(ENTRY_MAGIC.len()).enumerate();
    let mut places = places.filter(|(_, window)| *window == ENTRY_MAGIC).map(|(at, _)| from + at);
    places.find_map(|at| Some((at, decode_entry(&bytes[at..])?)))
}

struct Entry {
    sequence: u64,
    rows: Vec<UsageRow>,
    bytes: usize,
}

/// The entry that begins with these bytes, if it is whole.
fn decode_entry(bytes: &[u8]) -> Option<Entry> {
    if bytes.len() < ENTRY_HEAD_BYTES + CRC_BYTES || bytes[..4] != *ENTRY_MAGIC {
        return None;
    }
    let length = u32_at(bytes, 4) as usize;
    if !(ENTRY_HEAD_BYTES + CRC_BYTES..=ENTRY_BYTES_MAX).contains(&length) {
        return None;
    }
    let body = bytes.get(..length - CRC_BYTES)?;
    if crc64(body) != u64_at(bytes.get(..length)?, length - CRC_BYTES) {
        return None;
    }
    let (sequence, count) = (u64_at(body, 8), u32_at(body, 16) as usize);
    if count > USAGE_ROWS_MAX || sequence == u64::MAX {
        return None;
    }
    let mut left = &body[ENTRY_HEAD_BYTES..];
    let rows = (0..count).map(|_| decode_row(&mut left)).collect::<Option<Vec<_>>>()?;
    left.is_empty().then_some(Entry { sequence, rows, bytes: length })
}

fn decode_row(left: &mut &[u8]) -> Option<UsageRow> {
    let name_len = usize::from(*left.get(NAME_AT)?);
    let length = (NAME_AT + 1 + name_len).next_multiple_of(8);
    if name_len > NAMESPACE_NAME_BYTES_MAX || left.len() < length {
        return None;
    }
    let (row, rest) = left.split_at(length);
    *left = rest;
    Some(UsageRow {
        from_utc_s: u64_at(row, 0),
        until_utc_s: u64_at(row, 8),
        tenant: Tenant(u32_at(row, 16)),
        namespace: NamespaceId(u32_at(row, 20)),
        name: std::str::from_utf8(&row[NAME_AT + 1..NAME_AT + 1 + name_len]).ok()?.to_owned(),
        usage: Usage::of_counts(std::array::from_fn(|count| u64_at(row, COUNTS_AT + 8 * count))),
    })
}
