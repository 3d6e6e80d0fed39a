//! What matches have promised: keys under an unexpired lease. A get that misses one of them is counted.

use std::sync::Mutex;

use forebay_types::{Key, NamespaceId};

/// Most matches remembered.
const MATCHES_MAX: usize = 64;
/// Most keys remembered, 16 bytes each: the prompts of some dozen calls in flight.
const KEYS_MAX: usize = 65_536;

/// The promises of one client.
#[derive(Debug, Default)]
pub(crate) struct Promises(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    matches: std::collections::VecDeque<Promise>,
    keys: usize,
}

#[derive(Debug)]
struct Promise {
    namespace: NamespaceId,
    until_us: u64,
    keys: Vec<Key>,
    /// Sorted at the first miss that asks: most matches are kept, and then nobody looks.
    sorted: bool,
}

impl Promises {
    /// Remembers the keys of one match. The oldest are forgotten past the bounds.
    pub(crate) fn remember(&self, namespace: NamespaceId, until_us: u64, keys: impl Iterator<Item = Key>) {
        let keys: Vec<Key> = keys.take(KEYS_MAX).collect();
        if keys.is_empty() {
            return;
        }
        let mut state = self.lock();
        state.keys += keys.len();
        state.matches.push_back(Promise { namespace, until_us, keys, sorted: false });
        while state.matches.len() > MATCHES_MAX || state.keys > KEYS_MAX {
            let Some(oldest) = state.matches.pop_front() else { break };
            state.keys -= oldest.keys.len();
        }
    }

    /// How many of these missed keys are under a lease that has not expired.
    pub(crate) fn broken(&self, namespace: NamespaceId, now_us: u64, missed: &[Key]) -> u64 {
        if missed.is_empty() {
            return 0;
        }
        let mut state = self.lock();
        state.matches.retain(|promise| promise.until_us > now_us);
        state.keys = state.matches.iter().map(|promise| promise.keys.len()).sum();
        for promise in state.matches.iter_mut().filter(|promise| !promise.sorted) {
            promise.keys.sort_unstable();
            promise.sorted = true;
        }
        let promised =
            |key: &Key| state.matches.iter().any(|p| p.namespace == namespace && p.keys.binary_search(key).is_ok());
        missed.iter().filter(|key| promised(key)).count() as u64
    }

    /// Forgets keys that the caller itself has had forgotten.
    pub(crate) fn release(&self, namespace: NamespaceId, keys: &[Key]) {
        let mut gone = keys.to_vec();
        gone.sort_unstable();
        let mut state = self.lock();
        for promise in state.matches.iter_mut().filter(|promise| promise.namespace == namespace) {
            promise.keys.retain(|key| gone.binary_search(key).is_err());
        }
        state.keys = state.matches.iter().map(|promise| promise.keys.len()).sum();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u32) -> Key {
        let mut key = Key::default();
        key.0[..4].copy_from_slice(&n.to_be_bytes());
        key
    }

    #[test]
    fn a_promise_holds_until_it_expires() {
        let promises = Promises::default();
        promises.remember(NamespaceId(1), 1000, (0..10).rev().map(key));
        assert_eq!(promises.broken(NamespaceId(1), 999, &[key(3), key(11)]), 1);
        assert_eq!(promises.broken(NamespaceId(2), 999, &[key(3)]), 0);
        assert_eq!(promises.broken(NamespaceId(1), 1000, &[key(3)]), 0);
    }

    #[test]
    fn a_key_forgotten_by_the_caller_is_no_broken_promise() {
        let promises = Promises::default();
        promises.remember(NamespaceId(1), 1000, (0..10).map(key));
        promises.release(NamespaceId(1), &[key(3)]);
        assert_eq!(promises.broken(NamespaceId(1), 0, &[key(3), key(4)]), 1);
    }

    #[test]
    fn memory_is_bounded() {
        let promises = Promises::default();
        for n in 0..200 {
            promises.remember(NamespaceId(1), 1000, (n * 1000..n * 1000 + 5000).map(key));
        }
        let state = promises.lock();
        assert!(state.keys <= KEYS_MAX && state.matches.len() <= MATCHES_MAX && !state.matches.is_empty());
    }
}
