//! Slots in rings by their last use: many lists over one array, so that a chunk's place in a tier costs eight bytes.
//!
//! Slots behind the first ones may stand for several chunks: what sessions left that are over is told in groups.

const NONE: u32 = u32::MAX;

/// Lists of slots, coldest to hottest. A slot is in one list at most.
pub(crate) struct Rings {
    /// By slot its neighbours, side by side so that both are read at once; the last places are the lists' anchors.
    links: Vec<Link>,
    held: Vec<u32>,
    slots: u32,
    /// From this slot on, each stands for as many chunks as `groups` says.
    singles: u32,
    groups: Vec<u32>,
}

#[derive(Clone, Copy)]
struct Link {
    /// Towards the hottest.
    hotter: u32,
    colder: u32,
}

impl Rings {
    /// So many slots of a chunk each, and behind them groups of chunks.
    pub(crate) fn new(singles: u32, groups: Vec<u32>, lists: u32) -> Self {
        let slots = singles + groups.len() as u32;
        let mut links = vec![Link { hotter: NONE, colder: NONE }; slots as usize];
        links.extend((slots..slots + lists).map(|anchor| Link { hotter: anchor, colder: anchor }));
        Rings { links, held: vec![0; lists as usize], slots, singles, groups }
    }

    /// Chunks.
    pub(crate) fn held(&self, list: u32) -> u32 {
        self.held[list as usize]
    }

    fn chunks(&self, slot: u32) -> u32 {
        if slot < self.singles { 1 } else { self.groups[(slot - self.singles) as usize] }
    }

    pub(crate) fn holds(&self, slot: u32) -> bool {
        self.links[slot as usize].hotter != NONE
    }

    /// Makes it the hottest of that list.
    pub(crate) fn touch(&mut self, list: u32, slot: u32) {
        let anchor = self.slots + list;
        if !self.holds(slot) {
            self.held[list as usize] += self.chunks(slot);
        } else if self.links[slot as usize].hotter == anchor {
            return;
        } else {
            self.unlink(slot);
        }
        let hottest = self.links[anchor as usize].colder;
        self.links[slot as usize] = Link { hotter: anchor, colder: hottest };
        self.links[hottest as usize].hotter = slot;
        self.links[anchor as usize].colder = slot;
    }

    /// Makes it the coldest of that list, unless it is there or the list would hold more than `most` chunks; false in the second case.
    pub(crate) fn add_coldest(&mut self, list: u32, slot: u32, most: u32) -> bool {
        if self.holds(slot) {
            return true;
        }
        let held = self.held[list as usize] + self.chunks(slot);
        if held > most {
            return false;
        }
        self.held[list as usize] = held;
        let anchor = self.slots + list;
        let coldest = self.links[anchor as usize].hotter;
        self.links[slot as usize] = Link { hotter: coldest, colder: anchor };
        self.links[coldest as usize].colder = slot;
        self.links[anchor as usize].hotter = slot;
        true
    }

    /// Takes it out, if it is in that list.
    pub(crate) fn take(&mut self, list: u32, slot: u32) -> bool {
        let held = self.holds(slot);
        if held {
            self.unlink(slot);
            self.held[list as usize] -= self.chunks(slot);
        }
        held
    }

    /// Takes the coldest out.
    pub(crate) fn pop(&mut self, list: u32) -> Option<u32> {
        let coldest = self.links[(self.slots + list) as usize].hotter;
        (coldest < self.slots).then(|| {
            self.take(list, coldest);
            coldest
        })
    }

    fn unlink(&mut self, slot: u32) {
        let Link { hotter, colder } = self.links[slot as usize];
        self.links[hotter as usize].colder = colder;
        self.links[colder as usize].hotter = hotter;
        self.links[slot as usize].hotter = NONE;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_coldest_of_each_list_goes_first() {
        let mut rings = Rings::new(5, Vec::new(), 2);
        for slot in [0, 1, 2] {
            rings.touch(0, slot);
        }
        rings.touch(1, 4);
        rings.touch(0, 0);
        assert_eq!((rings.held(0), rings.held(1)), (3, 1));
        assert!(rings.take(0, 2) && !rings.take(0, 2) && !rings.take(1, 3));
        assert_eq!([rings.pop(0), rings.pop(0), rings.pop(0)], [Some(1), Some(0), None]);
        assert_eq!([rings.pop(1), rings.pop(1)], [Some(4), None]);
    }

    #[test]
    fn a_list_is_filled_from_its_hottest_on_and_groups_count_for_all_their_chunks() {
        let mut rings = Rings::new(2, vec![3, 4], 1);
        assert!(rings.add_coldest(0, 1, 5) && rings.add_coldest(0, 2, 5) && rings.add_coldest(0, 1, 5));
        assert!(!rings.add_coldest(0, 3, 5));
        rings.touch(0, 0);
        assert_eq!(rings.held(0), 5);
        assert_eq!([rings.pop(0), rings.pop(0), rings.pop(0), rings.pop(0)], [Some(2), Some(1), Some(0), None]);
        assert_eq!(rings.held(0), 0);
    }
}
