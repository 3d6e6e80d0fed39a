//! A forecast is of a load that goes on: how long it is simulated changes how exactly it is told, and no fleet.

use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;

use flate2::read::MultiGzDecoder;
use forebay_tokenomics::book::Book;
use forebay_tokenomics::chain::{LoadParams, Workload};
use forebay_tokenomics::money::{Choice, Scenario, Targets, advise};
use forebay_tokenomics::trace::{Pace, Request, Session, Sharing, Trace, parse_trace};

const CHOICE: Choice<'_> = Choice {
    model: "llama-3.1-70b",
    gpu: "h100",
    server: "hgx",
    drive: "nvme",
    storage: "default",
    prices: "sonnet-5",
};

/// Servers without Forebay and with it.
fn fleets(work: &Workload, rate: f64, hours: f64, near: (u32, u32)) -> (u32, u32) {
    let load = LoadParams { sessions_per_hour: Some(rate), speed: None, hours, seed: 1, bootstrap: false };
    let targets = Targets { ttft_s: 15.0, itl_s: 0.1, share: 0.95 };
    let mut scenario = Scenario::new(Book::built_in(), &CHOICE, load, targets).expect("these rows are in the book");
    scenario.fit(work, None).expect("the model fits");
    advise(&scenario, work, near).expect("some fleet keeps the promise").servers()
}

/// A day's work: forty requests a quarter of an hour apart, each with 2,048 tokens more.
fn long_session(id: u64) -> Session {
    let request = |k: u64| Request {
        at_s: k as f64 * 900.0,
        prompt_tokens: 8192 + k * 2048,
        output_tokens: 300,
        blocks: (0..(8192 + k * 2048) / 64).collect(),
        api_s: Some(10.0),
        think_s: Some(if k == 0 { 0.0 } else { 890.0 }),
        ..Request::default()
    };
    Session { id: id.to_string(), model: "m".into(), requests: (0..40).map(request).collect(), ..Session::default() }
}

/// Ten-hour sessions that began in the simulated hours only were cut off young: four hours asked for more than three times the servers of one.
#[test]
fn doubling_the_hours_changes_no_fleet() {
    let trace = Trace { block_tokens: 64, pace: Pace::Sessions, sessions: (0..8).map(long_session).collect() };
    let work = Workload::new(&trace, Sharing::Private).expect("blocks of 64 tokens");
    let found = [1.0, 2.0, 4.0].map(|hours| fleets(&work, 160.0, hours, (4, 4)));
    assert!(found[0].0 > 1, "{found:?}");
    assert!(found.iter().all(|fleets| *fleets == found[0]), "{found:?}");
}

#[test]
fn the_recorded_sessions_need_the_same_fleet_however_long_they_are_simulated() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/traces/agent-sessions.jsonl.gz");
    let Ok(file) = File::open(&path) else {
        eprintln!("SKIP: {} is not there, so a longer forecast of it is not compared", path.display());
        return;
    };
    let unpacked = BufReader::with_capacity(1 << 20, MultiGzDecoder::new(BufReader::new(file)));
    let work = Workload::new(&parse_trace(unpacked).expect("a known trace parses"), Sharing::Private);
    let work = work.expect("blocks of 64 tokens");
    let short = fleets(&work, work.sessions() as f64, 2.0, (12, 8));
    let long = fleets(&work, work.sessions() as f64, 4.0, short);
    // A server either way is what an hour less of counting tells apart.
    assert!(short.0.abs_diff(long.0) <= 1 && short.1.abs_diff(long.1) <= 1, "{short:?} {long:?}");
}
