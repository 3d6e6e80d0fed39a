//! The functions of `forebay_format::fuzz` on seeded mutations of good bytes. Half of the mutants get their checksums mended, so that what lies behind
//! a checksum is reached too: that is what a hostile writer would do.

mod samples;

use forebay_format::{FOOTER_TAIL_BYTES, FooterTail, TRAILER_HEADER_BYTES, fuzz};
use forebay_types::{Entropy, SeededEntropy, crc64};

const ROUNDS: usize = 4000;

fn put_crc(bytes: &mut [u8], at: usize, crc: u64) {
    if let Some(place) = bytes.get_mut(at..at + 8) {
        place.copy_from_slice(&crc.to_le_bytes());
    }
}

fn mend_page(bytes: &mut [u8]) {
    if bytes.len() >= 4096 {
        let crc = crc64(&bytes[..4088]);
        put_crc(bytes, 4088, crc);
    }
}

fn mend_names(bytes: &mut [u8]) {
    let Some(len) = bytes.get(20..24) else { return };
    let len = u32::from_le_bytes(std::array::from_fn(|i| len[i])) as usize;
    if (64..=bytes.len()).contains(&len) {
        put_crc(bytes, 56, 0);
        let crc = crc64(&bytes[..len]);
        put_crc(bytes, 56, crc);
    }
}

fn mend_trailer(bytes: &mut [u8]) {
    let Some(len) = bytes.get(28..32) else { return };
    let len = u32::from_le_bytes(std::array::from_fn(|i| len[i])) as usize;
    if let Some(body) = bytes.get(TRAILER_HEADER_BYTES..).and_then(|rest| rest.get(..len)) {
        let crc = crc64(body);
        put_crc(bytes, 40, crc);
    }
    if bytes.len() >= TRAILER_HEADER_BYTES {
        let crc = crc64(&bytes[..56]);
        put_crc(bytes, 56, crc);
    }
}

fn mend_footer(bytes: &mut [u8]) {
    let Some(at) = bytes.len().checked_sub(FOOTER_TAIL_BYTES) else { return };
    let count = u32::from_le_bytes(std::array::from_fn(|i| bytes[at + 24 + i])) as usize;
    if let Some(entries) = bytes.get(..count.saturating_mul(64)) {
        let crc = crc64(entries);
        put_crc(bytes, at + 32, crc);
    }
    mend_page(&mut bytes[at..]);
}

/// One to four changes: a bit, a byte, a word of an extreme value, a copied range, a cut, more bytes.
fn mutate(good: &[u8], chance: &SeededEntropy) -> Vec<u8> {
    let mut bytes = good.to_vec();
    let below = |bound: usize| (chance.word() % bound.max(1) as u64) as usize;
    for _ in 0..=below(4) {
        if bytes.is_empty() {
            break;
        }
        // Most of a page is padding: prefer its front.
        let at = if below(2) == 0 { below(bytes.len().min(128)) } else { below(bytes.len()) };
        match below(8) {
            0 | 1 => bytes[at] ^= 1 << below(8),
            2 | 3 => bytes[at] = chance.word() as u8,
            4 => {
                let extremes = [0, 1, u64::MAX, u64::MAX >> 1, 1 << 32, u64::from(u32::MAX), 1 << 26, 1 << 20];
                let word = extremes[below(extremes.len())].to_le_bytes();
                let width = [1, 2, 4, 8][below(4)].min(bytes.len() - at);
                bytes[at..at + width].copy_from_slice(&word[..width]);
            }
            5 => {
                let len = below(64).min(bytes.len() - at);
                let from = below(bytes.len() - len + 1);
                bytes.copy_within(from..from + len, at);
            }
            6 => bytes.truncate(at),
            _ => bytes.extend((0..below(200)).map(|i| i as u8)),
        }
    }
    bytes
}

fn drive(seed: u64, good: &[Vec<u8>], target: fn(&[u8]), mend: fn(&mut [u8])) {
    let chance = SeededEntropy::new(seed);
    for bytes in good {
        target(bytes);
        for round in 0..ROUNDS {
            let mut mutant = mutate(bytes, &chance);
            if round % 2 == 0 {
                mend(&mut mutant);
            }
            target(&mutant);
        }
    }
    target(&[]);
}

#[test]
fn fuzz_superblocks() {
    let good = [samples::drive_superblock().encode().to_vec(), samples::slice_superblock().encode().to_vec()];
    drive(1, &good, fuzz::superblock, mend_page);
}

#[test]
fn fuzz_namespaces() {
    drive(2, &[samples::namespaces().encode().expect("two rows fit")], fuzz::namespaces, mend_names);
}

#[test]
fn fuzz_segment_headers() {
    drive(3, &[samples::segment_header().encode().to_vec()], fuzz::segment_header, mend_page);
}

#[test]
fn fuzz_trailers() {
    drive(4, &[samples::trailer_of_block(), samples::trailer_of_tombstones()], fuzz::trailer, mend_trailer);
}

#[test]
fn fuzz_tombstones() {
    let trailer = samples::trailer_of_tombstones();
    let body = trailer[TRAILER_HEADER_BYTES..TRAILER_HEADER_BYTES + forebay_format::tombstones_len(3)].to_vec();
    drive(5, &[body], fuzz::tombstones, |_| {});
}

#[test]
fn fuzz_footers() {
    drive(6, &[samples::footer()], fuzz::footer, mend_footer);
}

/// The header's checksum and the first entry's.
fn mend_usage(bytes: &mut [u8]) {
    if bytes.len() < 88 {
        return;
    }
    let crc = crc64(&bytes[..56]);
    put_crc(bytes, 56, crc);
    let length = u32::from_le_bytes(std::array::from_fn(|i| bytes[68 + i])) as usize;
    if let Some(body) = length.checked_sub(8).and_then(|end| bytes.get(64..64 + end)) {
        let (at, crc) = (64 + body.len(), crc64(body));
        put_crc(bytes, at, crc);
    }
}

#[test]
fn fuzz_usage_logs() {
    drive(7, &[samples::usage_log()], fuzz::usage_log, mend_usage);
}

#[test]
fn fuzz_each_structure_in_the_place_of_each_other() {
    let targets = [
        fuzz::superblock,
        fuzz::namespaces,
        fuzz::segment_header,
        fuzz::trailer,
        fuzz::tombstones,
        fuzz::footer,
        fuzz::usage_log,
    ];
    for (_, bytes) in samples::all() {
        for target in targets {
            target(&bytes);
            (0..bytes.len()).step_by(97).for_each(|cut| target(&bytes[cut..]));
        }
    }
}

#[test]
fn mending_reaches_what_lies_behind_the_checksums() {
    let mut bytes = samples::footer();
    let at = bytes.len() - FOOTER_TAIL_BYTES;
    bytes[52] = 99;
    mend_footer(&mut bytes);
    let tail = FooterTail::decode(&bytes[at..]).expect("the tail is whole");
    let error = tail.entries(&bytes).expect_err("an entry of a kind that is not known");
    assert!(error.to_string().contains("malformed"), "{error}");
}
