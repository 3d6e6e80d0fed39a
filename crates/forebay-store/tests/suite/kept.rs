//! With room on the drive nothing that was acknowledged goes missing: whatever else is going on, and however little memory there is.

use std::collections::{BTreeMap, VecDeque};

use forebay_io::sim::OpKind;
use forebay_store::{Event, GetResult, GetStarted, Reserve};
use forebay_types::{Entropy, Key, MissReason, NamespaceId, PutOutcome, SeededEntropy};

use crate::rig::*;

/// Segments of 4 MiB. What is put stays below half of them.
const SEGMENTS: u64 = 36;
const PUT_BYTES: u64 = 64 * MIB;
/// Gets on their way at once.
const GETS_MAX: usize = 12;
/// Reservations that are neither filled nor given up.
const SLOTS_MAX: usize = 3;

type Name = (NamespaceId, Key);

struct Story {
    rig: Rig,
    chance: SeededEntropy,
    /// What was acknowledged and not forgotten, with its length.
    kept: BTreeMap<Name, usize>,
    names: Vec<Name>,
    /// Durable puts without an answer.
    putting: BTreeMap<u64, (Name, usize)>,
    getting: BTreeMap<u64, Name>,
    slots: VecDeque<forebay_store::PutSlot>,
    next: u64,
    hits: u64,
    busy: u64,
}

impl Story {
    fn below(&self, n: usize) -> usize {
        (self.chance.word() % n as u64) as usize
    }

    fn any(&self) -> Option<Name> {
        let name = *self.names.get(self.below(self.names.len().max(1)))?;
        self.kept.contains_key(&name).then_some(name)
    }

    fn length(&self) -> usize {
        match self.below(8) {
            0..=3 => 1 + self.below(20_000),
            4..=6 => 1 + self.below(200_000),
            _ => 1 + self.below(1 << 20),
        }
    }

    fn put(&mut self) {
        let again = self.names.get(self.below(self.names.len().max(1))).filter(|_| self.below(8) == 0);
        let fresh = (if self.below(4) == 0 { DURABLE } else { CACHE }, key(self.next));
        let name = again.copied().unwrap_or(fresh);
        let length = self.length();
        self.next += 1;
        let held = self.kept.contains_key(&name);
        let waits = self.putting.values().any(|(other, _)| *other == name);
        match self.rig.begin_put(name.0, name.1, length) {
            (token, Ok(_)) => {
                self.putting.insert(token, (name, length));
            }
            (_, Err(PutOutcome::Cached)) => self.acknowledged(name, length),
            (_, Err(PutOutcome::Exists)) => assert!(held || waits, "{name:?} exists, and nobody was told"),
            (_, Err(PutOutcome::Refused(forebay_types::RefusedReason::Busy))) => self.busy += 1,
            (_, Err(other)) => panic!("{name:?} of {length}: {other}"),
        }
        assert!(!held || self.kept.contains_key(&name));
    }

    fn acknowledged(&mut self, name: Name, length: usize) {
        if self.kept.insert(name, length).is_none() {
            self.names.push(name);
        }
    }

    fn reserve_and_leave(&mut self) {
        let bytes = content(1, self.length());
        let encoded = describe(CACHE, key(1_000_000_000 + self.next), 1, &bytes);
        self.next += 1;
        let batch = self.rig.store.begin_batch(1);
        if let Reserve::Slot(slot) = self.rig.store.reserve(self.rig.now, &encoded, batch, 0) {
            self.slots.push_back(slot);
        }
        if self.slots.len() > SLOTS_MAX {
            self.slots.pop_front();
        }
    }

    fn get(&mut self) {
        let Some(name) = self.any().filter(|_| self.getting.len() < GETS_MAX) else { return };
        let (offset, length) = match self.below(3) {
            0 => (self.below(1 << 20) as u64 % self.kept[&name] as u64, 1 + self.below(100_000) as u64),
            _ => (0, 0),
        };
        let request = self.rig.request(name.0, name.1, offset, length);
        let token = request.token;
        match self.rig.store.get(self.rig.now, request) {
            GetStarted::Hit(found) => self.got(name, Ok(GetResult::Found(found))),
            GetStarted::Miss(reason) => self.got(name, Err(reason)),
            GetStarted::Pending => {
                self.getting.insert(token, name);
            }
            GetStarted::TooSmall { need } => panic!("no room for {need}"),
        }
    }

    fn got(&mut self, name: Name, result: Result<GetResult, MissReason>) {
        match result {
            Ok(GetResult::Found(found)) => {
                assert!(matches!(self.rig.verify(name.0, name.1, &found), Got::Hit(_)));
                self.hits += 1;
            }
            Ok(other) => panic!("{other:?}"),
            // No memory for the read just now: it says nothing of the block.
            Err(MissReason::Busy) => self.busy += 1,
            Err(reason) => assert!(
                !self.kept.contains_key(&name),
                "{name:?} was acknowledged and is missing: {reason}; {:?}",
                self.rig.store.stats()
            ),
        }
    }

    fn hint(&mut self) {
        let Some((ns, key)) = self.any() else { return };
        let batch = self.rig.store.begin_batch(1);
        match self.below(3) {
            0 => assert!(self.rig.store.touch(self.rig.now, ns, &key, batch, 0).is_ok()),
            1 => {
                let until = self.rig.now + 20;
                let answer = self.rig.store.prefetch(self.rig.now, ns, &key, batch, 0, until);
                assert!(!matches!(answer, Some(Err(MissReason::Absent | MissReason::Evicted))), "{key}: {answer:?}");
            }
            _ => {
                self.rig.lease(ns, &key, 30);
            }
        }
    }

    fn forget(&mut self) {
        let Some(name) = self.any() else { return };
        self.kept.remove(&name);
        self.getting.retain(|_, other| *other != name);
        self.names.retain(|other| *other != name);
        self.rig.forget(name.0, &[name.1]);
        self.hear();
    }

    /// Takes what the store has answered meanwhile.
    fn hear(&mut self) {
        for event in std::mem::take(&mut self.rig.events) {
            match event {
                Event::Got { token, result } => {
                    let Some(name) = self.getting.remove(&token) else { continue };
                    let result = match result {
                        GetResult::Miss(reason) => Err(reason),
                        found => Ok(found),
                    };
                    self.got(name, result);
                }
                Event::Put { token, outcome } => {
                    let Some((name, length)) = self.putting.remove(&token) else { continue };
                    assert!(outcome.is_kept(), "{name:?}: {outcome}");
                    self.acknowledged(name, length);
                }
                Event::Damage(damage) => panic!("{damage:?}"),
                Event::Prefetched { .. } | Event::Forgotten { .. } | Event::NamespaceSaved { .. } => {}
            }
        }
    }

    /// Everything that was acknowledged is there, byte for byte.
    fn audit(&mut self) {
        self.slots.clear();
        self.rig.settle();
        self.hear();
        assert!(self.getting.is_empty() && self.putting.is_empty());
        for name in self.kept.keys().copied().collect::<Vec<Name>>() {
            let got = self.rig.get(name.0, name.1);
            assert!(
                matches!(got, Got::Hit(_)),
                "{name:?} {:?}: {got:?}; {:?}",
                self.kept[&name],
                self.rig.store.stats()
            );
        }
        let stats = self.rig.store.stats();
        assert_eq!((stats.evicted, stats.corrupt, stats.blocks), (0, 0, self.kept.len() as u64), "{stats:?}");
    }
}

fn nothing_goes_missing(seed: u64, arena: usize, index_bytes_max: usize) {
    let len = 3 * MIB + SEGMENTS * 4 * MIB;
    let mut story = Story {
        rig: Rig::new(Options { seed, len, arena, index_bytes_max, ..Options::default() }),
        chance: SeededEntropy::new(seed),
        kept: BTreeMap::new(),
        names: Vec::new(),
        putting: BTreeMap::new(),
        getting: BTreeMap::new(),
        slots: VecDeque::new(),
        next: 0,
        hits: 0,
        busy: 0,
    };
    let mut bytes = 0;
    let mut audits = 0;
    while bytes < PUT_BYTES {
        let before = story.rig.store.stats().put_bytes;
        match story.below(32) {
            0..=11 => story.put(),
            12..=23 => story.get(),
            24..=26 => story.hint(),
            27 => story.reserve_and_leave(),
            28 if story.below(4) == 0 => story.forget(),
            _ => {
                story.rig.turn();
                story.hear();
            }
        }
        bytes += story.rig.store.stats().put_bytes - before;
        if bytes / (PUT_BYTES / 4) > audits {
            audits += 1;
            story.audit();
            // All is written: neither a kill nor an orderly end costs anything.
            if audits % 2 == 0 {
                story.rig.store.close(story.rig.now);
            }
            story.rig = story.rig.reopen(audits % 2 == 0);
            story.audit();
        }
    }
    story.audit();
    println!("seed {seed}: {} kept, {} hits, {} busy", story.kept.len(), story.hits, story.busy);
    assert!(story.hits > 300 && story.busy > 0, "memory was short, and there was load: {} {}", story.hits, story.busy);
    assert!(story.rig.store.stats().dram_evicted > 100);
}

#[test]
pub(crate) fn with_room_on_the_drive_nothing_acknowledged_goes_missing() {
    for seed in [1, 2] {
        nothing_goes_missing(seed, 6 << 20, 4 << 20);
    }
}

#[test]
pub(crate) fn memory_that_gathered_writes_took_for_a_while_is_there_again_for_blocks() {
    let mut rig = Rig::new(Options { arena: 6 << 20, orderly: true, ..Options::default() });
    // A drive that takes nothing: each turn gathers two records in one more buffer, until there is no memory for any.
    rig.medium.hold(OpKind::Write);
    let mut taken = 0;
    while rig.begin_put(CACHE, key(taken), 5000).1 == Err(PutOutcome::Cached) {
        taken += 1;
        if taken % 2 == 0 {
            rig.turn();
        }
    }
    // Eight buffers are there for good.
    assert!(taken > 2 * 12, "{taken}");
    rig.medium.release();
    rig.settle();
    for i in 0..3 {
        assert_eq!(rig.begin_put(CACHE, key(1000 + i), 1 << 20).1, Err(PutOutcome::Cached), "{:?}", rig.store.stats());
        rig.settle();
    }
    assert!((0..3).all(|i| matches!(rig.get(CACHE, key(1000 + i)), Got::Hit(_))));
}
