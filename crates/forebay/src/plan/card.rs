//! Cards of instant replays: what was asked of which file and what came out, so that anybody can run it again and must get the same digits.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Parser;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::args::{Capacity, PlanArgs, ReplayArg, word};
use super::instant;
use crate::say;
use crate::stop::Stop;

/// Largest card, in bytes: one has two thousand.
const CARD_BYTES_MAX: u64 = 1 << 20;
/// What this build writes and reads.
const CARD_VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Card {
    /// Of the form of cards.
    forebay_plan_card: u32,
    /// What wrote it.
    forebay: String,
    /// The flags, without --trace.
    flags: Vec<String>,
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
        flags: flags(args),
        trace: TraceOfCard::of(trace)?,
        result: result.clone(),
    };
    let failed = |e: std::io::Error| Stop::Failed(format!("the card {} cannot be written: {e}", to.display()));
    let text = serde_json::to_string_pretty(&card).map_err(|e| failed(e.into()))?;
    std::fs::write(to, text + "\n").map_err(failed)
}

/// The flags that make the same result from the same file.
fn flags(args: &PlanArgs) -> Vec<String> {
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
    add("--seed", args.seed.to_string());
    add("--sharing", word(&args.sharing));
    if let Some(tokens) = args.chunk_tokens {
        add("--chunk-tokens", tokens.to_string());
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
pub(crate) fn replay(
    from: &Path,
    trace: Option<&Path>,
    json: bool,
    answer: impl FnOnce(&PlanArgs, &Path) -> Result<Map<String, Value>, Stop>,
) -> Result<(), Stop> {
    let card = read(from)?;
    let wrong = |why: String| Stop::Failed(format!("the card {}: {why}", from.display()));
    let path = trace.unwrap_or(&card.trace.path);
    let words = ["plan".to_owned(), "--trace".to_owned(), path.display().to_string()];
    let line = Line::try_parse_from(words.into_iter().chain(card.flags.iter().cloned())).map_err(|e| {
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
    let result = answer(&line.plan, path)?;
    instant::tell(&result, json)?;
    // Numbers were read from text there, so they are here. A newer build may say more; what the card says must be the same.
    let text = Value::Object(result).to_string();
    let result: Map<String, Value> = serde_json::from_str(&text).map_err(|e| wrong(e.to_string()))?;
    let differs: Vec<String> = card
        .result
        .iter()
        .filter(|(name, was)| *name != "trace" && result.get(*name) != Some(*was))
        .map(|(name, was)| format!("{name} was {was} and is {}", result.get(name).unwrap_or(&Value::Null)))
        .collect();
    if differs.is_empty() {
        say::note("the same to the digit");
        return Ok(());
    }
    Err(wrong(format!("it came out otherwise with forebay {}: {}", env!("CARGO_PKG_VERSION"), differs.join("; "))))
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
