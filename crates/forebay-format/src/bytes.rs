//! Little-endian fields at fixed places. Callers have checked the length before they read or write: every structure has one fixed size.

use forebay_types::crc64;

pub(crate) fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    std::array::from_fn(|i| bytes[at + i])
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array_at(bytes, at))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}

pub(crate) fn put(out: &mut [u8], at: usize, field: &[u8]) {
    out[at..at + field.len()].copy_from_slice(field);
}

pub(crate) fn put_u32(out: &mut [u8], at: usize, value: u32) {
    put(out, at, &value.to_le_bytes());
}

pub(crate) fn put_u64(out: &mut [u8], at: usize, value: u64) {
    put(out, at, &value.to_le_bytes());
}

/// Bytes of a page that seals itself with a checksum in its last eight bytes: superblocks, segment headers, footer tails.
pub(crate) const PAGE_BYTES: usize = 4096;
const PAGE_CRC_AT: usize = PAGE_BYTES - 8;

/// Writes the checksum of everything before it.
pub(crate) fn seal_page(page: &mut [u8; PAGE_BYTES]) {
    let crc = crc64(&page[..PAGE_CRC_AT]);
    put_u64(page, PAGE_CRC_AT, crc);
}

/// What is wrong with a page that should begin with `magic` and match its checksum.
pub(crate) fn check_page(page: &[u8], magic: &[u8; 8], what: &'static str) -> Result<(), crate::FormatError> {
    use crate::FormatError::{Blank, Checksum, NotForebay, Short};
    let Some(page) = page.get(..PAGE_BYTES) else {
        return Err(Short(what));
    };
    if page[..8] != *magic {
        return Err(if page.iter().all(|b| *b == 0) { Blank(what) } else { NotForebay(what) });
    }
    if crc64(&page[..PAGE_CRC_AT]) != u64_at(page, PAGE_CRC_AT) {
        return Err(Checksum(what));
    }
    Ok(())
}
