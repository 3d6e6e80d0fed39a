//! A real node whose drive fails, fills or loses bytes, or that is asked for more than it has memory or room for, as its client sees it: the right
//! reason by the deadline, what can be served is served, the sums add up, and all is well again without a restart when the fault is gone.
#![expect(clippy::unwrap_used, reason = "all of this is a test")]

mod faulty;
mod support;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use faulty::{FLUSHES, Faulty, READS, WRITES};
use forebay_client::{Client, NamespaceHandle, Options};
use forebay_types::{Address, Class, Fingerprint, Key, MissReason, PutOutcome, RefusedReason};
use support::{Node, Place, bytes};

const MIB: u64 = 1 << 20;

fn attached(place: &Place, name: &str, quota_bytes: Option<u64>) -> (Client, NamespaceHandle) {
    // A slow drive is no fault of the client's.
    let options = Options { deadline: Duration::from_secs(30), ..Options::default() };
    let client = Client::connect(&Address::unix(place.path("s")).unwrap(), options).unwrap();
    let space = client.create_namespace(name, Class::Durable, quota_bytes, &Fingerprint::default()).unwrap();
    (client, space)
}

type Blocks = Vec<(Key, Vec<u8>)>;

fn made(space: &NamespaceHandle, numbers: std::ops::Range<u64>, length: usize) -> Blocks {
    numbers.map(|n| (space.derive_key(&n.to_le_bytes()), bytes(n, length))).collect()
}

fn put(space: &NamespaceHandle, block: &(Key, Vec<u8>)) -> PutOutcome {
    space.put(&[(block.0, &block.1)])[0]
}

/// Why each was missed; a hit is compared.
fn missed(space: &NamespaceHandle, blocks: &[(Key, Vec<u8>)]) -> Vec<Option<MissReason>> {
    let keys: Vec<Key> = blocks.iter().map(|(key, _)| *key).collect();
    let compared = space.get(&keys).into_iter().zip(blocks).map(|(result, (key, bytes))| {
        let missed = result.miss();
        assert!(result.hit().is_none_or(|block| *block == bytes[..]), "{key} came back otherwise");
        missed
    });
    compared.collect()
}

#[track_caller]
fn all_hit(space: &NamespaceHandle, blocks: &[(Key, Vec<u8>)]) {
    let missed = missed(space, blocks);
    assert!(missed.iter().all(Option::is_none), "{missed:?}");
}

/// The client's sums add up, and it has seen one start of the node.
#[track_caller]
fn well(client: &Client) {
    let counters = client.counters();
    assert!(counters.get.adds_up() && counters.put.adds_up() && counters.contains.adds_up(), "{counters:?}");
    assert_eq!(counters.restarts, 0, "{counters:?}");
}

#[test]
fn a_drive_that_gives_no_bytes_costs_unavailable_misses_and_is_read_again_when_it_does() {
    let place = Place::new();
    let node = place.serve();
    let blocks = {
        let (_client, space) = attached(&place, "kept", None);
        let blocks = made(&space, 0..30, 200_000);
        blocks.iter().for_each(|block| assert_eq!(put(&space, block), PutOutcome::Durable));
        blocks
    };
    node.kill();
    // Nothing is in DRAM after this.
    let mut node = Node::start_when_free(|| place.forebay(support::SERVE));
    let (client, space) = attached(&place, "kept", None);
    let drive = File::options().read(true).write(true).open(place.path("drive")).unwrap();
    let mut whole = vec![0; drive.metadata().unwrap().len() as usize];
    drive.read_exact_at(&mut whole, 0).unwrap();
    // The superblocks stay; every read of a segment comes back short.
    drive.set_len(MIB).unwrap();
    for _ in 0..3 {
        let missed = missed(&space, &blocks);
        assert!(missed.iter().all(|reason| *reason == Some(MissReason::Unavailable)), "{missed:?}");
    }
    // Where they are is known all the same.
    let keys: Vec<Key> = blocks.iter().map(|(key, _)| *key).collect();
    assert!(space.contains(&keys).iter().all(Result::is_ok));
    assert_eq!(client.counters().get.missed(MissReason::Unavailable), 90);
    // The bytes are back, but for one of them.
    let (at, bit) = (whole.windows(64).position(|window| *window == blocks[7].1[..64]).unwrap() + 70_000, 0x20);
    whole[at] ^= bit;
    drive.write_all_at(&whole[MIB as usize..], MIB).unwrap();
    let after = missed(&space, &blocks);
    assert_eq!(after[7], Some(MissReason::Corrupt));
    assert!(after.iter().enumerate().all(|(n, reason)| n == 7 || reason.is_none()), "{after:?}");
    // The client has told the node, which looked and dropped it: it can be put again.
    for _ in 0..3000 {
        if put(&space, &blocks[7]) == PutOutcome::Durable {
            break;
        }
        support::pause(10);
    }
    all_hit(&space, &blocks);
    assert!(node.lives());
    well(&client);
}

/// A node on a sparse drive in a small file system of its own, and its mount; `None` where nobody may make one.
fn on_a_small_file_system(place: &Place) -> Option<Node> {
    let script = "mount -t tmpfs -o size=24m tmpfs t && truncate -s 96M t/drive && exec \"$0\" \"$@\"";
    std::fs::create_dir_all(place.path("t")).unwrap();
    let mut attempt = Command::new("unshare");
    attempt.args(["-Urm", "mount", "-t", "tmpfs", "tmpfs"]).arg(place.path("t"));
    if !may_run(&mut attempt) {
        return None;
    }
    let forebay =
        place.forebay(["serve", "--data", "t/drive", "--capacity", "96MiB", "--memory", "64MiB", "--socket", "s"]);
    let mut command = Command::new("unshare");
    command.args(["-Urm", "sh", "-c", script]).arg(forebay.get_program()).args(forebay.get_args());
    for (name, value) in forebay.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.current_dir(place.path("")).stdin(Stdio::null());
    Some(Node::start(command))
}

fn may_run(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

#[test]
fn a_file_system_that_is_full_refuses_puts_and_what_is_there_is_served() {
    let place = Place::new();
    let Some(mut node) = on_a_small_file_system(&place) else {
        println!("skipped: a file system of a test's own; unshare -Urm may not mount one here");
        return;
    };
    let (client, space) = attached(&place, "kept", None);
    let blocks = made(&space, 0..120, 500_000);
    let mut kept: Blocks = Vec::new();
    let mut refused = Vec::new();
    for block in &blocks {
        match put(&space, block) {
            PutOutcome::Durable => kept.push(block.clone()),
            outcome => refused.push(outcome),
        }
    }
    assert!(kept.len() > 5 && refused.len() > 60, "{} kept, {} refused", kept.len(), refused.len());
    let unavailable = PutOutcome::Refused(RefusedReason::Unavailable);
    assert!(refused.iter().all(|outcome| *outcome == unavailable), "{refused:?}");
    all_hit(&space, &kept);
    // There is room again: the drive is out for writing for good, for nobody knows what the failed writes left; reads go on.
    let pid = node.pid().to_string();
    let mut larger = Command::new("nsenter");
    larger.args(["-t", &pid, "-U", "-m", "--preserve-credentials", "mount", "-o", "remount,size=200m"]);
    assert!(may_run(larger.arg(place.path("t"))), "the file system does not grow");
    let again = put(&space, &(space.derive_key(b"again"), bytes(1000, 500_000)));
    assert_eq!(again, unavailable, "until its node is started anew");
    all_hit(&space, &kept);
    assert!(node.lives());
    well(&client);
}

#[test]
fn a_quota_and_a_full_drive_refuse_by_name_until_something_is_forgotten() {
    let place = Place::new();
    let mut node = place.serve();
    let (client, small) = attached(&place, "small", Some(4 * MIB));
    let (_, large) = attached(&place, "large", None);
    for (space, reason, most) in [(&small, RefusedReason::Quota, 20), (&large, RefusedReason::Full, 300)] {
        let blocks = made(space, 0..most, 500_000);
        let outcomes: Vec<PutOutcome> = blocks.iter().map(|block| put(space, block)).collect();
        let first = outcomes.iter().position(|outcome| *outcome != PutOutcome::Durable).unwrap();
        assert!(first > 2, "{outcomes:?}");
        assert!(outcomes[first..].iter().all(|outcome| *outcome == PutOutcome::Refused(reason)), "{outcomes:?}");
        all_hit(space, &blocks[..first]);
        let half: Vec<Key> = blocks[..first].iter().map(|(key, _)| *key).step_by(2).collect();
        assert!(space.forget(&half).unwrap().iter().all(|was| *was));
        // A full drive has to clean segments first.
        let room = (0..3000).any(|_| {
            support::pause(10);
            put(space, &blocks[first]) == PutOutcome::Durable
        });
        assert!(room, "half is forgotten and nothing is taken: {reason}");
        all_hit(space, &blocks[first..=first]);
    }
    assert!(node.lives());
    well(&client);
}

#[test]
fn a_node_that_is_asked_for_more_than_its_memory_answers_all_of_it_in_time() {
    let place = Place::new();
    let mut node = Node::start(place.forebay([
        "serve",
        "--data",
        "drive",
        "--capacity",
        "192MiB",
        "--memory",
        "24MiB",
        "--socket",
        "s",
    ]));
    let (client, space) = attached(&place, "kept", None);
    let blocks = made(&space, 0..60, 1 << 20);
    blocks.iter().for_each(|block| assert!(put(&space, block).is_kept()));
    let (mut hits, mut misses) = (0, 0);
    std::thread::scope(|scope| {
        let readers: Vec<_> =
            (0..12).map(|_| scope.spawn(|| missed(&space.with_deadline(Duration::from_secs(20)), &blocks))).collect();
        for reader in readers {
            for reason in reader.join().unwrap() {
                let told = matches!(reason, None | Some(MissReason::Busy | MissReason::Deadline));
                assert!(told, "{reason:?} where memory is short");
                hits += u64::from(reason.is_none());
                misses += u64::from(reason.is_some());
            }
        }
    });
    println!("{hits} hits and {misses} misses in {} MiB of memory", 24);
    assert!(hits > 100, "{hits} hits, {misses} misses");
    all_hit(&space, &blocks);
    assert!(node.lives());
    well(&client);
}

/// How many blocks the shard on the drive `sick` holds.
fn on_the_sick_drive(client: &Client) -> usize {
    let stats: serde_json::Value = serde_json::from_str(&client.node_stats().unwrap()).unwrap();
    let shards = stats["shards"].as_array().unwrap();
    let sick = shards.iter().find(|shard| shard["path"].as_str().unwrap().ends_with("sick")).unwrap();
    sick["blocks"].as_u64().unwrap() as usize
}

/// Puts all of them. Those that the kernel's EIO kept from being durable are refused as `unavailable`, and they are returned apart.
fn put_all(space: &NamespaceHandle, blocks: Blocks) -> (Blocks, Blocks) {
    let refused = PutOutcome::Refused(RefusedReason::Unavailable);
    blocks.into_iter().partition(|block| match put(space, block) {
        PutOutcome::Durable => true,
        outcome => {
            assert_eq!(outcome, refused, "{}", block.0);
            false
        }
    })
}

/// A node on the drives `steady` and `sick`, and a client of it.
fn two_drives(place: &Place, faulty: &Faulty) -> (Node, Client, NamespaceHandle) {
    let args =
        ["serve", "--data", "steady", "--data", "sick", "--capacity", "96MiB", "--memory", "128MiB", "--socket", "s"];
    let node = faulty.start(&place.forebay(args));
    let (client, space) = attached(place, "kept", None);
    (node, client, space)
}

/// Reads fail: the blocks of the sick drive are missed with the reason, and are hits when reads work again. Nothing of them is in DRAM.
fn reads_fail(faulty: &Faulty, client: &Client, space: &NamespaceHandle, kept: &Blocks) {
    let sick = on_the_sick_drive(client);
    assert!(sick > 10 && sick + 10 < kept.len(), "{sick} of {} on one of two drives", kept.len());
    faulty.fail(READS);
    for _ in 0..2 {
        let missed = missed(space, kept);
        let unavailable = missed.iter().filter(|reason| **reason == Some(MissReason::Unavailable)).count();
        let hits = missed.iter().filter(|reason| reason.is_none()).count();
        assert_eq!((unavailable, hits), (sick, kept.len() - sick), "{missed:?}");
    }
    assert!(faulty.fail(0) >= 2 * sick as u64, "no read met the fault");
    all_hit(space, kept);
}

/// Writes or flushes fail while these are put: the other drive takes what is its own, the rest is refused, and stays so when they would work again.
fn puts_fail(faulty: &Faulty, faults: u8, space: &NamespaceHandle, blocks: Blocks, kept: &mut Blocks) -> Blocks {
    let before = faulty.fail(faults);
    let (taken, refused) = put_all(space, blocks);
    assert!(taken.len() > 5 && refused.len() > 5, "{} taken, {} refused", taken.len(), refused.len());
    assert!(faulty.fail(0) > before, "nothing met the fault");
    kept.extend(taken);
    assert_eq!(put(space, &refused[0]), PutOutcome::Refused(RefusedReason::Unavailable), "until its node starts anew");
    all_hit(space, kept);
    refused
}

#[test]
fn eio_in_reads_writes_and_flushes_of_one_drive_is_a_miss_or_a_refusal_and_the_other_serves() {
    let place = Place::new();
    let faulty = match Faulty::new(&place, 96 * MIB) {
        Ok(faulty) => faulty,
        Err(why) => {
            println!("skipped: EIO by the kernel's hand; a file system in user space cannot be mounted: {why}");
            return;
        }
    };
    let (node, client, space) = two_drives(&place, &faulty);
    let (mut kept, refused) = put_all(&space, made(&space, 0..80, 200_000));
    assert!(refused.is_empty());
    drop((client, space));
    node.kill();

    let (node, client, space) = two_drives(&place, &faulty);
    reads_fail(&faulty, &client, &space, &kept);
    puts_fail(&faulty, WRITES, &space, made(&space, 100..140, 200_000), &mut kept);
    well(&client);
    drop((client, space));
    assert_eq!(node.end(rustix::process::Signal::TERM).0, 0);

    // What no flush covered is not durable, and nobody is told that it is.
    let (node, client, space) = two_drives(&place, &faulty);
    all_hit(&space, &kept);
    let again = puts_fail(&faulty, FLUSHES, &space, made(&space, 200..240, 200_000), &mut kept);
    well(&client);
    drop((client, space));
    node.kill();

    let (mut node, client, space) = two_drives(&place, &faulty);
    all_hit(&space, &kept);
    // A refused put may have reached the drive all the same. Either way the block can be had.
    again.iter().for_each(|block| assert!(matches!(put(&space, block), PutOutcome::Durable | PutOutcome::Exists)));
    all_hit(&space, &again);
    assert!(node.lives());
    well(&client);
}
