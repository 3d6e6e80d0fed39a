//! Block ids of a prompt, run-length encoded: they count upwards for thousands of blocks at a time.

use std::fmt;

use serde::de::{Deserialize, Deserializer, SeqAccess, Visitor};

/// `count` ids from `first` upwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Run {
    /// First id.
    pub first: u64,
    /// How many, at least 1.
    pub count: u32,
}

impl Run {
    /// One past the last id. Ids are below 2^63, so this cannot overflow.
    pub fn end(&self) -> u64 {
        self.first + u64::from(self.count)
    }
}

/// Block ids in order. An id is below 2^63.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Runs {
    runs: Vec<Run>,
    blocks: u64,
}

impl Runs {
    /// No ids.
    pub fn new() -> Self {
        Runs::default()
    }

    /// Appends one id.
    pub fn push(&mut self, id: u64) {
        debug_assert!(id < 1 << 63);
        self.blocks += 1;
        if let Some(last) = self.runs.last_mut()
            && last.end() == id
            && last.count < u32::MAX
        {
            last.count += 1;
            return;
        }
        self.runs.push(Run { first: id, count: 1 });
    }

    /// Appends `count` ids from `first` upwards.
    pub fn push_run(&mut self, first: u64, count: u32) {
        if count == 0 {
            return;
        }
        debug_assert!(first.checked_add(u64::from(count)).is_some_and(|end| end <= 1 << 63));
        self.blocks += u64::from(count);
        if let Some(last) = self.runs.last_mut()
            && last.end() == first
            && let Some(sum) = last.count.checked_add(count)
        {
            last.count = sum;
            return;
        }
        self.runs.push(Run { first, count });
    }

    /// The runs.
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// How many ids.
    pub fn len(&self) -> u64 {
        self.blocks
    }

    /// True without any.
    pub fn is_empty(&self) -> bool {
        self.blocks == 0
    }

    /// The ids, in order.
    pub fn ids(&self) -> impl Iterator<Item = u64> + '_ {
        self.runs.iter().flat_map(|run| run.first..run.end())
    }

    /// The first `blocks` of them.
    pub fn prefix(&self, blocks: u64) -> Runs {
        let mut out = Runs::new();
        for run in &self.runs {
            let left = blocks - out.blocks;
            if left == 0 {
                break;
            }
            out.push_run(run.first, u64::from(run.count).min(left) as u32);
        }
        out
    }
}

impl FromIterator<u64> for Runs {
    fn from_iter<T: IntoIterator<Item = u64>>(ids: T) -> Self {
        let mut out = Runs::new();
        for id in ids {
            out.push(id);
        }
        out
    }
}

impl<'de> Deserialize<'de> for Runs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Ids;
        impl<'de> Visitor<'de> for Ids {
            type Value = Runs;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of block ids, whole numbers below 2^63")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Runs, A::Error> {
                let mut out = Runs::new();
                while let Some(id) = seq.next_element::<u64>()? {
                    if id >= 1 << 63 {
                        return Err(serde::de::Error::invalid_value(serde::de::Unexpected::Unsigned(id), &self));
                    }
                    out.push(id);
                }
                out.runs.shrink_to_fit();
                Ok(out)
            }
        }
        deserializer.deserialize_seq(Ids)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_come_back_in_order_and_long_ranges_are_one_run() {
        let ids = [1, 2, 3, 9, 10, 3, 3, 4];
        let runs: Runs = ids.into_iter().collect();
        assert_eq!(runs.ids().collect::<Vec<_>>(), ids);
        assert_eq!((runs.len(), runs.runs().len()), (8, 4));
        assert_eq!(runs.prefix(4).ids().collect::<Vec<_>>(), ids[..4]);
        assert_eq!(runs.prefix(100), runs);
        assert_eq!(runs.prefix(0), Runs::new());
        let long: Runs = serde_json::from_str(&format!("{:?}", (5..5000u64).collect::<Vec<_>>())).unwrap();
        assert_eq!(long.runs(), [Run { first: 5, count: 4995 }]);
    }

    #[test]
    fn an_id_that_is_no_small_whole_number_is_refused() {
        for bad in ["[-1]", "[1.5]", "[9223372036854775808]", "[null]", "{}", "[1,"] {
            assert!(serde_json::from_str::<Runs>(bad).is_err(), "{bad}");
        }
    }
}
