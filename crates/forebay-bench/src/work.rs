//! What benches do with a node: blocks put, got and looked at.

use forebay_client::{Client, NamespaceHandle};
use forebay_types::{Class, Fingerprint, Key, MissReason, Tier};
use serde_json::Value;

use crate::watch::{Watch, Window};
use crate::{Failed, Outcome, why};

pub(crate) const MIB: usize = 1 << 20;

/// Share of blocks, in thousandths, that may come from another tier than the row is about: one that was asked for twice, no more.
const STRAYS_PER_1000: usize = 2;

pub(crate) fn attach(client: &Client) -> Outcome<NamespaceHandle> {
    client.namespace("default").map_err(why("opening the namespace"))
}

pub(crate) fn attach_durable(client: &Client) -> Outcome<NamespaceHandle> {
    const NAME: &str = "bench-durable";
    client
        .create_namespace(NAME, Class::Durable, None, &Fingerprint::default())
        .map_err(why("making a durable namespace"))?;
    client.namespace(NAME).map_err(why("opening the durable namespace"))
}

/// Puts `count` blocks of `bytes`, in calls of a few MiB, and returns their keys.
pub(crate) fn fill(space: &NamespaceHandle, name: &str, count: usize, bytes: usize) -> Outcome<Vec<Key>> {
    fill_with(space, name, 0..count, bytes, (8 * MIB / bytes).clamp(8, 1024))
}

/// Puts the blocks `name/first..last` of `bytes`, `batch` in a call, and returns their keys.
pub(crate) fn fill_with(
    space: &NamespaceHandle,
    name: &str,
    numbers: std::ops::Range<usize>,
    bytes: usize,
    batch: usize,
) -> Outcome<Vec<Key>> {
    Content::new(batch.min(numbers.len()), bytes).put(space, name, numbers)
}

/// Bytes of as many blocks as are put in one call: made before any clock runs.
pub(crate) struct Content(Vec<Vec<u8>>);

impl Content {
    pub(crate) fn new(batch: usize, bytes: usize) -> Content {
        Content((0..batch).map(|_| pattern(bytes)).collect())
    }

    /// The key of the block `name/number`.
    pub(crate) fn key(space: &NamespaceHandle, name: &str, number: usize) -> Key {
        space.derive_key(format!("{name}/{number}").as_bytes())
    }

    /// Puts the blocks `name/first..last`, as many as there are in a call, and returns their keys.
    pub(crate) fn put(
        &mut self,
        space: &NamespaceHandle,
        name: &str,
        numbers: std::ops::Range<usize>,
    ) -> Outcome<Vec<Key>> {
        let batch = self.0.len().max(1);
        let mut keys = Vec::with_capacity(numbers.len());
        for start in numbers.clone().step_by(batch) {
            let n = batch.min(numbers.end - start);
            let batch_keys: Vec<Key> = (start..start + n).map(|i| Content::key(space, name, i)).collect();
            for (key, block) in batch_keys.iter().zip(&mut self.0) {
                stamp(block, key);
            }
            let items: Vec<(Key, &[u8])> = batch_keys.iter().copied().zip(self.0.iter().map(Vec::as_slice)).collect();
            for (key, outcome) in batch_keys.iter().zip(space.put(&items)) {
                if !outcome.is_kept() {
                    return Err(Failed(format!("a put of {key} answered {outcome}")));
                }
            }
            keys.extend(batch_keys);
        }
        Ok(keys)
    }
}

/// Bytes that no drive and no link can make smaller.
pub(crate) fn pattern(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut block = vec![0u8; bytes];
    for chunk in block.chunks_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        chunk.copy_from_slice(&state.to_le_bytes()[..chunk.len()]);
    }
    block
}

/// Marks the first and last bytes of a block with its key: found by the bench, beside what the client verifies.
pub(crate) fn stamp(block: &mut [u8], key: &Key) {
    let n = block.len();
    block[..16].copy_from_slice(&key.0);
    block[n - 16..].copy_from_slice(&key.0);
}

pub(crate) fn is_stamped(block: &[u8], key: &Key, bytes: usize) -> bool {
    block.len() == bytes && block[..16] == key.0 && block[bytes - 16..] == key.0
}

/// What came back for a list of keys.
#[derive(Default)]
pub(crate) struct Got {
    pub(crate) hits: usize,
    pub(crate) from_dram: usize,
    wrong: usize,
    /// Why the first of those that missed did.
    miss: Option<MissReason>,
}

fn got(space: &NamespaceHandle, keys: &[Key], bytes: usize) -> Got {
    got_each(space, keys, bytes, || ())
}

/// The same, telling of each that came.
fn got_each(space: &NamespaceHandle, keys: &[Key], bytes: usize, mut came: impl FnMut()) -> Got {
    let mut got = Got::default();
    space.get_each(keys, |i, result| {
        came();
        match result {
            Ok(block) => {
                got.hits += 1;
                got.from_dram += usize::from(block.tier() == Tier::Dram);
                got.wrong += usize::from(!is_stamped(&block, &keys[i], bytes));
            }
            Err(reason) => got.miss = got.miss.or(Some(reason)),
        }
    });
    got
}

impl Got {
    fn add(&mut self, other: Got) {
        self.hits += other.hits;
        self.from_dram += other.from_dram;
        self.wrong += other.wrong;
        self.miss = self.miss.or(other.miss);
    }

    /// Fails unless all were hits with the right bytes, from the tier the row is about.
    fn expect(&self, asked: usize, tier: Tier) -> Outcome<()> {
        let strays = if tier == Tier::Dram { self.hits - self.from_dram } else { self.from_dram };
        if self.wrong > 0 {
            Err(Failed(format!("{} of {asked} blocks came back wrong; please report this", self.wrong)))
        } else if self.hits < asked {
            let reason = self.miss.map_or_else(String::new, |reason| format!(" ({reason})"));
            Err(Failed(format!("{} of {asked} blocks that were put are missing{reason}", asked - self.hits)))
        } else if strays > asked * STRAYS_PER_1000 / 1000 {
            Err(Failed(format!(
                "{strays} of {asked} blocks did not come from {tier}: the row would not measure what it says"
            )))
        } else {
            Ok(())
        }
    }
}

pub(crate) fn count_hits(space: &NamespaceHandle, keys: &[Key], bytes: usize) -> Outcome<usize> {
    let got = got(space, keys, bytes);
    if got.wrong > 0 { Err(Failed(format!("{} blocks came back wrong", got.wrong))) } else { Ok(got.hits) }
}

/// Gets all keys, `depth` in flight, and fails unless every one is a hit with the right bytes, from that tier. The microseconds of each.
pub(crate) fn expect_all(
    space: &NamespaceHandle,
    keys: &[Key],
    bytes: usize,
    depth: usize,
    tier: Tier,
) -> Outcome<Vec<f64>> {
    let mut window = Window::start(depth);
    got_each(&space.with_in_flight(depth), keys, bytes, || window.came()).expect(keys.len(), tier)?;
    Ok(window.us())
}

/// Gets keys one at a time; the microseconds of each.
pub(crate) fn one_by_one(space: &NamespaceHandle, keys: &[Key], bytes: usize, tier: Tier) -> Outcome<Vec<f64>> {
    let mut samples = Vec::with_capacity(keys.len());
    let mut all = Got::default();
    for key in keys {
        let watch = Watch::start();
        let one = got(space, std::slice::from_ref(key), bytes);
        samples.push(watch.us());
        all.add(one);
    }
    all.expect(keys.len(), tier)?;
    Ok(samples)
}

/// The same keys in an order of their own, the same at every call.
pub(crate) fn shuffled(keys: &[Key]) -> Vec<Key> {
    let mut keys = keys.to_vec();
    keys.sort_by_key(|key| key.halves().1);
    keys
}

/// A number of the node's statistics, summed over its shards.
pub(crate) fn shard_sum(client: &Client, field: &str) -> Outcome<f64> {
    let text = client.node_stats().map_err(why("asking for statistics"))?;
    let stats: Value = serde_json::from_str(&text).map_err(why("reading statistics"))?;
    let shards = stats["shards"].as_array().map_or(&[][..], Vec::as_slice);
    Ok(shards.iter().filter_map(|shard| shard[field].as_f64()).sum::<f64>())
}
