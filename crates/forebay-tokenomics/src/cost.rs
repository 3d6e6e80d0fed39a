//! What prefill costs, in seconds of a GPU and in dollars.
//!
//! Prefill of tokens `a..b` of a prompt costs `c0 steps + c1 (b - a) + c2 (b^2 - a^2) / 2` seconds: a fixed part a step, the weights once a token,
//! and attention, which looks back further the deeper it is. The coefficients follow from a model's shape and a GPU's peak over two efficiencies, one
//! of matrices and one of attention; [`Shape::calibrate`] takes both from measured lengths. What is assumed is printed beside every figure.

use std::fmt;

pub use crate::book::Model;
use crate::book::{Book, Work};

/// The model that costs are told for unless another is named.
pub const MODEL_DEFAULT: &str = "llama-3.1-8b";
/// The GPU that costs are told for unless another is named.
pub const GPU_DEFAULT: &str = "h100";
/// The price list that bills are made by unless another is named.
pub const PRICES_DEFAULT: &str = "sonnet-5";

/// Models of the default book, smallest first.
pub fn models() -> &'static [Model] {
    &Book::built_in().models
}

/// The model of that name in the default book.
pub fn model_by_name(name: &str) -> Option<&'static Model> {
    Book::built_in().model(name)
}

/// What is assumed, apart from a model's shape. All of it can be set; none of it is measured here.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Assumptions {
    /// Peak of the GPU, in 10^12 floating point operations a second.
    pub gpu_peak_tflops: f64,
    /// Share of the peak that prefill reaches.
    pub gpu_utilisation: f64,
    /// Fixed cost of a step, in seconds.
    pub step_s: f64,
    /// Tokens of a step (chunked prefill).
    pub step_tokens: u64,
    /// Rent of a GPU, dollars an hour.
    pub gpu_dollars_per_hour: f64,
    /// Price of a million fresh input tokens, dollars.
    pub input_dollars_per_mtoken: f64,
    /// Price of a million cached input tokens, dollars.
    pub cached_dollars_per_mtoken: f64,
}

impl Default for Assumptions {
    /// The default book's H100 at half its peak, and its price list of Claude Sonnet 5.
    fn default() -> Self {
        let book = Book::built_in();
        let gpu = book.gpus.get(GPU_DEFAULT);
        let prices = book.prices.get(PRICES_DEFAULT);
        Assumptions {
            gpu_peak_tflops: gpu.map_or(f64::NAN, |gpu| gpu.peak_flops / 1e12),
            gpu_utilisation: 0.5,
            step_s: 0.005,
            step_tokens: 8192,
            gpu_dollars_per_hour: gpu.map_or(f64::NAN, |gpu| gpu.dollars_per_hour),
            input_dollars_per_mtoken: prices.map_or(f64::NAN, |prices| prices.input),
            cached_dollars_per_mtoken: prices.map_or(f64::NAN, |prices| prices.cache_read.unwrap_or(prices.input)),
        }
    }
}

/// Where a figure of the default book comes from, as in "NVIDIA ... (2023-03)"; its key as in `gpus.h100.peak`.
pub fn source_of(key: &str) -> String {
    let figure = Book::built_in().figures(key).next();
    figure.map_or_else(String::new, |figure| match figure.date.as_str() {
        "" => figure.source.clone(),
        date => format!("{}, {date}", figure.source),
    })
}

/// The cost of prefill as a curve over depth.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CostCurve {
    /// Seconds a step.
    pub c0_s: f64,
    /// Seconds a token.
    pub c1_s: f64,
    /// Seconds a token and token it looks back to.
    pub c2_s: f64,
    /// The same in layers that look back `bounded_tokens` at most: windows, or what an indexer chose.
    pub bounded_s: f64,
    /// See there; 0 without such layers.
    pub bounded_tokens: u64,
    /// Tokens of a step.
    pub step_tokens: u64,
}

impl CostCurve {
    /// From a model's shape, for one GPU and one efficiency of both parts.
    pub fn new(model: &Model, assumed: &Assumptions) -> Self {
        Shape {
            gpus: 1,
            peak_flops: assumed.gpu_peak_tflops * 1e12,
            linear_efficiency: assumed.gpu_utilisation,
            attention_efficiency: assumed.gpu_utilisation,
            step_s: assumed.step_s,
            step_tokens: assumed.step_tokens,
        }
        .curve(&model.work())
    }

    /// Seconds to prefill tokens `from..to` of a prompt whose tokens before `from` are in KV already; 0 for an empty range.
    pub fn prefill_s(&self, from: u64, to: u64) -> f64 {
        if to <= from {
            return 0.0;
        }
        let steps = (to - from).div_ceil(self.step_tokens) as f64;
        let (a, b) = (from as f64, to as f64);
        self.c0_s * steps
            + self.c1_s * (b - a)
            + self.c2_s * (b * b - a * a) / 2.0
            + self.bounded_s * bounded_pairs(from, to, self.bounded_tokens)
    }

    /// Seconds saved on a prompt of `prompt` tokens when KV of its first `cached` is read back.
    pub fn saved_s(&self, cached: u64, prompt: u64) -> f64 {
        (self.prefill_s(0, prompt) - self.prefill_s(cached.min(prompt), prompt)).max(0.0)
    }
}

/// Pairs of tokens `from..to` with those they look back to, `bound` at most each: the integral of min(x, bound).
fn bounded_pairs(from: u64, to: u64, bound: u64) -> f64 {
    let upto = |x: u64| {
        let (x, w) = (x as f64, bound as f64);
        if x <= w { x * x / 2.0 } else { w * w / 2.0 + (x - w) * w }
    };
    upto(to) - upto(from)
}

/// GPUs that compute one prompt together (tensor parallel), and how well.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shape {
    /// GPUs.
    pub gpus: u32,
    /// Peak of each, in operations a second.
    pub peak_flops: f64,
    /// Share of the peak that matrices reach.
    pub linear_efficiency: f64,
    /// Share of the peak that attention reaches.
    pub attention_efficiency: f64,
    /// Fixed seconds of a step: launches, and the exchange between GPUs.
    pub step_s: f64,
    /// Tokens of a step.
    pub step_tokens: u64,
}

/// One measured prefill.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    /// Tokens in KV before.
    pub from: u64,
    /// Tokens in KV after.
    pub to: u64,
    /// Seconds on the clock.
    pub seconds: f64,
}

/// Why measured lengths give no curve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CalibrationError {
    /// Fewer than two lengths that differ.
    TooFew,
    /// Attention's part comes out negative, or that of matrices does.
    Unfit,
}

impl std::error::Error for CalibrationError {}

impl fmt::Display for CalibrationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CalibrationError::TooFew => {
                "a curve needs prefill measured at two different lengths at least; measure a short prompt and one several times as long"
            }
            CalibrationError::Unfit => {
                "the measured times do not grow as prefill of this model on this GPU does; check model, GPU and the fixed time of a step, and measure lengths further apart"
            }
        })
    }
}

impl Shape {
    /// The curve, in seconds on the clock while all its GPUs work; times [`Shape::gpus`] these are GPU seconds.
    pub fn curve(&self, work: &Work) -> CostCurve {
        let matrices = self.peak_flops * f64::from(self.gpus) * self.linear_efficiency;
        let attention = self.peak_flops * f64::from(self.gpus) * self.attention_efficiency;
        CostCurve {
            c0_s: self.step_s,
            c1_s: work.token_flops / matrices,
            c2_s: work.pair_flops / attention,
            bounded_s: work.bounded_pair_flops / attention,
            bounded_tokens: work.bounded_tokens,
            step_tokens: self.step_tokens.max(1),
        }
    }

    /// The same GPUs with both efficiencies as measured: least squares of relative errors over the two parts' times at full efficiency,
    /// after the fixed time of the steps.
    ///
    /// # Errors
    /// [`CalibrationError`].
    pub fn calibrate(&self, work: &Work, measured: &[Measured]) -> Result<Shape, CalibrationError> {
        let ideal = Shape { linear_efficiency: 1.0, attention_efficiency: 1.0, ..*self }.curve(work);
        let matrices = CostCurve { c0_s: 0.0, c2_s: 0.0, bounded_s: 0.0, ..ideal };
        let attention = CostCurve { c0_s: 0.0, c1_s: 0.0, ..ideal };
        let usable = |m: &&Measured| m.to > m.from && m.seconds.is_finite() && m.seconds > 0.0;
        let [mut xx, mut xy, mut yy, mut xt, mut yt] = [0.0; 5];
        for m in measured.iter().filter(usable) {
            let steps = (m.to - m.from).div_ceil(ideal.step_tokens) as f64;
            let (x, y) = (matrices.prefill_s(m.from, m.to) / m.seconds, attention.prefill_s(m.from, m.to) / m.seconds);
            let t = 1.0 - self.step_s * steps / m.seconds;
            (xx, xy, yy, xt, yt) = (xx + x * x, xy + x * y, yy + y * y, xt + x * t, yt + y * t);
        }
        let determinant = xx * yy - xy * xy;
        if determinant <= 1e-12 * xx * yy || !determinant.is_finite() {
            return Err(CalibrationError::TooFew);
        }
        let (slow_x, slow_y) = ((xt * yy - yt * xy) / determinant, (yt * xx - xt * xy) / determinant);
        if slow_x <= 0.0 || slow_y <= 0.0 {
            return Err(CalibrationError::Unfit);
        }
        Ok(Shape { linear_efficiency: 1.0 / slow_x, attention_efficiency: 1.0 / slow_y, ..*self })
    }
}

impl Assumptions {
    /// Dollars of GPU rent.
    pub fn gpu_dollars(&self, gpu_s: f64) -> f64 {
        gpu_s / 3600.0 * self.gpu_dollars_per_hour
    }

    /// Dollars less on a bill by list price for that many cached instead of fresh input tokens.
    pub fn list_dollars(&self, cached_tokens: u64) -> f64 {
        cached_tokens as f64 / 1e6 * (self.input_dollars_per_mtoken - self.cached_dollars_per_mtoken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_those_of_the_default_book() {
        let assumed = Assumptions::default();
        assert_eq!((assumed.gpu_peak_tflops, assumed.gpu_dollars_per_hour), (989.0, 2.5));
        assert_eq!((assumed.input_dollars_per_mtoken, assumed.cached_dollars_per_mtoken), (2.0, 0.2));
        assert!(source_of("gpus.h100.peak").contains("NVIDIA"));
        assert!(source_of("gpus.h100.dollars_per_hour").contains("assumed"));
        assert!(model_by_name("gpt-2").is_none());
        assert_eq!(models()[0].name, MODEL_DEFAULT);
    }

    #[test]
    fn deeper_tokens_cost_more_and_parts_add_up() {
        let curve = CostCurve { c0_s: 0.0, ..CostCurve::new(&models()[0], &Assumptions::default()) };
        assert!(curve.prefill_s(100_000, 101_000) > 1.5 * curve.prefill_s(0, 1000));
        let whole = curve.prefill_s(0, 100_000);
        let parts = curve.prefill_s(0, 30_000) + curve.prefill_s(30_000, 100_000);
        assert!((whole / parts - 1.0).abs() < 1e-12);
        // An H100's short-context rate on an 8B model lies near 30,000 tokens a second.
        assert!((20_000.0..40_000.0).contains(&(1000.0 / curve.prefill_s(0, 1000))));
    }

    #[test]
    fn layers_with_a_bound_look_back_no_further() {
        // Of 4 tokens with a bound of 2 the integral of min(x, 2) is 2 + 4; in two parts 2 and 4.
        assert_eq!((bounded_pairs(0, 4, 2), bounded_pairs(0, 2, 2), bounded_pairs(2, 4, 2)), (6.0, 2.0, 4.0));
        assert_eq!(bounded_pairs(10, 20, 0), 0.0);
        let curve =
            |name| CostCurve { c0_s: 0.0, ..CostCurve::new(model_by_name(name).unwrap(), &Assumptions::default()) };
        let (sparse, full) = (curve("glm-5.2"), curve("deepseek-v3"));
        let growth = |c: CostCurve| c.prefill_s(100_000, 101_000) / c.prefill_s(0, 1000);
        assert!(growth(sparse) < 2.5 && growth(full) > 5.0, "{} {}", growth(sparse), growth(full));
    }

    #[test]
    fn calibration_finds_the_two_efficiencies_that_made_the_times() {
        let work = model_by_name("llama-3.1-70b").unwrap().work();
        let assumed = Shape {
            gpus: 4,
            peak_flops: 989e12,
            linear_efficiency: 0.5,
            attention_efficiency: 0.5,
            step_s: 0.01,
            step_tokens: 8192,
        };
        let real = Shape { linear_efficiency: 0.62, attention_efficiency: 0.31, ..assumed };
        let measure = |from, to| Measured { from, to, seconds: real.curve(&work).prefill_s(from, to) };
        for lengths in [
            vec![measure(0, 2000), measure(0, 60_000)],
            vec![measure(0, 2000), measure(90_000, 92_000), measure(0, 30_000)],
        ] {
            let found = assumed.calibrate(&work, &lengths).unwrap();
            assert!((found.linear_efficiency - 0.62).abs() < 1e-9 && (found.attention_efficiency - 0.31).abs() < 1e-9);
        }
        // Four GPUs take a quarter of the time of one, but for the fixed part.
        let one = Shape { gpus: 1, step_s: 0.0, ..real }.curve(&work).prefill_s(0, 9000);
        let four = Shape { step_s: 0.0, ..real }.curve(&work).prefill_s(0, 9000);
        assert!((one / four - 4.0).abs() < 1e-9);
        assert_eq!(assumed.calibrate(&work, &[measure(0, 2000)]), Err(CalibrationError::TooFew));
        assert_eq!(assumed.calibrate(&work, &[]), Err(CalibrationError::TooFew));
        let slower_when_short =
            [Measured { from: 0, to: 2000, seconds: 9.0 }, Measured { from: 0, to: 60_000, seconds: 10.0 }];
        assert_eq!(assumed.calibrate(&work, &slower_when_short), Err(CalibrationError::Unfit));
    }

    #[test]
    fn saving_is_bounded_by_the_whole_prefill_and_never_negative() {
        let curve = CostCurve::new(&models()[0], &Assumptions::default());
        assert_eq!(curve.saved_s(0, 5000), 0.0);
        assert_eq!(curve.saved_s(9000, 5000), curve.prefill_s(0, 5000));
        assert!(curve.saved_s(4992, 5000) < curve.prefill_s(0, 5000));
        let assumed = Assumptions::default();
        assert!((assumed.gpu_dollars(3600.0) - 2.5).abs() < 1e-12);
        assert!((assumed.list_dollars(1_000_000) - 1.8).abs() < 1e-12);
    }
}
