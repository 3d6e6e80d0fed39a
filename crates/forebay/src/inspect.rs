//! `forebay inspect`: a drive explained, and what of it is damaged. Exit code 1 if something is.

use forebay_node::inspect::{Report, Segment, SegmentKind, Slice, inspect};
use forebay_types::format_size;
use serde_json::{Value, json};

use crate::cli::InspectArgs;
use crate::progress::Progress;
use crate::say;
use crate::say::{date, grouped};
use crate::stop::Stop;

/// Runs it.
pub(crate) fn run(args: &InspectArgs) -> Result<(), Stop> {
    let report = {
        let mut bar: Option<Progress> = None;
        let mut hear = |done, total| bar.get_or_insert_with(|| Progress::new("reading", total)).at(done);
        inspect(&args.path, args.verify, &mut hear).map_err(|e| Stop::Failed(e.to_string()))?
    };
    if args.json {
        say::line(&as_json(&report).to_string())?;
    } else {
        show(&report, args.segments)?;
    }
    if report.damaged > 0 { Err(Stop::Told) } else { Ok(()) }
}

fn show(report: &Report, segments: bool) -> Result<(), Stop> {
    say::line(&format!("drive {}: {}", report.path.display(), format_size(report.len)))?;
    if let Some(drive) = &report.drive {
        say::line(&format!(
            "  format version {}, made {}, {} slice(s), I/O aligned to {} bytes, uuid {}",
            drive.version,
            date(drive.created_utc_s),
            drive.slices,
            drive.align,
            hex(&drive.drive_uuid)
        ))?;
    }
    for (at, slice) in report.slices.iter().enumerate() {
        show_slice(at, slice, segments)?;
    }
    say::line("")?;
    if report.damaged == 0 {
        return say::line(if report.verified {
            "nothing is damaged: every record was read and matches its sums"
        } else {
            "nothing is damaged in headers, footers and tables; --verify reads every record too"
        });
    }
    for damage in &report.damage {
        let key = damage.key.map_or(String::new(), |key| format!(" (key {key})"));
        say::line(&format!("damaged at {}: {}{key}", damage.offset, damage.what))?;
    }
    let listed = report.damage.len() as u64;
    if listed < report.damaged {
        say::line(&format!("and {} more", grouped(report.damaged - listed)))?;
    }
    let what = if report.verified { "" } else { "; records were not read, --verify does that" };
    say::line(&format!("\n{} damaged{what}", grouped(report.damaged)))
}

fn show_slice(at: usize, slice: &Slice, segments: bool) -> Result<(), Stop> {
    let Some(shard) = slice.shard else {
        return say::line(&format!(
            "\nslice {at} at {}: its superblocks cannot be read, and so nothing of it",
            slice.offset
        ));
    };
    say::line(&format!("\nslice {at} at {}: shard {shard}, made {}", slice.offset, date(slice.created_utc_s)))?;
    let kinds = ["cache", "durable", "re-append"].map(|kind| {
        let count = slice.segments.iter().filter(|segment| word(segment) == kind).count();
        format!("{} {kind}", grouped(count as u64))
    });
    let free = slice.segments.iter().filter(|segment| segment.kind.is_none()).count() as u64;
    let open = slice.segments.iter().filter(|segment| segment.kind.is_some() && !segment.sealed).count() as u64;
    let bytes: u64 = slice.segments.iter().map(|segment| segment.bytes).sum();
    say::line(&format!(
        "  {} segments of {}: {}, {} free; {} without a footer, which a start scans",
        grouped(slice.segments.len() as u64),
        format_size(slice.segment_bytes),
        kinds.join(", "),
        grouped(free),
        grouped(open)
    ))?;
    say::line(&format!(
        "  {} records of blocks and {} tombstones in {}; a start finds {} blocks, and {} that have expired",
        grouped(slice.blocks),
        grouped(slice.tombstones),
        format_size(bytes),
        grouped(slice.live),
        grouped(slice.expired)
    ))?;
    if !slice.namespaces.is_empty() {
        say::line("")?;
        say::show(&namespaces(slice))?;
    }
    if segments {
        say::line("")?;
        let mut table = say::table(&["segment", "at", "kind", "generation", "state", "records", "bytes"]);
        for (index, segment) in slice.segments.iter().enumerate() {
            table.add_row([
                index.to_string(),
                segment.offset.to_string(),
                word(segment).to_owned(),
                segment.generation.to_string(),
                state(segment).to_owned(),
                grouped(u64::from(segment.records)),
                format_size(segment.bytes),
            ]);
        }
        say::show(&table)?;
    }
    Ok(())
}

fn namespaces(slice: &Slice) -> comfy_table::Table {
    let mut table = say::table(&["namespace", "number", "user", "class", "quota", "blocks", "bytes", "fingerprint"]);
    for held in &slice.namespaces {
        let row = &held.row;
        let fields: Vec<String> = row.fingerprint.iter().map(|(field, value)| format!("{field}={value}")).collect();
        table.add_row([
            row.name.clone(),
            row.id.0.to_string(),
            row.tenant.0.to_string(),
            row.class.word().to_owned(),
            row.quota_bytes.map_or("-".to_owned(), format_size),
            grouped(held.blocks),
            format_size(held.bytes),
            if fields.is_empty() { "-".to_owned() } else { fields.join(" ") },
        ]);
    }
    table
}

fn word(segment: &Segment) -> &'static str {
    segment.kind.map_or("free", SegmentKind::word)
}

fn state(segment: &Segment) -> &'static str {
    match (segment.kind, segment.sealed) {
        (None, _) => "-",
        (Some(_), true) => "sealed",
        (Some(_), false) => "open",
    }
}

fn as_json(report: &Report) -> Value {
    let drive = report.drive.as_ref().map(|drive| {
        json!({ "version": drive.version, "uuid": hex(&drive.drive_uuid), "slices": drive.slices, "align": drive.align, "slice_bytes": drive.slice_len, "created_utc_s": drive.created_utc_s })
    });
    let damage = report.damage.iter().map(
        |damage| json!({ "offset": damage.offset, "what": damage.what, "key": damage.key.map(|key| key.to_string()) }),
    );
    json!({
        "path": report.path.to_string_lossy(),
        "bytes": report.len,
        "drive": drive,
        "slices": report.slices.iter().map(slice_json).collect::<Vec<_>>(),
        "verified": report.verified,
        "damaged": report.damaged,
        "damage": damage.collect::<Vec<_>>(),
    })
}

fn slice_json(slice: &Slice) -> Value {
    let namespaces = slice.namespaces.iter().map(|held| {
        let fingerprint: serde_json::Map<String, Value> =
            held.row.fingerprint.iter().map(|(field, value)| (field.to_owned(), Value::from(value))).collect();
        json!({ "name": held.row.name, "id": held.row.id.0, "tenant": held.row.tenant.0, "class": held.row.class.word(), "quota_bytes": held.row.quota_bytes, "fingerprint": fingerprint, "blocks": held.blocks, "bytes": held.bytes })
    });
    let segments = slice.segments.iter().map(|segment| {
        json!({ "offset": segment.offset, "kind": word(segment), "generation": segment.generation, "sealed": segment.sealed, "records": segment.records, "bytes": segment.bytes })
    });
    json!({
        "offset": slice.offset,
        "shard": slice.shard.map(|shard| shard.to_string()),
        "segment_bytes": slice.segment_bytes,
        "created_utc_s": slice.created_utc_s,
        "namespaces_sequence": slice.names_sequence,
        "namespaces": namespaces.collect::<Vec<_>>(),
        "blocks": slice.blocks,
        "tombstones": slice.tombstones,
        "live": slice.live,
        "expired": slice.expired,
        "segments": segments.collect::<Vec<_>>(),
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
