//! What other tiers would bring: half and twice Forebay's drives, twice its DRAM, and the GB/s below which loading is not worth while.

use forebay_tokenomics::chain::Workload;
use forebay_tokenomics::money::{Advice, AdviceError, Scenario, Side, run_side};
use serde_json::{Value, json};

use super::Question;
use crate::say::grouped;

/// The proposed fleet with other tiers of Forebay.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Tiers {
    /// Share of prompt tokens found in any tier.
    hit_rate: f64,
    /// Share of prompt tokens found in Forebay's DRAM.
    memory: f64,
    /// Seconds to the first token that 95 % of requests stay within.
    ttft_s: f64,
    /// Dollars an hour of the whole fleet.
    dollars: f64,
}

impl Tiers {
    fn of(side: &Side) -> Self {
        let outcome = &side.outcome;
        let (hit_rate, memory) = (outcome.hit_rate(), outcome.share(outcome.tokens.memory));
        Tiers { hit_rate, memory, ttft_s: outcome.ttft(0.95), dollars: side.dollars() }
    }

    fn json(&self) -> Value {
        json!({"hit_rate": self.hit_rate, "memory_share": self.memory, "ttft_p95_s": self.ttft_s, "dollars_per_hour": self.dollars})
    }

    fn told(&self) -> String {
        let [found, memory] = [self.hit_rate, self.memory].map(|share| share * 100.0);
        format!(
            "{found:.1} % found, {memory:.1} in DRAM, first token p95 {:.2} s, {:.2} $/h",
            self.ttft_s, self.dollars
        )
    }
}

/// What the proposed fleet would find with half of its drives' capacity, with what it has, and with twice as much; and with twice the DRAM instead.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct ByCapacity {
    half: Tiers,
    now: Tiers,
    twice: Tiers,
    dram_twice: Tiers,
}

impl ByCapacity {
    /// Runs the proposed fleet again with other tiers. The engines' own stand in front of Forebay's, so a curve of the trace alone would promise what they
    /// find already.
    pub(crate) fn new(scenario: &Scenario, work: &Workload, advice: &Advice) -> Result<Self, AdviceError> {
        let load = work.load(&scenario.load)?;
        let with = |drives: f64, memory: f64| {
            let mut other = scenario.clone();
            other.drive.capacity_bytes *= drives;
            other.storage.memory_bytes_per_server *= memory;
            Tiers::of(&run_side(&other, &load, advice.proposed.servers, true))
        };
        let now = Tiers::of(&advice.proposed);
        Ok(ByCapacity { half: with(0.5, 1.0), now, twice: with(2.0, 1.0), dram_twice: with(1.0, 2.0) })
    }

    pub(crate) fn json(&self) -> Value {
        json!({"half": self.half.json(), "now": self.now.json(), "twice": self.twice.json(), "dram_twice": self.dram_twice.json()})
    }

    /// DRAM against NVMe, in a sentence.
    pub(crate) fn dram_or_drives(&self) -> String {
        let [now, dram, drives] = [self.now, self.dram_twice, self.twice].map(|tiers| tiers.told());
        format!(
            "DRAM against NVMe: as proposed {now}; with twice Forebay's DRAM {dram}; with twice the drives {drives}."
        )
    }
}

impl std::fmt::Display for ByCapacity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [half, now, twice] = [self.half, self.now, self.twice].map(|tiers| tiers.hit_rate * 100.0);
        write!(f, "half the capacity: {half:.1} %, now: {now:.1} %, twice: {twice:.1} %")
    }
}

/// Bandwidths in GB/s: what an engine must be able to load at, what is loaded, and what there is to load from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Bandwidth {
    /// As fast as one engine computes KV at the beginning of a prompt: slower loads are not made.
    pub(crate) at_the_start: f64,
    /// The same at the end of the longest prompt, where a token takes longer to compute.
    pub(crate) at_the_end: f64,
    /// The longest prompt within the promised time to the first token.
    pub(crate) deadline: f64,
    /// Loaded from Forebay's DRAM, in the mean over the measured time.
    pub(crate) from_memory: f64,
    /// Loaded from Forebay's drives.
    pub(crate) from_drives: f64,
    /// What loads reach of all drives together.
    pub(crate) drives: f64,
    /// A server's link.
    pub(crate) link: f64,
}

/// Tokens over which the time of a token is taken: one step of prefill.
const SPAN_TOKENS: u64 = 8192;

impl Bandwidth {
    /// Of a fleet with Forebay.
    pub(crate) fn new(question: &Question, side: &Side) -> Self {
        let (scenario, longest) = (&question.scenario, question.work.longest_tokens);
        let token_gb = scenario.model.kv_bytes_per_token() as f64 / 1e9;
        let curve = scenario.shape().curve(&scenario.model.work());
        let computed = |from: u64| {
            let seconds = curve.prefill_s(from, from + SPAN_TOKENS);
            token_gb * SPAN_TOKENS as f64 / seconds.max(f64::MIN_POSITIVE)
        };
        let loaded = |tokens: u64| tokens as f64 * token_gb / side.outcome.measured_s.max(f64::MIN_POSITIVE);
        let drives = f64::from(scenario.storage.drives_per_server * side.servers);
        Bandwidth {
            at_the_start: computed(0),
            at_the_end: computed(longest.saturating_sub(SPAN_TOKENS)),
            deadline: longest as f64 * token_gb / scenario.targets.ttft_s,
            from_memory: loaded(side.outcome.tokens.memory),
            from_drives: loaded(side.outcome.tokens.drive),
            drives: drives * scenario.drive.read_bandwidth * scenario.storage.load_efficiency / 1e9,
            link: scenario.server.link_bandwidth / 1e9,
        }
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "needed_at_the_start": self.at_the_start, "needed_at_the_end": self.at_the_end, "longest_prompt_in_time": self.deadline,
            "loaded_from_memory": self.from_memory, "loaded_from_drives": self.from_drives, "drives": self.drives, "link": self.link,
        })
    }

    /// In two sentences.
    pub(crate) fn told(&self, question: &Question) -> [String; 2] {
        let longest = grouped(question.work.longest_tokens);
        [
            format!(
                "GB/s needed: {:.1} an engine, or computing is sooner than loading; {:.1} at the end of {longest} tokens, the longest prompt with its answer, which takes {:.1} to be loaded within {} s.",
                self.at_the_start, self.at_the_end, self.deadline, question.scenario.targets.ttft_s
            ),
            format!(
                "GB/s used, in the mean: {:.3} from Forebay's DRAM and {:.3} from its drives; all drives together give {:.1}, a server's link {:.1}.",
                self.from_memory, self.from_drives, self.drives, self.link
            ),
        ]
    }
}
