//! What was evicted lately, so that a miss can say `evicted`. A fixed table of fingerprints: it forgets, it never grows, and one time in a
//! billion it is wrong about a reason.

const WAYS: usize = 4;

/// Fingerprints of evicted blocks; the oldest of a set of four makes room.
pub(crate) struct Ghosts {
    sets: Vec<[u32; WAYS]>,
}

impl Ghosts {
    /// Remembers about `blocks` blocks.
    pub(crate) fn new(blocks: usize) -> Self {
        Ghosts { sets: vec![[0; WAYS]; (blocks / WAYS).next_power_of_two()] }
    }

    fn place(&self, hash: u64) -> (usize, u32) {
        (hash as usize & (self.sets.len() - 1), (hash >> 32) as u32 | 1)
    }

    pub(crate) fn insert(&mut self, hash: u64) {
        let (set, print) = self.place(hash);
        self.remove(hash);
        let ways = &mut self.sets[set];
        ways.rotate_right(1);
        ways[0] = print;
    }

    pub(crate) fn contains(&self, hash: u64) -> bool {
        let (set, print) = self.place(hash);
        self.sets[set].contains(&print)
    }

    pub(crate) fn remove(&mut self, hash: u64) {
        let (set, print) = self.place(hash);
        let ways = &mut self.sets[set];
        if let Some(at) = ways.iter().position(|way| *way == print) {
            ways[at] = 0;
            ways[at..].rotate_left(1);
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.sets.len() * size_of::<[u32; WAYS]>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ghosts_remember_the_latest_and_forget_the_oldest() {
        let mut ghosts = Ghosts::new(4);
        for i in 1..=5u64 {
            ghosts.insert(i << 40);
        }
        assert!(!ghosts.contains(1 << 40));
        assert!((2..=5).all(|i| ghosts.contains(i << 40)));
        ghosts.remove(3 << 40);
        assert!(!ghosts.contains(3 << 40) && ghosts.contains(2 << 40));
        ghosts.insert(6 << 40);
        assert!(ghosts.contains(2 << 40), "a removed one's place is used first");
    }
}
