//! What fuzzing drives: plain functions that take any bytes and must not panic, and whose accepted values must encode to what was read.
//!
//! The tests feed them seeded mutations of good bytes on stable Rust; `fuzz/` holds targets for cargo-fuzz that call the same functions.

use forebay_types::Descriptor;

use crate::{
    DriveSuperblock, FOOTER_TAIL_BYTES, FooterTail, NamespaceTable, SegmentHeader, SliceSuperblock, USAGE_ROWS_MAX,
    decode_tombstones, decode_trailer, decode_usage_log, encode_footer, encode_tombstones, encode_trailer,
    encode_usage_entry, encode_usage_header, footer_bytes, restamp, tombstones_len,
};
use crate::{RecordKind, Trailer};

/// Both superblocks.
pub fn superblock(bytes: &[u8]) {
    if let Ok(found) = DriveSuperblock::decode(bytes) {
        assert_eq!(DriveSuperblock::decode(&found.encode()), Ok(found));
        let len = (bytes.len() as u64) << 20;
        assert!(
            found.layout(len).is_ok_and(|l| l.slice_at(l.slices - 1) + l.slice_len <= len)
                || found.layout(len).is_err()
        );
    }
    if let Ok(found) = SliceSuperblock::decode(bytes) {
        assert_eq!(SliceSuperblock::decode(&found.encode()), Ok(found));
        let _ = found.layout(u64::from(bytes.len() as u32) << 20, 512);
    }
    let (first, second) = bytes.split_at(bytes.len() / 2);
    let _ = (DriveSuperblock::choose(first, second), SliceSuperblock::choose(first, second));
}

/// The table of namespaces.
pub fn namespaces(bytes: &[u8]) {
    if let Ok(found) = NamespaceTable::decode(bytes) {
        let again = found.encode().expect("what was decoded from a table's place fits it");
        assert_eq!(NamespaceTable::decode(&again), Ok(found));
    }
    let (first, second) = bytes.split_at(bytes.len() / 2);
    let _ = NamespaceTable::newest(first, second);
}

/// A segment's header.
pub fn segment_header(bytes: &[u8]) {
    if let Ok(found) = SegmentHeader::decode(bytes) {
        assert_eq!(SegmentHeader::decode(&found.encode()), Ok(found));
    }
}

/// A record's trailer, with its body.
pub fn trailer(bytes: &[u8]) {
    let Ok(found) = decode_trailer(bytes) else { return };
    let len = found.len_padded(512);
    let mut again = vec![0xff; len];
    let (seq, payload_padded, kind) = (found.seq, found.payload_padded, found.kind);
    encode_trailer(&Trailer { generation: 1, nonce: 2, seq, payload_padded, kind }, found.body, &mut again);
    let mut moved = bytes.to_vec();
    restamp(&mut moved, 1, 2);
    let used = crate::TRAILER_HEADER_BYTES + found.body.len();
    assert_eq!(moved[..used], again[..used], "a moved trailer is the one written there");
    assert!(decode_trailer(&again).is_ok_and(|view| view.belongs_to(1, 2) && view.body == found.body));
    match found.kind {
        RecordKind::Block => drop(Descriptor::decode(found.body)),
        RecordKind::Tombstones => tombstones(found.body),
    }
}

/// A list of tombstones.
pub fn tombstones(bytes: &[u8]) {
    if let Ok(found) = decode_tombstones(bytes) {
        let list: Vec<_> = found.collect();
        let mut again = vec![0; tombstones_len(list.len())];
        encode_tombstones(&list, &mut again);
        assert!(decode_tombstones(&again).is_ok_and(|read| read.eq(list.iter().copied())));
    }
}

/// A usage log.
pub fn usage_log(bytes: &[u8]) {
    let Ok(found) = decode_usage_log(bytes) else { return };
    assert!(found.whole_bytes <= bytes.len());
    let mut again = encode_usage_header(found.next_sequence, found.lost_entries).to_vec();
    for (at, rows) in found.rows.chunks(USAGE_ROWS_MAX).enumerate() {
        let Some(sequence) = found.next_sequence.checked_add(at as u64).filter(|it| *it < u64::MAX) else { return };
        encode_usage_entry(sequence, rows, &mut again);
    }
    let read = decode_usage_log(&again).expect("what was read can be written");
    assert_eq!((read.rows, read.lost_entries, read.is_damaged), (found.rows, found.lost_entries, false));
}

/// A segment's footer: entries, then the tail at the end.
pub fn footer(bytes: &[u8]) {
    let Some((space, tail)) = bytes.split_last_chunk::<FOOTER_TAIL_BYTES>() else {
        let _ = FooterTail::decode(bytes);
        return;
    };
    let Ok(tail) = FooterTail::decode(tail) else { return };
    let Ok(entries) = tail.entries(space) else { return };
    let mut again = vec![0; footer_bytes(tail.count, 512)];
    encode_footer(tail.generation, tail.nonce, tail.kind, entries.clone(), 512, &mut again);
    assert_eq!(entries.len(), tail.count as usize);
    let read = again.split_last_chunk::<FOOTER_TAIL_BYTES>().map(|(_, tail)| FooterTail::decode(tail));
    assert!(matches!(read, Some(Ok(read)) if read.entries(&again).is_ok_and(|read| read.eq(entries))));
}
