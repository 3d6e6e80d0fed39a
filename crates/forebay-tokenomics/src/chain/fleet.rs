//! What serves: engines, servers, and Forebay's tiers, in the units the simulation reckons in.

use crate::book::Model;
use crate::cost::CostCurve;

/// One engine: the GPUs that hold one copy of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Engine {
    /// The model.
    pub model: Model,
    /// Its GPUs.
    pub gpus: u32,
    /// Seconds on the clock of prefill, all its GPUs working.
    pub curve: CostCurve,
    /// Seconds on the clock for each token of output beside what prefill of a token takes.
    pub output_s: f64,
    /// Bytes a second that decoding reads from GPU memory, of all its GPUs together.
    pub memory_bandwidth: f64,
    /// Tokens of KV its GPU memory holds.
    pub kv_tokens: u64,
    /// Requests it runs at once, at most.
    pub running_max: u32,
    /// Tokens of KV its own host tier holds.
    pub host_tokens: u64,
    /// Bytes a second between host memory and GPUs.
    pub host_bandwidth: f64,
}

/// Forebay's tiers, shared by all engines.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Store {
    /// Tokens its DRAM holds.
    pub memory_tokens: u64,
    /// Tokens its drives hold; what is in DRAM is there too.
    pub drive_tokens: u64,
    /// Bytes a second that loads read from all drives.
    pub drive_bandwidth: f64,
    /// Bytes a second that loads read from all its DRAM; infinite where the links alone bound it.
    pub memory_bandwidth: f64,
    /// Bytes a second that arrive at a server.
    pub link_bandwidth: f64,
    /// Seconds before the first byte of a load.
    pub first_byte_s: f64,
}

/// A fleet.
#[derive(Debug, Clone, PartialEq)]
pub struct Fleet {
    /// What each engine is.
    pub engine: Engine,
    /// Engines.
    pub engines: u32,
    /// Engines that share a server's link.
    pub engines_per_server: u32,
    /// Forebay, unless it runs without.
    pub store: Option<Store>,
}

impl Engine {
    /// Seconds of one step: `prefill_s` of computing prompts, and one token for each of `decoding` requests with `context` tokens of KV together:
    /// (weights + KV) / bandwidth + computing. Where nothing decodes, reading the weights hides behind computing.
    pub fn step_s(&self, prefill_s: f64, decoding: u32, context: f64) -> f64 {
        let fixed = if prefill_s > 0.0 { 0.0 } else { self.curve.c0_s };
        fixed + prefill_s + self.decode_s(decoding, context)
    }

    /// What decoding adds to a step.
    pub fn decode_s(&self, decoding: u32, context: f64) -> f64 {
        if decoding == 0 {
            return 0.0;
        }
        let n = f64::from(decoding);
        let read = self.model.weights_read_bytes(n) + context * self.model.kv_bytes_per_token() as f64;
        let fixed_kv = n * self.model.kv_bytes_fixed() as f64;
        (read + fixed_kv) / self.memory_bandwidth + n * (self.curve.c1_s + self.output_s)
    }

    /// What one more token of context adds to a step.
    pub fn context_s(&self) -> f64 {
        self.model.kv_bytes_per_token() as f64 / self.memory_bandwidth
    }
}
