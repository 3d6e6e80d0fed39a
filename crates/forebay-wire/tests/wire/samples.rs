//! One fixed message of each kind; every field has a value of its own, so that two swapped fields show.

use forebay_types::{BlockMeta, PartName};
use forebay_types::{
    Class, Descriptor, Epoch, Fingerprint, Key, LandingKind, MissReason, Namespace, NamespaceId, PutOutcome,
    RefusedReason, RegionId, Reported, Secret, ShardId, Tenant, Tier, Version,
};
use forebay_wire::*;

pub(crate) fn key(n: u8) -> Key {
    Key(std::array::from_fn(|i| n.wrapping_mul(16).wrapping_add(i as u8)))
}

pub(crate) fn shard(n: u8) -> ShardId {
    ShardId(std::array::from_fn(|i| n.wrapping_sub(i as u8)))
}

pub(crate) fn descriptor() -> Vec<u8> {
    let block: Vec<u8> = (0..70_000u32).map(|i| (i % 251) as u8).collect();
    let mut meta = BlockMeta::plain(NamespaceId(7), key(1), Version(0x1122_3344), block.len() as u64);
    meta.parts = vec![forebay_types::Part { name: PartName::new("kv").unwrap(), offset: 0, length: 65_536 }];
    let mut out = Vec::new();
    Descriptor::of(meta, &block).encode(&mut out);
    out
}

fn fingerprint() -> Fingerprint {
    let mut it = Fingerprint::default();
    for (field, value) in [("model", "llama-3.1-70b"), ("dtype", "fp8"), ("block_tokens", "64"), ("shape", "80x8x128")]
    {
        it.set(field, value).unwrap();
    }
    it
}

fn namespace(n: u8) -> Namespace {
    Namespace {
        id: NamespaceId(u32::from(n)),
        name: format!("team-{n}/chat"),
        tenant: Tenant(1000 + u32::from(n)),
        class: if n.is_multiple_of(2) { Class::Cache } else { Class::Durable },
        quota_bytes: n.is_multiple_of(2).then_some(1 << 30),
        ttl_s: (n > 3).then_some(3600),
        fingerprint: if n == 2 { fingerprint() } else { Fingerprint::default() },
        secret: Secret([n; 32]),
    }
}

/// All kinds, with the name of their golden file.
pub(crate) fn all() -> Vec<(&'static str, Message)> {
    let mut all = connection();
    all.extend(control());
    all.extend(blocks());
    all.extend(hints());
    all.push(put_kept());
    all
}

fn connection() -> Vec<(&'static str, Message)> {
    vec![
        (
            "hello",
            Message::Hello(Hello {
                version: WIRE_VERSION,
                features: features::REGIONS | features::DIRECT,
                shard: shard(0xa0),
                credential: b"a token".to_vec(),
                epoch: Epoch(5),
                lane: 3,
                trace: 0x0123_4567_89ab_cdef,
                credit_bytes: 32 << 20,
            }),
        ),
        (
            "welcome",
            Message::Welcome(Welcome {
                version: WIRE_VERSION,
                features: features::REGIONS,
                incarnation: 0xfeed_beef_0000_0001,
                epoch: Epoch(6),
                block_bytes_max: 16 << 20,
                align: 4096,
                credit_bytes: 8 << 20,
            }),
        ),
        (
            "error",
            Message::Error {
                request: 9,
                code: ErrorCode::NamespaceDiffers,
                text: "dtype differs — ask for fp8".into(),
            },
        ),
        (
            "region-add",
            Message::RegionAdd { request: 19, region: RegionId(4), length: 1 << 30, kind: RegionKind::Owned },
        ),
        (
            "region-add-lent",
            Message::RegionAdd { request: 19, region: RegionId(4), length: 1 << 30, kind: RegionKind::Lent },
        ),
        ("region-drop", Message::RegionDrop { request: 20, region: RegionId(4) }),
        ("credit", Message::Credit { bytes: 262_144 }),
        ("done", Message::Done { request: 16 }),
        ("cancel", Message::Cancel { request: 30 }),
    ]
}

fn control() -> Vec<(&'static str, Message)> {
    let members = vec![
        Member {
            shard: shard(0xb0),
            weight: 4096,
            addresses: vec!["unix:/run/forebay.sock".into(), "tcp:10.0.0.1:7400".into()],
        },
        Member { shard: shard(0xc0), weight: 8192, addresses: vec![] },
    ];
    vec![
        ("members", Message::Members { request: 10 }),
        ("members-are", Message::MembersAre { request: 10, epoch: Epoch(7), members }),
        ("attach", Message::Attach { request: 11, name: "team-2/chat".into(), fingerprint: fingerprint() }),
        (
            "namespace-create",
            Message::NamespaceCreate {
                request: 12,
                name: "weights".into(),
                class: Class::Durable,
                quota_bytes: Some(1 << 40),
                ttl_s: None,
                fingerprint: fingerprint(),
            },
        ),
        (
            "namespace-create-ttl",
            Message::NamespaceCreate {
                request: 12,
                name: "brief".into(),
                class: Class::Cache,
                quota_bytes: None,
                ttl_s: Some(86_400),
                fingerprint: fingerprint(),
            },
        ),
        ("namespace-is-ttl", Message::NamespaceIs { request: 12, namespace: namespace(4) }),
        ("namespace-is", Message::NamespaceIs { request: 12, namespace: namespace(2) }),
        ("namespace-list", Message::NamespaceList { request: 13 }),
        ("namespaces-are", Message::NamespacesAre { request: 13, namespaces: vec![namespace(2), namespace(3)] }),
        ("namespace-delete", Message::NamespaceDelete { request: 14, name: "weights".into() }),
        ("stats", Message::Stats { request: 15 }),
        ("stats-are", Message::StatsAre { request: 15, json: r#"{"hits":3}"#.into() }),
    ]
}

fn blocks() -> Vec<(&'static str, Message)> {
    let hit = |landing, descriptor, trailer_offset| GetOutcome::Hit {
        tier: Tier::Nvme,
        landing,
        offset: 65_536,
        length: 70_000,
        descriptor,
        trailer_offset,
    };
    vec![
        (
            "get",
            Message::Get {
                request: 21,
                namespace: NamespaceId(7),
                deadline_us: 5_000_000,
                hint: ReuseHint { kind: 4, seconds: 90 },
                items: vec![
                    GetItem {
                        key: key(1),
                        offset: 65_536,
                        length: 0,
                        to: Place { region: RegionId(4), offset: 8192, room: 81_920 },
                    },
                    GetItem { key: key(2), offset: 0, length: 65_536, to: Place::default() },
                ],
            },
        ),
        (
            "get-outcomes",
            Message::GetOutcomes {
                request: 21,
                outcomes: vec![
                    (1, hit(LandingKind::Direct, vec![], 73_728)),
                    (0, hit(LandingKind::Bounce, descriptor(), 0)),
                    (2, GetOutcome::Miss(MissReason::Evicted)),
                    (4095, GetOutcome::TooSmall { need: 1 << 20 }),
                ],
            },
        ),
        (
            "put",
            Message::Put {
                request: 22,
                namespace: NamespaceId(7),
                deadline_us: 1_000_000,
                hint: ReuseHint { kind: 2, seconds: 0 },
                caller_keeps: false,
                items: vec![PutItem {
                    descriptor: descriptor(),
                    from: Place { region: RegionId(5), offset: 4096, room: 70_000 },
                }],
            },
        ),
        ("put-go", Message::PutGo { request: 22, items: vec![0, 3, 4095] }),
        (
            "put-outcomes",
            Message::PutOutcomes {
                request: 22,
                outcomes: vec![
                    (0, PutOutcome::Cached),
                    (1, PutOutcome::Durable),
                    (2, PutOutcome::Exists),
                    (3, PutOutcome::Refused(RefusedReason::Quota)),
                ],
            },
        ),
        (
            "match",
            Message::Match {
                request: 23,
                namespace: NamespaceId(7),
                deadline_us: 200_000,
                hold_ms: 2000,
                stop_at_gap: true,
                keys: vec![key(1), key(2)],
            },
        ),
        (
            "match-outcomes",
            Message::MatchOutcomes {
                request: 23,
                presence: vec![
                    Presence::Here { tier: Tier::Dram, leased: true },
                    Presence::Here { tier: Tier::Nvme, leased: false },
                    Presence::Not(MissReason::Absent),
                    Presence::NotAsked,
                ],
            },
        ),
        (
            "forget",
            Message::Forget { request: 24, namespace: NamespaceId(7), deadline_us: 300_000, keys: vec![key(3)] },
        ),
        ("forget-outcomes", Message::ForgetOutcomes { request: 24, failed: true, forgotten: vec![true, false] }),
    ]
}

/// A put whose caller keeps the block.
fn put_kept() -> (&'static str, Message) {
    let from = Place { region: RegionId(5), offset: 4096, room: 70_000 };
    let put = Message::Put {
        request: 22,
        namespace: NamespaceId(7),
        deadline_us: 1_000_000,
        hint: ReuseHint { kind: 4, seconds: 90 },
        caller_keeps: true,
        items: vec![PutItem { descriptor: descriptor(), from }],
    };
    ("put-caller-keeps", put)
}

fn hints() -> Vec<(&'static str, Message)> {
    vec![
        (
            "touch",
            Message::Touch { namespace: NamespaceId(7), hint: ReuseHint { kind: 1, seconds: 0 }, keys: vec![key(4)] },
        ),
        ("prefetch", Message::Prefetch { namespace: NamespaceId(7), deadline_us: 400_000, keys: vec![key(5)] }),
        (
            "report",
            Message::Report {
                namespace: NamespaceId(7),
                reported: Reported { requests: 3, prompt_tokens: 9000, engine_tokens: 1024, used_tokens: 4096 },
            },
        ),
        ("corrupt", Message::Corrupt { namespace: NamespaceId(7), key: key(6), version: Version(0x55) }),
    ]
}

pub(crate) const DATA: DataHeader = DataHeader { request: 21, item: 1, offset: 262_144, length: 200_000 };

pub(crate) fn encoded(message: &Message) -> Vec<u8> {
    let mut out = Vec::new();
    encode(message, &mut out).unwrap();
    out
}
