//! `forebay stat --usage`: what was used, by namespace, from a node or from its usage log, and the log as Parquet.

mod parquet;

use std::collections::BTreeMap;
use std::path::Path;

use forebay_node::read_usage_log;
use forebay_tokenomics::reconcile;
use forebay_types::{USAGE_COUNTS, Usage, UsageRow};
use serde_json::{Value, json};

use crate::cli::StatArgs;
use crate::say::{self, grouped};
use crate::stop::Stop;

/// What the node has recorded of the asker's namespaces.
pub(crate) fn of_node(args: &StatArgs, stats: &Value) -> Result<(), Stop> {
    let spaces = stats["namespaces"].as_array().into_iter().flatten();
    let used = spaces.filter_map(|space| Some((space["name"].as_str()?.to_owned(), counts(&space["usage"])?)));
    let used: Vec<_> = used.filter(|(_, usage)| !usage.is_zero()).collect();
    let log = stats["usage_log"]["path"].as_str().unwrap_or_default();
    if log.is_empty() {
        return Err(Stop::Failed("the node keeps no usage log; it is of an older build".into()));
    }
    if let Some(parquet) = &args.parquet {
        export(Path::new(log), parquet)?;
    }
    tell(args, &used, stats["usage_log"]["lost_entries"].as_u64().unwrap_or(0))
}

/// What a usage log says, of all tenants.
pub(crate) fn of_log(args: &StatArgs, path: &Path) -> Result<(), Stop> {
    let log = read_usage_log(path).map_err(|error| Stop::Failed(error.to_string()))?;
    let mut sums: BTreeMap<_, (String, Usage)> = BTreeMap::new();
    for row in &log.rows {
        let name = format!("{}:{}", row.tenant.0, row.name);
        sums.entry((row.tenant, row.namespace)).or_insert((name, Usage::default())).1.add(&row.usage);
    }
    if let Some(parquet) = &args.parquet {
        write(&log.rows, parquet)?;
    }
    tell(args, &sums.into_values().collect::<Vec<_>>(), log.lost_entries)
}

fn export(log: &Path, to: &Path) -> Result<(), Stop> {
    let log = read_usage_log(log).map_err(|error| {
        Stop::Failed(format!("{error}; the log is read where the node runs, by the user who runs it"))
    })?;
    write(&log.rows, to)
}

fn write(rows: &[UsageRow], to: &Path) -> Result<(), Stop> {
    std::fs::write(to, parquet::encode(rows))
        .map_err(|error| Stop::Failed(format!("{} cannot be written: {error}", to.display())))
}

/// The counts of a JSON object; a node of another build may have fewer or more.
fn counts(object: &Value) -> Option<Usage> {
    object.is_object().then(|| Usage::of_counts(USAGE_COUNTS.map(|name| object[name].as_u64().unwrap_or(0))))
}

fn tell(args: &StatArgs, used: &[(String, Usage)], lost_entries: u64) -> Result<(), Stop> {
    let mut all = Usage::default();
    used.iter().for_each(|(_, usage)| all.add(usage));
    if args.client.json {
        return say::line(&as_json(args, used, &all, lost_entries).to_string());
    }
    let mut table = say::table(&["namespace", "offered", "DRAM", "NVMe", "missed", "used", "written", "held h"]);
    for (name, usage) in used {
        table.add_row(row(name, usage));
    }
    if used.len() != 1 {
        table.add_row(row("all", &all));
    }
    say::show(&table)?;
    lines(args, &all, lost_entries).iter().try_for_each(|line| say::line(line))
}

fn row(name: &str, usage: &Usage) -> Vec<String> {
    let served = [usage.served_dram_tokens, usage.served_nvme_tokens, usage.missed_tokens];
    let after = [usage.used_tokens, usage.written_tokens, usage.held_token_s / 3600];
    let counts = [usage.offered_tokens].into_iter().chain(served).chain(after);
    std::iter::once(name.to_owned()).chain(counts.map(grouped)).collect()
}

fn served(usage: &Usage) -> u64 {
    usage.served_dram_tokens + usage.served_nvme_tokens
}

fn lines(args: &StatArgs, all: &Usage, lost_entries: u64) -> Vec<String> {
    let mut lines = vec![match all.reported_requests {
        0 => "No adapter has reported what it used of this.".to_owned(),
        requests => format!(
            "{} requests reported: of {} prompt tokens the engine had {}, used {} of what was served, and computed {}. Served and not used: {}.",
            grouped(requests),
            grouped(all.reported_prompt_tokens),
            grouped(all.reported_engine_tokens),
            grouped(all.used_tokens),
            grouped(computed(all)),
            grouped(served(all).saturating_sub(all.used_tokens)),
        ),
    }];
    if lost_entries > 0 {
        lines
            .push(format!("The log was damaged and {lost_entries} of its entries are lost: there was more than this."));
    }
    if let Some(cached_tokens) = args.cached_tokens {
        let of = reconcile(cached_tokens, all);
        for (what, tokens) in [
            ("cached tokens by the API", i128::from(of.api_cached_tokens)),
            ("  in the engine's memory", i128::from(of.engine_tokens)),
            ("  used of what was served", i128::from(of.used_tokens)),
            ("  difference, not reported", of.difference_tokens),
        ] {
            lines.push(format!("{what:<28} {tokens:>20}"));
        }
    }
    lines
}

fn computed(usage: &Usage) -> u64 {
    usage.reported_prompt_tokens.saturating_sub(usage.reported_engine_tokens + usage.used_tokens)
}

fn as_json(args: &StatArgs, used: &[(String, Usage)], all: &Usage, lost_entries: u64) -> Value {
    let object =
        |usage: &Usage| -> Value { usage.named().map(|(name, count)| (name.to_owned(), json!(count))).collect() };
    let named = |(name, usage): &(String, Usage)| json!({ "namespace": name, "usage": object(usage) });
    let reconciled = args.cached_tokens.map(|tokens| {
        let of = reconcile(tokens, all);
        json!({
            "api_cached_tokens": of.api_cached_tokens,
            "engine_tokens": of.engine_tokens,
            "used_tokens": of.used_tokens,
            "difference_tokens": of.difference_tokens as i64,
        })
    });
    json!({
        "namespaces": used.iter().map(named).collect::<Vec<_>>(),
        "all": object(all),
        "lost_entries": lost_entries,
        "reconciled": reconciled,
    })
}
