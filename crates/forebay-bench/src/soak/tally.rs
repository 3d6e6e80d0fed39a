//! What a worker counts, as it tells it line by line, and what all of them come to.

use std::collections::BTreeMap;

use forebay_types::MissReason;
use serde_json::{Value, json};

use super::gauge::Gauge;

/// Of one worker, or of all.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Tally {
    pub(crate) hits: u64,
    pub(crate) misses: BTreeMap<String, u64>,
    pub(crate) kept: u64,
    pub(crate) refusals: BTreeMap<String, u64>,
    pub(crate) matched: u64,
    pub(crate) forgotten: u64,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    /// Bytes handed over that differ from what was put.
    pub(crate) wrong_bytes: u64,
    /// Blocks that were acknowledged as durable and are not there.
    pub(crate) durable_lost: u64,
    /// Forgotten keys that answered.
    pub(crate) came_back: u64,
    /// Blocks of the last audit that were there.
    pub(crate) audited: u64,
    /// Blocks the client found damaged.
    pub(crate) corrupt: u64,
    pub(crate) counters_add_up: bool,
    /// One behind the last item it made.
    pub(crate) last_item: u64,
}

impl Tally {
    pub(crate) fn missed(&mut self, reason: MissReason) {
        *self.misses.entry(reason.to_string()).or_default() += 1;
    }

    pub(crate) fn refused(&mut self, outcome: &str) {
        *self.refusals.entry(outcome.to_owned()).or_default() += 1;
    }

    pub(crate) fn json(&self, last: bool, own: &Gauge) -> Value {
        json!({
            "hits": self.hits, "misses": self.misses, "kept": self.kept, "refusals": self.refusals, "matched": self.matched,
            "forgotten": self.forgotten, "bytes_in": self.bytes_in, "bytes_out": self.bytes_out, "wrong_bytes": self.wrong_bytes,
            "durable_lost": self.durable_lost, "came_back": self.came_back, "audited": self.audited, "corrupt": self.corrupt,
            "counters_add_up": self.counters_add_up, "last_item": self.last_item,
            "own_kib": own.kib, "files": own.files, "last": last,
        })
    }

    /// From a line.
    pub(crate) fn of(line: &Value) -> Tally {
        let number = |name: &str| line[name].as_u64().unwrap_or(0);
        let words = |name: &str| {
            let of = line[name].as_object().into_iter().flatten();
            of.map(|(word, count)| (word.clone(), count.as_u64().unwrap_or(0))).collect()
        };
        Tally {
            hits: number("hits"),
            misses: words("misses"),
            kept: number("kept"),
            refusals: words("refusals"),
            matched: number("matched"),
            forgotten: number("forgotten"),
            bytes_in: number("bytes_in"),
            bytes_out: number("bytes_out"),
            wrong_bytes: number("wrong_bytes"),
            durable_lost: number("durable_lost"),
            came_back: number("came_back"),
            audited: number("audited"),
            corrupt: number("corrupt"),
            counters_add_up: line["counters_add_up"].as_bool().unwrap_or(false),
            last_item: number("last_item"),
        }
    }

    pub(crate) fn add(&mut self, other: &Tally) {
        self.hits += other.hits;
        self.kept += other.kept;
        self.matched += other.matched;
        self.forgotten += other.forgotten;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
        self.wrong_bytes += other.wrong_bytes;
        self.durable_lost += other.durable_lost;
        self.came_back += other.came_back;
        self.audited += other.audited;
        self.corrupt += other.corrupt;
        other.misses.iter().for_each(|(word, count)| *self.misses.entry(word.clone()).or_default() += count);
        other.refusals.iter().for_each(|(word, count)| *self.refusals.entry(word.clone()).or_default() += count);
    }

    pub(crate) fn missed_in_all(&self) -> u64 {
        self.misses.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_was_counted() {
        let mut tally = Tally { hits: 3, wrong_bytes: 1, counters_add_up: true, ..Tally::default() };
        tally.missed(MissReason::Corrupt);
        tally.refused("refused: quota");
        let back = Tally::of(&tally.json(true, &Gauge { kib: 5, files: 6 }));
        assert_eq!(back, tally);
        let mut sum = Tally::default();
        sum.add(&back);
        sum.add(&back);
        assert_eq!((sum.hits, sum.wrong_bytes, sum.missed_in_all()), (6, 2, 2));
    }
}
