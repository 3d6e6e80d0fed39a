//! What blocks of a namespace cost to compute, for who holds them: by the model its fingerprint names, and the tokens its puts tell.

use crate::book::{Book, Drive};
use crate::cost::{Assumptions, CostCurve, GPU_DEFAULT, MODEL_DEFAULT};

/// The drive that wear is told for.
const DRIVE_DEFAULT: &str = "nvme";
/// Levels of depth, three in two octaves, from 1,024 tokens to 640 Ki.
pub(crate) const LEVELS: usize = 16;
/// Where the second level begins, in tokens. The first is for what begins a prompt, or of which nothing is known.
const FIRST_TOKENS: f64 = 1024.0;
const LEVELS_PER_OCTAVE: f64 = 1.5;
/// Tokens over which the mean of what a byte holds is remembered.
const REMEMBERED_TOKENS: f64 = 1e9;

/// Level of a depth.
pub(crate) fn level_of(tokens: u64) -> u8 {
    if (tokens as f64) < FIRST_TOKENS {
        return 0;
    }
    let above = (tokens as f64 / FIRST_TOKENS).log2() * LEVELS_PER_OCTAVE;
    (1 + above as usize).min(LEVELS - 1) as u8
}

/// Tokens of the middle of a level.
pub(crate) fn tokens_of(level: u8) -> f64 {
    match level {
        0 => FIRST_TOKENS / 2.0,
        level => FIRST_TOKENS * ((f64::from(level) - 0.5) / LEVELS_PER_OCTAVE).exp2(),
    }
}

/// The book that a node reckons by: its models, its GPU [`GPU_DEFAULT`] and its drive `nvme`.
#[derive(Debug, Clone, Copy)]
pub struct Reckoning {
    book: &'static Book,
}

impl Default for Reckoning {
    fn default() -> Self {
        Reckoning { book: Book::built_in() }
    }
}

impl Reckoning {
    /// By that book for as long as the process lives: a node reads one when it starts.
    pub fn by(book: Book) -> Self {
        Reckoning { book: Box::leak(Box::new(book)) }
    }

    /// Dollars of a GPU second.
    pub fn gpu_second_dollars(&self) -> f64 {
        self.assumed().gpu_dollars(1.0)
    }

    /// Dollars that a byte written wears off a drive.
    pub fn written_byte_dollars(&self) -> f64 {
        self.drive(Drive::wear_dollars_per_byte)
    }

    /// How often a day a drive may be written whole over its life.
    pub fn drive_writes_per_day(&self) -> f64 {
        self.drive(|drive| drive.writes_per_day)
    }

    /// Dollars that a byte takes of a drive by lying there for a second: the drive's price over its life.
    pub fn held_byte_second_dollars(&self) -> f64 {
        self.drive(|drive| drive.time_dollars_per_hour() / 3600.0 / drive.capacity_bytes)
    }

    /// In words: "GPU h100 at 2.50 $/h, writes at 0.055 $/TB, room at 1.67 $/TB a month".
    pub fn told(&self) -> String {
        format!(
            "GPU {GPU_DEFAULT} at {:.2} $/h, writes at {:.3} $/TB, room at {:.2} $/TB a month",
            self.gpu_second_dollars() * 3600.0,
            self.written_byte_dollars() * 1e12,
            self.held_byte_second_dollars() * 1e12 * 3600.0 * 730.0
        )
    }

    fn drive(&self, of: impl Fn(&Drive) -> f64) -> f64 {
        self.book.drives.get(DRIVE_DEFAULT).map_or(0.0, of)
    }

    fn assumed(&self) -> Assumptions {
        let default = Assumptions::default();
        self.book.gpus.get(GPU_DEFAULT).map_or(default, |gpu| Assumptions {
            gpu_peak_tflops: gpu.peak_flops / 1e12,
            gpu_dollars_per_hour: gpu.dollars_per_hour,
            ..default
        })
    }
}

/// Costs of a namespace's blocks.
#[derive(Debug, Clone)]
pub struct SpaceCost {
    curve: CostCurve,
    model: &'static str,
    /// The fingerprint names this model, or one that is in the book.
    knows_model: bool,
    /// Seconds of a token's prefill where the chain ends in that level, in the mean over the chain.
    chain_s: [f64; LEVELS],
    /// In the mean over what was put; by the model's shape before that.
    tokens_per_byte: f64,
    tokens: f64,
    bytes: f64,
    /// Tokens of a block, as its puts or the fingerprint say; 0 if nobody says.
    block_tokens: f64,
}

impl SpaceCost {
    /// Of a namespace whose fingerprint names this model, and so many tokens a block; empty and 0 if it names none. A model that the default book does
    /// not have costs what [`MODEL_DEFAULT`] costs.
    pub fn new(model: &str, block_tokens: u32) -> Self {
        SpaceCost::of(Reckoning::default(), model, block_tokens)
    }

    /// The same by a book of one's own.
    pub fn of(reckoning: Reckoning, model: &str, block_tokens: u32) -> Self {
        let models = &reckoning.book.models;
        // The longest name that is in it: "llama-3.1-8b" is in "Meta-Llama-3.1-8B-Instruct".
        let lower = model.to_ascii_lowercase();
        let known = models
            .iter()
            .filter(|known| lower.contains(&known.name.to_ascii_lowercase()))
            .max_by_key(|known| known.name.len());
        let knows_model = known.is_some();
        let known = known.or_else(|| reckoning.book.model(MODEL_DEFAULT)).unwrap_or(&models[0]);
        let curve = CostCurve::new(known, &reckoning.assumed());
        let levels: [f64; LEVELS] = std::array::from_fn(|level| tokens_of(level as u8));
        SpaceCost {
            curve,
            model: &known.name,
            knows_model,
            chain_s: levels.map(|end| (curve.prefill_s(0, end as u64) - curve.c0_s) / end),
            tokens_per_byte: 1.0 / (known.kv_bytes_per_token() as f64).max(1.0),
            tokens: 0.0,
            bytes: 0.0,
            block_tokens: f64::from(block_tokens),
        }
    }

    /// The model by which it is reckoned.
    pub fn model(&self) -> &'static str {
        self.model
    }

    /// Whether that is the model which the fingerprint names, and not one that stands in for it.
    pub fn knows_model(&self) -> bool {
        self.knows_model
    }

    /// GPU seconds of a token's prefill in a chain that ends after so many tokens, in the mean over the chain: what a chain's blocks save together, none
    /// of them being of use without those before it.
    pub fn chain_token_s(&self, chain_tokens: f64) -> f64 {
        self.chain_s[usize::from(level_of(chain_tokens.max(0.0) as u64))]
    }

    /// Of a hundred blocks, as a share: how many must come back so that keeping them pays for writing them once, at the price of a GPU second and of a
    /// byte written. Of the shortest prompts: longer ones save more by the byte.
    pub fn pays_from(&self, gpu_second_dollars: f64, written_byte_dollars: f64) -> f64 {
        written_byte_dollars / (self.tokens_per_byte * self.chain_s[0] * gpu_second_dollars).max(f64::MIN_POSITIVE)
    }

    /// A block is put that takes `bytes` and says to hold `tokens`; 0 if it does not say.
    pub fn put(&mut self, tokens: u32, bytes: u64) {
        if tokens == 0 || bytes == 0 {
            return;
        }
        let tokens = f64::from(tokens);
        self.tokens += tokens;
        self.bytes += bytes as f64;
        self.tokens_per_byte = self.tokens / self.bytes;
        self.block_tokens =
            if self.block_tokens == 0.0 { tokens } else { self.block_tokens + (tokens - self.block_tokens) / 64.0 };
        if self.tokens > REMEMBERED_TOKENS {
            (self.tokens, self.bytes) = (self.tokens / 2.0, self.bytes / 2.0);
        }
    }

    /// Tokens of a block of which is known only what it takes; 0 where no put and no fingerprint has ever said how many.
    pub fn block_tokens(&self, bytes: u64) -> f64 {
        if self.tokens > 0.0 { bytes as f64 * self.tokens_per_byte } else { self.block_tokens }
    }

    /// Tokens of a block of which nothing is known but that it is one of the namespace's; 0 where nobody has ever said how many.
    pub fn key_tokens(&self) -> f64 {
        self.block_tokens
    }

    /// Whether tokens go by bytes. If not, every block holds what the fingerprint says.
    pub fn knows_sizes(&self) -> bool {
        self.tokens > 0.0
    }

    /// Takes over what was put in an earlier life: so many blocks of so many tokens in so many bytes.
    pub fn remember(&mut self, blocks: u64, tokens: u64, bytes: u64) {
        if blocks == 0 || tokens == 0 || bytes == 0 {
            return;
        }
        let share = (REMEMBERED_TOKENS / tokens as f64).min(1.0);
        (self.tokens, self.bytes) = (tokens as f64 * share, bytes as f64 * share);
        self.tokens_per_byte = self.tokens / self.bytes;
        if self.block_tokens == 0.0 {
            self.block_tokens = tokens as f64 / blocks as f64;
        }
    }

    /// Tokens before a block that has so many blocks before it.
    pub(crate) fn tokens_before(&self, blocks: u32) -> f64 {
        f64::from(blocks) * self.block_tokens
    }

    /// GPU seconds of the prefill of `tokens` behind `before` others. The fixed time of steps is left out: others have a part in them.
    pub fn prefill_s(&self, before: f64, tokens: f64) -> f64 {
        let (from, to) = (before.max(0.0) as u64, (before + tokens).max(0.0) as u64);
        if to <= from { 0.0 } else { CostCurve { c0_s: 0.0, ..self.curve }.prefill_s(from, to) }
    }

    /// Seconds by byte of a chain that ends in that level.
    pub(crate) fn density(&self, end: u8) -> f64 {
        self.chain_s[usize::from(end) % LEVELS] * self.tokens_per_byte
    }

    /// Seconds of a token in that level.
    pub(crate) fn token_s(&self, level: u8) -> f64 {
        let at = tokens_of(level);
        self.prefill_s(at, 1.0)
    }

    pub(crate) fn tokens_per_byte(&self) -> f64 {
        self.tokens_per_byte
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A GPU at twice the price and half the peak costs four times as much for the same tokens; a drive at half the price wears off half.
    #[test]
    fn a_book_of_ones_own_is_reckoned_by() {
        let text = "[gpus.h100]\ndollars_per_hour = 5\npeak = \"494.5TFLOP/s\"\n[drives.nvme]\ndollars_per_tb = 50\nwrites_per_day = 3\n";
        let ours = Reckoning::by(Book::with(&[("mine.toml", text)]).unwrap());
        let default = Reckoning::default();
        let dollars =
            |by: Reckoning| SpaceCost::of(by, "llama-3.1-8b", 16).prefill_s(0.0, 16.0) * by.gpu_second_dollars();
        assert!((dollars(ours) / dollars(default) - 4.0).abs() < 1e-9);
        assert!((ours.held_byte_second_dollars() / default.held_byte_second_dollars() - 0.5).abs() < 1e-9);
        // Half the price over three times as many writes.
        assert!((default.written_byte_dollars() / ours.written_byte_dollars() - 6.0).abs() < 1e-9);
        assert_eq!(ours.drive_writes_per_day(), 3.0);
        assert_eq!(ours.told(), "GPU h100 at 5.00 $/h, writes at 0.009 $/TB, room at 0.83 $/TB a month");
    }

    #[test]
    fn levels_are_steps_of_two_thirds_of_an_octave() {
        assert_eq!([0, 1023, 1024, 1625, 1626, 65_536, 1 << 30].map(level_of), [0, 0, 1, 1, 2, 10, 15]);
        for level in 0..LEVELS as u8 {
            assert_eq!(level_of(tokens_of(level) as u64), level);
        }
    }

    #[test]
    fn a_namespace_costs_what_its_model_does_and_another_what_the_default_does() {
        let of = |model: &str| SpaceCost::new(model, 0);
        let small = of("meta-llama/Meta-Llama-3.1-8B-Instruct");
        assert_eq!((small.model(), of("none of ours").model()), ("llama-3.1-8b", MODEL_DEFAULT));
        let large = of("Llama-3.1-70B");
        let ratio = large.prefill_s(0.0, 512.0) / small.prefill_s(0.0, 512.0);
        assert!((8.0..10.0).contains(&ratio), "{ratio}");
        // By byte less: its KV is larger too. And deep tokens cost more than the first.
        assert!(large.density(3) < large.density(15) && large.density(3) > small.density(3));
    }

    /// 100 $ a TB over five years: a TB is 1.67 $ a month of 730 hours; written once a day, 0.055 $ a TB. A TB held for five years costs what writing it 1,825 times does.
    #[test]
    fn room_costs_the_drives_price_over_its_life() {
        let (life_s, by) = (5.0 * 365.0 * 86_400.0, Reckoning::default());
        assert!((by.held_byte_second_dollars() * 1e12 * life_s - 100.0).abs() < 1e-9);
        assert!((by.held_byte_second_dollars() * life_s / (1825.0 * by.written_byte_dollars()) - 1.0).abs() < 1e-9);
        assert_eq!(by.told(), "GPU h100 at 2.50 $/h, writes at 0.055 $/TB, room at 1.67 $/TB a month");
    }

    /// A token of the 8B model takes 2 x 8.03e9 operations at half of 989 TFLOP/s: 32.5 us, at 2.50 $ an hour 2.3e-8 $. Its 128 KiB of KV wear 7.2e-9 $ off a
    /// drive: they pay where a block in three comes back. Of larger models one in ten or less: what they compute grows faster than what they keep.
    #[test]
    fn a_write_pays_where_enough_comes_back_and_how_much_that_is_depends_on_the_model() {
        let by = Reckoning::default();
        let (gpu, written) = (by.gpu_second_dollars(), by.written_byte_dollars());
        let pays_from = |model: &str| SpaceCost::new(model, 16).pays_from(gpu, written);
        assert!((0.33..0.40).contains(&pays_from("llama-3.1-8b")), "{}", pays_from("llama-3.1-8b"));
        assert!((0.07..0.13).contains(&pays_from("llama-3.1-70b")), "{}", pays_from("llama-3.1-70b"));
        for model in &by.book.models {
            println!("{}: pays where {:.3} come back", model.name, pays_from(&model.name));
            assert!(pays_from(&model.name) < 1.0, "{}", model.name);
        }
        let space = SpaceCost::new("llama-3.1-8b", 16);
        assert!(space.pays_from(gpu, 100.0 * written) > 1.0);
        assert!(space.chain_token_s(100_000.0) > 1.5 * space.chain_token_s(0.0));
        assert!(space.knows_model() && !SpaceCost::new("none of ours", 16).knows_model());
    }

    #[test]
    fn what_an_earlier_life_put_says_how_many_tokens_blocks_hold() {
        let mut space = SpaceCost::new("", 0);
        space.remember(0, 0, 0);
        assert!(!space.knows_sizes());
        space.remember(1_000_000_000, 16_000_000_000, 16 << 40);
        assert_eq!((space.key_tokens(), space.block_tokens(1 << 20).round()), (16.0, 954.0));
        space.put(16, 16 << 10);
        assert_eq!(space.key_tokens(), 16.0);
    }

    #[test]
    fn tokens_are_what_puts_say_and_nothing_is_made_up_before() {
        let mut space = SpaceCost::new("", 0);
        assert_eq!(space.block_tokens(1 << 20), 0.0);
        for _ in 0..10 {
            space.put(16, 2 << 20);
        }
        assert_eq!((space.block_tokens(1 << 20), space.tokens_before(3)), (8.0, 48.0));
        assert_eq!(SpaceCost::new("", 256).block_tokens(12345), 256.0);
    }
}
