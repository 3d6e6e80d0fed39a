//! What prefill costs, in seconds of a GPU and in dollars.
//!
//! Prefill of tokens `a..b` of a prompt costs `c0 steps + c1 (b - a) + c2 (b^2 - a^2) / 2` seconds: a fixed part a step, the weights once a token,
//! and attention, which looks back further the deeper it is. The coefficients follow from a model's published shape and a GPU's published peak;
//! what is assumed is named in [`Assumptions`] and printed beside every figure.

/// A model, as its publishers describe it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Model {
    /// The word for `--model`.
    pub name: &'static str,
    /// Layers.
    pub layers: u32,
    /// Query heads.
    pub heads: u32,
    /// Dimension a query and a key are compared in, a head.
    pub score_dim: u32,
    /// Dimension of a value, a head.
    pub value_dim: u32,
    /// KV of one token in one layer, in numbers (2 x KV heads x head dimension; latent plus rotary dimension with MLA).
    pub kv_numbers: u32,
    /// Parameters used for a token, in units of 10^9.
    pub active_params_e9: f64,
    /// Where the shape is published.
    pub source: &'static str,
}

/// Bytes of one KV number in bf16.
const KV_NUMBER_BYTES: u64 = 2;

const fn grouped(
    name: &'static str,
    layers: u32,
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    active_params_e9: f64,
    source: &'static str,
) -> Model {
    let kv_numbers = 2 * kv_heads * head_dim;
    Model { name, layers, heads, score_dim: head_dim, value_dim: head_dim, kv_numbers, active_params_e9, source }
}

/// Models that `--model` knows, smallest first. Shapes from the config.json that each publisher ships with the weights.
pub const MODELS: &[Model] = &[
    grouped("llama-3.1-8b", 32, 32, 8, 128, 8.03, "meta-llama/Llama-3.1-8B, config.json and model card"),
    grouped("qwen3-8b", 36, 32, 8, 128, 8.2, "Qwen/Qwen3-8B, config.json and model card"),
    grouped("qwen3-32b", 64, 64, 8, 128, 32.8, "Qwen/Qwen3-32B, config.json and model card"),
    grouped("llama-3.1-70b", 80, 64, 8, 128, 70.6, "meta-llama/Llama-3.1-70B, config.json and model card"),
    grouped("llama-3.1-405b", 126, 128, 8, 128, 405.9, "meta-llama/Llama-3.1-405B, config.json and model card"),
    Model {
        name: "deepseek-v3",
        layers: 61,
        heads: 128,
        score_dim: 192,
        value_dim: 128,
        kv_numbers: 512 + 64,
        active_params_e9: 37.0,
        source: "deepseek-ai/DeepSeek-V3, config.json and model card (MLA: 512 latent + 64 rotary)",
    },
];

/// The model that costs are told for unless another is named.
pub const MODEL_DEFAULT: &str = "llama-3.1-8b";

/// The model of that name.
pub fn model_by_name(name: &str) -> Option<&'static Model> {
    MODELS.iter().find(|model| model.name == name)
}

impl Model {
    /// KV of one token in bf16, in bytes.
    pub fn kv_bytes_per_token(&self) -> u64 {
        u64::from(self.layers) * u64::from(self.kv_numbers) * KV_NUMBER_BYTES
    }
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
    /// H100 SXM: 989 TFLOP/s in dense bf16 (NVIDIA's data sheet), of which half; 2.50 $ a GPU-hour; the price list of Claude Sonnet 5.
    fn default() -> Self {
        Assumptions {
            gpu_peak_tflops: 989.0,
            gpu_utilisation: 0.5,
            step_s: 0.005,
            step_tokens: 8192,
            gpu_dollars_per_hour: 2.50,
            input_dollars_per_mtoken: 2.00,
            cached_dollars_per_mtoken: 0.20,
        }
    }
}

/// Where the defaults of [`Assumptions`] come from, for people.
pub const GPU_SOURCE: &str = "H100 SXM, 989 TFLOP/s dense bf16 (NVIDIA data sheet)";
/// See [`GPU_SOURCE`].
pub const GPU_RATE_SOURCE: &str = "assumed rent, October 2026";
/// See [`GPU_SOURCE`].
pub const PRICE_SOURCE: &str = "Claude Sonnet 5, public price list, October 2026";

/// The cost of prefill as a curve over depth.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CostCurve {
    /// Seconds a step.
    pub c0_s: f64,
    /// Seconds a token.
    pub c1_s: f64,
    /// Seconds a token and token it looks back to.
    pub c2_s: f64,
    /// Tokens of a step.
    pub step_tokens: u64,
}

impl CostCurve {
    /// From a model's shape: 2 operations a parameter and token, and 2 (score + value dimension) a head, layer and pair of tokens.
    pub fn new(model: &Model, assumed: &Assumptions) -> Self {
        let flops = assumed.gpu_peak_tflops * 1e12 * assumed.gpu_utilisation;
        let pair = 2 * model.layers * model.heads * (model.score_dim + model.value_dim);
        CostCurve {
            c0_s: assumed.step_s,
            c1_s: 2.0 * model.active_params_e9 * 1e9 / flops,
            c2_s: f64::from(pair) / flops,
            step_tokens: assumed.step_tokens.max(1),
        }
    }

    /// GPU seconds to prefill tokens `from..to` of a prompt whose tokens before `from` are in KV already; 0 for an empty range.
    pub fn prefill_s(&self, from: u64, to: u64) -> f64 {
        if to <= from {
            return 0.0;
        }
        let (a, b) = (from as f64, to as f64);
        let steps = (to - from).div_ceil(self.step_tokens) as f64;
        self.c0_s * steps + self.c1_s * (b - a) + self.c2_s * (b * b - a * a) / 2.0
    }

    /// GPU seconds saved on a prompt of `prompt` tokens when KV of its first `cached` is read back.
    pub fn saved_s(&self, cached: u64, prompt: u64) -> f64 {
        (self.prefill_s(0, prompt) - self.prefill_s(cached.min(prompt), prompt)).max(0.0)
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
    fn kv_per_token_is_as_published() {
        let bytes = |name| model_by_name(name).unwrap().kv_bytes_per_token();
        assert_eq!(bytes("llama-3.1-8b"), 131_072);
        assert_eq!(bytes("llama-3.1-70b"), 327_680);
        assert_eq!(bytes("llama-3.1-405b"), 516_096);
        assert_eq!(bytes("qwen3-32b"), 262_144);
        assert_eq!(bytes("qwen3-8b"), 147_456);
        assert_eq!(bytes("deepseek-v3"), 70_272);
        assert!(model_by_name("gpt-2").is_none());
        assert!(model_by_name(MODEL_DEFAULT).is_some());
    }

    #[test]
    fn deeper_tokens_cost_more_and_parts_add_up() {
        let curve = CostCurve { c0_s: 0.0, ..CostCurve::new(&MODELS[0], &Assumptions::default()) };
        assert!(curve.prefill_s(100_000, 101_000) > 1.5 * curve.prefill_s(0, 1000));
        let whole = curve.prefill_s(0, 100_000);
        let parts = curve.prefill_s(0, 30_000) + curve.prefill_s(30_000, 100_000);
        assert!((whole / parts - 1.0).abs() < 1e-12);
        // An H100's short-context rate on an 8B model lies near 30,000 tokens a second.
        assert!((20_000.0..40_000.0).contains(&(1000.0 / curve.prefill_s(0, 1000))));
    }

    #[test]
    fn saving_is_bounded_by_the_whole_prefill_and_never_negative() {
        let curve = CostCurve::new(&MODELS[0], &Assumptions::default());
        assert_eq!(curve.saved_s(0, 5000), 0.0);
        assert_eq!(curve.saved_s(9000, 5000), curve.prefill_s(0, 5000));
        assert!(curve.saved_s(4992, 5000) < curve.prefill_s(0, 5000));
        let assumed = Assumptions::default();
        assert!((assumed.gpu_dollars(3600.0) - 2.5).abs() < 1e-12);
        assert!((assumed.list_dollars(1_000_000) - 1.8).abs() < 1e-12);
    }
}
