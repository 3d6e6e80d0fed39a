//! Metrics as Prometheus reads them.

use std::fmt::Write;

use forebay_store::StoreStats;
use forebay_types::{Class, LandingKind, MissReason, RefusedReason, Tier};

use crate::board::Board;
use crate::counters::{Asked, Counters, Dropped, ERROR_WORDS, LATENCIES, PeerFault};
use crate::latency::bound_us;

/// One number with its labels.
pub(crate) struct Sample {
    pub(crate) labels: Vec<(&'static str, String)>,
    pub(crate) value: f64,
}

/// Numbers of one name.
pub(crate) struct Family {
    pub(crate) name: &'static str,
    pub(crate) help: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) samples: Vec<Sample>,
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
    latencies(&mut out, board);
    out
}

/// Histograms, of which Prometheus gets every other bucket: each doubling.
fn latencies(out: &mut String, board: &Board) {
    let name = "forebay_latency_seconds";
    let _ = writeln!(
        out,
        "# HELP {name} Time from the turn that took a request to its answer: gets that were hits and puts that were kept by key, others whole.\n# TYPE {name} histogram"
    );
    for (at, (_, verb, kind)) in LATENCIES.iter().enumerate() {
        let all = board.latencies(at);
        let labels = format!("verb=\"{verb}\",kind=\"{kind}\"");
        let mut under = 0;
        // The last bucket has no bound of its own.
        for (bucket, count) in all.buckets[..all.buckets.len() - 1].iter().enumerate() {
            under += count;
            if bound_us(bucket).is_power_of_two() {
                let bound_s = bound_us(bucket) as f64 / 1e6;
                let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{bound_s}\"}} {under}");
            }
        }
        let (count, sum_s) = (all.count(), all.sum_us as f64 / 1e6);
        let _ = writeln!(
            out,
            "{name}_bucket{{{labels},le=\"+Inf\"}} {count}\n{name}_sum{{{labels}}} {sum_s}\n{name}_count{{{labels}}} {count}"
        );
    }
}

fn one(value: u64) -> Vec<Sample> {
    vec![Sample { labels: Vec::new(), value: value as f64 }]
}

fn labelled(key: &'static str, values: impl Iterator<Item = (String, u64)>) -> Vec<Sample> {
    values.map(|(label, value)| Sample { labels: vec![(key, label)], value: value as f64 }).collect()
}

type NodeNumber = (&'static str, &'static str, fn(&Counters) -> u64);

/// Counters of the node that have no labels.
const NODE_COUNTERS: &[NodeNumber] = &[
    ("forebay_put_asked_total", "Blocks that clients asked to keep.", |c| c.put_asked.get()),
    ("forebay_put_cached_total", "Blocks kept, which may vanish.", |c| c.put_cached.get()),
    ("forebay_put_durable_total", "Blocks kept on stable storage.", |c| c.put_durable.get()),
    ("forebay_put_exists_total", "Blocks that were held already.", |c| c.put_exists.get()),
    ("forebay_put_sum_mismatch_total", "Blocks whose bytes did not match their sums on arrival.", |c| {
        c.put_sum_mismatch.get()
    }),
    ("forebay_forget_asked_total", "Keys that clients asked to forget.", |c| c.forget_asked.get()),
    ("forebay_forgotten_total", "Blocks forgotten.", |c| c.forgotten.get()),
    ("forebay_get_bytes_total", "Payload handed to clients, in bytes.", |c| c.bytes_out.get()),
    ("forebay_put_bytes_total", "Payload taken from clients, in bytes.", |c| c.bytes_in.get()),
    ("forebay_corrupt_reports_total", "Blocks that clients said did not verify.", |c| c.corrupt_reports.get()),
    ("forebay_leases_granted_total", "Leases granted to matches.", |c| c.leases_granted.get()),
    ("forebay_leases_refused_total", "Leases refused to matches.", |c| c.leases_refused.get()),
    ("forebay_requests_total", "Requests for blocks.", |c| c.requests.get()),
    ("forebay_connections_total", "Connections taken.", |c| c.accepted.get()),
    ("forebay_connections_cut_total", "Connections cut off: the peer took nothing or sent half a message.", |c| {
        c.cut_off.get()
    }),
    (
        "forebay_accept_rests_total",
        "Times that a listener rested: too many who connected said nothing sensible.",
        |c| c.accept_rests.get(),
    ),
    ("forebay_regions_unmapped_total", "Regions not sealed, copied to through their descriptor.", |c| {
        c.regions_unmapped.get()
    }),
    ("forebay_turns_total", "Turns of the shards' loops.", |c| c.turns.get()),
];

fn families(board: &Board) -> Vec<Family> {
    let mut all = Vec::new();
    for (verb, of) in VERBS {
        all.extend(asked_families(board, *verb, *of));
    }
    for (name, help, of) in NODE_COUNTERS {
        all.push(Family { name, help, kind: "counter", samples: one(board.sum(of)) });
    }
    all.extend(worded_families(board));
    let gauge = |name, help, value| {
        let samples = vec![Sample { labels: Vec::new(), value }];
        Family { name, help, kind: "gauge", samples }
    };
    let longest_s = board.max(|c| c.turn_us_max.get()) as f64 / 1e6;
    all.extend([
        gauge("forebay_connections", "Connections now.", board.connections() as f64),
        gauge("forebay_keys_waiting", "Keys without an outcome yet.", board.sum(|c| c.keys_waiting.get()) as f64),
        gauge("forebay_reads_waiting", "Reads of gets at the drives now.", board.sum(|c| c.reads_waiting.get()) as f64),
        gauge("forebay_connections_max", "Connections at most.", board.connections_max as f64),
        gauge("forebay_regions", "Regions lent by clients now.", board.sum(|c| c.regions.get()) as f64),
        gauge("forebay_turn_longest_seconds", "Longest turn of a shard's loop since the start.", longest_s),
        gauge("forebay_memory_bytes", "Memory the node was given, in bytes.", board.memory_bytes as f64),
        gauge("forebay_epoch", "Version of the table of members.", board.epoch() as f64),
        gauge("forebay_uptime_seconds", "Time since the start.", board.uptime_s()),
    ]);
    let labels = vec![("policy", board.policy.clone())];
    let samples = vec![Sample { labels, value: 1.0 }];
    all.push(Family { name: "forebay_policy", help: "Which policy ranks blocks.", kind: "gauge", samples });
    all.extend(store_families(board));
    all.extend(crate::money::families(board));
    all
}

/// Counters with a label each.
fn worded_families(board: &Board) -> [Family; 6] {
    let counter = |name, help, samples| Family { name, help, kind: "counter", samples };
    let refused = RefusedReason::ALL.iter().map(|r| (r.to_string(), board.sum(|c| c.put_refused[r.index()].get())));
    let landing = LandingKind::ALL.iter().map(|k| (k.to_string(), board.sum(|c| c.landing[k.index()].get())));
    let lent = LandingKind::ALL.iter().map(|k| (k.to_string(), board.sum(|c| c.landing_lent[k.index()].get())));
    let errors = ERROR_WORDS.iter().enumerate().map(|(i, word)| ((*word).to_owned(), board.sum(|c| c.errors[i].get())));
    let faults = PeerFault::ALL.iter().map(|(fault, word)| {
        let count = board.sum(|c| c.peer_faults[*fault as usize].get());
        ((*word).to_owned(), count)
    });
    let dropped =
        Dropped::ALL.iter().map(|(what, word)| ((*word).to_owned(), board.sum(|c| c.dropped[*what as usize].get())));
    [
        counter(
            "forebay_dropped_total",
            "Keys whose caller gave up, was late or went away before their turn, by what was left undone.",
            labelled("before", dropped),
        ),
        counter("forebay_put_refused_total", "Blocks not kept.", labelled("reason", refused)),
        counter("forebay_landing_total", "Blocks and ranges handed over, by how they came.", labelled("kind", landing)),
        counter(
            "forebay_landing_lent_total",
            "Of those, into memory that clients have lent, by how they came.",
            labelled("kind", lent),
        ),
        counter("forebay_errors_total", "Errors told to clients, by kind.", labelled("kind", errors)),
        counter("forebay_peer_faults_total", "What peers did wrong, each at its own cost.", labelled("kind", faults)),
    ]
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
    (["forebay_touch_asked_total", "forebay_touch_hits_total", "forebay_touch_misses_total", ""], |c| &c.touch),
    (["forebay_prefetch_asked_total", "forebay_prefetch_hits_total", "forebay_prefetch_misses_total", ""], |c| {
        &c.prefetch
    }),
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

type StoreCount = fn(&StoreStats) -> u64;

pub(crate) type StoreNumber = (&'static str, &'static str, &'static str, StoreCount);

/// Numbers of a shard's store, each with the shard as label.
pub(crate) const STORE_NUMBERS: &[StoreNumber] = &[
    ("forebay_blocks", "Blocks held.", "gauge", |s| s.blocks),
    (
        "forebay_drive_usable_bytes",
        "Bytes of the slice that blocks can take: without spare segments and headers.",
        "gauge",
        |s| s.usable_bytes,
    ),
    ("forebay_drive_live_bytes", "Bytes on the drive that can be served, with padding.", "gauge", |s| s.live_bytes),
    ("forebay_drive_durable_bytes", "Of these, of durable namespaces.", "gauge", |s| s.durable_bytes),
    ("forebay_segments", "Segments of the shard.", "gauge", |s| s.segments),
    ("forebay_segments_free", "Segments free for writing.", "gauge", |s| s.segments_free),
    ("forebay_segment_bytes", "Bytes of a segment.", "gauge", |s| s.segment_bytes),
    ("forebay_dram_blocks", "Blocks in DRAM.", "gauge", |s| s.dram_blocks),
    ("forebay_dram_bytes", "Bytes of blocks in DRAM.", "gauge", |s| s.dram_bytes),
    (
        "forebay_dram_duplicate_bytes",
        "Of these, of blocks that whoever put them keeps in memory of its own, and nobody else has asked for.",
        "gauge",
        |s| s.dram_duplicate_bytes,
    ),
    ("forebay_arena_bytes", "Bytes of the arena: DRAM tier, writes and reads in flight.", "gauge", |s| s.arena_bytes),
    ("forebay_arena_free_bytes", "Of these, free.", "gauge", |s| s.arena_free_bytes),
    ("forebay_index_bytes", "Bytes of memory that grow with the blocks held.", "gauge", |s| s.index_bytes),
    ("forebay_dram_overhead_bytes", "Bytes beside the arena that blocks in DRAM take.", "gauge", |s| {
        s.dram_overhead_bytes
    }),
    ("forebay_footer_bytes", "Bytes of footers to be.", "gauge", |s| s.footer_bytes),
    ("forebay_policy_bytes", "Bytes of memory that the policy takes beside its ranks.", "gauge", |s| s.policy_bytes),
    ("forebay_curve_bytes", "Bytes of memory that the miss-ratio curve takes.", "gauge", |s| s.curve_bytes),
    ("forebay_policy_gives_way", "1 while LRU decides because it does better than the policy.", "gauge", |s| {
        u64::from(s.policy_gives_way)
    }),
    ("forebay_leased_bytes", "Bytes under lease.", "gauge", |s| s.leased_bytes),
    ("forebay_drive_write_failed", "1 when the drive is out for writing.", "gauge", |s| u64::from(s.write_failed)),
    ("forebay_promotions_total", "Blocks brought to DRAM by a get.", "counter", |s| s.promotions),
    ("forebay_prefetched_total", "Blocks brought to DRAM by a prefetch.", "counter", |s| s.prefetched),
    ("forebay_prefetch_used_total", "Of these, got from DRAM in time.", "counter", |s| s.prefetch_used),
    ("forebay_corrupt_records_total", "Records found bad by others than scrub.", "counter", |s| s.corrupt),
    ("forebay_write_day_bytes", "Bytes a day that the slice may be written; 0: as many as come.", "gauge", |s| {
        s.write_day_bytes
    }),
    ("forebay_write_budget_bytes", "Of these, what may be written now.", "gauge", |s| s.write_budget_bytes),
    ("forebay_write_debt_bytes", "Bytes written over the budget and not filled up again.", "gauge", |s| {
        s.write_debt_bytes
    }),
    ("forebay_write_refused_total", "Puts refused because the write budget is short.", "counter", |s| {
        s.refused_admission - s.refused_will_not_pay
    }),
    (
        "forebay_write_will_not_pay_total",
        "Puts refused because the block is expected to save less than its write costs.",
        "counter",
        |s| s.refused_will_not_pay,
    ),
    ("forebay_write_durable_over_total", "Durable puts taken although the budget was used up.", "counter", |s| {
        s.durable_over_budget
    }),
    ("forebay_scrub_bytes_total", "Bytes read by scrub.", "counter", |s| s.scrub_bytes),
    ("forebay_scrub_passes_total", "Times that scrub has been through the whole slice.", "counter", |s| s.scrub_passes),
    ("forebay_scrub_pass_segments", "Segments that scrub has looked at in this pass.", "gauge", |s| s.scrub_looked_at),
    ("forebay_scrub_damaged_segments_total", "Headers and footers of segments that scrub found bad.", "counter", |s| {
        s.scrub_damaged_segments
    }),
    (
        "forebay_segments_damaged",
        "Segments in which scrub found damage and that were not written anew since.",
        "gauge",
        |s| s.segments_damaged,
    ),
    ("forebay_evicted_total", "Blocks evicted from the drive.", "counter", |s| s.evicted),
    ("forebay_evicted_quota_total", "Of these, for a namespace's quota.", "counter", |s| s.evicted_quota),
    ("forebay_evicted_index_total", "Of these, because the index was full.", "counter", |s| s.evicted_index),
    ("forebay_expired_total", "Blocks dropped because their time was over.", "counter", |s| s.expired),
    (
        "forebay_clock_apart_seconds",
        "Between the wall clock and the time that expiry goes by, while one of them must be wrong.",
        "gauge",
        |s| s.clock_apart_s,
    ),
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

/// What scrub found, by what was promised.
pub(crate) const SCRUB_DAMAGED: [(Class, StoreCount); 2] =
    [(Class::Cache, |s| s.scrub_damaged_cache), (Class::Durable, |s| s.scrub_damaged_durable)];

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
    let of_classes = |(id, _, stats): &(String, u64, StoreStats)| {
        SCRUB_DAMAGED.map(|(class, of)| {
            let labels = vec![("shard", id.clone()), ("class", class.word().to_owned())];
            Sample { labels, value: of(stats) as f64 }
        })
    };
    all.push(Family {
        name: "forebay_scrub_damaged_total",
        help: "Blocks that scrub found damaged: twice in a row they did not match their sums, or could not be read.",
        kind: "counter",
        samples: stats.iter().flat_map(of_classes).collect(),
    });
    let pass = |(id, _, stats): &(String, u64, StoreStats)| Sample {
        labels: vec![("shard", id.clone())],
        value: stats.scrub_pass_ms as f64 / 1e3,
    };
    all.push(Family {
        name: "forebay_scrub_pass_seconds",
        help: "Time that the last whole pass of scrub took; 0 before the first.",
        kind: "gauge",
        samples: stats.iter().map(pass).collect(),
    });
    let capacity = labelled("shard", stats.iter().map(|(id, bytes, _)| (id.clone(), *bytes)));
    all.push(Family {
        name: "forebay_drive_capacity_bytes",
        help: "Bytes of the shard's slice, all that lies in it counted: tables, headers, footers, spare segments.",
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
