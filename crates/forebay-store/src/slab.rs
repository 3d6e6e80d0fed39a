//! Numbered places for things that come back by number.

/// Most often a place is used before its numbers begin again: the highest bit of a number is left to whoever must tell two slabs apart.
const LAPS: u32 = u32::MAX >> 1;

/// Things by number, of at most 63 bits. A number is not given again while it is held, nor soon after.
pub(crate) struct Slab<T> {
    slots: Vec<(u32, Option<T>)>,
    free: Vec<u32>,
}

impl<T> Slab<T> {
    pub(crate) fn new() -> Self {
        Slab { slots: Vec::new(), free: Vec::new() }
    }

    pub(crate) fn insert(&mut self, value: T) -> u64 {
        let at = self.free.pop().unwrap_or_else(|| {
            self.slots.push((0, None));
            (self.slots.len() - 1) as u32
        });
        let (lap, slot) = &mut self.slots[at as usize];
        *slot = Some(value);
        u64::from(*lap) << 32 | u64::from(at)
    }

    fn slot(&mut self, number: u64) -> Option<&mut (u32, Option<T>)> {
        self.slots.get_mut(number as u32 as usize).filter(|(lap, _)| u64::from(*lap) == number >> 32)
    }

    pub(crate) fn get_mut(&mut self, number: u64) -> Option<&mut T> {
        self.slot(number)?.1.as_mut()
    }

    pub(crate) fn remove(&mut self, number: u64) -> Option<T> {
        let (lap, slot) = self.slot(number)?;
        let value = slot.take()?;
        *lap = (*lap + 1) & LAPS;
        self.free.push(number as u32);
        Some(value)
    }
}
