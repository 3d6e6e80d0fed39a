//! Numbered places for connections and requests. A number is never taken for an earlier holder of its place.

/// Place and generation of a value in a [`Slab`]. Fits a word, so that it can travel as a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Id {
    place: u16,
    generation: u32,
}

impl Id {
    /// As 48 bits: the generation, then the place.
    pub(crate) fn word(self) -> u64 {
        u64::from(self.generation) << 16 | u64::from(self.place)
    }

    /// Its place, which no other that is held has.
    pub(crate) fn place(self) -> u16 {
        self.place
    }

    /// From the low 48 bits of a word.
    pub(crate) fn from_word(word: u64) -> Self {
        Id { place: word as u16, generation: (word >> 16) as u32 }
    }
}

/// Values by number. Its ceiling is given at birth; memory follows the most that were held at once.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    places: Vec<(u32, Option<T>)>,
    free: Vec<u16>,
    len: usize,
    max: usize,
}

impl<T> Slab<T> {
    pub(crate) fn new(max: usize) -> Self {
        Slab { places: Vec::new(), free: Vec::new(), len: 0, max: max.min(usize::from(u16::MAX)) }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_full(&self) -> bool {
        self.len >= self.max
    }

    /// Gives the value back when all places are taken.
    pub(crate) fn insert(&mut self, value: T) -> Result<Id, T> {
        if self.is_full() {
            return Err(value);
        }
        self.len += 1;
        if let Some(place) = self.free.pop() {
            let slot = &mut self.places[usize::from(place)];
            slot.1 = Some(value);
            return Ok(Id { place, generation: slot.0 });
        }
        let place = self.places.len() as u16;
        self.places.push((0, Some(value)));
        Ok(Id { place, generation: 0 })
    }

    pub(crate) fn get_mut(&mut self, id: Id) -> Option<&mut T> {
        match self.places.get_mut(usize::from(id.place)) {
            Some((generation, value)) if *generation == id.generation => value.as_mut(),
            _ => None,
        }
    }

    pub(crate) fn get(&self, id: Id) -> Option<&T> {
        match self.places.get(usize::from(id.place)) {
            Some((generation, value)) if *generation == id.generation => value.as_ref(),
            _ => None,
        }
    }

    pub(crate) fn remove(&mut self, id: Id) -> Option<T> {
        let slot = self.places.get_mut(usize::from(id.place))?;
        if slot.0 != id.generation {
            return None;
        }
        let value = slot.1.take()?;
        slot.0 = slot.0.wrapping_add(1);
        self.free.push(id.place);
        self.len -= 1;
        Some(value)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (Id, &mut T)> {
        self.places.iter_mut().enumerate().filter_map(|(place, (generation, value))| {
            Some((Id { place: place as u16, generation: *generation }, value.as_mut()?))
        })
    }

    /// The values in places `from..from + count`, for going round in steps; and the place to go on at.
    pub(crate) fn some(&self, from: usize, count: usize) -> (impl Iterator<Item = (Id, &T)>, usize) {
        let from = if from < self.places.len() { from } else { 0 };
        let end = self.places.len().min(from + count);
        let next = if end < self.places.len() { end } else { 0 };
        let some = self.places[from..end].iter().enumerate().filter_map(move |(at, (generation, value))| {
            Some((Id { place: (from + at) as u16, generation: *generation }, value.as_ref()?))
        });
        (some, next)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Id, &T)> {
        self.places.iter().enumerate().filter_map(|(place, (generation, value))| {
            Some((Id { place: place as u16, generation: *generation }, value.as_ref()?))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_outlives_its_value_without_meaning_another() {
        let mut slab = Slab::new(2);
        let first = slab.insert("a").unwrap();
        assert_eq!(slab.remove(first), Some("a"));
        let second = slab.insert("b").unwrap();
        assert_eq!((slab.get(first), slab.get(second)), (None, Some(&"b")));
        assert_eq!(slab.remove(first), None);
        assert_eq!(Id::from_word(second.word()), second);
        slab.insert("c").unwrap();
        assert_eq!(slab.insert("d"), Err("d"));
        assert_eq!(slab.iter().count(), slab.len());
    }
}
