//! Slots in rings by their last use: many lists over one array, so that a chunk's place in a tier costs eight bytes.

const NONE: u32 = u32::MAX;

/// Lists of slots, coldest to hottest. A slot is in one list at most.
pub(crate) struct Rings {
    /// Towards the hottest; the last places are the lists' anchors.
    hotter: Vec<u32>,
    colder: Vec<u32>,
    held: Vec<u32>,
    slots: u32,
}

impl Rings {
    pub(crate) fn new(slots: u32, lists: u32) -> Self {
        let all = slots as usize + lists as usize;
        let mut rings =
            Rings { hotter: vec![NONE; all], colder: vec![NONE; all], held: vec![0; lists as usize], slots };
        for anchor in slots..slots + lists {
            rings.hotter[anchor as usize] = anchor;
            rings.colder[anchor as usize] = anchor;
        }
        rings
    }

    pub(crate) fn held(&self, list: u32) -> u32 {
        self.held[list as usize]
    }

    pub(crate) fn holds(&self, slot: u32) -> bool {
        self.hotter[slot as usize] != NONE
    }

    /// Makes it the hottest of that list.
    pub(crate) fn touch(&mut self, list: u32, slot: u32) {
        if self.holds(slot) {
            self.unlink(slot);
        } else {
            self.held[list as usize] += 1;
        }
        let anchor = self.slots + list;
        let hottest = self.colder[anchor as usize];
        self.hotter[slot as usize] = anchor;
        self.colder[slot as usize] = hottest;
        self.hotter[hottest as usize] = slot;
        self.colder[anchor as usize] = slot;
    }

    /// Takes it out, if it is in that list.
    pub(crate) fn take(&mut self, list: u32, slot: u32) -> bool {
        let held = self.holds(slot);
        if held {
            self.unlink(slot);
            self.held[list as usize] -= 1;
        }
        held
    }

    /// Takes the coldest out.
    pub(crate) fn pop(&mut self, list: u32) -> Option<u32> {
        let coldest = self.hotter[(self.slots + list) as usize];
        (coldest < self.slots).then(|| {
            self.take(list, coldest);
            coldest
        })
    }

    fn unlink(&mut self, slot: u32) {
        let (hotter, colder) = (self.hotter[slot as usize], self.colder[slot as usize]);
        self.colder[hotter as usize] = colder;
        self.hotter[colder as usize] = hotter;
        self.hotter[slot as usize] = NONE;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_coldest_of_each_list_goes_first() {
        let mut rings = Rings::new(5, 2);
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
}
