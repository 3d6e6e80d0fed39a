//! What is written is what is read, whatever the values; and every flipped bit that matters is found.

use forebay_format::*;
use forebay_types::{BlockMeta, Class, Descriptor, Fingerprint, Key, NamespaceId, ShardId, Tenant, Version};
use proptest::prelude::*;

fn descriptor_bytes() -> Vec<u8> {
    let block = vec![7u8; 70_000];
    let meta = BlockMeta::plain(NamespaceId(3), Key([9; 16]), Version(5), 70_000);
    let mut bytes = Vec::new();
    Descriptor::of(meta, &block).encode(&mut bytes);
    bytes
}

fn entry() -> impl Strategy<Value = FooterEntry> {
    let places = (1u32..1000, 0u32..1000, 1u32..512 * 8);
    (any::<[u8; 16]>(), any::<(u32, u64, u64, u32, u64)>(), places, any::<bool>()).prop_map(
        |(key, (namespace, version, seq, rank, expiry_utc_s), (records, start, length), block)| FooterEntry {
            kind: if block { EntryKind::Block } else { EntryKind::Tombstone },
            namespace: NamespaceId(namespace),
            key: Key(key),
            version: Version(version),
            seq,
            length: if block { length } else { 0 },
            start: start * 512,
            record_bytes: records * 4096 + 512,
            rank,
            expiry_utc_s,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_footer_gives_back_its_entries(entries in prop::collection::vec(entry(), 0..200), generation: u64, nonce: u64, shift in 9u32..=12) {
        let align = 1usize << shift;
        let mut out = vec![0xaa; footer_bytes(entries.len() as u32, align)];
        encode_footer(generation, nonce, SegmentKind::Durable, entries.iter().copied(), align, &mut out);
        let tail = FooterTail::decode(&out[out.len() - FOOTER_TAIL_BYTES..]).unwrap();
        prop_assert_eq!((tail.generation, tail.nonce, tail.count as usize), (generation, nonce, entries.len()));
        prop_assert_eq!(tail.kind, SegmentKind::Durable);
        prop_assert!(tail.entries(&out).unwrap().eq(entries.iter().copied()));
    }

    #[test]
    fn a_trailer_gives_back_its_body_and_knows_its_segment(generation: u64, nonce: u64, other: u64, seq: u64, blocks in 1u32..4096) {
        let body = descriptor_bytes();
        let mut out = vec![0xaa; trailer_len(body.len(), 4096)];
        let trailer = Trailer { generation, nonce, seq, payload_padded: blocks * 512, kind: RecordKind::Block };
        encode_trailer(&trailer, &body, &mut out);
        {
            let view = decode_trailer(&out).unwrap();
            prop_assert_eq!((view.generation, view.seq, view.payload_padded, view.kind), (generation, seq, blocks * 512, RecordKind::Block));
            prop_assert_eq!(view.body, &body[..]);
            prop_assert_eq!(view.len_padded(4096), out.len());
            prop_assert!(view.belongs_to(generation, nonce));
            prop_assert_eq!(view.belongs_to(generation, other), other == nonce);
            prop_assert_eq!(view.belongs_to(other, nonce), other == generation);
        }
        restamp(&mut out, other, seq);
        let view = decode_trailer(&out).unwrap();
        prop_assert!(view.belongs_to(other, seq) && view.seq == seq && view.body == body);
    }

    #[test]
    fn tombstones_come_back(list in prop::collection::vec(any::<(u32, [u8; 16], u64, u64)>(), 0..100)) {
        let list: Vec<_> = list.into_iter()
            .map(|(ns, key, version, seq)| Tombstone { namespace: NamespaceId(ns), key: Key(key), version: Version(version), seq })
            .collect();
        let mut out = vec![0xaa; tombstones_len(list.len())];
        encode_tombstones(&list, &mut out);
        prop_assert!(decode_tombstones(&out).unwrap().eq(list));
        prop_assert!(decode_tombstones(&out[..out.len() - 1]).is_err());
    }

    #[test]
    fn a_table_of_namespaces_comes_back(rows in prop::collection::btree_map(1u32.., ("[a-z0-9./:_-]{1,64}", any::<(u32, bool, Option<u64>, u32)>(), "[ -~]{0,256}"), 0..50), sequence: u64, clock: (u64, u64, u64), write: (u32, u32)) {
        let clock = ClockMark { utc_s: clock.0, old_utc_s: clock.1, old_seq: clock.2 };
        let rows = rows.into_iter().map(|(id, (name, (tenant, durable, quota_bytes, ttl), model))| {
            let mut fingerprint = Fingerprint::default();
            fingerprint.set("model", &model).unwrap();
            fingerprint.set("hash_seed", &model[..model.len() / 2]).unwrap();
            let ttl_s = (ttl % 3 > 0).then_some(ttl);
            let class = if durable { Class::Durable } else { Class::Cache };
            NamespaceRow { id: NamespaceId(id), tenant: Tenant(tenant), class, quota_bytes, ttl_s, name, fingerprint }
        }).collect();
        let table = NamespaceTable { sequence, clock, write: WriteMark { spent_mib: write.0, utc_s: write.1 }, rows };
        let bytes = table.encode().unwrap();
        prop_assert_eq!(bytes.len() % 4096, 0);
        prop_assert_eq!(NamespaceTable::decode(&bytes), Ok(table));
    }
}

#[test]
fn a_full_table_of_namespaces_is_refused_and_not_cut() {
    let mut fingerprint = Fingerprint::default();
    for field in forebay_types::FINGERPRINT_FIELDS {
        fingerprint.set(field, &"x".repeat(256)).unwrap();
    }
    let row = |id| NamespaceRow {
        id: NamespaceId(id),
        tenant: Tenant(0),
        class: Class::Cache,
        quota_bytes: None,
        ttl_s: Some(60),
        name: "n".repeat(64),
        fingerprint: fingerprint.clone(),
    };
    let table = NamespaceTable {
        sequence: 1,
        clock: ClockMark::default(),
        write: WriteMark::default(),
        rows: (1..=4096).map(row).collect(),
    };
    assert!(matches!(table.encode(), Err(FormatError::TooLarge { .. })));
    let small = |id| NamespaceRow { fingerprint: Fingerprint::default(), ..row(id) };
    assert!(
        NamespaceTable {
            sequence: 1,
            clock: ClockMark::default(),
            write: WriteMark::default(),
            rows: vec![small(1), small(1)]
        }
        .encode()
        .is_err(),
        "one number twice"
    );
    assert!(
        NamespaceTable { sequence: 1, clock: ClockMark::default(), write: WriteMark::default(), rows: vec![small(0)] }
            .encode()
            .is_err(),
        "a number that is never given"
    );
    assert!(
        NamespaceTable {
            sequence: 1,
            clock: ClockMark::default(),
            write: WriteMark::default(),
            rows: (1..=4097).map(small).collect()
        }
        .encode()
        .is_err(),
        "too many"
    );
}

fn slice_superblock() -> SliceSuperblock {
    SliceSuperblock {
        version: VERSION,
        features: Features::default(),
        shard: ShardId([7; 16]),
        slice_index: 2,
        align: 4096,
        segment_bytes: 4 << 20,
        segments: 16,
        created_utc_s: 1_800_000_000,
    }
}

#[test]
fn one_good_copy_of_a_superblock_is_enough_but_two_different_ones_are_not() {
    let one = slice_superblock();
    let other = SliceSuperblock { shard: ShardId([8; 16]), ..one };
    let (good, broken) = (one.encode(), [0xa5; SUPERBLOCK_BYTES]);
    assert_eq!(SliceSuperblock::choose(&good, &broken), Ok(one));
    assert_eq!(SliceSuperblock::choose(&[0; 4096], &good), Ok(one));
    assert!(matches!(SliceSuperblock::choose(&good, &other.encode()), Err(FormatError::Malformed { .. })));
    assert!(SliceSuperblock::choose(&broken, &[0; 4096]).unwrap_err().is_foreign());
    let mut flipped = good;
    flipped[100] ^= 1;
    assert_eq!(SliceSuperblock::choose(&broken, &flipped), Err(FormatError::Checksum("shard superblock")));
}

#[test]
fn a_newer_format_is_told_from_a_broken_one() {
    let mut newer = slice_superblock();
    newer.version = VERSION + 1;
    let error = SliceSuperblock::choose(&newer.encode(), &[0; 4096]).unwrap_err();
    assert!(error.to_string().contains("format version 2 and this build reads up to 1"), "{error}");
    let mut newer = slice_superblock();
    newer.features = Features { compat: 5, incompat: 0 };
    assert_eq!(SliceSuperblock::decode(&newer.encode()), Ok(newer), "compatible features are none of our business");
    newer.features.incompat = 4;
    assert!(matches!(SliceSuperblock::decode(&newer.encode()), Err(FormatError::UnknownFeatures { bits: 4, .. })));
}

#[test]
fn a_slice_that_shrank_or_a_coarser_drive_is_refused() {
    let superblock = slice_superblock();
    let layout = superblock.layout(slice_bytes_min(None), 512).unwrap();
    assert_eq!((layout.align, layout.segments), (4096, 16));
    assert!(superblock.layout(slice_bytes_min(None) - 1, 4096).is_err());
    let fine = SliceSuperblock { align: 512, ..superblock };
    assert!(fine.layout(slice_bytes_min(None), 4096).unwrap_err().to_string().contains("finer alignment"));
}

/// Flips each bit of `bytes` and expects `found` to notice.
fn every_flip_is_found(what: &str, mut bytes: Vec<u8>, found: impl Fn(&[u8]) -> bool) {
    assert!(!found(&bytes), "{what} is good to begin with");
    for bit in 0..bytes.len() * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(found(&bytes), "{what}: bit {bit}");
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
}

#[test]
fn every_flipped_bit_is_found() {
    every_flip_is_found("superblock", slice_superblock().encode().to_vec(), |b| SliceSuperblock::decode(b).is_err());
    let header = SegmentHeader {
        shard: ShardId([1; 16]),
        index: 3,
        generation: 4,
        nonce: 5,
        kind: SegmentKind::Cache,
        opened_utc_s: 6,
    };
    every_flip_is_found("segment header", header.encode().to_vec(), |b| SegmentHeader::decode(b).is_err());

    let body = descriptor_bytes();
    let trailer = Trailer { generation: 1, nonce: 2, seq: 3, payload_padded: 73_728, kind: RecordKind::Block };
    let mut bytes = vec![0; TRAILER_HEADER_BYTES + body.len()];
    encode_trailer(&trailer, &body, &mut bytes);
    every_flip_is_found("trailer", bytes, |b| !decode_trailer(b).is_ok_and(|view| view.belongs_to(1, 2)));

    let entry = FooterEntry {
        kind: EntryKind::Block,
        namespace: NamespaceId(1),
        key: Key([2; 16]),
        version: Version(3),
        seq: 4,
        length: 5,
        start: 4096,
        record_bytes: 8192,
        rank: 6,
        expiry_utc_s: 7,
    };
    let mut bytes = vec![0; footer_bytes(8, 512)];
    encode_footer(1, 2, SegmentKind::Cache, [entry; 8].into_iter(), 512, &mut bytes);
    every_flip_is_found("footer", bytes, |b| {
        !FooterTail::decode(&b[512..])
            .is_ok_and(|tail| (tail.generation, tail.nonce) == (1, 2) && tail.entries(b).is_ok())
    });

    let row = NamespaceRow {
        id: NamespaceId(1),
        tenant: Tenant(2),
        class: Class::Cache,
        quota_bytes: None,
        ttl_s: Some(60),
        name: "default".into(),
        fingerprint: Fingerprint::default(),
    };
    let bytes = NamespaceTable {
        sequence: 9,
        clock: ClockMark { utc_s: 1, old_utc_s: 2, old_seq: 3 },
        write: WriteMark { spent_mib: 4, utc_s: 5 },
        rows: vec![row],
    }
    .encode()
    .unwrap();
    let used = 64 + 20 + 4 + "default".len();
    every_flip_is_found("namespaces", bytes[..used].to_vec(), |b| NamespaceTable::decode(b).is_err());
}

#[test]
fn of_two_tables_the_newer_counts_and_a_torn_one_does_not() {
    let table = |sequence| {
        NamespaceTable { sequence, clock: ClockMark::default(), write: WriteMark::default(), rows: Vec::new() }
            .encode()
            .unwrap()
    };
    assert_eq!(NamespaceTable::newest(&table(4), &table(5)).unwrap().sequence, 5);
    let mut torn = table(5);
    torn[30] ^= 1;
    assert_eq!(NamespaceTable::newest(&table(4), &torn).unwrap().sequence, 4);
    assert_eq!(NamespaceTable::newest(&[0; 4096], &torn), Err(FormatError::Checksum("table of namespaces")));
}
