//! What two answers of a node say about the time between them. Answers of newer or older nodes lack some figures: those are 0.

use std::collections::{BTreeMap, VecDeque};

use serde_json::Value;

/// Frames that the line of history remembers.
const HISTORY: usize = 200;

/// What the node said, and when.
pub(super) struct Answer {
    pub(super) stats: Value,
    pub(super) now_us: u64,
}

impl Answer {
    fn count(&self, at: &str) -> u64 {
        self.stats.pointer(at).and_then(Value::as_u64).unwrap_or(0)
    }

    /// Sum of all figures of an object.
    fn sum(&self, at: &str) -> u64 {
        let all = self.stats.pointer(at).and_then(Value::as_object);
        all.into_iter().flat_map(|all| all.values()).filter_map(Value::as_u64).sum()
    }

    fn shards(&self) -> &[Value] {
        self.stats["shards"].as_array().map_or(&[], Vec::as_slice)
    }
}

/// A share of what was asked, and how often it was asked.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Rate {
    pub(super) per_s: f64,
    /// Parts of one; 0 when nothing was asked.
    pub(super) hits: f64,
}

/// How long something took.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Took {
    pub(super) what: String,
    pub(super) per_s: f64,
    /// p50, p99, p99.9 and the longest, each as the bound of its bucket.
    pub(super) us: [u64; 4],
}

/// A shard and its slice of a drive.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Slice {
    pub(super) path: String,
    pub(super) capacity: u64,
    pub(super) live: u64,
    pub(super) read_mb_s: f64,
    pub(super) write_mb_s: f64,
    pub(super) flushes_s: f64,
    pub(super) amplification: f64,
    pub(super) failed: bool,
    /// The write budget is short, and admission selective.
    pub(super) sparing: bool,
    /// Scrub found damage on it.
    pub(super) damaged: bool,
    pub(super) free_segments: u64,
}

/// All that a frame shows.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Figures {
    pub(super) uptime_s: u64,
    pub(super) engine: String,
    pub(super) connections: u64,
    pub(super) gets: Rate,
    pub(super) matches: Rate,
    pub(super) puts: Rate,
    /// Of the keys got: from DRAM, from the drive, and not at all.
    pub(super) tiers: [f64; 3],
    pub(super) get_gb_s: f64,
    pub(super) put_gb_s: f64,
    pub(super) took: Vec<Took>,
    pub(super) memory: u64,
    pub(super) arena: u64,
    pub(super) arena_free: u64,
    pub(super) index: u64,
    pub(super) dram: u64,
    pub(super) blocks: u64,
    pub(super) keys_waiting: u64,
    pub(super) reads_waiting: u64,
    pub(super) busy_s: f64,
    pub(super) evicted_s: f64,
    pub(super) errors_s: f64,
    pub(super) turn_us: u64,
    pub(super) corrupt: u64,
    pub(super) slices: Vec<Slice>,
    /// What half the capacity, what there is, and twice as much would find, in words.
    pub(super) curve: Option<String>,
}

impl Figures {
    /// From the answer before, if it was of the same start, else since the start.
    pub(super) fn between(before: Option<&Answer>, now: &Answer) -> Self {
        let same = |before: &&Answer| before.stats["incarnation"] == now.stats["incarnation"];
        let before = before.filter(same);
        let uptime_s = now.stats["uptime_s"].as_f64().unwrap_or(0.0);
        let passed_s = before.map_or(uptime_s, |before| (now.now_us - before.now_us) as f64 / 1e6).max(1e-3);
        let over = Over { before, now, passed_s };
        let shards = |name: &str| now.shards().iter().filter_map(|shard| shard[name].as_u64()).sum::<u64>();
        let (gets, dram, nvme) = (over.grown("/get/asked"), over.grown("/get/hits/dram"), over.grown("/get/hits/nvme"));
        let share = |part: u64| if gets == 0 { 0.0 } else { part as f64 / gets as f64 };
        let puts = over.grown("/put/asked");
        let kept = over.grown("/put/cached") + over.grown("/put/durable") + over.grown("/put/exists");
        Figures {
            uptime_s: uptime_s as u64,
            engine: now.stats["engine"].as_str().unwrap_or("").to_owned(),
            connections: now.count("/connections"),
            gets: over.rate(gets, dram + nvme),
            matches: over.rate(over.grown("/match/asked"), over.grown_sum("/match/hits")),
            puts: over.rate(puts, kept),
            tiers: [share(dram), share(nvme), share(over.grown_sum("/get/misses"))],
            get_gb_s: over.per_s(over.grown("/bytes/get")) / 1e9,
            put_gb_s: over.per_s(over.grown("/bytes/put")) / 1e9,
            took: over.took(),
            memory: now.count("/memory_bytes"),
            arena: shards("arena_bytes"),
            arena_free: shards("arena_free_bytes"),
            index: shards("index_bytes"),
            dram: shards("dram_bytes"),
            blocks: shards("blocks"),
            keys_waiting: now.count("/waiting/keys"),
            reads_waiting: now.count("/waiting/reads"),
            busy_s: over.shards_per_s(&["busy"]),
            evicted_s: over.shards_per_s(&["evicted"]),
            errors_s: over.per_s(over.grown_sum("/errors")),
            turn_us: now.count("/turn_us_max"),
            corrupt: ["corrupt_records", "scrub_damaged_cache", "scrub_damaged_durable"].map(shards).iter().sum(),
            slices: (0..now.shards().len()).map(|at| over.slice(at)).collect(),
            curve: crate::money::curve(&now.stats),
        }
    }
}

struct Over<'a> {
    before: Option<&'a Answer>,
    now: &'a Answer,
    passed_s: f64,
}

impl Over<'_> {
    fn per_s(&self, grown: u64) -> f64 {
        grown as f64 / self.passed_s
    }

    fn rate(&self, asked: u64, hits: u64) -> Rate {
        Rate { per_s: self.per_s(asked), hits: if asked == 0 { 0.0 } else { hits as f64 / asked as f64 } }
    }

    fn grown(&self, at: &str) -> u64 {
        self.now.count(at).saturating_sub(self.before.map_or(0, |before| before.count(at)))
    }

    fn grown_sum(&self, at: &str) -> u64 {
        self.now.sum(at).saturating_sub(self.before.map_or(0, |before| before.sum(at)))
    }

    /// What figures of a shard grew by.
    fn shard_grown(&self, at: usize, names: &[&str]) -> u64 {
        let of = |answer: &Answer| -> u64 {
            let shard = answer.shards().get(at);
            names.iter().filter_map(|name| shard?[*name].as_u64()).sum()
        };
        of(self.now).saturating_sub(self.before.map_or(0, of))
    }

    fn shards_per_s(&self, names: &[&str]) -> f64 {
        self.per_s((0..self.now.shards().len()).map(|at| self.shard_grown(at, names)).sum())
    }

    fn slice(&self, at: usize) -> Slice {
        let shard = &self.now.shards()[at];
        let count = |name: &str| shard[name].as_u64().unwrap_or(0);
        let written = ["drive_put_bytes", "drive_reappend_bytes", "drive_meta_bytes"];
        Slice {
            path: shard["path"].as_str().unwrap_or("").to_owned(),
            capacity: count("capacity_bytes"),
            live: count("drive_live_bytes"),
            read_mb_s: self.per_s(self.shard_grown(at, &["drive_read_bytes"])) / 1e6,
            write_mb_s: self.per_s(self.shard_grown(at, &written)) / 1e6,
            flushes_s: self.per_s(self.shard_grown(at, &["flushes"])),
            amplification: shard["write_amplification"].as_f64().unwrap_or(0.0),
            failed: count("drive_write_failed") > 0,
            damaged: count("segments_damaged") > 0,
            sparing: count("write_budget_bytes") < count("write_day_bytes").div_ceil(4),
            free_segments: count("segments_free"),
        }
    }

    fn took(&self) -> Vec<Took> {
        let all = self.now.stats["latency_buckets"].as_object();
        let kinds = all.into_iter().flat_map(|all| all.keys());
        let took = kinds.filter_map(|kind| {
            let mut buckets = buckets(self.now, kind);
            for (bound, count) in self.before.map(|before| buckets_of(before, kind)).into_iter().flatten() {
                if let Some(now) = buckets.get_mut(&bound) {
                    *now = now.saturating_sub(count);
                }
            }
            let count: u64 = buckets.values().sum();
            let us = [500, 990, 999, 1000].map(|share| per_mille(&buckets, count, share));
            (count > 0).then(|| Took { what: kind.replace('_', " ").replace(" all", ""), per_s: self.per_s(count), us })
        });
        took.collect()
    }
}

fn buckets(answer: &Answer, kind: &str) -> BTreeMap<u64, u64> {
    buckets_of(answer, kind).collect()
}

fn buckets_of(answer: &Answer, kind: &str) -> impl Iterator<Item = (u64, u64)> {
    let pairs = answer.stats["latency_buckets"][kind].as_array().cloned().unwrap_or_default();
    pairs.into_iter().filter_map(|pair| Some((pair[0].as_u64()?, pair[1].as_u64()?)))
}

fn per_mille(buckets: &BTreeMap<u64, u64>, count: u64, share: u64) -> u64 {
    let wanted = (count * share).div_ceil(1000);
    let mut seen = 0;
    let found = buckets.iter().find(|(_, count)| {
        seen += **count;
        seen >= wanted
    });
    found.map_or(0, |(bound, _)| *bound)
}

/// Bytes moved, frame by frame.
#[derive(Debug, Default)]
pub(super) struct History(VecDeque<f64>);

impl History {
    pub(super) fn push(&mut self, gb_s: f64) {
        if self.0.len() == HISTORY {
            self.0.pop_front();
        }
        self.0.push_back(gb_s);
    }

    /// The last ones, oldest first, and the largest of them.
    pub(super) fn last(&self, n: usize) -> (Vec<f64>, f64) {
        let shown: Vec<f64> = self.0.iter().skip(self.0.len().saturating_sub(n)).copied().collect();
        let most = shown.iter().copied().fold(0.0, f64::max);
        (shown, most)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use serde_json::json;

    pub(in crate::top) fn answer(now_us: u64, scale: u64) -> Answer {
        let stats = json!({
            "incarnation": "1", "uptime_s": 90.5, "engine": "uring", "connections": 3, "memory_bytes": 1u64 << 30, "turn_us_max": 312,
            "get": {"asked": 100 * scale, "hits": {"dram": 60 * scale, "nvme": 30 * scale}, "misses": {"absent": 10 * scale}, "not_asked": 0},
            "match": {"asked": 10 * scale, "hits": {"dram": 5 * scale}, "misses": {}},
            "put": {"asked": 8 * scale, "cached": 3 * scale, "durable": 3 * scale, "exists": 0, "refused": {"busy": 2 * scale}},
            "bytes": {"get": 90_000_000 * scale, "put": 6_000_000 * scale},
            "waiting": {"keys": 7, "reads": 2},
            "errors": {"protocol": 0},
            "latency_buckets": {"get_dram": [[32, 59 * scale], [1024, scale]], "get_nvme": [], "match_all": [[16, 2 * scale]]},
            "shards": [{"path": "/mnt/nvme0/forebay", "capacity_bytes": 200u64 << 30, "drive_live_bytes": 150u64 << 30, "blocks": 1_234_567,
                "arena_bytes": 800u64 << 20, "arena_free_bytes": 200u64 << 20, "index_bytes": 70u64 << 20, "dram_bytes": 600u64 << 20,
                "drive_read_bytes": 30_000_000 * scale, "drive_put_bytes": 6_000_000 * scale, "flushes": scale, "write_amplification": 1.02,
                "segments_free": 12, "drive_write_failed": 0, "evicted": 4 * scale, "busy": 0, "corrupt_records": 0}],
        });
        Answer { stats, now_us }
    }

    #[test]
    fn figures_are_of_the_time_between_two_answers() {
        let (before, now) = (answer(0, 1), answer(2_000_000, 3));
        let figures = Figures::between(Some(&before), &now);
        assert_eq!(figures.gets, Rate { per_s: 100.0, hits: 0.9 });
        assert_eq!(figures.tiers, [0.6, 0.3, 0.1]);
        assert_eq!((figures.get_gb_s, figures.put_gb_s), (0.09, 0.006));
        assert_eq!(figures.puts, Rate { per_s: 8.0, hits: 0.75 });
        let took: Vec<(&str, f64, [u64; 4])> = figures.took.iter().map(|t| (t.what.as_str(), t.per_s, t.us)).collect();
        assert_eq!(took, [("get dram", 60.0, [32, 1024, 1024, 1024]), ("match", 2.0, [16; 4])]);
        assert_eq!((figures.slices[0].read_mb_s, figures.slices[0].flushes_s, figures.evicted_s), (30.0, 1.0, 4.0));
    }

    #[test]
    fn a_node_that_was_started_anew_is_not_compared_with_the_one_before() {
        let before = answer(0, 50);
        let mut now = answer(1_000_000, 3);
        now.stats["incarnation"] = "2".into();
        let figures = Figures::between(Some(&before), &now);
        assert!((figures.gets.per_s - 300.0 / 90.5).abs() < 1e-9, "{figures:?}");
        assert_eq!(Figures::between(None, &Answer { stats: json!({}), now_us: 0 }), Figures::default());
    }

    #[test]
    fn history_forgets() {
        let mut history = History::default();
        (0..500).for_each(|i| history.push(f64::from(i)));
        assert_eq!(history.last(3), (vec![497.0, 498.0, 499.0], 499.0));
        assert_eq!(history.last(10_000).0.len(), HISTORY);
    }
}
