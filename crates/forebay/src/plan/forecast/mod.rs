//! The forecast: what a fleet with Forebay and one without need for the same promise, and cost.

mod args;
mod json;
mod page;
mod sweep;
mod who;

use std::path::Path;

pub(crate) use args::ForecastArgs;
use args::Who;
use forebay_tokenomics::book::Book;
use forebay_tokenomics::chain::{LoadParams, Workload};
use forebay_tokenomics::cost::Measured;
use forebay_tokenomics::money::{Advice, Choice, Interval, Move, Scenario, Targets, advise, interval, moves};
use forebay_tokenomics::trace::{Sharing, Trace};

use super::args::{PlanArgs, SharingArg};
use crate::say;
use crate::stop::Stop;
use crate::trace_file::read_trace;

/// Largest book, in bytes: the one that comes along has eight thousand.
const BOOK_BYTES_MAX: u64 = 1 << 20;
/// Servers that the search begins with.
const NEAR: (u32, u32) = (4, 4);
/// Assumptions on the page.
const MOVES_SHOWN: usize = 3;

/// What the flags and files mean.
pub(crate) struct Question {
    /// The trace's name.
    pub(crate) source: String,
    pub(crate) trace: Trace,
    pub(crate) work: Workload,
    pub(crate) book: Book,
    /// The rows it rests on, as they begin in the book.
    pub(crate) rows: Vec<String>,
    pub(crate) scenario: Scenario,
}

/// The whole answer.
pub(crate) struct Forecast {
    pub(crate) advice: Advice,
    pub(crate) interval: Option<Interval>,
    pub(crate) moves: Vec<Move>,
}

/// Runs it.
pub(crate) fn run(args: &PlanArgs) -> Result<(), Stop> {
    let Some(path) = &args.trace else {
        return Err(Stop::Misused("a forecast needs --trace".to_owned()));
    };
    if args.policy.is_some_and(|policy| policy != super::args::PolicyArg::Lru) {
        return Err(Stop::Misused(
            "--replay chain runs lru only so far; other policies replay with --replay instant".to_owned(),
        ));
    }
    for (given, flag) in
        [(args.card.is_some(), "--card"), (args.hints, "--hints"), (args.chunk_tokens.is_some(), "--chunk-tokens")]
    {
        if given {
            return Err(Stop::Misused(format!(
                "{flag} belongs to --replay instant, which needs --policy and --capacity too"
            )));
        }
    }
    let question = question(args, path)?;
    let asked = &args.forecast;
    if asked.who == Who::Builder {
        return who::builder(&question, args.json);
    }
    let full = asked.who == Who::Owner && asked.sweep.is_empty();
    let forecast = answer(args, &question, full)?;
    if !asked.sweep.is_empty() {
        return sweep::run(&question, &forecast, &asked.sweep, args.json);
    }
    match asked.who {
        Who::Provider => return who::provider(&question, &forecast, args.json),
        Who::User => return who::user(&question, &forecast, asked.users, args.json),
        Who::Owner | Who::Builder => {}
    }
    if args.json { say::line(&json::of(&question, &forecast).to_string()) } else { page::show(&question, &forecast) }
}

fn question(args: &PlanArgs, path: &Path) -> Result<Question, Stop> {
    let asked = &args.forecast;
    let book = book(asked)?;
    let trace = read_trace(path).map_err(Stop::Failed)?;
    let sharing = if args.sharing == SharingArg::Modelled { Sharing::Modelled } else { Sharing::Private };
    let failed = |e: &dyn std::fmt::Display| Stop::Failed(format!("{}: {e}", path.display()));
    let work = Workload::new(&trace, sharing).map_err(|e| failed(&e))?;
    let sessions = asked.sessions_per_hour.or((!work.is_open()).then_some(work.sessions() as f64));
    let load = LoadParams {
        sessions_per_hour: sessions,
        speed: asked.speed,
        hours: asked.hours,
        seed: args.seed,
        bootstrap: false,
    };
    let targets = Targets { ttft_s: asked.ttft, itl_s: asked.itl / 1000.0, share: asked.share / 100.0 };
    let choice = Choice {
        model: &args.model,
        gpu: &asked.gpu,
        server: &asked.server,
        drive: &asked.drive,
        storage: &asked.storage,
        prices: &asked.prices,
    };
    let mut scenario = Scenario::new(&book, &choice, load, targets).map_err(Stop::Misused)?;
    scenario.fit(&work, asked.gpus_per_engine).map_err(Stop::Failed)?;
    calibrate(&mut scenario, asked)?;
    work.load(&scenario.load).map_err(|e| Stop::Misused(e.to_string()))?;
    let source = path.file_name().map_or_else(|| path.display().to_string(), |name| name.display().to_string());
    let rows = [
        format!("models.{}.", args.model),
        format!("gpus.{}.", asked.gpu),
        format!("servers.{}.", asked.server),
        format!("drives.{}.", asked.drive),
        format!("storage.{}.", asked.storage),
        format!("prices.{}.", asked.prices),
    ];
    Ok(Question { source, trace, work, book, rows: rows.into(), scenario })
}

fn book(asked: &ForecastArgs) -> Result<Book, Stop> {
    let mut texts = Vec::new();
    for path in &asked.book {
        let failed = |why: String| Stop::Failed(format!("the book {} cannot be read: {why}", path.display()));
        let bytes = std::fs::metadata(path).map_err(|e| failed(e.to_string()))?.len();
        if bytes > BOOK_BYTES_MAX {
            return Err(failed(format!("it has {bytes} bytes, and a book has {BOOK_BYTES_MAX} at most")));
        }
        texts.push((path.display().to_string(), std::fs::read_to_string(path).map_err(|e| failed(e.to_string()))?));
    }
    let files: Vec<(&str, &str)> = texts.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    Book::with(&files).map_err(|e| Stop::Failed(e.to_string()))
}

fn calibrate(scenario: &mut Scenario, asked: &ForecastArgs) -> Result<(), Stop> {
    if asked.prefill.is_empty() {
        return Ok(());
    }
    let measured: Vec<Measured> =
        asked.prefill.iter().map(|(to, seconds)| Measured { from: 0, to: *to, seconds: *seconds }).collect();
    let found = scenario.shape().calibrate(&scenario.model.work(), &measured);
    let shape = found.map_err(|e| Stop::Failed(format!("--prefill: {e}")))?;
    scenario.linear_efficiency = shape.linear_efficiency;
    scenario.attention_efficiency = shape.attention_efficiency;
    Ok(())
}

/// Intervals and what moves the answer take many runs; only the owner's page shows them.
fn answer(args: &PlanArgs, question: &Question, full: bool) -> Result<Forecast, Stop> {
    let (scenario, work) = (&question.scenario, &question.work);
    let advice = advise(scenario, work, NEAR).map_err(|e| Stop::Failed(e.to_string()))?;
    let moves = if full { moves(scenario, work, &advice, MOVES_SHOWN) } else { Vec::new() };
    let interval = if full { interval(scenario, work, &advice, args.forecast.draws) } else { None };
    Ok(Forecast { advice, interval, moves })
}
