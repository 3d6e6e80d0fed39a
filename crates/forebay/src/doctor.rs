//! `forebay doctor`: what this machine offers to a node and what stands in its way, each finding with its cure. Exit code 1 if something fails.

use forebay_node::doctor::{Finding, Level, Patient, examine};
use forebay_types::SystemClock;
use serde_json::json;

use crate::cli::DoctorArgs;
use crate::progress::Progress;
use crate::settings::Settings;
use crate::stop::Stop;
use crate::{places, say, serve};

/// Columns of a line where nobody says how many there are.
const COLUMNS: usize = 100;
/// Columns before the text: level, check, and the gaps behind them.
const INDENT: usize = 28;

/// Runs it.
pub(crate) fn run(args: &DoctorArgs, settings: &Settings) -> Result<(), Stop> {
    let patient = patient(settings).map_err(Stop::Misused)?;
    let findings = {
        let mut bar = Progress::new("looking", 1000);
        examine(&patient, &SystemClock::new(), &mut |at| bar.at(at))
    };
    for finding in &findings {
        if args.json {
            let Finding { check, level, found, cure } = finding;
            say::line(&json!({ "check": check, "level": level.word(), "found": found, "cure": cure }).to_string())?;
        } else {
            show(finding)?;
        }
    }
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    let (warned, failed) = (count(Level::Warn), count(Level::Fail));
    if !args.json {
        let what = match (warned, failed) {
            (0, 0) => "nothing stands in a node's way".to_owned(),
            (_, 0) => format!("a node serves here; {warned} of {} could be better", findings.len()),
            _ => format!(
                "a node does not serve here as it should: {failed} of {} failed, {warned} could be better",
                findings.len()
            ),
        };
        say::line(&format!("\n{what}"))?;
    }
    if failed > 0 { Err(Stop::Told) } else { Ok(()) }
}

/// The node that the settings describe; what they leave open is as `serve` would choose.
fn patient(settings: &Settings) -> Result<Patient, String> {
    let (data, socket) = (settings.paths("data"), settings.path("socket"));
    Ok(Patient {
        makes_data_folder: data.is_empty(),
        makes_socket_folder: socket.is_none(),
        catalogue: settings.path("catalog"),
        data: if data.is_empty() { vec![places::data_dir()?.join("drive")] } else { data },
        socket: socket.map_or_else(places::socket_to_serve, Ok)?,
        memory_bytes: settings.size("memory")?.unwrap_or_else(serve::memory_default),
    })
}

fn show(finding: &Finding) -> Result<(), Stop> {
    let paint = |text: &str| match (say::colour(&std::io::stdout()), finding.level) {
        (false, _) => text.to_owned(),
        (true, Level::Ok) => format!("\x1b[32m{text}\x1b[0m"),
        (true, Level::Warn) => format!("\x1b[33m{text}\x1b[0m"),
        (true, Level::Fail) => format!("\x1b[1;31m{text}\x1b[0m"),
    };
    let width = say::columns().unwrap_or(COLUMNS).saturating_sub(INDENT).max(32);
    let cure = finding.cure.iter().flat_map(|cure| say::wrapped(&format!("cure: {cure}"), width));
    let level = finding.level.word();
    for (at, text) in say::wrapped(&finding.found, width).into_iter().chain(cure).enumerate() {
        let head = match at {
            0 => format!("{}{:gap$}{:20}  ", paint(level), "", finding.check, gap = 6 - level.len()),
            _ => " ".repeat(INDENT),
        };
        say::line(&format!("{head}{text}"))?;
    }
    Ok(())
}
