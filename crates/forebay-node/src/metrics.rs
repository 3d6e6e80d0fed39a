//! Metrics as Prometheus reads them, and the same numbers as JSON.

use std::fmt::Write;

use forebay_store::StoreStats;
use forebay_types::{LandingKind, MissReason, RefusedReason, Tier};

use crate::board::Board;
use crate::counters::{Asked, Counters, ERROR_WORDS};

/// One number with its labels.
struct Sample {
    labels: Vec<(&'static str, String)>,
    value: f64,
}

/// Numbers of one name.
struct Family {
    name: &'static str,
    help: &'static str,
    kind: &'static str,
    samples: Vec<Sample>,
}

/// All metrics of the node. The identity: for get, match and contains, `asked = hits + misses + not_asked` over all labels when nothing is in progress
/// (a slice that was too small is among the misses as `too_small`: the client asks again); for put, `asked = cached + durable + exists + refused`.
pub(crate) fn prometheus(board: &Board) -> String {
    let mut out = String::with_capacity(16 * 1024);
    for family in families(board) {
        let Family { name, help, kind, samples } = family;
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for Sample { labels, value } in samples {
            let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect();
            let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
            let _ = writeln!(out, "{name}{labels} {value}");
        }
    }
    out
}

fn one(value: u64) -> Vec<Sample> {
    vec![Sample { labels: Vec::new(), value: value as f64 }]
}

fn labelled(key: &'static str, values: impl Iterator<Item = (String, u64)>) -> Vec<Sample> {
    values.map(|(label, value)| Sample { labels: vec![(key, label)], value: value as f64 }).collect()
}

fn families(board: &Board) -> Vec<Family> {
    let mut all = Vec::new();
    for (verb, of) in VERBS {
        all.extend(asked_families(board, *verb, *of));
    }
    let counter = |name, help, samples| Family { name, help, kind: "counter", samples };
    let gauge = |name, help, samples| Family { name, help, kind: "gauge", samples };
    let sum = |of: fn(&Counters) -> u64| one(board.sum(of));
    all.extend([
        counter("forebay_put_asked_total", "Blocks that clients asked to keep.", sum(|c| c.put_asked.get())),
        counter("forebay_put_cached_total", "Blocks kept, which may vanish.", sum(|c| c.put_cached.get())),
        counter("forebay_put_durable_total", "Blocks kept on stable storage.", sum(|c| c.put_durable.get())),
        counter("forebay_put_exists_total", "Blocks that were held already.", sum(|c| c.put_exists.get())),
        counter(
            "forebay_put_refused_total",
            "Blocks not kept.",
            labelled(
                "reason",
                RefusedReason::ALL.iter().map(|r| (r.to_string(), board.sum(|c| c.put_refused[r.index()].get()))),
            ),
        ),
        counter(
            "forebay_put_sum_mismatch_total",
            "Blocks whose bytes did not match their sums on arrival.",
            sum(|c| c.put_sum_mismatch.get()),
        ),
        counter("forebay_forget_asked_total", "Keys that clients asked to forget.", sum(|c| c.forget_asked.get())),
        counter("forebay_forgotten_total", "Blocks forgotten.", sum(|c| c.forgotten.get())),
        counter(
            "forebay_landing_total",
            "Blocks and ranges handed over, by how their bytes came.",
            labelled(
                "kind",
                LandingKind::ALL.iter().map(|k| (k.to_string(), board.sum(|c| c.landing[k.index()].get()))),
            ),
        ),
        counter("forebay_get_bytes_total", "Payload handed to clients, in bytes.", sum(|c| c.bytes_out.get())),
        counter("forebay_put_bytes_total", "Payload taken from clients, in bytes.", sum(|c| c.bytes_in.get())),
        counter(
            "forebay_corrupt_reports_total",
            "Blocks that clients said did not verify.",
            sum(|c| c.corrupt_reports.get()),
        ),
        counter("forebay_leases_granted_total", "Leases granted to matches.", sum(|c| c.leases_granted.get())),
        counter("forebay_leases_refused_total", "Leases refused to matches.", sum(|c| c.leases_refused.get())),
        counter("forebay_requests_total", "Requests for blocks.", sum(|c| c.requests.get())),
        counter("forebay_connections_total", "Connections taken.", sum(|c| c.accepted.get())),
        counter(
            "forebay_connections_cut_total",
            "Connections cut off, because the peer took nothing or sent half a message.",
            sum(|c| c.cut_off.get()),
        ),
        counter(
            "forebay_errors_total",
            "Errors told to clients, by kind.",
            labelled(
                "kind",
                ERROR_WORDS.iter().enumerate().map(|(i, word)| ((*word).to_owned(), board.sum(|c| c.errors[i].get()))),
            ),
        ),
        gauge("forebay_connections", "Connections now.", one(board.connections())),
        gauge("forebay_regions", "Regions lent by clients now.", sum(|c| c.regions.get())),
        counter(
            "forebay_regions_unmapped_total",
            "Regions not sealed against shrinking, to which bytes are copied through the descriptor.",
            sum(|c| c.regions_unmapped.get()),
        ),
        counter("forebay_turns_total", "Turns of the shards' loops.", sum(|c| c.turns.get())),
        Family {
            name: "forebay_turn_longest_seconds",
            help: "Longest turn of a shard's loop since the start.",
            kind: "gauge",
            samples: vec![Sample { labels: Vec::new(), value: board.max(|c| c.turn_us_max.get()) as f64 / 1e6 }],
        },
        gauge("forebay_memory_bytes", "Memory the node was given, in bytes.", one(board.memory_bytes)),
        gauge("forebay_epoch", "Version of the table of members.", one(board.epoch())),
        Family {
            name: "forebay_uptime_seconds",
            help: "Time since the start.",
            kind: "gauge",
            samples: vec![Sample { labels: Vec::new(), value: board.uptime_s() }],
        },
    ]);
    all.extend(store_families(board));
    all
}

type AskedOf = fn(&Counters) -> &Asked;

const VERBS: &[([&str; 4], AskedOf)] = &[
    (["forebay_get_asked_total", "forebay_get_hits_total", "forebay_get_misses_total", ""], |c| &c.get),
    (
        [
            "forebay_match_asked_total",
            "forebay_match_hits_total",
            "forebay_match_misses_total",
            "forebay_match_not_asked_total",
        ],
        |c| &c.matched,
    ),
    (
        [
            "forebay_contains_asked_total",
            "forebay_contains_hits_total",
            "forebay_contains_misses_total",
            "forebay_contains_not_asked_total",
        ],
        |c| &c.contains,
    ),
];

fn asked_families(board: &Board, names: [&'static str; 4], of: AskedOf) -> Vec<Family> {
    let counter = |name, help, samples| Family { name, help, kind: "counter", samples };
    let tiers = Tier::ALL.iter().map(|tier| (tier.to_string(), board.sum(|c| of(c).hits[tier.index()].get())));
    let mut misses: Vec<(String, u64)> = MissReason::ALL
        .iter()
        .map(|reason| (reason.to_string(), board.sum(|c| of(c).misses[reason.index()].get())))
        .collect();
    if names[3].is_empty() {
        misses.push(("too_small".into(), board.sum(|c| of(c).too_small.get())));
    }
    let mut all = vec![
        counter(names[0], "Keys asked for.", one(board.sum(|c| of(c).asked.get()))),
        counter(names[1], "Keys that were here, by tier.", labelled("tier", tiers)),
        counter(names[2], "Keys not served, by reason.", labelled("reason", misses.into_iter())),
    ];
    if !names[3].is_empty() {
        all.push(counter(names[3], "Keys behind the first gap.", one(board.sum(|c| of(c).not_asked.get()))));
    }
    all
}

type StoreNumber = (&'static str, &'static str, &'static str, fn(&StoreStats) -> u64);

/// Numbers of a shard's store, each with the shard as label.
const STORE_NUMBERS: &[StoreNumber] = &[
    ("forebay_blocks", "Blocks held.", "gauge", |s| s.blocks),
    ("forebay_drive_live_bytes", "Bytes on the drive that can be served, with padding.", "gauge", |s| s.live_bytes),
    ("forebay_drive_durable_bytes", "Of these, of durable namespaces.", "gauge", |s| s.durable_bytes),
    ("forebay_segments", "Segments of the shard.", "gauge", |s| s.segments),
    ("forebay_segments_free", "Segments free for writing.", "gauge", |s| s.segments_free),
    ("forebay_segment_bytes", "Bytes of a segment.", "gauge", |s| s.segment_bytes),
    ("forebay_dram_blocks", "Blocks in DRAM.", "gauge", |s| s.dram_blocks),
    ("forebay_dram_bytes", "Bytes of blocks in DRAM.", "gauge", |s| s.dram_bytes),
    ("forebay_arena_bytes", "Bytes of the arena: DRAM tier, writes and reads in flight.", "gauge", |s| s.arena_bytes),
    ("forebay_arena_free_bytes", "Of these, free.", "gauge", |s| s.arena_free_bytes),
    ("forebay_index_bytes", "Bytes of all that grows with blocks.", "gauge", |s| s.index_bytes),
    ("forebay_leased_bytes", "Bytes under lease.", "gauge", |s| s.leased_bytes),
    ("forebay_drive_write_failed", "1 when the drive is out for writing.", "gauge", |s| u64::from(s.write_failed)),
    ("forebay_promotions_total", "Blocks brought to DRAM by a get.", "counter", |s| s.promotions),
    ("forebay_corrupt_records_total", "Records found bad.", "counter", |s| s.corrupt),
    ("forebay_evicted_total", "Blocks evicted from the drive.", "counter", |s| s.evicted),
    ("forebay_evicted_quota_total", "Of these, for a namespace's quota.", "counter", |s| s.evicted_quota),
    ("forebay_evicted_index_total", "Of these, because the index was full.", "counter", |s| s.evicted_index),
    ("forebay_dram_evicted_total", "Blocks dropped from DRAM for room.", "counter", |s| s.dram_evicted),
    ("forebay_drive_put_bytes_total", "Bytes of records written for puts.", "counter", |s| s.put_bytes),
    ("forebay_drive_reappend_bytes_total", "Bytes of records written again by cleaning.", "counter", |s| {
        s.reappend_bytes
    }),
    ("forebay_drive_meta_bytes_total", "Bytes of headers, footers and tables written.", "counter", |s| s.meta_bytes),
    ("forebay_drive_read_bytes_total", "Bytes read for gets.", "counter", |s| s.read_bytes),
    ("forebay_segments_freed_total", "Segments freed.", "counter", |s| s.segments_freed),
    ("forebay_flushes_total", "Flushes of the drive.", "counter", |s| s.flushes),
    ("forebay_busy_total", "Requests the store turned away for the moment.", "counter", |s| s.busy),
];

fn store_families(board: &Board) -> Vec<Family> {
    let stats: Vec<(String, u64, StoreStats)> =
        board.shards.iter().map(|shard| (shard.id.to_string(), shard.slice_bytes, shard.stats())).collect();
    let mut all: Vec<Family> = STORE_NUMBERS
        .iter()
        .map(|(name, help, kind, of)| {
            let samples = labelled("shard", stats.iter().map(|(id, _, stats)| (id.clone(), of(stats))));
            Family { name, help, kind, samples }
        })
        .collect();
    let capacity = labelled("shard", stats.iter().map(|(id, bytes, _)| (id.clone(), *bytes)));
    all.push(Family {
        name: "forebay_drive_capacity_bytes",
        help: "Bytes of the shard's slice.",
        kind: "gauge",
        samples: capacity,
    });
    let amplification = stats
        .iter()
        .map(|(id, _, stats)| Sample { labels: vec![("shard", id.clone())], value: stats.write_amplification() })
        .collect();
    all.push(Family {
        name: "forebay_write_amplification",
        help: "Bytes written to the drive for each byte put.",
        kind: "gauge",
        samples: amplification,
    });
    all
}

/// The same numbers as one JSON object.
pub(crate) fn json(board: &Board) -> String {
    let number = |of: &dyn Fn(&Counters) -> u64| serde_json::Value::from(board.sum(of));
    let asked = |of: AskedOf| {
        let hits: serde_json::Map<_, _> =
            Tier::ALL.iter().map(|t| (t.to_string(), number(&|c| of(c).hits[t.index()].get()))).collect();
        let mut misses: serde_json::Map<_, _> =
            MissReason::ALL.iter().map(|r| (r.to_string(), number(&|c| of(c).misses[r.index()].get()))).collect();
        misses.insert("too_small".into(), number(&|c| of(c).too_small.get()));
        serde_json::json!({
            "asked": number(&|c| of(c).asked.get()),
            "hits": hits,
            "misses": misses,
            "not_asked": number(&|c| of(c).not_asked.get()),
        })
    };
    let refused: serde_json::Map<_, _> =
        RefusedReason::ALL.iter().map(|r| (r.to_string(), number(&|c| c.put_refused[r.index()].get()))).collect();
    let landing: serde_json::Map<_, _> =
        LandingKind::ALL.iter().map(|k| (k.to_string(), number(&|c| c.landing[k.index()].get()))).collect();
    let errors: serde_json::Map<_, _> =
        ERROR_WORDS.iter().enumerate().map(|(i, word)| ((*word).to_owned(), number(&|c| c.errors[i].get()))).collect();
    let shards: Vec<serde_json::Value> = board
        .shards
        .iter()
        .map(|shard| {
            let stats = shard.stats();
            let mut row = serde_json::Map::new();
            row.insert("shard".into(), shard.id.to_string().into());
            row.insert("path".into(), shard.path.display().to_string().into());
            row.insert("capacity_bytes".into(), shard.slice_bytes.into());
            for (name, _, _, of) in STORE_NUMBERS {
                let short = name.trim_start_matches("forebay_").trim_end_matches("_total");
                row.insert(short.into(), of(&stats).into());
            }
            row.insert("write_amplification".into(), stats.write_amplification().into());
            row.insert("connections".into(), shard.shown.counters.connections.get().into());
            row.insert("turn_us_max".into(), shard.shown.counters.turn_us_max.get().into());
            row.into()
        })
        .collect();
    serde_json::json!({
        "incarnation": format!("{:016x}", board.incarnation),
        "epoch": board.epoch(),
        "uptime_s": board.uptime_s(),
        "engine": board.engine,
        "memory_bytes": board.memory_bytes,
        "connections": board.connections(),
        "turn_us_max": board.max(|c| c.turn_us_max.get()),
        "get": asked(|c| &c.get),
        "match": asked(|c| &c.matched),
        "contains": asked(|c| &c.contains),
        "put": {
            "asked": number(&|c| c.put_asked.get()),
            "cached": number(&|c| c.put_cached.get()),
            "durable": number(&|c| c.put_durable.get()),
            "exists": number(&|c| c.put_exists.get()),
            "refused": refused,
            "sum_mismatch": number(&|c| c.put_sum_mismatch.get()),
        },
        "forget": { "asked": number(&|c| c.forget_asked.get()), "forgotten": number(&|c| c.forgotten.get()) },
        "landing": landing,
        "bytes": { "get": number(&|c| c.bytes_out.get()), "put": number(&|c| c.bytes_in.get()) },
        "leases": { "granted": number(&|c| c.leases_granted.get()), "refused": number(&|c| c.leases_refused.get()) },
        "corrupt_reports": number(&|c| c.corrupt_reports.get()),
        "connections_cut": number(&|c| c.cut_off.get()),
        "errors": errors,
        "shards": shards,
    })
    .to_string()
}
