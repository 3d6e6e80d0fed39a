//! What is replayed: a file, plain or gzip, or a generated fleet.

use forebay_tokenomics::trace::{FleetParams, Plan, PlanParams, Sharing, generate_fleet};

use super::args::{DemoArgs, SharingArg};
use super::error::DemoError;
use crate::trace_file::read_trace;

/// Sessions of a generated fleet unless told otherwise: a first impression, not a proof.
const SESSIONS_DEFAULT: u32 = 16;
/// Requests of a generated fleet that are replayed unless told otherwise.
const GENERATED_REQUESTS_DEFAULT: u64 = 900;

/// A plan, and how much of it to replay.
pub(crate) struct Workload {
    /// All requests in order of time, the first [`Workload::requests`] of them replayed.
    pub(crate) plan: Plan,
    /// Requests to replay.
    pub(crate) requests: usize,
    /// Requests that the file, or the fleet, holds.
    pub(crate) requests_in_file: u64,
    /// Sessions that the file, or the fleet, holds.
    pub(crate) sessions: u64,
    /// In words, for people.
    pub(crate) source: String,
}

impl Workload {
    /// Distinct blocks and block references of the requests to be replayed.
    pub(crate) fn blocks(&self) -> (u64, u64) {
        let mut seen = vec![false; self.plan.distinct() as usize];
        let requests = &self.plan.requests[..self.requests];
        requests.iter().flat_map(|request| request.numbers()).for_each(|number| seen[number as usize] = true);
        let references = requests.iter().map(|request| u64::from(request.blocks)).sum();
        (seen.iter().filter(|seen| **seen).count() as u64, references)
    }
}

/// Reads or generates what `args` ask for.
pub(crate) fn load(args: &DemoArgs) -> Result<Workload, DemoError> {
    let (trace, sharing, source) = match &args.trace {
        Some(path) => {
            let sharing = if args.sharing == SharingArg::Modelled { Sharing::Modelled } else { Sharing::Private };
            let name = path.file_name().map_or_else(|| path.display().to_string(), |name| name.display().to_string());
            (read_trace(path).map_err(DemoError::new)?, sharing, name)
        }
        None => {
            let sessions = args.sessions.unwrap_or(SESSIONS_DEFAULT);
            let source = format!("{sessions} generated coding-agent sessions, seed {}", args.seed);
            (generate_fleet(&FleetParams { sessions, seed: args.seed }), Sharing::Modelled, source)
        }
    };
    let requests_in_file = trace.requests();
    let most = match (args.requests, &args.trace) {
        (Some(requests), _) => requests,
        // Told how many sessions, all of their requests are meant.
        (None, None) if args.sessions.is_none() => GENERATED_REQUESTS_DEFAULT,
        (None, _) => u64::MAX,
    };
    let sessions = trace.sessions.len() as u64;
    let plan = Plan::new(&trace, PlanParams { seed: args.seed, sharing }).map_err(|e| DemoError::new(e.to_string()))?;
    let requests = plan.requests.len().min(usize::try_from(most).unwrap_or(usize::MAX));
    Ok(Workload { plan, requests, requests_in_file, sessions, source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn args(flags: &[&str]) -> DemoArgs {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            demo: DemoArgs,
        }
        <Line as clap::Parser>::try_parse_from(std::iter::once(&"demo").chain(flags)).unwrap().demo
    }

    #[test]
    fn a_generated_run_is_short_unless_asked_otherwise() {
        let short = load(&args(&[])).unwrap();
        assert!(
            short.requests as u64 == GENERATED_REQUESTS_DEFAULT.min(short.requests_in_file) && short.requests > 400
        );
        let (distinct, references) = short.blocks();
        assert!(
            references > 10 * distinct && distinct <= u64::from(short.plan.distinct()),
            "{distinct} of {references}"
        );
        let all = load(&args(&["--sessions", "30"])).unwrap();
        assert_eq!(all.requests as u64, all.requests_in_file);
        assert_eq!(load(&args(&["--requests", "7"])).unwrap().requests, 7);
    }

    #[test]
    fn a_trace_is_read_plain_or_packed_and_its_errors_name_the_file() {
        use std::io::Write;
        let dir = std::env::temp_dir().join(format!("forebay-workload-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let text = "{\"timestamp\":0,\"input_length\":1000,\"hash_ids\":[1,2]}\n{\"timestamp\":3000,\"input_length\":600,\"hash_ids\":[1,3]}\n";
        let plain = dir.join("plain.jsonl");
        std::fs::write(&plain, text).unwrap();
        let packed = dir.join("packed.jsonl.gz");
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        let bytes = encoder.finish().unwrap();
        std::fs::write(&packed, &bytes).unwrap();
        let cut = dir.join("cut.jsonl.gz");
        std::fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
        let load = |path: &Path| load(&args(&["--trace", path.to_str().unwrap()]));
        let (one, two) = (load(&plain).unwrap(), load(&packed).unwrap());
        assert_eq!(one.plan, two.plan);
        assert_eq!((one.requests, one.requests_in_file, one.blocks()), (2, 2, (3, 4)));
        for bad in [&cut, &dir, &dir.join("none")] {
            let why = load(bad).err().expect("not a trace").to_string();
            assert!(why.contains(bad.to_str().unwrap()) && !why.contains('\n'), "{why}");
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
