//! What a soak came to: a table for people, a line for programs, and whether it passed.

use serde_json::{Value, json};

use super::{MEMORY_MIB, Soak};
use crate::card::Table;
use crate::report::{print, say};
use crate::{Failed, Outcome};

/// Growth over the second half that is not taken for a leak: the allocator's own pages come and go by as much.
const GROWTH_KIB_MAX: f64 = 8.0 * 1024.0;
/// The same of a client, which remembers what it put.
const CLIENT_GROWTH_KIB_MAX: f64 = 16.0 * 1024.0;
/// Descriptors more at the end than in the middle that are not: a client's connections come as threads need them.
const MORE_FILES_MAX: i64 = 8;

pub(crate) fn tell(soak: &Soak, flat_from_s: f64, json: bool) -> Outcome<()> {
    let failures = failures(soak, flat_from_s);
    let table = Table {
        title: "soak".into(),
        heads: vec!["what".into(), "came to".into()],
        rows: rows(soak, flat_from_s).iter().map(|row| row.to_vec()).collect(),
    };
    say(&table.terminal());
    failures.iter().for_each(|failure| say(&format!("FAILED: {failure}")));
    if json {
        print(&line(soak, flat_from_s, &failures).to_string());
    }
    if failures.is_empty() {
        say("no wrong byte, nothing lost, memory and descriptors flat");
        return Ok(());
    }
    Err(Failed(format!("the soak found {} thing(s), told above", failures.len())))
}

/// The table's rows.
fn rows(soak: &Soak, flat_from_s: f64) -> Vec<[String; 2]> {
    let all = &soak.gone;
    let words = |map: &std::collections::BTreeMap<String, u64>| {
        let all: Vec<String> = map.iter().map(|(word, count)| format!("{word} {count}")).collect();
        all.join(", ")
    };
    let faults: Vec<[String; 2]> =
        soak.faults.iter().map(|(fault, count)| [fault.words().to_owned(), count.to_string()]).collect();
    let mut rows = vec![
        ["hits, each compared".to_owned(), format!("{} ({:.1} GB)", all.hits, all.bytes_out as f64 / 1e9)],
        ["wrong bytes".to_owned(), all.wrong_bytes.to_string()],
        ["misses".to_owned(), words(&all.misses)],
        ["puts kept".to_owned(), format!("{} ({:.1} GB)", all.kept, all.bytes_in as f64 / 1e9)],
        ["puts refused".to_owned(), words(&all.refusals)],
        ["blocks there after the last kill".to_owned(), all.audited.to_string()],
        ["durable blocks lost".to_owned(), format!("{} ({} bits were flipped)", all.durable_lost, soak.flips)],
        ["forgotten, and come back".to_owned(), format!("{}, {}", all.forgotten, all.came_back)],
    ];
    rows.extend(faults);
    rows.extend([
        ["longest start".to_owned(), format!("{:.2} s", soak.longest_start_s)],
        [
            "node's memory".to_owned(),
            format!(
                "{} MiB at most, {:+.1} MiB over the second half",
                soak.node_course.highest_kib() >> 10,
                soak.node_course.growth_kib(flat_from_s) / 1024.0
            ),
        ],
        [
            "node's descriptors".to_owned(),
            format!("{:+} over the second half", soak.node_course.more_files(flat_from_s)),
        ],
        [
            "a client's memory".to_owned(),
            format!("{:+.1} MiB over the second half", soak.worker_course.growth_kib(flat_from_s) / 1024.0),
        ],
    ]);
    rows
}

/// The same for programs.
fn line(soak: &Soak, flat_from_s: f64, failures: &[String]) -> Value {
    let all = &soak.gone;
    let faults: serde_json::Map<String, Value> =
        soak.faults.iter().map(|(fault, count)| (format!("{fault:?}").to_lowercase(), json!(count))).collect();
    json!({
        "seconds": soak.clock.s(), "hits": all.hits, "bytes_compared": all.bytes_out, "wrong_bytes": all.wrong_bytes,
        "misses": all.misses, "kept": all.kept, "refusals": all.refusals, "audited": all.audited,
        "durable_lost": all.durable_lost, "flips": soak.flips, "came_back": all.came_back, "faults": faults,
        "node_kib_max": soak.node_course.highest_kib(), "node_growth_kib": soak.node_course.growth_kib(flat_from_s),
        "node_more_files": soak.node_course.more_files(flat_from_s),
        "client_growth_kib": soak.worker_course.growth_kib(flat_from_s), "failures": failures,
    })
}

fn failures(soak: &Soak, flat_from_s: f64) -> Vec<String> {
    let all = &soak.gone;
    let mut failures = soak.failures.clone();
    let mut hold = |holds: bool, what: String| {
        if !holds {
            failures.push(what);
        }
    };
    hold(all.wrong_bytes == 0, format!("{} wrong bytes were handed over", all.wrong_bytes));
    hold(all.came_back == 0, format!("{} forgotten blocks came back", all.came_back));
    hold(
        all.durable_lost <= soak.flips,
        format!("{} durable blocks are lost, and only {} bits were flipped", all.durable_lost, soak.flips),
    );
    // A soak that does nothing proves nothing.
    hold(all.hits > 1000 && all.kept > 500, format!("only {} hits and {} puts", all.hits, all.kept));
    hold(all.audited > 100, format!("only {} blocks were there to be asked for at the end", all.audited));
    hold(!all.refusals.is_empty(), "no namespace was ever full".into());
    let (highest, growth) = (soak.node_course.highest_kib(), soak.node_course.growth_kib(flat_from_s));
    hold(
        highest <= (MEMORY_MIB + 64) << 10,
        format!("the node held {} MiB of --memory {MEMORY_MIB}MiB", highest >> 10),
    );
    hold(growth <= GROWTH_KIB_MAX, format!("the node grew by {:.1} MiB over the second half", growth / 1024.0));
    let client = soak.worker_course.growth_kib(flat_from_s);
    hold(client <= CLIENT_GROWTH_KIB_MAX, format!("a client grew by {:.1} MiB over the second half", client / 1024.0));
    for (whose, course) in [("the node", &soak.node_course), ("a client", &soak.worker_course)] {
        let more = course.more_files(flat_from_s);
        hold(more <= MORE_FILES_MAX, format!("{whose} has {more} descriptors more than in the middle"));
    }
    failures
}
