//! Any message comes back as it went, whatever its values.

use forebay_types::{
    Class, Epoch, FINGERPRINT_FIELDS, Fingerprint, Key, LandingKind, MissReason, Namespace, NamespaceId, PutOutcome,
    RefusedReason, RegionId, Reported, Secret, ShardId, Tenant, Tier, Version,
};
use forebay_wire::*;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

fn keys() -> impl Strategy<Value = Vec<Key>> {
    vec(any::<[u8; 16]>().prop_map(Key), 0..40)
}

fn item() -> impl Strategy<Value = u32> {
    0..4096u32
}

fn place() -> impl Strategy<Value = Place> {
    any::<(u32, u64, u64)>().prop_map(|(region, offset, room)| Place { region: RegionId(region), offset, room })
}

fn hint() -> impl Strategy<Value = ReuseHint> {
    (0..=4u8, any::<u32>()).prop_map(|(kind, seconds)| ReuseHint { kind, seconds })
}

fn class() -> impl Strategy<Value = Class> {
    select(vec![Class::Cache, Class::Durable])
}

fn fingerprint() -> impl Strategy<Value = Fingerprint> {
    vec((select(FINGERPRINT_FIELDS.to_vec()), "[a-z0-9é]{0,40}"), 0..6).prop_map(|fields| {
        let mut it = Fingerprint::default();
        fields.iter().for_each(|(field, value)| it.set(field, value).unwrap());
        it
    })
}

fn bounds() -> impl Strategy<Value = (Option<u64>, Option<u32>)> {
    (option::of(any::<u64>()), option::of(1..u32::MAX))
}

fn namespace() -> impl Strategy<Value = Namespace> {
    (any::<(u32, u32, [u8; 32])>(), "\\PC{0,20}", class(), bounds(), fingerprint()).prop_map(
        |((id, tenant, secret), name, class, (quota_bytes, ttl_s), fingerprint)| Namespace {
            id: NamespaceId(id),
            name,
            tenant: Tenant(tenant),
            class,
            quota_bytes,
            ttl_s,
            fingerprint,
            secret: Secret(secret),
        },
    )
}

fn get_outcome() -> impl Strategy<Value = GetOutcome> {
    let hit = (select(Tier::ALL), select(LandingKind::ALL), any::<(u64, u64, u64)>(), vec(any::<u8>(), 0..200));
    prop_oneof![
        hit.prop_map(|(tier, landing, (offset, length, trailer_offset), descriptor)| GetOutcome::Hit {
            tier,
            landing,
            offset,
            length,
            descriptor,
            trailer_offset
        }),
        select(MissReason::ALL).prop_map(GetOutcome::Miss),
        any::<u64>().prop_map(|need| GetOutcome::TooSmall { need }),
    ]
}

fn put_outcome() -> impl Strategy<Value = PutOutcome> {
    prop_oneof![
        Just(PutOutcome::Cached),
        Just(PutOutcome::Durable),
        Just(PutOutcome::Exists),
        select(RefusedReason::ALL).prop_map(PutOutcome::Refused),
    ]
}

fn presence() -> impl Strategy<Value = Presence> {
    prop_oneof![
        (select(Tier::ALL), any::<bool>()).prop_map(|(tier, leased)| Presence::Here { tier, leased }),
        select(MissReason::ALL).prop_map(Presence::Not),
        Just(Presence::NotAsked),
    ]
}

fn connection() -> impl Strategy<Value = Message> {
    let hello = (any::<(u16, u64, [u8; 16], u64, u8, u64, u64)>(), vec(any::<u8>(), 0..100)).prop_map(
        |((version, features, shard, epoch, lane, trace, credit_bytes), credential)| {
            let (shard, epoch) = (ShardId(shard), Epoch(epoch));
            Message::Hello(Hello { version, features, shard, credential, epoch, lane, trace, credit_bytes })
        },
    );
    let welcome = any::<(u16, u64, u64, u64, u64, u32, u64)>().prop_map(
        |(version, features, incarnation, epoch, block_bytes_max, align, credit_bytes)| {
            let epoch = Epoch(epoch);
            Message::Welcome(Welcome { version, features, incarnation, epoch, block_bytes_max, align, credit_bytes })
        },
    );
    let error = (any::<u32>(), select(ErrorCode::ALL), "\\PC{0,100}")
        .prop_map(|(request, code, text)| Message::Error { request, code, text });
    let region_add =
        (any::<(u32, u32, u64)>(), select(&RegionKind::ALL[..])).prop_map(|((request, region, length), kind)| {
            Message::RegionAdd { request, region: RegionId(region), length, kind }
        });
    let region_drop =
        any::<(u32, u32)>().prop_map(|(request, region)| Message::RegionDrop { request, region: RegionId(region) });
    prop_oneof![
        hello,
        welcome,
        error,
        region_add,
        region_drop,
        any::<u64>().prop_map(|bytes| Message::Credit { bytes }),
        any::<u32>().prop_map(|request| Message::Done { request }),
        any::<u32>().prop_map(|request| Message::Cancel { request }),
    ]
}

fn control() -> impl Strategy<Value = Message> {
    let member = (any::<([u8; 16], u32)>(), vec("[a-z0-9:/.]{0,60}", 0..=8))
        .prop_map(|((shard, weight), addresses)| Member { shard: ShardId(shard), weight, addresses });
    let members = (any::<(u32, u64)>(), vec(member, 0..10))
        .prop_map(|((request, epoch), members)| Message::MembersAre { request, epoch: Epoch(epoch), members });
    let attach = (any::<u32>(), "\\PC{0,60}", fingerprint()).prop_map(|(request, name, fingerprint)| Message::Attach {
        request,
        name,
        fingerprint,
    });
    let create = (any::<u32>(), "\\PC{0,60}", class(), bounds(), fingerprint()).prop_map(
        |(request, name, class, (quota_bytes, ttl_s), fingerprint)| Message::NamespaceCreate {
            request,
            name,
            class,
            quota_bytes,
            ttl_s,
            fingerprint,
        },
    );
    let list = (any::<u32>(), vec(namespace(), 0..6))
        .prop_map(|(request, namespaces)| Message::NamespacesAre { request, namespaces });
    prop_oneof![
        members,
        attach,
        create,
        list,
        any::<u32>().prop_map(|request| Message::Members { request }),
        any::<u32>().prop_map(|request| Message::NamespaceList { request }),
        any::<u32>().prop_map(|request| Message::Stats { request }),
        (any::<u32>(), namespace()).prop_map(|(request, namespace)| Message::NamespaceIs { request, namespace }),
        (any::<u32>(), "\\PC{0,60}").prop_map(|(request, name)| Message::NamespaceDelete { request, name }),
        (any::<u32>(), "\\PC{0,300}").prop_map(|(request, json)| Message::StatsAre { request, json }),
    ]
}

fn blocks() -> impl Strategy<Value = Message> {
    let head = || (any::<(u32, u32, u32)>(), hint());
    let get_item = (any::<([u8; 16], u64, u64)>(), place()).prop_map(|((key, offset, length), to)| GetItem {
        key: Key(key),
        offset,
        length,
        to,
    });
    let get = (head(), vec(get_item, 0..40)).prop_map(|(((request, namespace, deadline_us), hint), items)| {
        Message::Get { request, namespace: NamespaceId(namespace), deadline_us, hint, items }
    });
    let put_item = (vec(any::<u8>(), 0..300), place()).prop_map(|(descriptor, from)| PutItem { descriptor, from });
    let put = (head(), any::<bool>(), vec(put_item, 0..40)).prop_map(|(head, caller_keeps, items)| {
        let ((request, namespace, deadline_us), hint) = head;
        Message::Put { request, namespace: NamespaceId(namespace), deadline_us, hint, caller_keeps, items }
    });
    let matching = (any::<(u32, u32, u32, u32, bool)>(), keys()).prop_map(
        |((request, namespace, deadline_us, hold_ms, stop_at_gap), keys)| Message::Match {
            request,
            namespace: NamespaceId(namespace),
            deadline_us,
            hold_ms,
            stop_at_gap,
            keys,
        },
    );
    let forget = (any::<(u32, u32, u32)>(), keys()).prop_map(|((request, namespace, deadline_us), keys)| {
        Message::Forget { request, namespace: NamespaceId(namespace), deadline_us, keys }
    });
    prop_oneof![
        get,
        put,
        matching,
        forget,
        (any::<u32>(), vec((item(), get_outcome()), 0..40))
            .prop_map(|(request, outcomes)| Message::GetOutcomes { request, outcomes }),
        (any::<u32>(), vec(item(), 0..40)).prop_map(|(request, items)| Message::PutGo { request, items }),
        (any::<u32>(), vec((item(), put_outcome()), 0..40))
            .prop_map(|(request, outcomes)| Message::PutOutcomes { request, outcomes }),
        (any::<u32>(), vec(presence(), 0..99))
            .prop_map(|(request, presence)| Message::MatchOutcomes { request, presence }),
        (any::<(u32, bool)>(), vec(any::<bool>(), 0..99))
            .prop_map(|((request, failed), forgotten)| Message::ForgetOutcomes { request, failed, forgotten }),
    ]
}

fn hints() -> impl Strategy<Value = Message> {
    prop_oneof![
        (any::<u32>(), hint(), keys()).prop_map(|(namespace, hint, keys)| Message::Touch {
            namespace: NamespaceId(namespace),
            hint,
            keys
        }),
        (any::<(u32, u32)>(), keys()).prop_map(|((namespace, deadline_us), keys)| Message::Prefetch {
            namespace: NamespaceId(namespace),
            deadline_us,
            keys
        }),
        any::<(u32, u64, u64, u32, u32)>().prop_map(|(namespace, requests, computed, engine, used)| {
            let (engine_tokens, used_tokens) = (u64::from(engine), u64::from(used));
            let prompt_tokens = computed / 2 + engine_tokens + used_tokens;
            Message::Report {
                namespace: NamespaceId(namespace),
                reported: Reported { requests, prompt_tokens, engine_tokens, used_tokens },
            }
        }),
        any::<(u32, [u8; 16], u64)>().prop_map(|(namespace, key, version)| Message::Corrupt {
            namespace: NamespaceId(namespace),
            key: Key(key),
            version: Version(version)
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1500) })]

    #[test]
    fn any_message_comes_back_as_it_went(
        message in prop_oneof![2 => connection(), 2 => control(), 4 => blocks(), 1 => hints()],
        before in vec(any::<u8>(), 0..9),
        behind in vec(any::<u8>(), 0..9),
    ) {
        let mut bytes = before.clone();
        encode(&message, &mut bytes).unwrap();
        let frame = bytes.split_off(before.len());
        prop_assert_eq!(&bytes, &before, "what was in the buffer stays");
        for cut in [0, 1, HEADER_BYTES - 1, frame.len() - 1] {
            prop_assert_eq!(next_frame(&frame[..cut]), Ok(None));
        }
        let length = frame.len();
        let mut more = frame;
        more.extend_from_slice(&behind);
        prop_assert_eq!(next_frame(&more), Ok(Some((Frame::Message(message), length))));
    }

    #[test]
    fn any_data_header_comes_back_as_it_went(
        request in any::<u32>(),
        item in 0..4096u32,
        offset in 0..=(64 << 20) - (256 << 10) as u64,
        length in 1..=256u32 << 10,
    ) {
        let data = DataHeader { request, item, offset, length };
        let mut bytes = [0; HEADER_BYTES];
        encode_data_header(&data, &mut bytes);
        prop_assert_eq!(next_frame(&bytes), Ok(Some((Frame::Data(data), HEADER_BYTES))));
    }
}
