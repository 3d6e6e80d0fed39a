//! What threads and nodes share, under loom: the interleavings, with the memory model's own liberties.
//!
//! The files under test are the product's own, compiled here with loom's atomics and locks. What surrounds them (a bell, a queue, a node, a link)
//! is modelled in the order in which the product uses them. Each model is shown to be able to fail: with one guard left out loom finds the
//! interleaving that breaks it.
#![expect(clippy::unwrap_used, reason = "all of this is a test")]

mod sync {
    pub(crate) use loom::sync::atomic::{AtomicBool, Ordering};
    pub(crate) use loom::sync::{Arc, Mutex, MutexGuard};
}

#[path = "../src/extents.rs"]
#[expect(unreachable_pub, reason = "it is the product's file")]
mod extents;
#[path = "../src/ledger.rs"]
#[expect(dead_code, unreachable_pub, reason = "it is the product's file")]
mod ledger;
#[path = "../src/engine/pending.rs"]
mod pending;

pub(crate) use extents::Extents;
use ledger::{Ledger, Lent};
use loom::cell::UnsafeCell;
use loom::sync::{Arc, Mutex};
use loom::thread;
use pending::Pending;

/// An eventfd whose every write is an edge.
#[derive(Default)]
struct Bell(Mutex<u32>);

impl Bell {
    fn ring(&self) {
        *self.0.lock().unwrap() += 1;
    }

    /// Whether a wait ends because of an edge after the `seen`th.
    fn ends_a_wait(&self, seen: &mut u32) -> bool {
        let rung = *self.0.lock().unwrap();
        std::mem::replace(seen, rung) != rung
    }
}

/// Threads hand work to an engine through a queue and wake it, as control does with a shard, a shard with control and pool threads with their
/// engine. Whenever the engine would sleep while there is work, somebody is still about to wake it.
fn handed_over(forgets_after_it_looked: bool) {
    // Three threads: all courses of events with up to three forced switches, which take a second; without a bound they take a minute.
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(move || {
        let shared = Arc::new((Pending::new(), Bell::default(), Mutex::new(0u32)));
        let wakers: Vec<_> = (0..2)
            .map(|_| {
                let shared = shared.clone();
                thread::spawn(move || {
                    let (pending, bell, queue) = &*shared;
                    *queue.lock().unwrap() += 1;
                    if pending.set() {
                        bell.ring();
                    }
                })
            })
            .collect();
        let (pending, bell, queue) = &*shared;
        let mut seen = 0;
        // Whether the wait ended at once, and how much work the caller found behind it.
        let mut turn = || {
            // `Engine::wait`: take, wait only if there was nothing to take, take again; then the caller looks.
            let woken = pending.take() || bell.ends_a_wait(&mut seen);
            if !forgets_after_it_looked {
                pending.take();
            }
            let got = std::mem::take(&mut *queue.lock().unwrap());
            if forgets_after_it_looked {
                pending.take();
            }
            (woken, got)
        };
        turn();
        wakers.into_iter().for_each(|waker| waker.join().unwrap());
        // Everybody has done its part. What is found by a wait that would not have ended was slept on.
        while let (woken, got) = turn()
            && woken | (got > 0)
        {
            assert!(woken, "asleep with work in the queue");
        }
    });
}

#[test]
fn no_wake_up_is_lost() {
    handed_over(false);
}

#[test]
#[should_panic(expected = "asleep with work in the queue")]
fn forgetting_wake_ups_after_looking_loses_one() {
    handed_over(true);
}

/// What a node says of its landing, if anything.
#[derive(Clone, Copy, PartialEq)]
enum Word {
    /// It has ended.
    Done,
    /// The connection is gone.
    Broken,
}

#[derive(Clone, Copy, PartialEq)]
enum Guard {
    Kept,
    /// A landing that broke off is taken for ended.
    BrokenIsDone,
    /// A call that is over takes its landings for ended.
    OverdueIsDone,
}

/// A call lends the only piece of a region to a node and looks once for its word: then its deadline has passed. What is still owed stays with the link, which looks
/// again later. The node lands at any time; if it dies, it says so before its last read has ended. Meanwhile the application claims whatever
/// it can get and writes it. Loom finds two that touch the same byte without one knowing of the other.
fn landed(dies: bool, guard: Guard) {
    loom::model(move || {
        let ledger = Ledger::new(4096, 4096);
        let memory = Arc::new(UnsafeCell::new(0u8));
        let word = Arc::new(Mutex::new(None));
        let write = |memory: &UnsafeCell<u8>| {
            // SAFETY: that nobody else touches the byte is what loom checks here.
            #[expect(unsafe_code, reason = "loom watches the access")]
            memory.with_mut(|byte| unsafe { *byte += 1 });
        };
        let lent = ledger.claim(100).unwrap().lend();
        let node = thread::spawn({
            let (memory, word) = (memory.clone(), word.clone());
            move || {
                if dies {
                    *word.lock().unwrap() = Some(Word::Broken);
                    write(&memory);
                } else {
                    write(&memory);
                    *word.lock().unwrap() = Some(Word::Done);
                }
            }
        });
        let application = thread::spawn({
            let (memory, ledger) = (memory.clone(), ledger.clone());
            move || {
                if let Some(claim) = ledger.claim(1) {
                    write(&memory);
                    drop(claim);
                }
            }
        });
        // The rule of the client's `get` and `link`: ended is what the node said has ended, or what is claimed to be.
        let settle = |lent: Lent, heard: Option<Word>, over: bool| {
            let ended = match heard {
                Some(Word::Done) => true,
                Some(Word::Broken) => guard == Guard::BrokenIsDone,
                None if over && guard == Guard::OverdueIsDone => true,
                None => return Some(lent),
            };
            if ended {
                drop(lent.returned());
            }
            None
        };
        let heard = *word.lock().unwrap();
        let owed: Option<Lent> = settle(lent, heard, true);
        let heard = *word.lock().unwrap();
        let owed = owed.and_then(|lent| settle(lent, heard, false));
        // The link is closed with whatever it still owes.
        drop(owed);
        node.join().unwrap();
        application.join().unwrap();
        assert_eq!(ledger.free_bytes() + ledger.retired_bytes(), 4096);
    });
}

#[test]
fn a_piece_that_is_landed_in_is_nobody_elses() {
    landed(false, Guard::Kept);
    landed(true, Guard::Kept);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn taking_a_broken_landing_for_ended_is_found() {
    landed(true, Guard::BrokenIsDone);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn taking_an_overdue_landing_for_ended_is_found() {
    landed(false, Guard::OverdueIsDone);
}
