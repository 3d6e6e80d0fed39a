//! `forebay stat`: what a node says of itself, as tables or as it came. New fields of newer nodes are shown without this file knowing them.

use std::time::Duration;

use forebay_types::format_size;
use serde_json::{Map, Value};

use crate::cli::StatArgs;
use crate::say::grouped;
use crate::settings::Settings;
use crate::stop::Stop;
use crate::{connect, say};

const DEADLINE: Duration = Duration::from_secs(5);

/// Runs it.
pub(crate) fn run(args: &StatArgs, settings: &Settings) -> Result<(), Stop> {
    if let Some(log) = &args.log {
        return crate::usage::of_log(args, log);
    }
    let client = connect::client(settings, DEADLINE)?;
    let text = client.node_stats()?;
    let stats: Value = serde_json::from_str(&text).map_err(|e| {
        Stop::Failed(format!("the node's figures are not JSON ({e}); use builds of neighbouring versions"))
    })?;
    if args.usage {
        return crate::usage::of_node(args, &stats);
    }
    if args.client.json {
        let shown = if args.money { crate::money::json(&stats) } else { stats };
        return say::line(&shown.to_string());
    }
    if args.money {
        return crate::money::lines(&stats).iter().try_for_each(|line| say::line(line));
    }
    let Value::Object(stats) = stats else {
        return Err(Stop::Failed(
            "the node's figures are not an object; use builds of neighbouring versions".to_owned(),
        ));
    };
    // What is there for programs to reckon with is no figure for people.
    let figures = stats.iter().filter(|(name, _)| !name.ends_with("_buckets"));
    let (lists, plain): (Vec<_>, Vec<_>) = figures.partition(|(_, value)| is_list(value));
    let mut node = say::table(&["node", &client.address().to_string()]);
    for (name, value) in flattened(plain) {
        node.add_row([&name, &shown(&name, value)]);
    }
    say::show(&node)?;
    lists
        .into_iter()
        .filter_map(|(name, list)| Some((name, list.as_array()?)))
        .try_for_each(|(name, list)| show_list(name, list))
}

fn is_list(value: &Value) -> bool {
    value.as_array().is_some_and(|list| list.iter().any(Value::is_object))
}

/// One column for each element, one row for each figure: shards are few, figures are many.
fn show_list(name: &str, list: &[Value]) -> Result<(), Stop> {
    let columns: Vec<Vec<(String, &Value)>> = list.iter().filter_map(Value::as_object).map(flattened).collect();
    let Some(first) = columns.first() else { return Ok(()) };
    let numbers: Vec<String> = (0..columns.len()).map(|i| i.to_string()).collect();
    let header: Vec<&str> = std::iter::once(name).chain(numbers.iter().map(String::as_str)).collect();
    let mut table = say::table(&header);
    for (figure, _) in first {
        let cells = columns.iter().map(|column| {
            let value = column.iter().find(|(name, _)| name == figure);
            value.map_or(String::new(), |(_, value)| shown(figure, value))
        });
        table.add_row(std::iter::once(figure.clone()).chain(cells));
    }
    say::line("")?;
    say::show(&table)
}

/// Objects inside become names with dots.
fn flattened<'a>(fields: impl IntoIterator<Item = (&'a String, &'a Value)>) -> Vec<(String, &'a Value)> {
    let mut flat = Vec::new();
    for (name, value) in fields {
        match value {
            Value::Object(inner) => flat.extend(inside(name, inner)),
            value => flat.push((name.clone(), value)),
        }
    }
    flat
}

/// Zeros of long families (reasons of misses, kinds of errors) would bury what did happen; how much was asked is always said.
fn inside<'a>(outer: &str, inner: &'a Map<String, Value>) -> Vec<(String, &'a Value)> {
    let told = |(name, value): &(String, &Value)| value.as_u64() != Some(0) || name == "asked";
    flattened(inner).into_iter().filter(told).map(|(name, value)| (format!("{outer}.{name}"), value)).collect()
}

fn shown(name: &str, value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        Value::Number(number) => match number.as_u64() {
            Some(bytes) if name.ends_with("bytes") || name.contains("bytes_") => format_size(bytes),
            Some(count) => grouped(count),
            None => number.as_f64().map_or_else(|| number.to_string(), |number| format!("{number:.3}")),
        },
        Value::Array(values) => values.iter().map(|value| shown("", value)).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_shown_as_people_read_them() {
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(grouped(12), "12");
        assert_eq!(shown("arena_bytes", &Value::from(3u64 << 29)), "1.5 GiB");
        assert_eq!(shown("blocks", &Value::from(1500)), "1,500");
        assert_eq!(shown("io", &Value::from("uring")), "uring");
    }

    #[test]
    fn inner_figures_get_names_with_dots() {
        let stats: Value =
            serde_json::json!({"get": {"asked": 0, "hits": {"dram": 1}, "misses": {"absent": 0}}, "puts": 0});
        let names: Vec<String> = flattened(stats.as_object().unwrap()).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["get.asked", "get.hits.dram", "puts"]);
    }
}
