//! One sample of every structure, with a different value in every field, so that two fields that are swapped show.

use forebay_format::*;
use forebay_types::{
    BlockMeta, Class, Descriptor, Fingerprint, Key, NamespaceId, Part, PartName, ShardId, Tenant, Usage, UsageRow,
    Version,
};

pub(crate) const GENERATION: u64 = 0x1112_1314_1516_1718;
pub(crate) const NONCE: u64 = 0x2122_2324_2526_2728;

fn bytes16(first: u8) -> [u8; 16] {
    std::array::from_fn(|i| first + i as u8)
}

pub(crate) fn drive_superblock() -> DriveSuperblock {
    DriveSuperblock {
        version: VERSION,
        features: Features { compat: 0x3132, incompat: 0 },
        drive_uuid: bytes16(0x40),
        slices: 3,
        align: 4096,
        slice_len: 100 << 20,
        created_utc_s: 1_790_000_000,
    }
}

pub(crate) fn slice_superblock() -> SliceSuperblock {
    SliceSuperblock {
        version: VERSION,
        features: Features { compat: 0x3334, incompat: 0 },
        shard: ShardId(bytes16(0x50)),
        slice_index: 2,
        align: 512,
        segment_bytes: 8 << 20,
        segments: 77,
        created_utc_s: 1_790_000_001,
    }
}

pub(crate) fn namespaces() -> NamespaceTable {
    let mut fingerprint = Fingerprint::default();
    for (field, value) in [("model", "org/model-8b"), ("dtype", "fp8"), ("block_tokens", "64"), ("shape", "32x8x128")] {
        fingerprint.set(field, value).expect("a known field");
    }
    let row = |id, name: &str, class, quota_bytes, fingerprint| NamespaceRow {
        id: NamespaceId(id),
        tenant: Tenant(1000 + id),
        class,
        quota_bytes,
        ttl_s: None,
        name: name.into(),
        fingerprint,
    };
    NamespaceTable {
        sequence: 0x6162_6364,
        clock: ClockMark::default(),
        write: WriteMark::default(),
        rows: vec![
            row(7, "default", Class::Cache, None, Fingerprint::default()),
            row(9, "team/kv:v2", Class::Durable, Some(0x7172_7374_7576), fingerprint),
        ],
    }
}

pub(crate) fn namespaces_that_expire() -> NamespaceTable {
    let mut table = namespaces();
    table.clock = ClockMark { utc_s: 1_790_000_003, old_utc_s: 2_147_483_648, old_seq: 0x8182_8384_8586 };
    table.rows[0].ttl_s = Some(0x0091_9293);
    table.rows[1].ttl_s = Some(3600);
    table
}

pub(crate) fn namespaces_with_budget() -> NamespaceTable {
    let mut table = namespaces_that_expire();
    table.write = WriteMark { spent_mib: 0x0102_0304, utc_s: 1_790_000_004 };
    table
}

pub(crate) fn segment_header() -> SegmentHeader {
    SegmentHeader {
        shard: ShardId(bytes16(0x50)),
        index: 0x0102_0304,
        generation: GENERATION,
        nonce: NONCE,
        kind: SegmentKind::Reappend,
        opened_utc_s: 1_790_000_002,
    }
}

pub(crate) fn descriptor() -> Vec<u8> {
    let block: Vec<u8> = (0..70_000u32).map(|i| (i % 251) as u8).collect();
    let part = |name, offset, length| Part { name: PartName::new(name).expect("a short name"), offset, length };
    let meta = BlockMeta {
        chain: 0x8182_8384_8586_8788,
        parent: 0x9192_9394_9596_9798,
        position: 12,
        tokens: 64,
        expiry_utc_s: 1_800_000_000,
        place: 0xa1a2_a3a4_a5a6_a7a8,
        parts: vec![part("kv", 0, 65_536), part("scales", 65_536, 4_000)],
        ..BlockMeta::plain(NamespaceId(9), Key(bytes16(0xb0)), Version(0xc1c2_c3c4_c5c6_c7c8), 70_000)
    };
    let mut bytes = Vec::new();
    Descriptor::of(meta, &block).encode(&mut bytes);
    bytes
}

pub(crate) fn trailer_of_block() -> Vec<u8> {
    let body = descriptor();
    let trailer = Trailer {
        generation: GENERATION,
        nonce: NONCE,
        seq: 0xd1d2_d3d4,
        payload_padded: 70_144,
        kind: RecordKind::Block,
    };
    let mut bytes = vec![0xff; trailer_len(body.len(), 512)];
    encode_trailer(&trailer, &body, &mut bytes);
    bytes
}

pub(crate) fn tombstones() -> Vec<Tombstone> {
    let one = |i: u8| Tombstone {
        namespace: NamespaceId(u32::from(i)),
        key: Key(bytes16(0xb0 + i)),
        version: Version(0xe1e2_e3e4 + u64::from(i)),
        seq: 0xf1f2_f3f4 + u64::from(i),
    };
    (1..=3).map(one).collect()
}

pub(crate) fn trailer_of_tombstones() -> Vec<u8> {
    let mut body = vec![0; tombstones_len(3)];
    encode_tombstones(&tombstones(), &mut body);
    let trailer = Trailer {
        generation: GENERATION,
        nonce: NONCE,
        seq: 0xf1f2_f3f7,
        payload_padded: 0,
        kind: RecordKind::Tombstones,
    };
    let mut bytes = vec![0xff; trailer_len(body.len(), 512)];
    encode_trailer(&trailer, &body, &mut bytes);
    bytes
}

pub(crate) fn footer_entries() -> Vec<FooterEntry> {
    let block = FooterEntry {
        kind: EntryKind::Block,
        namespace: NamespaceId(9),
        key: Key(bytes16(0xb0)),
        version: Version(0xc1c2_c3c4_c5c6_c7c8),
        seq: 0xd1d2_d3d4,
        length: 70_000,
        start: 4096,
        record_bytes: 70_656,
        rank: 0x0908_0706,
        expiry_utc_s: 1_800_000_000,
    };
    let tombstone = |t: Tombstone| FooterEntry {
        kind: EntryKind::Tombstone,
        namespace: t.namespace,
        key: t.key,
        version: t.version,
        seq: t.seq,
        length: 0,
        start: 74_752,
        record_bytes: 512,
        rank: 0,
        expiry_utc_s: 0,
    };
    std::iter::once(block).chain(tombstones().into_iter().map(tombstone)).collect()
}

pub(crate) fn footer() -> Vec<u8> {
    let entries = footer_entries();
    let mut bytes = vec![0xff; footer_bytes(entries.len() as u32, 512)];
    encode_footer(GENERATION, NONCE, SegmentKind::Reappend, entries.into_iter(), 512, &mut bytes);
    bytes
}

pub(crate) fn usage_rows() -> Vec<UsageRow> {
    let row = |namespace: u32, name: &str| UsageRow {
        from_utc_s: 0x6543_2100,
        until_utc_s: 0x6543_2101,
        tenant: Tenant(1000),
        namespace: NamespaceId(namespace),
        name: name.to_owned(),
        usage: Usage::of_counts(std::array::from_fn(|count| 0x0101 * (count as u64 + 1) + u64::from(namespace))),
    };
    vec![row(7, "agents"), row(0x0102_0304, "vllm-0123456789abcdef")]
}

pub(crate) fn usage_log() -> Vec<u8> {
    let mut bytes = encode_usage_header(0x1122_3344, 5).to_vec();
    encode_usage_entry(0x1122_3344, &usage_rows(), &mut bytes);
    encode_usage_entry(0x1122_3345, &usage_rows()[..1], &mut bytes);
    bytes
}

/// Every structure by the name of its golden file.
pub(crate) fn all() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("drive_superblock", drive_superblock().encode().to_vec()),
        ("slice_superblock", slice_superblock().encode().to_vec()),
        ("namespaces", namespaces().encode().expect("two rows fit")),
        ("namespaces_that_expire", namespaces_that_expire().encode().expect("two rows fit")),
        ("namespaces_with_budget", namespaces_with_budget().encode().expect("two rows fit")),
        ("segment_header", segment_header().encode().to_vec()),
        ("descriptor", descriptor()),
        ("trailer_of_block", trailer_of_block()),
        ("trailer_of_tombstones", trailer_of_tombstones()),
        ("footer", footer()),
        ("usage_log", usage_log()),
    ]
}
