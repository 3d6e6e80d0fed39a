//! Weighted rendezvous hashing over shard uuids.
//!
//! For a place token `p` and each shard `s` of weight `w`, `u` is a fraction that a hash draws from `p` and `s`, and the shard with the least
//! `-log2(u) / w` owns `p`. That is a race of exponential clocks: a shard wins with probability `w / (sum of all w)`, and who wins among the others
//! does not depend on whether a shard is there (Schindelhauer and Schomaker 2005). So a shard that is added takes only its own share, from everybody, and one that leaves gives
//! only its own away.

use std::cmp::Ordering;

use forebay_types::ShardId;

use crate::log2::minus_log2;

/// A shard with what it can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Member {
    /// The shard's uuid.
    pub shard: ShardId,
    /// Its drive space in MiB. A shard of weight 0 owns nothing.
    pub weight_mib: u32,
}

/// Where each place token belongs under one table of members. The order of the table does not matter.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Placement {
    members: Vec<Member>,
    /// `members` that can own something, with their halves: what is walked for each key.
    racers: Vec<Racer>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Racer {
    halves: (u64, u64),
    shard: ShardId,
    weight: u32,
    index: usize,
}

/// One shard's place in the race for one token. `time / weight` compares by cross-multiplying: exact, without a division.
#[derive(Debug, Clone, Copy)]
struct Run {
    time: u64,
    racer: Racer,
}

impl Run {
    fn of(racer: &Racer, place: u64) -> Self {
        let (low, high) = racer.halves;
        Run { time: minus_log2(scramble(scramble(place ^ low) ^ high)), racer: *racer }
    }

    fn order(&self, other: &Run) -> Ordering {
        let ours = u128::from(self.time) * u128::from(other.racer.weight);
        let theirs = u128::from(other.time) * u128::from(self.racer.weight);
        ours.cmp(&theirs).then_with(|| self.racer.shard.cmp(&other.racer.shard))
    }
}

impl Placement {
    /// From shards with their weights in MiB. Of a shard that stands there twice, the first row counts.
    pub fn new(members: Vec<(ShardId, u32)>) -> Self {
        let members: Vec<Member> =
            members.into_iter().map(|(shard, weight_mib)| Member { shard, weight_mib }).collect();
        let mut racers: Vec<Racer> = Vec::with_capacity(members.len());
        for (index, member) in members.iter().enumerate() {
            if member.weight_mib > 0 && !members[..index].iter().any(|other| other.shard == member.shard) {
                let whole = u128::from_le_bytes(member.shard.0);
                let halves = (whole as u64, (whole >> 64) as u64);
                racers.push(Racer { halves, shard: member.shard, weight: member.weight_mib, index });
            }
        }
        Placement { members, racers }
    }

    /// The table, in the order it was given.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Index in [`Self::members`] of the shard that owns `place`; `None` when no shard has weight.
    pub fn owner(&self, place: u64) -> Option<usize> {
        if let [only] = &self.racers[..] {
            return Some(only.index);
        }
        let runs = self.racers.iter().map(|racer| Run::of(racer, place));
        runs.min_by(Run::order).map(|run| run.racer.index)
    }

    /// The shard that owns `place`.
    pub fn owner_shard(&self, place: u64) -> Option<ShardId> {
        self.owner(place).map(|index| self.members[index].shard)
    }

    /// Indices of the first `n` shards for `place`, the owner first: where copies go.
    pub fn ranked(&self, place: u64, n: usize) -> Vec<usize> {
        let mut runs: Vec<Run> = self.racers.iter().map(|racer| Run::of(racer, place)).collect();
        runs.sort_by(Run::order);
        runs.into_iter().take(n).map(|run| run.racer.index).collect()
    }
}

/// One step and the finaliser of SplitMix64 (Steele, Lea, Flood 2014): every input bit reaches every output bit.
fn scramble(word: u64) -> u64 {
    let mut z = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
