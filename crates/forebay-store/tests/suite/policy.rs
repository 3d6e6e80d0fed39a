//! One shard runs one policy, and what it keeps is what that policy says.

use std::sync::Arc;

use forebay_io::Arena;
use forebay_store::{Store, StoreConfig};
use forebay_tokenomics::policy_by_name;
use forebay_types::{Key, PutOutcome, SeededEntropy};

use crate::rig::*;

/// Starts again on the same drive, with this policy.
pub(crate) fn restart_under(rig: &mut Rig, policy: &str) {
    let config = StoreConfig {
        policy: policy_by_name(policy).unwrap(),
        index_bytes_max: 4 << 20,
        mutant: None,
        ..StoreConfig::default()
    };
    let chance = Arc::new(SeededEntropy::new(1));
    rig.store = Store::open(rig.medium.open(), Arena::new(16 << 20).unwrap(), config, chance, 0, UTC).unwrap().0;
}

/// A few blocks are used three times, then the drive is gone round more than once by what nobody uses again. How many of the few are left.
fn left_after_a_scan(policy: &str) -> usize {
    let mut rig = Rig::new(Options { len: 3 * MIB + 20 * 4 * MIB, ..Options::default() });
    restart_under(&mut rig, policy);
    let hot: Vec<Key> = (0..10).map(key).collect();
    let mut scanned = 0;
    let mut scan = |rig: &mut Rig, blocks: u64| {
        for _ in 0..blocks {
            scanned += 1;
            assert_eq!(rig.put(CACHE, key(1000 + scanned), 60_000), PutOutcome::Cached);
            rig.turns(2);
        }
    };
    hot.iter().for_each(|key| assert_eq!(rig.put(CACHE, *key, 60_000), PutOutcome::Cached));
    for _ in 0..3 {
        scan(&mut rig, 80);
        hot.iter().for_each(|key| assert!(matches!(rig.get(CACHE, *key), Got::Hit(_))));
    }
    scan(&mut rig, 2000);
    rig.settle();
    assert!(rig.store.stats().write_amplification() < 1.34);
    hot.iter().filter(|key| rig.store.presence(rig.now, CACHE, key).is_ok()).count()
}

#[test]
fn under_s3_fifo_a_scan_passes_by_what_is_used_again_and_under_lru_it_does_not() {
    assert_eq!(left_after_a_scan("lru"), 0);
    assert_eq!(left_after_a_scan("s3-fifo"), 10);
}
