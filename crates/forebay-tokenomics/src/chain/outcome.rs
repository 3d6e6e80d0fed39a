//! What a run counted.

/// Buckets of a time between tokens: 32 for each doubling, from 10 us on.
const BUCKETS_PER_DOUBLING: f64 = 32.0;
const BUCKET_FIRST_S: f64 = 1e-5;
const BUCKETS: usize = 1024;

/// Tokens of prompts by where their KV came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TierTokens {
    /// The engine's own GPU memory.
    pub gpu: u64,
    /// The engine's own host tier.
    pub host: u64,
    /// Forebay's DRAM.
    pub memory: u64,
    /// Forebay's drives.
    pub drive: u64,
    /// Computed.
    pub fresh: u64,
}

impl TierTokens {
    /// In all.
    pub fn prompt(&self) -> u64 {
        self.cached() + self.fresh
    }

    /// Not computed.
    pub fn cached(&self) -> u64 {
        self.gpu + self.host + self.forebay()
    }

    /// Loaded from Forebay.
    pub fn forebay(&self) -> u64 {
        self.memory + self.drive
    }
}

/// Weighted times in buckets; a quantile is told to 2.2 %.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Histogram(Vec<f64>);

impl Default for Histogram {
    fn default() -> Self {
        Histogram(vec![0.0; BUCKETS])
    }
}

impl Histogram {
    pub(crate) fn add(&mut self, seconds: f64, weight: f64) {
        let bucket = (seconds / BUCKET_FIRST_S).max(1.0).log2() * BUCKETS_PER_DOUBLING;
        self.0[(bucket as usize).min(BUCKETS - 1)] += weight;
    }

    pub(crate) fn quantile(&self, q: f64) -> f64 {
        let wanted = self.0.iter().sum::<f64>() * q;
        let mut seen = 0.0;
        for (i, weight) in self.0.iter().enumerate() {
            seen += weight;
            if *weight > 0.0 && seen >= wanted {
                return BUCKET_FIRST_S * ((i as f64 + 0.5) / BUCKETS_PER_DOUBLING).exp2();
            }
        }
        0.0
    }
}

/// What holds a fleet back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Computing prompts.
    Prefill,
    /// Making tokens.
    Decode,
    /// GPU memory: requests wait because running and loading ones hold it.
    GpuMemory,
    /// Forebay's capacity: what was evicted was asked for again.
    Capacity,
    /// Bandwidth of drives: busy, or late.
    Drives,
    /// Bandwidth of links: busy, or late.
    Links,
    /// What drives may be written.
    Endurance,
}

impl Limit {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Limit::Prefill => "prefill",
            Limit::Decode => "decode",
            Limit::GpuMemory => "GPU memory",
            Limit::Capacity => "capacity",
            Limit::Drives => "drive bandwidth",
            Limit::Links => "link bandwidth",
            Limit::Endurance => "endurance",
        }
    }
}

/// What a run counted, over the requests that came in its measured time.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Outcome {
    /// Measured seconds.
    pub measured_s: f64,
    /// Engines.
    pub engines: u32,
    /// GPUs of an engine.
    pub gpus_per_engine: u32,
    /// Requests answered.
    pub requests: u64,
    /// Requests whose prompt and answer do not fit into an engine.
    pub refused: u64,
    /// Requests that would have come after the simulated time.
    pub beyond: u64,
    /// Prompt tokens by tier.
    pub tokens: TierTokens,
    /// Fresh tokens that another request was computing at that moment: they would have been there had this one waited.
    pub in_flight_tokens: u64,
    /// Fresh tokens that Forebay had held and evicted.
    pub evicted_tokens: u64,
    /// Tokens found in Forebay that were computed all the same, because that was faster.
    pub recomputed_tokens: u64,
    /// Of these, those that drives would have brought last.
    pub late_drive_tokens: u64,
    /// Of these, those that a link would have brought last.
    pub late_link_tokens: u64,
    /// Tokens of answers.
    pub output_tokens: u64,
    /// Tokens written to Forebay.
    pub written_tokens: u64,
    /// Tokens that Forebay held, times hours.
    pub held_token_hours: f64,
    /// Seconds to the first token of each request, sorted.
    pub ttft_s: Vec<f64>,
    /// Seconds between tokens, of all tokens.
    pub(crate) itl: Histogram,
    /// Seconds to the first token and mean seconds between tokens, request by request.
    pub(crate) served: Vec<(f64, f64)>,
    /// GPU seconds in which engines computed prompts.
    pub prefill_gpu_s: f64,
    /// GPU seconds in which engines made tokens.
    pub decode_gpu_s: f64,
    /// Of these, what reading KV of prompt tokens took that were found.
    pub found_read_gpu_s: f64,
    /// Of these, what reading KV of prompt tokens took that were computed.
    pub fresh_read_gpu_s: f64,
    /// GPU seconds' worth of GPU memory that loads held while they were on their way.
    pub loading_gpu_s: f64,
    /// GPU seconds of prefill that loads from Forebay saved.
    pub saved_gpu_s: f64,
    /// GPU seconds in which an engine had nothing to do but wait for loads.
    pub stalled_gpu_s: f64,
    /// GPU seconds of memory bandwidth that loads took.
    pub copied_gpu_s: f64,
    /// GPU seconds in which the next request waited for GPU memory.
    pub blocked_gpu_s: f64,
    /// Seconds that drives read at full speed.
    pub drives_busy_s: f64,
    /// Seconds that the busiest server's link took.
    pub link_busy_s: f64,
    /// Seconds of loads from Forebay, sorted.
    pub load_s: Vec<f64>,
}

impl Outcome {
    /// The quantile of sorted times; 0 of none.
    pub fn quantile(sorted: &[f64], q: f64) -> f64 {
        let last = sorted.len().saturating_sub(1);
        sorted.get((q * last as f64).round() as usize).copied().unwrap_or(0.0)
    }

    /// Seconds to the first token that share `q` of requests stay within.
    pub fn ttft(&self, q: f64) -> f64 {
        Outcome::quantile(&self.ttft_s, q)
    }

    /// Seconds between tokens that share `q` of tokens stay within.
    pub fn itl(&self, q: f64) -> f64 {
        self.itl.quantile(q)
    }

    /// Share of requests with their first token and, on average, their next ones in time; refused ones are not.
    pub fn goodput(&self, ttft_s: f64, itl_s: f64) -> f64 {
        let good = self.served.iter().filter(|(ttft, itl)| *ttft <= ttft_s && *itl <= itl_s).count();
        let all = self.served.len() as u64 + self.refused;
        if all == 0 { 0.0 } else { good as f64 / all as f64 }
    }

    /// GPU seconds there were.
    pub fn gpu_s(&self) -> f64 {
        self.measured_s * f64::from(self.engines) * f64::from(self.gpus_per_engine)
    }

    /// GPU seconds avoided by loads from Forebay, less the time engines stood for them and the bandwidth they took.
    pub fn avoided_gpu_s(&self) -> f64 {
        self.saved_gpu_s - self.stalled_gpu_s - self.copied_gpu_s
    }

    /// Share of prompt tokens that were not computed.
    pub fn hit_rate(&self) -> f64 {
        self.share(self.tokens.cached())
    }

    /// Share of all prompt tokens.
    pub fn share(&self, tokens: u64) -> f64 {
        if self.tokens.prompt() == 0 { 0.0 } else { tokens as f64 / self.tokens.prompt() as f64 }
    }

    /// Share of what was found in Forebay: of tokens that would have been there later than they could be computed.
    pub fn late_share(&self, tokens: u64) -> f64 {
        let found = self.tokens.forebay() + self.recomputed_tokens;
        if found == 0 { 0.0 } else { tokens as f64 / found as f64 }
    }

    /// How far each limit is used up, the most first. Drives and links are at theirs when they are busy all the time, or when nothing they would bring is
    /// there sooner than it can be computed, be they idle on the mean. `written_share` is what is written a day of what may be.
    pub fn limits(&self, written_share: f64) -> Vec<(Limit, f64)> {
        let of_gpus = |s: f64| s / self.gpu_s().max(f64::MIN_POSITIVE);
        let of_time = |s: f64| s / self.measured_s.max(f64::MIN_POSITIVE);
        let mut all = vec![
            (Limit::Prefill, of_gpus(self.prefill_gpu_s)),
            (Limit::Decode, of_gpus(self.decode_gpu_s)),
            (Limit::GpuMemory, of_gpus(self.blocked_gpu_s)),
            (Limit::Capacity, self.share(self.evicted_tokens)),
            (Limit::Drives, of_time(self.drives_busy_s).max(self.late_share(self.late_drive_tokens))),
            (Limit::Links, of_time(self.link_busy_s).max(self.late_share(self.late_link_tokens))),
            (Limit::Endurance, written_share),
        ];
        all.sort_by(|a, b| b.1.total_cmp(&a.1));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_weighted_times_are_told_to_a_few_per_cent() {
        let mut times = Histogram::default();
        times.add(0.010, 90.0);
        times.add(0.100, 10.0);
        times.add(0.0, 0.0);
        for (q, seconds) in [(0.5, 0.010), (0.89, 0.010), (0.95, 0.100), (1.0, 0.100)] {
            assert!((times.quantile(q) / seconds - 1.0).abs() < 0.022, "{q}");
        }
        assert_eq!(Histogram::default().quantile(0.5), 0.0);
        assert_eq!(Outcome::quantile(&[], 0.5), 0.0);
        assert_eq!(Outcome::quantile(&[1.0, 2.0, 3.0], 0.5), 2.0);
    }
}
