//! An application under the soak: a process of its own that puts, gets, matches and forgets, and compares every byte it is handed with content
//! made anew from the key.

use std::collections::VecDeque;
use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::{Args, ValueEnum};
use forebay_client::{Client, NamespaceHandle, Options};
use forebay_types::{Address, Clock, Entropy, Key, MissReason, SeededEntropy, SystemClock};

use super::gauge;
use super::tally::Tally;
use crate::report::print;
use crate::{Failed, Outcome, why};

#[derive(Args)]
pub(crate) struct WorkerArgs {
    #[arg(long)]
    connect: Address,
    #[arg(long)]
    token_file: Option<std::path::PathBuf>,
    /// Part of every key, so that no two workers share one.
    #[arg(long)]
    number: u64,
    #[arg(long)]
    habit: Habit,
}

/// What an application does most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Habit {
    /// A cache: anything may be missed, and nothing may be wrong.
    Warm,
    /// What was acknowledged as durable must be there.
    Kept,
    /// Puts more than its namespace may hold.
    Tight,
}

impl Habit {
    pub(crate) fn namespace(self) -> &'static str {
        match self {
            Habit::Warm => "warm",
            Habit::Kept => "kept",
            Habit::Tight => "tight",
        }
    }

    /// Bytes of a block at most.
    fn length_max(self) -> u64 {
        match self {
            Habit::Warm => 768 << 10,
            Habit::Kept => 96 << 10,
            Habit::Tight => 400 << 10,
        }
    }

    /// Blocks remembered; older ones are forgotten if they are durable, else left to eviction.
    fn remembered(self) -> usize {
        match self {
            Habit::Warm => 2000,
            Habit::Kept => 800,
            Habit::Tight => 400,
        }
    }
}

/// Keys in one call.
const BATCH: usize = 8;
/// Forgotten keys asked for again now and then.
const GONE_MAX: usize = 400;
/// How often the tally is told.
const TELL_US: u64 = 500_000;
/// How long the last audit waits for a node that is starting.
const AUDIT_US: u64 = 60_000_000;

/// The key of a worker's item, which anybody can compute who may open the namespace.
pub(crate) fn key_of(space: &NamespaceHandle, worker: u64, item: u64) -> Key {
    space.derive_key(&[worker.to_le_bytes(), item.to_le_bytes()].concat())
}

struct Worker {
    number: u64,
    habit: Habit,
    space: NamespaceHandle,
    chance: SeededEntropy,
    next: u64,
    /// Items put and kept, oldest first.
    held: VecDeque<u64>,
    /// Items forgotten with an answer.
    gone: VecDeque<u64>,
    tally: Tally,
}

pub(crate) fn run(args: &WorkerArgs) -> Outcome<()> {
    let token = args.token_file.as_ref().map(std::fs::read).transpose().map_err(why("reading the token"))?;
    let options = Options { token, deadline: Duration::from_secs(5), region_bytes: 64 << 20, ..Options::default() };
    let client = Client::connect(&args.connect, options).map_err(why("connecting"))?;
    let space = client.namespace(args.habit.namespace()).map_err(why("opening the namespace"))?;
    let mut worker = Worker {
        number: args.number,
        habit: args.habit,
        space,
        chance: SeededEntropy::new(args.number),
        next: 0,
        held: VecDeque::new(),
        gone: VecDeque::new(),
        tally: Tally::default(),
    };
    let over = std::sync::Arc::new(AtomicBool::new(false));
    let seen = over.clone();
    // The soak closes our stdin when the load is over.
    let listen = move || {
        let _ = std::io::stdin().read(&mut [0]);
        seen.store(true, Ordering::Relaxed);
    };
    std::thread::Builder::new().name("end".into()).spawn(listen).map_err(why("starting a thread"))?;
    let clock = SystemClock::new();
    let mut tell_us = 0;
    while !over.load(Ordering::Relaxed) {
        worker.step();
        if clock.now_us() >= tell_us {
            tell_us = clock.now_us() + TELL_US;
            worker.tell(&client, false);
        }
    }
    worker.audit(&clock)?;
    worker.tell(&client, true);
    Ok(())
}

impl Worker {
    fn below(&self, n: u64) -> u64 {
        self.chance.word() % n.max(1)
    }

    fn step(&mut self) {
        match self.below(100) {
            0..=29 => self.put(),
            30..=34 => self.matched(),
            35..=38 => self.forget_some(),
            39..=44 => self.ask_for_gone(),
            _ => {
                let items = self.some_held();
                self.get(&items);
            }
        }
        while self.held.len() > self.habit.remembered() {
            if self.habit == Habit::Warm {
                self.held.pop_front();
            } else {
                self.forget_oldest();
            }
        }
    }

    fn some_held(&self) -> Vec<u64> {
        let count = self.held.len() as u64;
        // Half of what is asked for was put lately: an application's newest blocks are its hottest.
        let pick = |_| {
            let back = if self.below(2) == 0 { self.below(count.min(64)) } else { self.below(count) };
            self.held.get((count - 1 - back) as usize).copied()
        };
        (0..if count == 0 { 0 } else { BATCH }).filter_map(pick).collect()
    }

    fn put(&mut self) {
        let items: Vec<u64> = (self.next..self.next + BATCH as u64).collect();
        self.next += BATCH as u64;
        let blocks: Vec<(Key, Vec<u8>)> =
            items.iter().map(|item| (self.key(*item), content(self.number, *item, self.habit.length_max()))).collect();
        let lent: Vec<(Key, &[u8])> = blocks.iter().map(|(key, bytes)| (*key, bytes.as_slice())).collect();
        for ((item, outcome), (_, bytes)) in items.into_iter().zip(self.space.put(&lent)).zip(&blocks) {
            if outcome.is_kept() {
                self.tally.kept += 1;
                self.tally.bytes_in += bytes.len() as u64;
                self.held.push_back(item);
            } else {
                self.tally.refused(&outcome.to_string());
            }
        }
    }

    fn key(&self, item: u64) -> Key {
        key_of(&self.space, self.number, item)
    }

    /// Gets and compares. Gives the items that were not answered, because the node is away.
    fn get(&mut self, items: &[u64]) -> Vec<u64> {
        let keys: Vec<Key> = items.iter().map(|item| self.key(*item)).collect();
        let (number, habit, tally) = (self.number, self.habit, &mut self.tally);
        let (mut lost, mut unanswered) = (Vec::new(), Vec::new());
        self.space.get_each(&keys, |at, found| match found {
            Ok(block) => {
                let expected = content(number, items[at], habit.length_max());
                tally.hits += 1;
                tally.bytes_out += block.bytes().len() as u64;
                tally.wrong_bytes += difference(block.bytes(), &expected);
            }
            Err(reason) => {
                tally.missed(reason);
                match reason {
                    MissReason::Unavailable | MissReason::Deadline | MissReason::Busy => unanswered.push(items[at]),
                    _ => lost.push(items[at]),
                }
            }
        });
        if !lost.is_empty() {
            self.held.retain(|item| !lost.contains(item));
            // Of a cache it is only a miss.
            if habit != Habit::Warm {
                self.tally.durable_lost += lost.len() as u64;
            }
        }
        unanswered
    }

    fn matched(&mut self) {
        let keys: Vec<Key> = self.some_held().into_iter().map(|item| self.key(item)).collect();
        let n = self.space.match_prefix(&keys, None).n;
        self.tally.matched += n as u64;
    }

    fn forget_some(&mut self) {
        let at = self.below(self.held.len() as u64) as usize;
        if let Some(item) = self.held.remove(at) {
            self.forget(item);
        }
    }

    fn forget_oldest(&mut self) {
        if let Some(item) = self.held.pop_front() {
            self.forget(item);
        }
    }

    /// Without an answer nothing is known of it: it is asked for no more.
    fn forget(&mut self, item: u64) {
        if self.space.forget(&[self.key(item)]).is_ok() {
            self.tally.forgotten += 1;
            self.gone.push_back(item);
            if self.gone.len() > GONE_MAX {
                self.gone.pop_front();
            }
        }
    }

    fn ask_for_gone(&mut self) {
        if self.gone.is_empty() {
            return;
        }
        let keys: Vec<Key> =
            (0..BATCH).map(|_| self.key(self.gone[self.below(self.gone.len() as u64) as usize])).collect();
        self.tally.came_back += self.space.contains(&keys).iter().filter(|answer| answer.is_ok()).count() as u64;
    }

    /// Every block that must be there, and every one that must not, with a node that is there.
    fn audit(&mut self, clock: &SystemClock) -> Outcome<()> {
        let until_us = clock.now_us() + AUDIT_US;
        let mut left: Vec<u64> = self.held.iter().copied().collect();
        let before = self.tally.hits;
        while !left.is_empty() {
            if clock.now_us() > until_us {
                return Err(Failed(format!("{} blocks were not answered in the last audit", left.len())));
            }
            let batch: Vec<u64> = left.drain(..left.len().min(64)).collect();
            left.extend(self.get(&batch));
        }
        self.tally.audited = self.tally.hits - before;
        for _ in 0..GONE_MAX / BATCH {
            self.ask_for_gone();
        }
        Ok(())
    }

    fn tell(&mut self, client: &Client, last: bool) {
        let counters = client.counters();
        self.tally.counters_add_up = counters.get.adds_up() && counters.put.adds_up() && counters.matched.adds_up();
        self.tally.corrupt = counters.corrupt;
        self.tally.last_item = self.next;
        let now = gauge::of(std::process::id());
        print(&self.tally.json(last, &now).to_string());
    }
}

/// The bytes of an item, of a length that is the item's too.
pub(crate) fn content(worker: u64, item: u64, length_max: u64) -> Vec<u8> {
    let mut state = (worker << 40 ^ item).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut word = || {
        // xorshift64*: quick, and no two items share a page.
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    };
    let length = 1 + (word() % length_max) as usize;
    let mut bytes = vec![0; length];
    for chunk in bytes.chunks_mut(8) {
        chunk.copy_from_slice(&word().to_le_bytes()[..chunk.len()]);
    }
    bytes
}

/// Bytes that differ, those of a wrong length among them.
fn difference(found: &[u8], expected: &[u8]) -> u64 {
    if found == expected {
        return 0;
    }
    let differ = found.iter().zip(expected).filter(|(a, b)| a != b).count();
    (differ + found.len().abs_diff(expected.len())) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_are_made_anew_and_differ() {
        assert_eq!(content(1, 2, 1000), content(1, 2, 1000));
        assert_ne!(content(1, 2, 1000), content(1, 3, 1000));
        assert_ne!(content(1, 2, 1000), content(2, 2, 1000));
        assert_eq!(difference(&[1, 2, 3], &[1, 9]), 2);
        assert_eq!(difference(&[1, 2, 3], &[1, 2, 3]), 0);
    }
}
