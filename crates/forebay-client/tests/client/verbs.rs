//! What the verbs do with an honest node.

use std::sync::atomic::Ordering;
use std::time::Duration;

use forebay_client::{ClientError, IntoError, Options, PutBlock};
use forebay_types::{Fingerprint, LandingKind, MissReason, PutOutcome, RefusedReason, Tier};

use crate::fake::{Fake, lock};
use crate::{assert_adds_up, assert_hits, attached, content, filled, keys};

const LENGTHS: [usize; 8] = [1, 4096, 65_536, 65_537, 200_000, 1 << 20, 3_000_001, 12];

#[test]
fn what_was_put_is_got_over_regions_and_over_tcp() {
    for fake in [Fake::unix(), Fake::tcp()] {
        let (client, space) = attached(&fake, Options::default());
        let blocks = filled(&space, &LENGTHS);
        assert_hits(space.get(&keys(&blocks)), &blocks);
        let local = matches!(fake.address, forebay_types::Address::Unix(_));
        let counters = client.counters();
        let n = LENGTHS.len() as u64;
        assert_eq!(counters.get.hits(), n);
        assert_eq!(counters.get.hits_local[Tier::Dram.index()], if local { n } else { 0 });
        let kind = if local { LandingKind::Bounce } else { LandingKind::Stream };
        assert_eq!(counters.landings[kind.index()], n);
        assert_eq!(counters.put.cached, n);
        assert_eq!(counters.get_bytes, LENGTHS.iter().sum::<usize>() as u64);
        // On a Unix socket no payload passed through it.
        assert_eq!(fake.state.payload_received.load(Ordering::Relaxed) == 0, local);
        assert_adds_up(&client);
    }
}

#[test]
fn a_descriptor_is_found_behind_a_direct_landing() {
    let fake = Fake::unix();
    fake.state.direct.store(true, Ordering::Relaxed);
    let (client, space) = attached(&fake, Options::default());
    let blocks = filled(&space, &LENGTHS);
    // Twice: the first time some blocks are longer than expected.
    assert_hits(space.get(&keys(&blocks)), &blocks);
    assert_hits(space.get(&keys(&blocks)), &blocks);
    assert!(client.counters().landings[LandingKind::Direct.index()] >= LENGTHS.len() as u64);
}

#[test]
fn a_node_may_stream_although_there_is_a_region() {
    let fake = Fake::unix();
    fake.state.stream.store(true, Ordering::Relaxed);
    let (client, space) = attached(&fake, Options::default());
    let blocks = filled(&space, &LENGTHS);
    assert_hits(space.get(&keys(&blocks)), &blocks);
    assert_eq!(client.counters().landings[LandingKind::Stream.index()], LENGTHS.len() as u64);
}

#[test]
fn a_node_that_refuses_regions_serves_through_the_socket() {
    let fake = Fake::unix();
    fake.state.set(crate::fake::Trick::RefuseRegion);
    let (client, space) = attached(&fake, Options::default());
    let blocks = filled(&space, &LENGTHS);
    assert_hits(space.get(&keys(&blocks)), &blocks);
    assert_eq!(client.counters().landings[LandingKind::Stream.index()], LENGTHS.len() as u64);
}

#[test]
fn thousands_of_small_blocks_pass_through_one_call_and_each_is_visited_once() {
    for fake in [Fake::unix(), Fake::tcp()] {
        let (client, space) = attached(&fake, Options::default());
        let blocks = filled(&space, &[3000; 3000]);
        let mut visits = vec![0; blocks.len()];
        space.get_each(&keys(&blocks), |i, result| {
            let block = result.unwrap();
            assert!(block.bytes() == &blocks[i].1[..]);
            visits[i] += 1;
        });
        assert!(visits.iter().all(|n| *n == 1));
        assert_adds_up(&client);
    }
}

#[test]
fn more_blocks_than_the_region_holds_are_got_all_the_same() {
    let fake = Fake::unix();
    let options = Options { region_bytes: 4 << 20, ..Options::default() };
    let (client, space) = attached(&fake, options);
    let blocks = filled(&space, &[700_000; 40]);
    assert_hits(space.get(&keys(&blocks)), &blocks);
    let held = space.get(&keys(&blocks));
    // While all those are held, others still come.
    assert_hits(space.get(&keys(&blocks)), &blocks);
    assert_hits(held, &blocks);
    assert_adds_up(&client);
    // Without any region at all, too.
    let (_, space) = attached(&fake, Options { region_bytes: 0, ..Options::default() });
    assert_hits(space.get(&keys(&blocks)), &blocks);
}

#[test]
fn ranges_are_verified_by_pieces_and_trimmed_to_what_was_asked() {
    for fake in [Fake::unix(), Fake::tcp()] {
        let (client, space) = attached(&fake, Options::default());
        let blocks = filled(&space, &[300_000]);
        let (key, bytes) = &blocks[0];
        let ranges =
            [0..1, 0..300_000, 65_535..65_537, 100_000..250_000, 299_999..400_000, 131_072..131_072, 300_000..300_001];
        let asked: Vec<_> = ranges.iter().map(|range| (*key, range.clone())).collect();
        for (range, result) in ranges.iter().zip(space.get_ranges(&asked)) {
            let (start, end) = (range.start as usize, (range.end as usize).min(bytes.len()));
            let block = result.hit().unwrap_or_else(|| panic!("{range:?} was missed"));
            assert!(*block == bytes[start..end], "{range:?}");
            assert_eq!((block.offset(), block.meta().length), (range.start, 300_000));
        }
        assert_adds_up(&client);
    }
}

#[test]
fn blocks_are_copied_into_the_callers_buffers() {
    for fake in [Fake::unix(), Fake::tcp()] {
        let (client, space) = attached(&fake, Options::default());
        let blocks = filled(&space, &[100_000, 50, 70_000]);
        let mut keys = keys(&blocks);
        keys.push(space.derive_key(b"never put"));
        let mut buffers = [vec![0; 100_000], vec![0; 50], vec![0; 69_999], vec![0; 10]];
        let mut lent: Vec<&mut [u8]> = buffers.iter_mut().map(Vec::as_mut_slice).collect();
        let results = space.get_into(&keys, &mut lent);
        assert_eq!(results[0], Ok(100_000));
        assert_eq!(results[1], Ok(50));
        assert_eq!(results[2], Err(IntoError::TooSmall { need: 70_000 }));
        assert_eq!(results[3], Err(IntoError::Miss(MissReason::Absent)));
        assert!(buffers[0] == blocks[0].1 && buffers[1] == blocks[1].1);
        assert_adds_up(&client);
    }
}

#[test]
fn parts_of_a_group_come_back_under_one_version() {
    let fake = Fake::unix();
    let (_, space) = attached(&fake, Options::default());
    let key = space.derive_key(b"group");
    let (kv, scales) = (content(1, 150_000), content(2, 70_000));
    assert_eq!(space.put_group(key, &[("kv", &kv), ("scales", &scales)]).unwrap(), PutOutcome::Cached);
    let block = space.get(&[key]).remove(0).hit().unwrap();
    assert_eq!(block.part("kv"), Some(&kv[..]));
    assert_eq!(block.part("scales"), Some(&scales[..]));
    assert_eq!(block.part("index"), None);
    // A range has the parts that lie wholly inside it.
    let tail = space.get_ranges(&[(key, 150_000..220_000)]).remove(0).hit().unwrap();
    assert_eq!(tail.part("scales"), Some(&scales[..]));
    assert_eq!(tail.part("kv"), None);
    assert!(matches!(space.put_group(key, &[]), Err(ClientError::Invalid(_))));
    assert!(matches!(space.put_group(key, &[("a name much too long", &kv)]), Err(ClientError::Invalid(_))));
    assert!(matches!(space.put_group(key, &[("kv", &kv), ("kv", &kv)]), Err(ClientError::Invalid(_))));
}

#[test]
fn a_put_says_what_became_of_each_block() {
    for fake in [Fake::unix(), Fake::tcp()] {
        let (client, space) = attached(&fake, Options::default());
        let blocks = filled(&space, &[1000]);
        let (key, bytes) = (blocks[0].0, content(5, 2000));
        let huge = vec![0; (16 << 20) + 1];
        let other = space.derive_key(b"other");
        let before = fake.state.payload_received.load(Ordering::Relaxed);
        let outcomes = space.put(&[(key, &bytes), (other, &[]), (other, &huge)]);
        let too_large = PutOutcome::Refused(RefusedReason::TooLarge);
        assert_eq!(outcomes, [PutOutcome::Exists, too_large, too_large]);
        assert_eq!(fake.state.payload_received.load(Ordering::Relaxed), before, "the bytes moved");
        let counters = client.counters();
        assert_eq!((counters.put.asked, counters.put.exists), (4, 1));
        assert_eq!(counters.put.refused[RefusedReason::TooLarge.index()], 2);
        assert_adds_up(&client);
    }
}

#[test]
fn a_block_is_put_from_a_slice_with_what_is_known_about_it() {
    for fake in [Fake::unix(), Fake::tcp()] {
        let (client, space) = attached(&fake, Options::default());
        let (key, parent, bytes) = (space.derive_key(b"1"), space.derive_key(b"0"), content(3, 90_000));
        let mut slice = client.alloc(bytes.len()).unwrap();
        slice.copy_from_slice(&bytes);
        let block =
            PutBlock::new(key, slice).chain(77).behind(&parent, 4).tokens(64).parts(&[("kv", 0..90_000)]).unwrap();
        assert_eq!(space.put_blocks(vec![block]), [PutOutcome::Cached]);
        let block = space.get(&[key]).remove(0).hit().unwrap();
        let meta = block.meta();
        assert_eq!((meta.chain, meta.parent, meta.position, meta.tokens), (77, parent.place_token(), 4, 64));
        assert_ne!(meta.version.0, 0);
        assert!(block.part("kv") == Some(&bytes[..]));
    }
}

#[test]
fn a_match_ends_at_the_first_gap_across_all_shards() {
    let fake = Fake::with(5, false, None);
    let (client, space) = attached(&fake, Options::default());
    let blocks = filled(&space, &[100; 400]);
    let keys = keys(&blocks);
    let matched = space.match_prefix(&keys, None);
    assert_eq!((matched.n, matched.leased, matched.gap), (400, 400, None));
    assert_eq!(matched.tiers, vec![Tier::Dram; 400]);
    // Two seconds unless asked otherwise, and thirty at most.
    assert_eq!(fake.state.hold_ms.load(Ordering::Relaxed), 2000);
    assert_eq!(space.match_prefix(&keys[..1], Some(Duration::from_secs(500))).n, 1);
    assert_eq!(fake.state.hold_ms.load(Ordering::Relaxed), 30_000);
    lock(&fake.state.blocks).remove(&(space.namespace().id, keys[250]));
    let matched = space.match_prefix(&keys, Some(Duration::ZERO));
    assert_eq!((matched.n, matched.leased, matched.gap), (250, 0, Some(MissReason::Absent)));
    let counters = client.counters().matched;
    assert_eq!((counters.hits(), counters.not_asked, counters.missed(MissReason::Absent)), (651, 149, 1));
    assert_eq!(space.match_prefix(&[], None).n, 0);
    assert_adds_up(&client);
    assert_hits(space.get(&keys[..250]), &blocks[..250]);
}

#[test]
fn a_get_that_misses_what_a_match_promised_is_counted() {
    let fake = Fake::unix();
    let (client, space) = attached(&fake, Options::default());
    let blocks = filled(&space, &[100; 3]);
    let keys = keys(&blocks);
    assert_eq!(space.match_prefix(&keys, None).leased, 3);
    lock(&fake.state.blocks).remove(&(space.namespace().id, keys[1]));
    space.get_each(&keys, |_, _| ());
    assert_eq!(client.counters().match_broken, 1);
    // A key whose forgetting the caller asked for breaks no promise; nor does one without a lease.
    space.forget(&keys[..1]).unwrap();
    space.get_each(&keys[..1], |_, _| ());
    assert_eq!(client.counters().match_broken, 1);
    fake.state.leases.store(false, Ordering::Relaxed);
    let (client, space) = attached(&fake, Options::default());
    assert_eq!(space.match_prefix(&keys[2..], None).leased, 0);
    lock(&fake.state.blocks).clear();
    space.get_each(&keys, |_, _| ());
    assert_eq!(client.counters().match_broken, 0);
}

#[test]
fn contains_answers_key_by_key_and_forget_says_what_was_there() {
    let fake = Fake::with(3, false, None);
    let (client, space) = attached(&fake, Options::default());
    let blocks = filled(&space, &[100; 10]);
    let mut keys = keys(&blocks);
    keys.insert(5, space.derive_key(b"never put"));
    fake.state.hold_ms.store(99, Ordering::Relaxed);
    let answers = space.contains(&keys);
    assert_eq!(fake.state.hold_ms.load(Ordering::Relaxed), 0, "no lease was asked for");
    assert_eq!(answers[5], Err(MissReason::Absent));
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 10);
    let forgotten = space.forget(&keys[4..7]).unwrap();
    assert_eq!(forgotten, [true, false, true]);
    assert_eq!(space.forget(&keys[4..7]).unwrap(), [false, false, false]);
    assert_eq!(space.get(&keys[4..5])[0].miss(), Some(MissReason::Absent));
    assert_adds_up(&client);
}

#[test]
fn many_threads_share_a_client() {
    let fake = Fake::with(2, false, None);
    // Fewer connections than threads: some wait for one.
    let (client, space) = attached(&fake, Options { connections: 2, ..Options::default() });
    let blocks = filled(&space, &[20_000; 64]);
    let keys = keys(&blocks);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                for _ in 0..20 {
                    assert_hits(space.get(&keys), &blocks);
                }
            });
        }
    });
    assert_eq!(client.counters().get.hits(), 6 * 20 * 64);
    assert_adds_up(&client);
}

#[test]
fn errors_say_what_to_try() {
    let fake = Fake::tcp();
    let error = forebay_client::Client::connect(&fake.address, Options::default()).unwrap_err();
    assert!(matches!(error, ClientError::Credential { .. }), "{error}");
    let (client, _) = attached(&fake, Options::default());
    let error = client.namespace("other").unwrap_err().to_string();
    assert!(error.contains("forebay namespace create other"), "{error}");
    let mut expected = Fingerprint::default();
    expected.set("model", "another").unwrap();
    let error = client.namespace_expecting("kv", &expected).unwrap_err();
    assert!(matches!(error, ClientError::NamespaceDiffers { .. }) && error.to_string().contains("model"), "{error}");
    assert!(client.namespace("no spaces").is_err());
    let nobody = "unix:/nonexistent/forebay.sock".parse().unwrap();
    let error = forebay_client::Client::connect(&nobody, Options::default()).unwrap_err().to_string();
    assert!(error.contains("forebay serve"), "{error}");
}

#[test]
fn clients_handles_and_blocks_go_from_thread_to_thread() {
    fn shared<T: Send + Sync>() {}
    shared::<forebay_client::Client>();
    shared::<forebay_client::NamespaceHandle>();
    shared::<forebay_client::Block>();
    shared::<forebay_client::Slice>();
}
