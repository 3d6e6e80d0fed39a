//! What a run found, for people and for programs.

use comfy_table::{Cell, CellAlignment, Table, presets};
use forebay_tokenomics::Reckoning;
use forebay_tokenomics::cost::{Assumptions, GPU_DEFAULT, Model, source_of};
use forebay_types::format_size;
use serde_json::{Value, json};

use super::kill::Kill;
use super::sizing::Sizes;
use super::tally::Tally;

/// A finished run.
pub(crate) struct Summary<'a> {
    /// What was replayed, in words.
    pub(crate) source: &'a str,
    /// Requests the file holds.
    pub(crate) requests_in_file: u64,
    /// Sessions the file holds.
    pub(crate) sessions: u64,
    /// What was counted.
    pub(crate) tally: &'a Tally,
    /// The kill, unless there was none.
    pub(crate) kill: Option<&'a Kill>,
    /// Blocks evicted until the mark, as the node counts them.
    pub(crate) evicted_before_kill: u64,
    /// Sizes of the run.
    pub(crate) sizes: &'a Sizes,
    /// Distinct blocks replayed.
    pub(crate) distinct: u64,
    /// Tokens of a block.
    pub(crate) block_tokens: u64,
    /// Blocks of one get, at most.
    pub(crate) call_blocks: usize,
    /// Whose prefill is counted.
    pub(crate) model: &'a Model,
    /// At what rates.
    pub(crate) assumed: &'a Assumptions,
    /// Seconds of replay, without the kill and recovery.
    pub(crate) replay_s: f64,
    /// The seed.
    pub(crate) seed: u64,
    /// The node's engine, as asked for.
    pub(crate) io: &'a str,
    /// The policy by which the node kept blocks, as it says itself.
    pub(crate) policy: &'a str,
}

/// A kill that loses more than this share of keys is a failure.
pub(crate) const SURVIVED_LEAST: f64 = 0.99;

impl Summary<'_> {
    fn wrong_bytes(&self) -> u64 {
        self.tally.fetched.wrong_bytes + self.kill.map_or(0, |kill| kill.fetched.wrong_bytes)
    }

    /// Why the run is a failure, in one sentence, if it is.
    pub(crate) fn problem(&self) -> Option<String> {
        let wrong = self.wrong_bytes();
        if wrong > 0 {
            return Some(format!(
                "{wrong} wrong bytes were handed over, and there must be none; please report this with the seed {}",
                self.seed
            ));
        }
        let share = self.kill.and_then(Kill::share)?;
        (share < SURVIVED_LEAST).then(|| {
            format!(
                "only {} of the keys acknowledged more than a second before the kill survived it; please report this with the seed {}",
                percent(share),
                self.seed
            )
        })
    }

    fn gb_per_s(&self) -> f64 {
        let seconds = self.tally.fetch_time.as_secs_f64();
        if seconds > 0.0 { self.tally.fetched.bytes as f64 / 1e9 / seconds } else { 0.0 }
    }

    /// Tokens served, by tier (memory, drive). What a hit saves is split as its blocks came.
    fn tokens_by_tier(&self) -> (u64, u64) {
        let tiers = self.tally.fetched.tiers;
        let hit_tokens = self.tally.all().hit_tokens;
        let all = tiers.dram + tiers.nvme;
        let dram =
            if all == 0 { 0 } else { (u128::from(hit_tokens) * u128::from(tiers.dram) / u128::from(all)) as u64 };
        (dram, hit_tokens - dram)
    }

    /// One object for programs: what is promised, then how it came about, then what it rests on.
    pub(crate) fn json(&self) -> Value {
        let mut out = serde_json::Map::new();
        for part in [self.json_promised(), self.json_details(), self.json_basis()] {
            if let Value::Object(part) = part {
                out.extend(part);
            }
        }
        Value::Object(out)
    }

    fn json_promised(&self) -> Value {
        let all = self.tally.all();
        let latencies = &self.tally.fetched.latencies;
        json!({
            "requests": all.requests,
            "requests_in_file": self.requests_in_file,
            "prompt_tokens": all.prompt_tokens,
            "hit_rate": all.hit_rate(),
            "token_hit_rate": all.token_hit_rate(),
            "hit_rate_before_kill": self.tally.before.hit_rate(),
            "hit_rate_after_kill": self.tally.after.hit_rate(),
            "evicted_before_kill": self.evicted_before_kill,
            "survived": self.kill.and_then(Kill::share),
            "recovery_seconds": self.kill.map(|kill| kill.recovery.as_secs_f64()),
            "wrong_bytes": self.wrong_bytes(),
            "get_p50_us": latencies.quantile_us(0.50),
            "get_p99_us": latencies.quantile_us(0.99),
            "get_p999_us": latencies.quantile_us(0.999),
            "gpu_seconds_saved": self.tally.gpu_s_saved,
            "dollars_saved": self.assumed.gpu_dollars(self.tally.gpu_s_saved),
            "drive_dollars_worn": self.worn_dollars(),
        })
    }

    fn json_details(&self) -> Value {
        let all = self.tally.all();
        let (dram_tokens, nvme_tokens) = self.tokens_by_tier();
        json!({
            "source": self.source,
            "seed": self.seed,
            "sessions_in_file": self.sessions,
            "hit_tokens": all.hit_tokens,
            "hit_tokens_dram": dram_tokens,
            "hit_tokens_nvme": nvme_tokens,
            "block_references": all.blocks,
            "distinct_blocks": self.distinct,
            "requests_before_kill": self.tally.before.requests,
            "killed": self.kill.is_some(),
            "gets_in_flight_at_kill": self.kill.map(|kill| kill.in_flight.0),
            "puts_in_flight_at_kill": self.kill.map(|kill| kill.in_flight.1),
            "survived_keys": self.kill.map(|kill| kill.survived),
            "survived_of_keys": self.kill.map(|kill| kill.asked),
            "bytes_fetched": self.tally.fetched.bytes,
            "bytes_put": self.tally.put_bytes,
            "blocks_put": self.tally.put_blocks,
            "puts_refused": self.tally.refused,
            "match_broken": self.tally.broken,
            "get_gb_per_s": self.gb_per_s(),
            "get_calls": self.tally.fetched.latencies.total(),
            "get_call_blocks_max": self.call_blocks,
            "replay_seconds": self.replay_s,
            "list_price_dollars_saved": self.assumed.list_dollars(all.hit_tokens),
        })
    }

    fn json_basis(&self) -> Value {
        json!({
            "model": self.model.name,
            "model_source": self.model.source,
            "model_kv_bytes_per_token": self.model.kv_bytes_per_token(),
            "gpu": source_of("gpus.h100.peak"),
            "gpu_utilisation": self.assumed.gpu_utilisation,
            "gpu_dollars_per_hour": self.assumed.gpu_dollars_per_hour,
            "input_dollars_per_mtoken": self.assumed.input_dollars_per_mtoken,
            "cached_dollars_per_mtoken": self.assumed.cached_dollars_per_mtoken,
            "bytes_per_token": self.sizes.bytes_per_token,
            "block_bytes": self.sizes.block_bytes,
            "block_tokens": self.block_tokens,
            "capacity_bytes": self.sizes.capacity,
            "memory_bytes": self.sizes.memory,
            "io": self.io,
            "policy": self.policy,
        })
    }

    /// A table for people, drawn into an empty one of three columns, and under it what it rests on.
    pub(crate) fn text(&self, mut table: Table) -> String {
        table.load_style(presets::UTF8_FULL_CONDENSED);
        if let Some(column) = table.column_mut(2) {
            column.set_cell_alignment(CellAlignment::Left);
        }
        for [name, value, meaning] in self.rows() {
            let value = Cell::new(value).set_alignment(CellAlignment::Right);
            table.add_row([Cell::new(name), value, Cell::new(meaning)]);
        }
        format!("{table}\n\n{}{}", self.saved(), self.basis())
    }

    /// What writing the blocks would have worn off a drive of the default book, had they been of the model's own size.
    fn worn_dollars(&self) -> f64 {
        let tokens = self.tally.put_blocks as f64 * self.block_tokens as f64;
        tokens * self.model.kv_bytes_per_token() as f64 * Reckoning::default().written_byte_dollars()
    }

    /// What it was worth, in a sentence.
    fn saved(&self) -> String {
        format!(
            "Saved     {} GPU seconds, which is {} of {} rent at {:.2} $ an hour: prefill of {} that did\n          \
             not run again, for the node kept {} blocks by its policy, {}. Writing them would wear {} off\n          \
             a drive, at {}'s KV and {:.3} $ a TB written.\n",
            count(self.tally.gpu_s_saved.round() as u64),
            dollars(self.assumed.gpu_dollars(self.tally.gpu_s_saved)),
            GPU_DEFAULT.to_uppercase(),
            self.assumed.gpu_dollars_per_hour,
            self.model.name,
            count(self.tally.put_blocks),
            self.policy,
            dollars(self.worn_dollars()),
            self.model.name,
            Reckoning::default().written_byte_dollars() * 1e12,
        )
    }

    fn rows(&self) -> Vec<[String; 3]> {
        let all = self.tally.all();
        let latencies = &self.tally.fetched.latencies;
        let (dram_tokens, nvme_tokens) = self.tokens_by_tier();
        let row = |name: &str, value: String, meaning: String| [name.to_owned(), value, meaning];
        let mut rows = vec![
            row(
                "requests",
                count(all.requests),
                format!("of {} in {} sessions", count(self.requests_in_file), count(self.sessions)),
            ),
            row("prompt tokens", count(all.prompt_tokens), "what the engines were asked to read".into()),
            row("served from memory", count(dram_tokens), "tokens whose KV came from the node's DRAM".into()),
            row("served from the drive", count(nvme_tokens), "tokens whose KV came from NVMe".into()),
            row("hit rate", percent(all.hit_rate()), "blocks found with all blocks before them".into()),
        ];
        if let Some(kill) = self.kill {
            let back = format!("from SIGKILL, with {}, to the first verified hit", kill.in_flight_words());
            let share = kill.share().map_or("-".into(), percent);
            let of = match kill.asked {
                0 => "nothing was a second old at the kill; try more --requests".to_owned(),
                asked => {
                    format!("{} of {} blocks acknowledged over 1 s before the kill", count(kill.survived), count(asked))
                }
            };
            rows.extend([
                row("  before the kill", percent(self.tally.before.hit_rate()), "the pool fills".into()),
                row(
                    "  after the kill",
                    percent(self.tally.after.hit_rate()),
                    "warm at once; `--no-kill` plays the twin".into(),
                ),
                row("back in", format!("{:.2} s", kill.recovery.as_secs_f64()), back),
                row("survived", share, of),
            ]);
        }
        let wrong = format!("of {} compared with content made anew", format_size(self.tally.fetched.bytes));
        let call = format!("a get of up to {} blocks of {}", self.call_blocks, format_size(self.sizes.block_bytes));
        let gpu = format!("of prefill for {} that need not run again", self.model.name);
        rows.extend([
            row("wrong bytes", count(self.wrong_bytes()), wrong),
            row(
                "fetched",
                format!("{:.2} GB/s", self.gb_per_s()),
                "with every byte verified, and compared once more".into(),
            ),
            row("get p50", micros(latencies.quantile_us(0.5)), call),
            row("get p99", micros(latencies.quantile_us(0.99)), String::new()),
            row("get p99.9", micros(latencies.quantile_us(0.999)), String::new()),
            row("GPU time saved", format!("{} s", count(self.tally.gpu_s_saved.round() as u64)), gpu),
            row(
                "GPU rent saved",
                dollars(self.assumed.gpu_dollars(self.tally.gpu_s_saved)),
                "the same, in dollars".into(),
            ),
            row(
                "off the bill",
                dollars(self.assumed.list_dollars(all.hit_tokens)),
                "if the tokens were bought as fresh input".into(),
            ),
        ]);
        rows
    }

    /// What the figures rest on.
    fn basis(&self) -> String {
        let a = self.assumed;
        format!(
            "Replayed  {}, in blocks of {} tokens.\n\
             KV        {} bytes a token here, to suit this machine; {} has {} in bf16. Drive {}, memory {}.\n\
             Assumed   {:.0} % of {:.0} TFLOP/s ({}),\n          \
             {:.2} $ a GPU-hour ({}),\n          \
             {:.2} $ a million input tokens, {:.2} $ cached ({}).\n\
             Model     {}: shape from {}.\n",
            self.source,
            self.block_tokens,
            count(self.sizes.bytes_per_token),
            self.model.name,
            count(self.model.kv_bytes_per_token()),
            format_size(self.sizes.capacity),
            format_size(self.sizes.memory),
            a.gpu_utilisation * 100.0,
            a.gpu_peak_tflops,
            source_of("gpus.h100.peak"),
            a.gpu_dollars_per_hour,
            source_of("gpus.h100.dollars_per_hour"),
            a.input_dollars_per_mtoken,
            a.cached_dollars_per_mtoken,
            source_of("prices.sonnet-5.input"),
            self.model.name,
            self.model.source,
        )
    }
}

fn percent(share: f64) -> String {
    // Rounded down: 100 % means all.
    format!("{:.2} %", (share * 10_000.0).floor() / 100.0)
}

fn dollars(amount: f64) -> String {
    // Cents, and of less than a cent as much as says something.
    if amount == 0.0 || amount >= 0.01 { format!("{amount:.2} $") } else { format!("{amount:.5} $") }
}

fn micros(us: f64) -> String {
    if us < 1000.0 { format!("{us:.0} us") } else { format!("{:.2} ms", us / 1000.0) }
}

/// With a space between thousands.
fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use forebay_tokenomics::ReplayCount;
    use forebay_tokenomics::cost::models;

    use super::super::tally::TierBlocks;
    use super::*;

    fn with_summary(kill: Option<Kill>, wrong_bytes: u64, check: impl FnOnce(&Summary)) {
        let half =
            ReplayCount { requests: 50, blocks: 1000, hit_blocks: 900, prompt_tokens: 65_000, hit_tokens: 57_600 };
        let mut tally =
            Tally { before: half, after: half, gpu_s_saved: 7200.0, put_blocks: 1_000_000, ..Tally::default() };
        tally.fetched.tiers = TierBlocks { dram: 1350, nvme: 450 };
        tally.fetched.wrong_bytes = wrong_bytes;
        let sizes =
            Sizes { bytes_per_token: 128, block_bytes: 8192, capacity: 1 << 30, segment: 4 << 20, memory: 256 << 20 };
        check(&Summary {
            source: "a test",
            requests_in_file: 8616,
            sessions: 116,
            tally: &tally,
            kill: kill.as_ref(),
            evicted_before_kill: 0,
            sizes: &sizes,
            distinct: 200,
            block_tokens: 64,
            call_blocks: 128,
            model: &models()[0],
            assumed: &Assumptions::default(),
            replay_s: 1.0,
            seed: 5,
            io: "auto",
            policy: "the-one-it-has",
        });
    }

    fn kill(asked: u64, survived: u64) -> Option<Kill> {
        Some(Kill { asked, survived, in_flight: (1, 1), recovery: Duration::from_millis(321), ..Kill::default() })
    }

    #[test]
    fn the_json_has_every_field_that_is_promised() {
        with_summary(kill(100, 100), 0, |summary| {
            let json = summary.json();
            let promised = "requests requests_in_file prompt_tokens hit_rate token_hit_rate hit_rate_before_kill hit_rate_after_kill \
                            evicted_before_kill survived recovery_seconds wrong_bytes get_p50_us get_p99_us get_p999_us gpu_seconds_saved \
                            dollars_saved";
            for field in promised.split_whitespace() {
                assert!(json[field].is_number(), "{field} is {}", json[field]);
            }
            assert_eq!(
                (&json["requests"], &json["requests_in_file"], &json["survived"]),
                (&json!(100), &json!(8616), &json!(1.0))
            );
            assert_eq!((&json["hit_rate"], &json["dollars_saved"]), (&json!(0.9), &json!(5.0)));
            assert_eq!(json["hit_tokens_dram"].as_u64().unwrap(), 115_200 * 3 / 4);
            assert!(!json.to_string().contains('\n'));
        });
        with_summary(None, 0, |summary| {
            let json = summary.json();
            assert!(
                json["survived"].is_null()
                    && json["recovery_seconds"].is_null()
                    && json["hit_rate_after_kill"].is_number()
            );
        });
    }

    #[test]
    fn wrong_bytes_and_lost_keys_are_failures() {
        with_summary(kill(1000, 995), 0, |summary| assert_eq!(summary.problem(), None));
        with_summary(kill(1000, 980), 0, |summary| assert!(summary.problem().unwrap().contains("98.00 %")));
        with_summary(kill(1000, 1000), 3, |summary| assert!(summary.problem().unwrap().contains("3 wrong bytes")));
        with_summary(None, 1, |summary| assert!(summary.problem().is_some()));
        with_summary(kill(0, 0), 0, |summary| assert_eq!(summary.problem(), None));
    }

    #[test]
    fn the_table_says_what_it_rests_on() {
        with_summary(kill(1000, 995), 0, |summary| {
            let text = summary.text(Table::new());
            for words in ["99.50 %", "0.32 s", "130 000", "llama-3.1-8b", "2.50 $", "H100", "wrong bytes", "86 400"] {
                assert!(text.contains(words), "{words} is not in\n{text}");
            }
        });
    }

    /// 7,200 s are two hours at 2.50 $. A million blocks of 64 tokens of 128 KiB are 8.4 TB, at 100 $ for 1,825 TB.
    #[test]
    fn what_was_saved_is_a_sentence_with_price_model_and_the_nodes_own_policy() {
        with_summary(None, 0, |summary| {
            let text = summary.text(Table::new());
            for words in [
                "7 200 GPU seconds, which is 5.00 $ of H100 rent at 2.50 $ an hour",
                "of llama-3.1-8b",
                "kept 1 000 000 blocks by its policy, the-one-it-has",
                "would wear 0.46 $",
                "0.055 $ a TB",
            ] {
                assert!(text.contains(words), "{words} is not in\n{text}");
            }
            assert!(text.lines().filter(|line| line.starts_with("Saved")).count() == 1);
            assert_eq!(summary.json()["policy"], "the-one-it-has");
            assert!((summary.json()["drive_dollars_worn"].as_f64().unwrap() - 0.4597).abs() < 1e-3);
        });
        assert_eq!(
            (dollars(0.0), dollars(0.000_123), dollars(1.5)),
            ("0.00 $".into(), "0.00012 $".into(), "1.50 $".into())
        );
    }

    #[test]
    fn numbers_are_grouped_and_shares_never_rounded_up() {
        assert_eq!((count(0).as_str(), count(999).as_str(), count(1_234_567).as_str()), ("0", "999", "1 234 567"));
        assert_eq!(percent(0.999_999), "99.99 %");
    }
}
