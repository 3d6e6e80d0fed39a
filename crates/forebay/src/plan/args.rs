//! What `forebay plan` can be told.

use std::path::PathBuf;

use clap::ValueEnum;
use forebay_tokenomics::prefix::SEGMENTS_DEFAULT;
use forebay_types::parse_size;

use super::forecast::ForecastArgs;

/// What a cache is worth to recorded load: fleet, cash and price of a token with Forebay and without; or what a policy and a capacity save.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct PlanArgs {
    /// The trace: agent sessions or mooncake, plain or gzip.
    #[arg(long, value_name = "FILE", required_unless_present = "replay_card")]
    pub(crate) trace: Option<PathBuf>,

    /// What leaves when there is no room. min and clairvoyant know the future: they are what can be reached.
    #[arg(long, value_enum, value_name = "NAME")]
    pub(crate) policy: Option<PolicyArg>,

    /// Room for KV: a size, or a share of the trace's distinct blocks, as in 5%.
    #[arg(long, value_name = "SIZE|PERCENT%", value_parser = Capacity::parse)]
    pub(crate) capacity: Option<Capacity>,

    /// How requests follow each other. instant: at their recorded pace, and every block is there as soon as it was asked for. chain: through
    /// engines and tiers that take their time [default: instant with --policy and --capacity, else chain].
    #[arg(long, value_enum, value_name = "HOW")]
    pub(crate) replay: Option<ReplayArg>,

    /// The model whose KV is cached: its bytes and prefill cost.
    #[arg(long, value_name = "MODEL", default_value = "llama-3.1-70b")]
    pub(crate) model: String,

    /// Seeds the start offsets of sessions.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,

    /// Which sessions share blocks: none (private), or those with equal tools and system prompts (modelled).
    #[arg(long, value_enum, default_value_t = SharingArg::Private)]
    pub(crate) sharing: SharingArg,

    /// Cache chunks of this many tokens, a multiple of the trace's block [default: the trace's block].
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    pub(crate) chunk_tokens: Option<u32>,

    /// Let the policy use why each answer ended (a tool call comes back, a turn that ended may).
    #[arg(long)]
    pub(crate) hints: bool,

    /// Also say what no policy can save with this capacity.
    #[arg(long)]
    pub(crate) bound: bool,

    /// How blocks leave. ideal: one by one, as the policy ranks them. segments: as a drive frees them, a segment at a time, and few are written again.
    #[arg(long, value_enum, value_name = "HOW", default_value_t = ModeArg::Ideal)]
    pub(crate) mode: ModeArg,

    /// Segments of the drive, for --mode segments; fewer where a segment would have less than four blocks.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(16..=65_536), default_value_t = SEGMENTS_DEFAULT)]
    pub(crate) segments: u32,

    /// One line of JSON instead of a table.
    #[arg(long)]
    pub(crate) json: bool,

    /// Also write a card: what was asked of which file, and what came out.
    #[arg(long, value_name = "FILE", conflicts_with = "replay_card")]
    pub(crate) card: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) forecast: ForecastArgs,

    /// Run a card again; it must come out the same to the digit. Its trace is looked for where it was, or at --trace.
    #[arg(long, value_name = "FILE")]
    pub(crate) replay_card: Option<PathBuf>,
}

/// Policies of a replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PolicyArg {
    /// Least recently used.
    Lru,
    /// S3-FIFO.
    S3fifo,
    /// SIEVE.
    Sieve,
    /// GreedyDual-Size-Frequency.
    Gdsf,
    /// What an end of a chain is expected to save, by block and second; LRU where that does better.
    Worth,
    /// Knows the future: most blocks found.
    Min,
    /// Knows the future: many GPU seconds saved.
    Clairvoyant,
}

/// How blocks leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ModeArg {
    /// One by one.
    Ideal,
    /// A segment at a time.
    Segments,
}

/// Kinds of replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReplayArg {
    /// Every answer at once.
    Instant,
    /// From request to token: what a fleet with Forebay and one without need, and cost.
    Chain,
}

/// Which sessions share blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SharingArg {
    /// None.
    Private,
    /// Those with equal tools and system prompts.
    Modelled,
}

/// The word of a flag's value, as it is typed.
pub(crate) fn word(value: &impl ValueEnum) -> String {
    value.to_possible_value().map_or(String::new(), |value| value.get_name().to_owned())
}

/// Room for KV.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Capacity {
    /// Of that many bytes.
    Bytes(u64),
    /// Of that many hundredths of the distinct blocks.
    Percent(f64),
}

impl Capacity {
    /// From `64GiB` or `5%`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let Some(number) = text.trim().strip_suffix('%') else {
            return parse_size(text).map(Capacity::Bytes).map_err(|e| e.to_string());
        };
        match number.trim().parse::<f64>() {
            Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(Capacity::Percent(percent)),
            _ => Err("write a share between 0% and 100%, as in 5%".to_owned()),
        }
    }

    /// In blocks: the share is rounded down.
    pub(crate) fn blocks(self, distinct: u32, block_bytes: u64) -> u32 {
        match self {
            Capacity::Bytes(bytes) => u32::try_from(bytes / block_bytes.max(1)).unwrap_or(u32::MAX),
            // Multiplied first: whole per cents of a round number stay exact.
            Capacity::Percent(percent) => (percent * f64::from(distinct) / 100.0).floor() as u32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capacity_is_a_size_or_a_share() {
        let blocks = |text: &str, distinct| Capacity::parse(text).unwrap().blocks(distinct, 1 << 20);
        assert_eq!(blocks("1GiB", 7), 1024);
        assert_eq!(blocks("1.5MiB", 7), 1);
        // 1827.9 and 9139.5 of the chat trace's blocks; 31,973 exactly, which 0.05 x 639,460 in binary need not be.
        assert_eq!((blocks("1%", 182_790), blocks("5%", 182_790), blocks("5%", 639_460)), (1827, 9139, 31_973));
        assert_eq!((blocks("100%", 9), blocks("0.5%", 1000), blocks("0%", 9)), (9, 5, 0));
        for bad in ["", "5", "%", "-1%", "101%", "nan%", "5 percent", "5%%"] {
            assert!(Capacity::parse(bad).is_err(), "{bad}");
        }
    }
}
