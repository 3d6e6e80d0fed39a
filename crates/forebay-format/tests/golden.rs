//! The bytes of version 1, kept in files: what a build writes today, every later build must read. A difference here is a change of format, which goes with
//! `docs/disk-format.md` and a version or feature bit. To write the files anew: `FOREBAY_REWRITE_GOLDEN=1 cargo test -p forebay-format --test golden -- --test-threads=1`.

mod samples;

use std::path::Path;

use forebay_format::*;
use forebay_types::Descriptor;

fn golden(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.bin"));
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn what_is_written_is_what_was_written() {
    for (name, bytes) in samples::all() {
        if std::env::var_os("FOREBAY_REWRITE_GOLDEN").is_some() {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.bin"));
            std::fs::write(path, &bytes).expect("the golden folder can be written");
        }
        let golden = golden(name);
        let differs = golden.iter().zip(&bytes).position(|(a, b)| a != b);
        assert!(
            golden == bytes,
            "{name}: {} bytes, golden {}, first difference at {differs:?}",
            bytes.len(),
            golden.len()
        );
    }
}

#[test]
fn what_was_written_is_read() {
    assert_eq!(DriveSuperblock::decode(&golden("drive_superblock")), Ok(samples::drive_superblock()));
    assert_eq!(SliceSuperblock::decode(&golden("slice_superblock")), Ok(samples::slice_superblock()));
    assert_eq!(NamespaceTable::decode(&golden("namespaces")), Ok(samples::namespaces()));
    assert_eq!(NamespaceTable::decode(&golden("namespaces_that_expire")), Ok(samples::namespaces_that_expire()));
    assert_eq!(NamespaceTable::decode(&golden("namespaces_with_budget")), Ok(samples::namespaces_with_budget()));
    assert_eq!(SegmentHeader::decode(&golden("segment_header")), Ok(samples::segment_header()));

    let bytes = golden("trailer_of_block");
    let view = decode_trailer(&bytes).expect("a trailer");
    assert!(view.belongs_to(samples::GENERATION, samples::NONCE));
    assert_eq!((view.seq, view.payload_padded, view.kind), (0xd1d2_d3d4, 70_144, RecordKind::Block));
    assert_eq!(view.body, golden("descriptor"));
    let descriptor = Descriptor::decode(view.body).expect("a descriptor");
    let block: Vec<u8> = (0..70_000u32).map(|i| (i % 251) as u8).collect();
    assert!(descriptor.verify(&block), "sums of version 1 still verify");

    let bytes = golden("trailer_of_tombstones");
    let view = decode_trailer(&bytes).expect("a trailer");
    assert!(view.belongs_to(samples::GENERATION, samples::NONCE) && view.kind == RecordKind::Tombstones);
    assert!(decode_tombstones(view.body).expect("a list").eq(samples::tombstones()));

    let log = decode_usage_log(&golden("usage_log")).expect("a usage log");
    let rows = [samples::usage_rows(), samples::usage_rows()[..1].to_vec()].concat();
    assert_eq!((log.rows, log.next_sequence, log.lost_entries), (rows, 0x1122_3346, 5));

    let bytes = golden("footer");
    let tail = FooterTail::decode(&bytes[bytes.len() - FOOTER_TAIL_BYTES..]).expect("a tail");
    assert_eq!((tail.generation, tail.nonce), (samples::GENERATION, samples::NONCE));
    assert!(tail.entries(&bytes).expect("entries").eq(samples::footer_entries()));
}
