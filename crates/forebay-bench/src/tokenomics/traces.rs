//! The recorded traces, read once.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use forebay_tokenomics::cost::{Assumptions, CostCurve, model_by_name};
use forebay_tokenomics::trace::{Plan, PlanParams, Sharing, Trace, parse_trace};

use crate::report::say;
use crate::{Failed, Outcome, why};

/// Blocks of 64 tokens in a chunk of 2,048.
pub(crate) const CHUNK_BLOCKS: u32 = 32;

/// Those that are there.
pub(crate) struct Traces {
    pub(crate) agents: Option<Trace>,
    pub(crate) chat: Option<Trace>,
    dir: PathBuf,
}

impl Traces {
    pub(crate) fn new(dir: &Path) -> Outcome<Traces> {
        let agents = read(&dir.join("agent-sessions.jsonl.gz"))?;
        Ok(Traces { agents, chat: read(&dir.join("mooncake-conversation.jsonl.gz"))?, dir: dir.to_owned() })
    }

    pub(crate) fn all_there(&self) -> bool {
        self.agents.is_some() && self.chat.is_some()
    }

    pub(crate) fn agents_path(&self) -> PathBuf {
        self.dir.join("agent-sessions.jsonl.gz")
    }

    /// The sessions in chunks of 2,048 tokens, started by a seed.
    pub(crate) fn agent_chunks(&self, seed: u64) -> Outcome<Option<Plan>> {
        self.agents.as_ref().map(|trace| plan(&trace.clone().chunked(CHUNK_BLOCKS), seed)).transpose()
    }
}

pub(crate) fn plan(trace: &Trace, seed: u64) -> Outcome<Plan> {
    Plan::new(trace, PlanParams { seed, sharing: Sharing::Private }).map_err(why("numbering the trace's blocks"))
}

/// Prefill of Llama-3.1-70B.
pub(crate) fn curve() -> Outcome<CostCurve> {
    let model = model_by_name("llama-3.1-70b").ok_or_else(|| Failed("the book has lost llama-3.1-70b".into()))?;
    Ok(CostCurve::new(model, &Assumptions::default()))
}

/// That share of a plan's distinct blocks, rounded down.
pub(crate) fn percent_of(plan: &Plan, percent: u32) -> u32 {
    (u64::from(plan.distinct()) * u64::from(percent) / 100) as u32
}

fn read(path: &Path) -> Outcome<Option<Trace>> {
    let name = path.display();
    let Ok(file) = File::open(path) else {
        say(&format!("SKIP: {name} is not there, so nothing is measured on it; name its folder with --traces"));
        return Ok(None);
    };
    let unpacked = MultiGzDecoder::new(BufReader::new(file));
    let parsed = parse_trace(BufReader::with_capacity(1 << 20, unpacked));
    parsed.map(Some).map_err(|e| Failed(format!("{name}: {e}")))
}
