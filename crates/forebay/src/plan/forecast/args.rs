//! What the forecast of `forebay plan` can be told.

use std::path::PathBuf;

use clap::ValueEnum;

/// Flags of the forecast (`--replay chain`).
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ForecastArgs {
    /// A book of your own, TOML, laid over the one that comes along; repeat it for more.
    #[arg(long, value_name = "FILE")]
    pub(crate) book: Vec<PathBuf>,

    /// What this machine's store was measured to do, in the place of the drive's figures: a card of `cargo xtask bench limits`, or its line of --json.
    #[arg(long, value_name = "FILE")]
    pub(crate) measured: Option<PathBuf>,

    /// Sessions that start in an hour [default: as many as the trace has].
    #[arg(long, value_name = "N", value_parser = positive)]
    pub(crate) sessions_per_hour: Option<f64>,

    /// How many times faster a trace with absolute times runs.
    #[arg(long, value_name = "TIMES", value_parser = positive)]
    pub(crate) speed: Option<f64>,

    /// Hours in which sessions start; the first half of the time fills caches, the second is counted.
    #[arg(long, value_name = "N", value_parser = positive, default_value = "2")]
    pub(crate) hours: f64,

    /// The GPU, by its name in the books.
    #[arg(long, value_name = "NAME", default_value = "h100")]
    pub(crate) gpu: String,

    /// The server around the GPUs, by its name in the books.
    #[arg(long, value_name = "NAME", default_value = "hgx")]
    pub(crate) server: String,

    /// The drive, by its name in the books.
    #[arg(long, value_name = "NAME", default_value = "nvme")]
    pub(crate) drive: String,

    /// What storage is beside its drives, by its name in the books.
    #[arg(long, value_name = "NAME", default_value = "default")]
    pub(crate) storage: String,

    /// The price list, by its name in the books.
    #[arg(long, value_name = "NAME", default_value = "sonnet-5")]
    pub(crate) prices: String,

    /// GPUs that hold one copy of the model [default: the fewest that also hold the longest request].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) gpus_per_engine: Option<u32>,

    /// First token within, in seconds.
    #[arg(long, value_name = "SECONDS", value_parser = positive, default_value = "15")]
    pub(crate) ttft: f64,

    /// Each further token within, on average over an answer, in milliseconds.
    #[arg(long, value_name = "MS", value_parser = positive, default_value = "100")]
    pub(crate) itl: f64,

    /// Share of requests that the two hold for.
    #[arg(long, value_name = "PERCENT", value_parser = percent, default_value = "95")]
    pub(crate) share: f64,

    /// A measured prefill, from 0 on one engine; two or more make both efficiencies, as in 2000:0.3 60000:14.
    #[arg(long, value_name = "TOKENS:SECONDS", value_parser = measured, num_args = 1..)]
    pub(crate) prefill: Vec<(u64, f64)>,

    /// For whom: the owner of the fleet, the provider who sells tokens, the builder who buys them, the user with a rate limit.
    #[arg(long = "as", value_enum, value_name = "WHO", default_value_t = Who::Owner)]
    pub(crate) who: Who,

    /// Users who share the fleet, for --as user [default: sessions going on at once; of a trace without sessions none is taken].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) users: Option<u32>,

    /// Try several fleets, as in gpus=8..64 or nvme=8TB..512TB (of the whole fleet), or several loads, as in load=50..400 (sessions an hour); together too.
    #[arg(long, value_name = "WHAT=FROM..TO")]
    pub(crate) sweep: Vec<String>,

    /// Forecast the second half of a recorded load from its first, and tell how far off that is. Most telling with a record of one's own.
    #[arg(long, value_name = "LOG", conflicts_with = "card")]
    pub(crate) backtest: Option<PathBuf>,

    /// Also write the owner's page with charts, as one file that opens offline.
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,

    /// Books by name and text, of a card that is run again.
    #[arg(skip)]
    pub(crate) books: Vec<(String, String)>,

    /// Sessions are drawn anew this many times for intervals; 0 for none.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=1000), default_value_t = 10)]
    pub(crate) draws: u32,
}

/// For whom the page is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Who {
    /// Fleet and margin.
    Owner,
    /// What fresh, cached and output tokens cost, and the discount at which margin is zero.
    Provider,
    /// The bill by time to live.
    Builder,
    /// Tokens a minute.
    User,
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() && number > 0.0 => Ok(number),
        _ => Err("write a number above 0".to_owned()),
    }
}

fn percent(text: &str) -> Result<f64, String> {
    match text.trim_end_matches('%').parse::<f64>() {
        Ok(number) if number > 0.0 && number <= 100.0 => Ok(number),
        _ => Err("write a share above 0 and up to 100, as in 95".to_owned()),
    }
}

fn measured(text: &str) -> Result<(u64, f64), String> {
    let parsed =
        text.split_once(':').and_then(|(tokens, seconds)| Some((tokens.parse().ok()?, positive(seconds).ok()?)));
    parsed.filter(|(tokens, _)| *tokens > 0).ok_or_else(|| "write tokens and seconds, as in 2000:0.3".to_owned())
}
