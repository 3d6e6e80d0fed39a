//! What tokens cost by class: a fleet's whole cost, shared out by what each class took of it.

use super::scenario::{Scenario, StorageCost};
use crate::chain::Outcome;

/// One class: what it cost and how much of it there was.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct ClassCost {
    /// Dollars over the measured time.
    pub dollars: f64,
    /// Tokens, or token-hours of what is held.
    pub tokens: f64,
}

impl ClassCost {
    /// Dollars per million; 0 of none.
    pub fn per_million(&self) -> f64 {
        if self.tokens > 0.0 { self.dollars / self.tokens * 1e6 } else { 0.0 }
    }
}

/// All classes. What they cost together is what the fleet cost: prices times tokens are the total.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Classes {
    /// Prompt tokens that were computed.
    pub input: ClassCost,
    /// Prompt tokens that were found, wherever.
    pub cache_read: ClassCost,
    /// Tokens written to Forebay.
    pub cache_write: ClassCost,
    /// Token-hours that Forebay held.
    pub hold: ClassCost,
    /// Tokens of answers.
    pub output: ClassCost,
}

impl Classes {
    /// Shares out what a fleet cost over the measured time.
    ///
    /// GPUs are shared by GPU seconds: computing prompts is input, making tokens is output but for the time that reading KV of prompts takes, which is
    /// the prompts': a token that is held in GPU memory is read in every step, whoever computed it. So reading found tokens is cache read, as is the GPU
    /// memory that loads hold while they are on their way, and reading computed ones is input; idle time follows these. GPU memory that holds what
    /// nobody uses at that moment is charged to nobody: it goes to the next request that asks for it. Host memory that caches KV is part of the GPU's rent, at
    /// the book's price of DRAM, and cache read. Wear of drives is cache write, all other storage is hold. A class without tokens has no price, so what it
    /// would have cost is input's; without input, output's.
    pub fn new(scenario: &Scenario, servers: u32, outcome: &Outcome, storage: &StorageCost) -> Classes {
        let hours = outcome.measured_s / 3600.0;
        let gpus = scenario.gpu_dollars_per_hour(servers) * hours;
        let host = (scenario.host_dollars_per_hour(servers) * hours).min(gpus);
        let (found_s, fresh_s) = (outcome.found_read_gpu_s, outcome.fresh_read_gpu_s);
        let busy = outcome.prefill_gpu_s + outcome.decode_gpu_s + outcome.loading_gpu_s;
        let share = |gpu_s: f64| if busy > 0.0 { (gpus - host) * gpu_s / busy } else { 0.0 };
        let class = |dollars: f64, tokens: f64| ClassCost { dollars, tokens };
        let wear = storage.wear.min(storage.drives) * hours;
        let mut classes = Classes {
            input: class(share(outcome.prefill_gpu_s + fresh_s), outcome.tokens.fresh as f64),
            cache_read: class(host + share(outcome.loading_gpu_s + found_s), outcome.tokens.cached() as f64),
            cache_write: class(wear, outcome.written_tokens as f64),
            hold: class(storage.total() * hours - wear, outcome.held_token_hours),
            output: class(share((outcome.decode_gpu_s - found_s - fresh_s).max(0.0)), outcome.output_tokens as f64),
        };
        let idle = if busy > 0.0 { 0.0 } else { gpus - host };
        classes.settle(idle);
        classes
    }

    fn settle(&mut self, idle: f64) {
        let mut homeless = idle;
        for class in [&mut self.cache_read, &mut self.cache_write, &mut self.hold] {
            if class.tokens <= 0.0 {
                homeless += std::mem::take(&mut class.dollars);
            }
        }
        if self.output.tokens <= 0.0 {
            homeless += std::mem::take(&mut self.output.dollars);
        }
        if self.input.tokens > 0.0 || self.output.tokens <= 0.0 {
            self.input.dollars += homeless;
        } else {
            self.output.dollars += homeless + std::mem::take(&mut self.input.dollars);
        }
    }

    /// In all.
    pub fn dollars(&self) -> f64 {
        [self.input, self.cache_read, self.cache_write, self.hold, self.output].iter().map(|class| class.dollars).sum()
    }

    /// Dollars per million tokens found, all that they need counted: reading, holding and writing.
    pub fn cached_per_million(&self) -> f64 {
        let dollars = self.cache_read.dollars + self.cache_write.dollars + self.hold.dollars;
        ClassCost { dollars, ..self.cache_read }.per_million()
    }

    /// Dollars an hour at a price list: fresh input, found input as cached, output.
    pub fn revenue(&self, prices: &crate::book::PriceList) -> f64 {
        let cached = prices.cache_read.unwrap_or(prices.input);
        (self.input.tokens * prices.input + self.cache_read.tokens * cached + self.output.tokens * prices.output) / 1e6
            * prices.day_factor()
    }
}
