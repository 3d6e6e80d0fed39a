//! Admission on recorded load: the write budget's three bands against a coin that writes as many bytes.
//!
//! The traces are replayed by key through the store itself, on the simulated drive, with time stretched to three days. A request looks up its blocks,
//! uses those that lead, and puts the others behind the gap, each with its parent; nobody gives a hint. Against it stands a store without a budget,
//! before which a coin is thrown for each request's puts, weighted so that as many bytes are written: a coin for each block would be an easier mark,
//! for it leaves gaps in chains. Skips aloud where the traces are not there.

use forebay_store::Reserve;
use forebay_types::{BlockMeta, Descriptor, Entropy, Key, PutOutcome, RefusedReason, SeededEntropy, Version};

use crate::rig::*;
use crate::traces::Load;

const DAYS: u64 = 3;
/// Coins tried until one writes as many bytes, within a fiftieth.
const COINS: usize = 6;
/// Bytes of the drive's segments.
const DRIVE_BYTES: u64 = 18 * 4 * MIB;

#[derive(Debug, Default, Clone, Copy)]
struct Kept {
    asked: u64,
    hits: u64,
    puts: u64,
    kept: u64,
    written: u64,
}

impl Kept {
    fn hit_rate(&self) -> f64 {
        self.hits as f64 / self.asked as f64
    }
}

/// One put; true if it was kept.
fn put(rig: &mut Rig, batch: forebay_store::Batch, depth: u32, key: Key, parent: Option<Key>, bytes: &[u8]) -> bool {
    let version = Version(rig.now + 1);
    let plain = BlockMeta::plain(CACHE, key, version, bytes.len() as u64);
    let parent = parent.map_or(0, |parent| parent.place_token());
    let mut encoded = Vec::new();
    Descriptor::of(BlockMeta { parent, ..plain }, bytes).encode(&mut encoded);
    for _ in 0..10_000 {
        match rig.store.reserve(rig.now, &encoded, batch, depth) {
            Reserve::Slot(mut slot) => {
                slot.buf_mut().copy_from_slice(bytes);
                return matches!(rig.store.commit(rig.now, 0, slot), forebay_store::Committed::Cached);
            }
            Reserve::Refused(RefusedReason::Busy) => drop(rig.turn()),
            Reserve::Refused(RefusedReason::Admission) => return false,
            Reserve::Exists => return true,
            Reserve::Refused(other) => panic!("{}", PutOutcome::Refused(other)),
        }
    }
    panic!("busy for ever");
}

/// Trace seconds are so many milliseconds here.
fn stretch(load: &Load) -> f64 {
    let last = load.requests().last().map_or(1.0, |request| request.at_s);
    (DAYS * 86_400_000) as f64 / last
}

/// With a budget of so many bytes a day; or without one, each request's puts made with this chance.
fn replay(load: &Load, day_bytes: Option<u64>, chance: f64) -> Kept {
    let mut rig = Rig::new(Options { align: 512, len: 3 * MIB + DRIVE_BYTES, arena: 16 << 20, ..Options::default() });
    if let Some(day_bytes) = day_bytes {
        rig.store.limit_writes(rig.now, day_bytes);
    }
    rig.settle();
    let begun = rig.medium.counts().written_bytes;
    let (random, bytes, stretch) = (SeededEntropy::new(7), content(1, load.length), stretch(load));
    let (start, utc) = (rig.now, rig.utc);
    let mut all = Kept::default();
    for request in load.requests() {
        rig.now = rig.now.max(start + (request.at_s * stretch) as u64);
        rig.utc = utc + (rig.now - start) / 1000;
        rig.store.set_utc(rig.now, rig.utc);
        rig.turns(2);
        let keys = load.keys(request);
        let mut leading = 0;
        rig.store.look(rig.now, CACHE, &keys, 0, true, |found| leading += usize::from(found.is_ok()));
        all.asked += keys.len() as u64;
        all.hits += leading as u64;
        let batch = rig.store.begin_batch(keys.len() as u32);
        for (depth, key) in keys[..leading].iter().enumerate() {
            assert!(rig.store.touch(rig.now, CACHE, key, batch, depth as u32).is_ok());
        }
        if (random.word() % 10_000) as f64 >= chance * 10_000.0 {
            continue;
        }
        for depth in leading..keys.len() {
            let parent = depth.checked_sub(1).map(|before| keys[before]);
            all.puts += 1;
            all.kept += u64::from(put(&mut rig, batch, depth as u32, keys[depth], parent, &bytes));
        }
    }
    rig.settle();
    all.written = rig.medium.counts().written_bytes - begun;
    all
}

/// Hits by the byte written, with a budget of this share of what is written without one: how many times a coin's.
fn beside_a_coin(name: &str, load: &Load, free: &Kept, share: f64) -> f64 {
    let day_bytes = (free.written as f64 * share / (DAYS + 1) as f64) as u64;
    let chosen = replay(load, Some(day_bytes), 1.0);
    // A coin whose puts write as much, as near as whole requests allow.
    let (mut chance, mut random) = (share, Kept::default());
    for _ in 0..COINS {
        random = replay(load, None, chance);
        if random.written.abs_diff(chosen.written) * 50 < chosen.written {
            break;
        }
        chance = (chance * chosen.written as f64 / random.written as f64).min(1.0);
    }
    let row = |what: &str, kept: &Kept| {
        println!(
            "{name}, {} of {} requests, blocks of {} B, {what}: {:.2} % hits, {} MiB written, {} of {} puts kept",
            load.requests,
            load.plan.requests.len(),
            load.record_bytes(),
            100.0 * kept.hit_rate(),
            kept.written >> 20,
            kept.kept,
            kept.puts
        );
    };
    row("no budget", free);
    row(&format!("budget of {} MiB a day", day_bytes >> 20), &chosen);
    row("a coin at the same bytes", &random);
    assert!(chosen.written <= day_bytes * (DAYS + 1) + 4 * MIB, "{} over {day_bytes} a day", chosen.written);
    assert!(random.written * 10 > chosen.written * 9, "the coin wrote less");
    let by_bytes = |kept: &Kept| kept.hits as f64 / kept.written as f64;
    by_bytes(&chosen) / by_bytes(&random)
}

/// The mean over several budgets: a budget that is a hundredth larger may find a twentieth more or less, since other blocks are there when they are asked for.
/// On load of which most comes back, or of which nothing tells what will, a coin is hard to beat.
fn compare(name: &str, load: &Load, shares: &[f64]) {
    let free = replay(load, None, 1.0);
    let times: Vec<f64> = shares.iter().map(|share| beside_a_coin(name, load, &free, *share)).collect();
    let mean = times.iter().sum::<f64>() / times.len() as f64;
    println!("{name}: hits by the byte {mean:.3} times a coin's, {times:.3?} with {shares:?} of the bytes");
    assert!(mean > 0.96, "{times:?}");
}

#[test]
fn on_recorded_chats_the_budget_keeps_no_fewer_hits_than_a_coin_at_the_same_bytes() {
    let Some(load) = Load::new("mooncake-conversation.jsonl.gz", 1, 3500, 1500) else { return };
    compare("chats", &load, &[0.2, 0.25, 0.28, 0.3, 0.32, 0.35, 0.4]);
}

#[test]
fn on_recorded_agents_the_budget_keeps_no_fewer_hits_than_a_coin_at_the_same_bytes() {
    let Some(load) = Load::new("agent-sessions.jsonl.gz", 32, 16_000, 1000) else { return };
    compare("agents", &load, &[0.25, 0.3, 0.35]);
}
