//! Cards: what was asked of which file and what came out, so that anybody can run it again and must get the same digits.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Parser;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::args::{Capacity, ModeArg, PlanArgs, ReplayArg, word};
use super::{forecast, instant};
use crate::say;
use crate::stop::Stop;

/// Largest card, in bytes: one has ten thousand, and books of one's own.
const CARD_BYTES_MAX: u64 = 4 << 20;
/// Differences that are told.
const DIFFERENCES_MAX: usize = 8;
/// What this build writes and reads.
const CARD_VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Card {
    /// Of the form of cards.
    forebay_plan_card: u32,
    /// What wrote it.
    forebay: String,
    /// The flags, without --trace and --book.
    flags: Vec<String>,
    /// Books of one's own, by name and text: a card needs no file but its trace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    books: Vec<(String, String)>,
    trace: TraceOfCard,
    result: Map<String, Value>,
}

/// Which file it was, by its bytes as they lie on disk.
#[derive(Serialize, Deserialize, PartialEq, Eq)]
struct TraceOfCard {
    path: PathBuf,
    bytes: u64,
    crc32: String,
}

impl TraceOfCard {
    fn of(path: &Path) -> Result<Self, Stop> {
        let failed = |e| Stop::Failed(format!("the trace {} cannot be read: {e}", path.display()));
        let mut file = File::open(path).map_err(failed)?;
        let (mut crc, mut bytes, mut buffer) = (flate2::Crc::new(), 0, vec![0; 1 << 20]);
        loop {
            match file.read(&mut buffer).map_err(failed)? {
                0 => break,
                read => {
                    crc.update(&buffer[..read]);
                    bytes += read as u64;
                }
            }
        }
        Ok(TraceOfCard { path: path.to_owned(), bytes, crc32: format!("{:08x}", crc.sum()) })
    }
}

/// Writes a card.
pub(crate) fn write(to: &Path, args: &PlanArgs, trace: &Path, result: &Map<String, Value>) -> Result<(), Stop> {
    let card = Card {
        forebay_plan_card: CARD_VERSION,
        forebay: env!("CARGO_PKG_VERSION").to_owned(),
        flags: if is_replay(args) { replay_flags(args) } else { forecast_flags(args) },
        books: forecast::books(&args.forecast)?,
        trace: TraceOfCard::of(trace)?,
        result: result.clone(),
    };
    let failed = |e: std::io::Error| Stop::Failed(format!("the card {} cannot be written: {e}", to.display()));
    let text = serde_json::to_string_pretty(&card).map_err(|e| failed(e.into()))?;
    std::fs::write(to, text + "\n").map_err(failed)
}

fn is_replay(args: &PlanArgs) -> bool {
    args.replay != Some(ReplayArg::Chain) && args.policy.is_some() && args.capacity.is_some()
}

/// The flags that make the same forecast.
fn forecast_flags(args: &PlanArgs) -> Vec<String> {
    let asked = &args.forecast;
    let mut flags = Vec::new();
    let mut add = |name: &str, value: String| flags.extend([name.to_owned(), value]);
    add("--replay", word(&ReplayArg::Chain));
    add("--model", args.model.clone());
    add("--seed", args.seed.to_string());
    add("--sharing", word(&args.sharing));
    let given = |value: Option<f64>| value.map(|value| value.to_string());
    for (name, value) in [
        ("--sessions-per-hour", given(asked.sessions_per_hour)),
        ("--speed", given(asked.speed)),
        ("--gpus-per-engine", asked.gpus_per_engine.map(|gpus| gpus.to_string())),
    ] {
        if let Some(value) = value {
            add(name, value);
        }
    }
    for (name, value) in [
        ("--gpu", &asked.gpu),
        ("--server", &asked.server),
        ("--drive", &asked.drive),
        ("--storage", &asked.storage),
        ("--prices", &asked.prices),
    ] {
        add(name, value.clone());
    }
    for (name, value) in
        [("--hours", asked.hours), ("--ttft", asked.ttft), ("--itl", asked.itl), ("--share", asked.share)]
    {
        add(name, value.to_string());
    }
    add("--draws", asked.draws.to_string());
    for (tokens, seconds) in &asked.prefill {
        add("--prefill", format!("{tokens}:{seconds}"));
    }
    flags
}

/// The flags that make the same replay from the same file.
fn replay_flags(args: &PlanArgs) -> Vec<String> {
    let mut flags = Vec::new();
    let mut add = |name: &str, value: String| flags.extend([name.to_owned(), value]);
    if let Some(policy) = args.policy {
        add("--policy", word(&policy));
    }
    match args.capacity {
        Some(Capacity::Bytes(bytes)) => add("--capacity", format!("{bytes}B")),
        Some(Capacity::Percent(percent)) => add("--capacity", format!("{percent}%")),
        None => {}
    }
    add("--replay", word(&ReplayArg::Instant));
    add("--model", args.model.clone());
    add("--gpu", args.forecast.gpu.clone());
    add("--seed", args.seed.to_string());
    add("--sharing", word(&args.sharing));
    if let Some(tokens) = args.chunk_tokens {
        add("--chunk-tokens", tokens.to_string());
    }
    if args.mode == ModeArg::Segments {
        add("--mode", word(&args.mode));
        add("--segments", args.segments.to_string());
    }
    for (given, flag) in [(args.hints, "--hints"), (args.bound, "--bound")] {
        if given {
            flags.push(flag.to_owned());
        }
    }
    flags
}

#[derive(Parser)]
#[command(name = "forebay plan")]
struct Line {
    #[command(flatten)]
    plan: PlanArgs,
}

/// Runs a card again and says whether it came out the same.
pub(crate) fn replay(from: &Path, trace: Option<&Path>, json: bool) -> Result<(), Stop> {
    let card = read(from)?;
    let wrong = |why: String| Stop::Failed(format!("the card {}: {why}", from.display()));
    let path = trace.unwrap_or(&card.trace.path);
    let words = ["plan".to_owned(), "--trace".to_owned(), path.display().to_string()];
    let mut line = Line::try_parse_from(words.into_iter().chain(card.flags.iter().cloned())).map_err(|e| {
        wrong(format!("its flags are none of this build: {}", e.to_string().lines().next().unwrap_or("")))
    })?;
    let found = TraceOfCard::of(path)?;
    if (found.bytes, &found.crc32) != (card.trace.bytes, &card.trace.crc32) {
        return Err(wrong(format!(
            "{} is another file than it was made from ({} bytes with CRC-32 {}, not {} with {}); give that one with --trace",
            path.display(),
            found.bytes,
            found.crc32,
            card.trace.bytes,
            card.trace.crc32
        )));
    }
    line.plan.json = json;
    line.plan.forecast.books = card.books;
    let result =
        if is_replay(&line.plan) { instant::told(&line.plan, path) } else { forecast::told(&line.plan, path) }?;
    // Numbers were read from text there, so they are here. A newer build may say more; what the card says must be the same.
    let text = Value::Object(result).to_string();
    let result: Map<String, Value> = serde_json::from_str(&text).map_err(|e| wrong(e.to_string()))?;
    let mut differs = Vec::new();
    for (name, was) in card.result.iter().filter(|(name, _)| *name != "trace") {
        compare(name, was, result.get(name).unwrap_or(&Value::Null), &mut differs);
    }
    differs.truncate(DIFFERENCES_MAX);
    if differs.is_empty() {
        say::note("the same to the digit");
        return Ok(());
    }
    Err(wrong(format!("it came out otherwise with forebay {}: {}", env!("CARGO_PKG_VERSION"), differs.join("; "))))
}

/// What differs, by name.
fn compare(name: &str, was: &Value, is: &Value, differs: &mut Vec<String>) {
    match (was, is) {
        (Value::Object(was), Value::Object(is)) => {
            for (part, was) in was {
                compare(&format!("{name}.{part}"), was, is.get(part).unwrap_or(&Value::Null), differs);
            }
        }
        _ if was == is => {}
        _ => differs.push(format!("{name} was {was} and is {is}")),
    }
}

fn read(from: &Path) -> Result<Card, Stop> {
    let failed = |why: String| Stop::Failed(format!("the card {} cannot be read: {why}", from.display()));
    let file = File::open(from).map_err(|e| failed(e.to_string()))?;
    let mut text = String::new();
    file.take(CARD_BYTES_MAX).read_to_string(&mut text).map_err(|e| failed(e.to_string()))?;
    let card: Card = serde_json::from_str(&text).map_err(|e| failed(format!("it is no card of `plan`: {e}")))?;
    if card.forebay_plan_card != CARD_VERSION {
        return Err(failed(format!("it has version {}, this build reads {CARD_VERSION}", card.forebay_plan_card)));
    }
    Ok(card)
}
