//! What `forebay demo` can be told.

use std::path::PathBuf;

use forebay_tokenomics::cost::{model_by_name, models};

/// Replay coding-agent sessions against a real node, kill it in the middle, and see what it was worth.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct DemoArgs {
    /// Replay this trace (agent sessions or mooncake, plain or gzip) instead of generated sessions.
    #[arg(long, value_name = "FILE")]
    pub(crate) trace: Option<PathBuf>,

    /// Replay only the first N requests, in order of time.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) requests: Option<u64>,

    /// How many sessions to generate.
    #[arg(long, value_name = "N", conflicts_with = "trace", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) sessions: Option<u32>,

    /// Do not kill the node: the twin of a run with a kill, over the same requests.
    #[arg(long)]
    pub(crate) no_kill: bool,

    /// Seeds sessions, their start offsets and every byte.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,

    /// KV bytes of a token. Chosen to suit the disk unless given here or by --model.
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1..=4 << 20))]
    pub(crate) bytes_per_token: Option<u64>,

    /// Take KV bytes of a token and prefill cost from this model.
    #[arg(long, value_name = "MODEL", value_parser = parse_model)]
    pub(crate) model: Option<&'static str>,

    /// Which sessions share blocks: none (private), or those with equal tools and system prompts (modelled). Generated sessions always share
    /// their system prompt.
    #[arg(long, value_enum, default_value_t = SharingArg::Private)]
    pub(crate) sharing: SharingArg,

    /// How the node reads and writes its drive.
    #[arg(long, env = "FOREBAY_IO", value_name = "ENGINE", value_parser = ["auto", "uring", "threads"], default_value = "auto")]
    pub(crate) io: String,

    /// Memory for the node [default: a quarter of the blocks, between 64 MiB and 4 GiB].
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) memory: Option<u64>,

    /// Where to make the temporary directory [default: the system's].
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,

    /// Rent of a GPU assumed, in dollars an hour.
    #[arg(long, value_name = "DOLLARS", value_parser = parse_dollars)]
    pub(crate) gpu_dollars_per_hour: Option<f64>,

    /// End with one line of JSON instead of a table.
    #[arg(long)]
    pub(crate) json: bool,

    /// Runs as the keeper of a demo's node; started by the demo itself.
    #[arg(long, hide = true)]
    pub(crate) keeper: bool,
}

/// Which sessions share blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum SharingArg {
    /// None.
    Private,
    /// Those with equal tools and system prompts.
    Modelled,
}

fn parse_model(name: &str) -> Result<&'static str, String> {
    let known = || models().iter().map(|model| model.name.as_str()).collect::<Vec<_>>().join(", ");
    model_by_name(name)
        .map(|model| model.name.as_str())
        .ok_or_else(|| format!("it is not one of the models known here: {}", known()))
}

fn parse_size(text: &str) -> Result<u64, String> {
    forebay_types::parse_size(text).map_err(|e| e.to_string())
}

fn parse_dollars(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(dollars) if dollars.is_finite() && dollars >= 0.0 => Ok(dollars),
        _ => Err("write a number of dollars, as in 2.50".to_owned()),
    }
}
