//! A client that does everything right, beside others that do not: every one of its gets is a hit with the right bytes.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use forebay_types::{Address, NamespaceId, PutOutcome, ShardId};
use forebay_wire::GetOutcome;

use crate::hand::{Hand, block, hello, key, verify};

/// Keys that the steady client has put for itself.
pub(crate) const KEYS: std::ops::Range<u64> = 1_000_000..1_000_024;

fn bytes(number: u64) -> Vec<u8> {
    block(number, 1 + (number as usize * 7919) % 150_000)
}

/// Puts what it will ask for.
pub(crate) fn fill(address: &Address, shard: ShardId, ns: NamespaceId) {
    let (mut hand, _) = Hand::with(address, hello(shard, &[]));
    for number in KEYS {
        assert!(hand.put_stream(ns, key(number), &bytes(number)).is_kept());
    }
}

/// Runs `siege` while a client gets its blocks again and again, at least `least` times; gives how many it got. A miss or a wrong byte fails the test.
pub(crate) fn beside(address: &Address, shard: ShardId, ns: NamespaceId, least: u64, siege: impl FnOnce()) -> u64 {
    let (over, got) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let steady = scope.spawn(|| {
            let (mut hand, _) = Hand::with(address, hello(shard, &[]));
            while !over.load(Ordering::Relaxed) || got.load(Ordering::Relaxed) < least {
                got.fetch_add(once(&mut hand, ns), Ordering::Relaxed);
            }
        });
        let _end = Flag(&over);
        siege();
        over.store(true, Ordering::Relaxed);
        steady.join().unwrap();
    });
    got.into_inner()
}

/// Ends the steady client also when the siege panics.
struct Flag<'a>(&'a AtomicBool);

impl Drop for Flag<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Every key once. Gives how many there are.
pub(crate) fn once(hand: &mut Hand, ns: NamespaceId) -> u64 {
    let keys: Vec<_> = KEYS.map(key).collect();
    for (number, (outcome, payload)) in KEYS.zip(hand.get_stream(ns, &keys)) {
        match outcome {
            GetOutcome::Hit { descriptor, .. } => verify(&descriptor, ns, key(number), &payload),
            other => panic!("key {number} of the steady client: {other:?}"),
        }
        assert!(payload == bytes(number), "key {number} of the steady client came back otherwise");
    }
    KEYS.end - KEYS.start
}

/// Puts a block that nobody has put.
pub(crate) fn put_one(hand: &mut Hand, ns: NamespaceId, number: u64) {
    assert_eq!(hand.put_stream(ns, key(number), &block(number, 100_000)), PutOutcome::Cached);
}
