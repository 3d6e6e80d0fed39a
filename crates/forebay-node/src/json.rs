//! Statistics as one JSON object: the numbers of `metrics.rs`, for programs.

use forebay_types::{LandingKind, MissReason, Namespace, RefusedReason, Tier};
use serde_json::{Map, Value, json};

use crate::board::{Board, BoardShard};
use crate::counters::{Asked, Counters, ERROR_WORDS, LATENCIES, PeerFault};
use crate::latency::bound_us;
use crate::metrics::{SCRUB_DAMAGED, STORE_NUMBERS};
use crate::spaces::Spaces;

/// All of them, with what became of the keys of these namespaces: those of whoever asks.
pub(crate) fn stats(board: &Board, namespaces: &[Namespace]) -> String {
    let spaces: Vec<Spaces> = board.shards.iter().map(BoardShard::spaces).collect();
    let names = namespaces.iter().map(|namespace| (namespace.id, namespace.name.as_str()));
    let sum = |of: &dyn Fn(&Counters) -> u64| Value::from(board.sum(of));
    let shards: Vec<Value> = board.shards.iter().map(shard).collect();
    json!({
        "incarnation": format!("{:016x}", board.incarnation),
        "epoch": board.epoch(),
        "uptime_s": board.uptime_s(),
        "engine": board.engine,
        "policy": board.policy,
        "memory_bytes": board.memory_bytes,
        "connections": board.connections(),
        "connections_max": board.connections_max,
        "turn_us_max": board.max(|c| c.turn_us_max.get()),
        "get": asked(board, &|c| &c.get),
        "match": asked(board, &|c| &c.matched),
        "contains": asked(board, &|c| &c.contains),
        "touch": asked(board, &|c| &c.touch),
        "prefetch": asked(board, &|c| &c.prefetch),
        "put": put(board),
        "forget": { "asked": sum(&|c| c.forget_asked.get()), "forgotten": sum(&|c| c.forgotten.get()) },
        "landing": words(LandingKind::ALL, |kind| board.sum(|c| c.landing[kind.index()].get())),
        "landing_lent": words(LandingKind::ALL, |kind| board.sum(|c| c.landing_lent[kind.index()].get())),
        "bytes": { "get": sum(&|c| c.bytes_out.get()), "put": sum(&|c| c.bytes_in.get()) },
        "leases": { "granted": sum(&|c| c.leases_granted.get()), "refused": sum(&|c| c.leases_refused.get()) },
        "corrupt_reports": sum(&|c| c.corrupt_reports.get()),
        "connections_cut": sum(&|c| c.cut_off.get()),
        "errors": (0..ERROR_WORDS.len())
            .map(|i| (ERROR_WORDS[i].to_owned(), sum(&|c| c.errors[i].get())))
            .collect::<Map<_, _>>(),
        "waiting": { "keys": sum(&|c| c.keys_waiting.get()), "reads": sum(&|c| c.reads_waiting.get()) },
        "latency": latency(board),
        "latency_buckets": latency_buckets(board),
        "peer_faults": PeerFault::ALL
            .iter()
            .map(|(fault, word)| ((*word).to_owned(), sum(&|c| c.peer_faults[*fault as usize].get())))
            .collect::<Map<_, _>>(),
        "namespaces": crate::spaces::told(&spaces, names, &board.usage, board.reckoning),
        "usage_log": board.usage.json(),
        "curve": curve(board),
        "money_by": board.reckoning.told(),
        "shards": shards,
    })
    .to_string()
}

/// What half of the capacity, the capacity there is and twice as much would find, by LRU's curve.
fn curve(board: &Board) -> Value {
    let [half, now, twice] = crate::curve::found(board);
    json!({ "half": half, "now": now, "twice": twice })
}

/// Since the start, for a glance. Each figure is the bound of a bucket.
fn latency(board: &Board) -> Map<String, Value> {
    let one = |(at, (_, verb, kind)): (usize, &(_, &str, &str))| {
        let all = board.latencies(at);
        let figures = json!({ "count": all.count(), "p50_us": all.per_mille(500), "p99_us": all.per_mille(990), "p999_us": all.per_mille(999) });
        (format!("{verb}_{kind}"), figures)
    };
    LATENCIES.iter().enumerate().map(one).collect()
}

/// For whoever wants figures of a span of time: the difference of two. Pairs of a bucket's bound in microseconds and its count; empty ones are left out.
fn latency_buckets(board: &Board) -> Map<String, Value> {
    let one = |(at, (_, verb, kind)): (usize, &(_, &str, &str))| {
        let buckets = board.latencies(at).buckets;
        let pairs = buckets.iter().enumerate().filter(|(_, count)| **count > 0);
        (format!("{verb}_{kind}"), pairs.map(|(bucket, count)| json!([bound_us(bucket), count])).collect())
    };
    LATENCIES.iter().enumerate().map(one).collect()
}

fn words<W: std::fmt::Display>(all: &[W], of: impl Fn(&W) -> u64) -> Map<String, Value> {
    all.iter().map(|word| (word.to_string(), of(word).into())).collect()
}

fn asked(board: &Board, of: &dyn Fn(&Counters) -> &Asked) -> Value {
    let mut misses = words(MissReason::ALL, |reason| board.sum(|c| of(c).misses[reason.index()].get()));
    misses.insert("too_small".into(), board.sum(|c| of(c).too_small.get()).into());
    json!({
        "asked": board.sum(|c| of(c).asked.get()),
        "hits": words(Tier::ALL, |tier| board.sum(|c| of(c).hits[tier.index()].get())),
        "misses": misses,
        "not_asked": board.sum(|c| of(c).not_asked.get()),
    })
}

fn put(board: &Board) -> Value {
    json!({
        "asked": board.sum(|c| c.put_asked.get()),
        "cached": board.sum(|c| c.put_cached.get()),
        "durable": board.sum(|c| c.put_durable.get()),
        "exists": board.sum(|c| c.put_exists.get()),
        "refused": words(RefusedReason::ALL, |reason| board.sum(|c| c.put_refused[reason.index()].get())),
        "sum_mismatch": board.sum(|c| c.put_sum_mismatch.get()),
    })
}

fn shard(shard: &BoardShard) -> Value {
    let stats = shard.stats();
    let mut row = Map::new();
    row.insert("shard".into(), shard.id.to_string().into());
    row.insert("path".into(), shard.path.display().to_string().into());
    row.insert("capacity_bytes".into(), shard.slice_bytes.into());
    for (name, _, _, of) in STORE_NUMBERS {
        let short = name.trim_start_matches("forebay_").trim_end_matches("_total");
        row.insert(short.into(), of(&stats).into());
    }
    for (class, of) in SCRUB_DAMAGED {
        row.insert(format!("scrub_damaged_{}", class.word()), of(&stats).into());
    }
    row.insert("scrub_pass_s".into(), (stats.scrub_pass_ms as f64 / 1e3).into());
    row.insert("write_amplification".into(), stats.write_amplification().into());
    row.insert("connections".into(), shard.shown.counters.connections.get().into());
    row.insert("turn_us_max".into(), shard.shown.counters.turn_us_max.get().into());
    row.into()
}
