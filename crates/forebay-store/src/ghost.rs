//! What was evicted lately, so that a miss can say `evicted`. A table of fingerprints with a ceiling: it forgets, and one time in a billion it is
//! wrong about a reason.
//!
//! It begins with a page and grows with what is evicted, one set at a time, but never remembers many more blocks than are held: a shard with few blocks
//! does not pay for the memory of a million. A new set takes its part of the hashes from an older one. Which of that one's fingerprints are its own is not known any
//! more, so it takes copies of all: those in the wrong set are never asked for, and age away.

const WAYS: usize = 4;
/// Sets of one piece of the table: growing takes a page of memory at a time.
const PIECE_SETS: usize = 256;

type Set = [u32; WAYS];

/// Fingerprints of evicted blocks; the oldest of a set of four makes room.
pub(crate) struct Ghosts {
    pieces: Vec<Box<[Set]>>,
    sets: usize,
    sets_max: usize,
}

impl Ghosts {
    /// Remembers at most about `blocks` blocks.
    pub(crate) fn new(blocks: usize) -> Self {
        let sets_max = (blocks / WAYS).max(1);
        let first = vec![[0; WAYS]; PIECE_SETS].into_boxed_slice();
        Ghosts { pieces: vec![first], sets: sets_max.min(PIECE_SETS), sets_max }
    }

    fn set_of(&self, hash: u64) -> usize {
        let mask = self.sets.next_power_of_two() - 1;
        let at = hash as usize & mask;
        // The sets behind the last are not there yet: those they will be cut from stand for them.
        if at < self.sets { at } else { at & (mask >> 1) }
    }

    fn set(&self, at: usize) -> &Set {
        &self.pieces[at / PIECE_SETS][at % PIECE_SETS]
    }

    fn set_mut(&mut self, at: usize) -> &mut Set {
        &mut self.pieces[at / PIECE_SETS][at % PIECE_SETS]
    }

    /// One set more.
    fn grow(&mut self) {
        let at = self.sets;
        if at == self.pieces.len() * PIECE_SETS {
            self.pieces.push(vec![[0; WAYS]; PIECE_SETS].into_boxed_slice());
        }
        let from = *self.set(at & !(1 << at.ilog2()));
        *self.set_mut(at) = from;
        self.sets += 1;
    }

    /// Remembers a block that was evicted while `held` are left.
    pub(crate) fn insert(&mut self, hash: u64, held: usize) {
        // A set for each eviction, not for four: copies take places too.
        if self.sets < self.sets_max && self.sets * WAYS < held {
            self.grow();
        }
        self.remove(hash);
        let at = self.set_of(hash);
        let ways = self.set_mut(at);
        ways.rotate_right(1);
        ways[0] = print(hash);
    }

    pub(crate) fn contains(&self, hash: u64) -> bool {
        self.set(self.set_of(hash)).contains(&print(hash))
    }

    pub(crate) fn remove(&mut self, hash: u64) {
        let at = self.set_of(hash);
        let ways = self.set_mut(at);
        if let Some(at) = ways.iter().position(|way| *way == print(hash)) {
            ways[at] = 0;
            ways[at..].rotate_left(1);
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.pieces.len() * PIECE_SETS * size_of::<Set>()
    }
}

/// Never 0, which is nobody's.
fn print(hash: u64) -> u32 {
    (hash >> 32) as u32 | 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ghosts_remember_the_latest_and_forget_the_oldest() {
        let mut ghosts = Ghosts::new(4);
        for i in 1..=5u64 {
            ghosts.insert(i << 40, 1000);
        }
        assert!(!ghosts.contains(1 << 40));
        assert!((2..=5).all(|i| ghosts.contains(i << 40)));
        ghosts.remove(3 << 40);
        assert!(!ghosts.contains(3 << 40) && ghosts.contains(2 << 40));
        ghosts.insert(6 << 40, 1000);
        assert!(ghosts.contains(2 << 40), "a removed one's place is used first");
    }

    fn hash(i: u64) -> u64 {
        (i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29).wrapping_mul(0xd6e8_feb8_6659_fd93)
    }

    #[test]
    fn they_grow_with_what_is_evicted_and_no_further_than_what_is_held() {
        let mut ghosts = Ghosts::new(1 << 20);
        assert!(ghosts.bytes() <= 4096);
        for i in 0..100_000 {
            ghosts.insert(hash(i), 10_000);
            assert!(ghosts.contains(hash(i)), "what was just evicted is remembered, growing or not ({i})");
        }
        assert!((40_000..=44_096).contains(&ghosts.bytes()), "{}", ghosts.bytes());
        for i in 100_000..400_000 {
            ghosts.insert(hash(i), 100_000);
        }
        assert!((400_000..=404_096).contains(&ghosts.bytes()), "{}", ghosts.bytes());
        let latest = (350_000..400_000).filter(|i| ghosts.contains(hash(*i))).count();
        assert!(latest > 40_000, "of the latest 50,000 in 100,000 places {latest} are remembered");
        let strangers = (0..100_000).filter(|i| ghosts.contains(hash(1_000_000 + *i))).count();
        assert_eq!(strangers, 0);
    }

    #[test]
    fn a_ceiling_is_kept() {
        let mut ghosts = Ghosts::new(1000);
        (0..10_000).for_each(|i| ghosts.insert(hash(i), 1 << 30));
        assert_eq!(ghosts.bytes(), 4096);
    }
}
