//! The forecast: what a fleet with Forebay and one without need for the same promise, and cost.

mod args;
mod capacity;
mod cells;
mod crew;
mod html;
mod json;
mod measured;
mod page;
mod sweep;
mod who;

use std::path::Path;

pub(crate) use args::{ForecastArgs, Who};
use capacity::ByCapacity;
use forebay_tokenomics::book::Book;
use forebay_tokenomics::chain::{LoadParams, Workload};
use forebay_tokenomics::cost::Measured;
use forebay_tokenomics::money::{
    Advice, BackTest, Choice, Interval, Move, Scenario, Targets, advise, back_test, interval, moves,
};
use forebay_tokenomics::trace::{Sharing, Trace};
use serde_json::{Map, Value};

use super::args::{PlanArgs, SharingArg};
use crate::book_file::read_book;
use crate::say;
use crate::stop::Stop;
use crate::trace_file::read_trace;

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
    /// What other capacities would find; only of the owner's page.
    pub(crate) by_capacity: Option<ByCapacity>,
    /// The log's name, and what came of it.
    pub(crate) back_test: Option<(String, BackTest)>,
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
    let asked = &args.forecast;
    let page = asked.who == Who::Owner && asked.sweep.is_empty();
    asked.html.as_ref().map_or(Ok(()), |to| html::can_be_written(to))?;
    if page {
        let told = told(args, path)?;
        return args.card.as_ref().map_or(Ok(()), |card| super::card::write(card, args, path, &told));
    }
    let question = question(args, path)?;
    if asked.who == Who::Builder {
        return who::builder(&question, args.json);
    }
    let forecast = answer(args, &question, false)?;
    if !asked.sweep.is_empty() {
        let sweep = sweep::run(&question, &forecast, &asked.sweep, asked.draws, args.json)?;
        return asked.html.as_ref().map_or(Ok(()), |to| html::write(to, &question, &forecast, Some(&sweep)));
    }
    match asked.who {
        Who::Provider => who::provider(&question, &forecast, asked.draws, args.json),
        _ => who::user(&question, &forecast, asked, args.json),
    }
}

/// The owner's page, printed; and what it says to programs.
pub(crate) fn told(args: &PlanArgs, path: &Path) -> Result<Map<String, Value>, Stop> {
    let question = question(args, path)?;
    let forecast = answer(args, &question, true)?;
    let told = json::of(&question, &forecast);
    if args.json {
        say::line(&Value::Object(told.clone()).to_string())?
    } else {
        page::show(&question, &forecast)?
    }
    if let Some(to) = &args.forecast.html {
        html::write(to, &question, &forecast, None)?;
    }
    Ok(told)
}

fn question(args: &PlanArgs, path: &Path) -> Result<Question, Stop> {
    let asked = &args.forecast;
    let book = book(asked)?;
    let trace = read_trace(path).map_err(Stop::Failed)?;
    let failed = |e: &dyn std::fmt::Display| Stop::Failed(format!("{}: {e}", path.display()));
    let work = Workload::new(&trace, sharing(args)).map_err(|e| failed(&e))?;
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
    let source = name_of(path);
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

/// The default book with those of one's own over it.
pub(crate) fn book(asked: &ForecastArgs) -> Result<Book, Stop> {
    let texts = books(asked)?;
    let files: Vec<(&str, &str)> = texts.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    Book::with(&files).map_err(|e| Stop::Failed(e.to_string()))
}

/// Books of one's own, by name and text.
pub(crate) fn books(asked: &ForecastArgs) -> Result<Vec<(String, String)>, Stop> {
    let mut texts = asked.books.clone();
    for path in &asked.book {
        texts.push(read_book(path).map_err(Stop::Failed)?);
    }
    // Behind them: what was measured here is nearer to the truth than what any book says of a kind of drive.
    if let Some(path) = &asked.measured {
        texts.push(measured::book(path, &asked.drive, &asked.storage)?);
    }
    Ok(texts)
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
    let moves = if full { moves(scenario, work, &advice, MOVES_SHOWN, &crew::crew) } else { Vec::new() };
    let interval = if full { interval(scenario, work, &advice, args.forecast.draws, &crew::crew) } else { None };
    let back_test = args.forecast.backtest.as_ref().map(|log| tested(args, question, log, &advice)).transpose()?;
    let by_capacity = full.then(|| ByCapacity::new(scenario, work, &advice)).transpose();
    let by_capacity = by_capacity.map_err(|e| Stop::Failed(e.to_string()))?;
    Ok(Forecast { advice, interval, moves, by_capacity, back_test })
}

fn tested(args: &PlanArgs, question: &Question, log: &Path, advice: &Advice) -> Result<(String, BackTest), Stop> {
    let trace = read_trace(log).map_err(Stop::Failed)?;
    let near = (advice.today.servers, advice.proposed.servers);
    let tested = back_test(&question.scenario, &trace, sharing(args), near);
    let tested = tested.map_err(|e| Stop::Failed(format!("--backtest {}: {e}", log.display())))?;
    Ok((name_of(log), tested))
}

fn sharing(args: &PlanArgs) -> Sharing {
    if args.sharing == SharingArg::Modelled { Sharing::Modelled } else { Sharing::Private }
}

fn name_of(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.display().to_string())
}
