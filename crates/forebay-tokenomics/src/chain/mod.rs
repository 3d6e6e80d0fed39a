//! The whole chain from request to token: sessions ask engines, engines keep KV in GPU and host memory, Forebay stands behind them.
//!
//! A simulation of events from one seed. It repeats to the digit, reads no clock and knows no file. What it takes as given is in [`Fleet`]; what it
//! leaves out is said in `docs/tokenomics.md`.

mod engine;
mod fleet;
mod load;
mod outcome;
mod past;
mod rings;
mod run;
mod sessions;

pub use fleet::{Engine, Fleet, Store};
pub use load::{CHUNK_TOKENS, Load, LoadError, LoadParams, Workload};
pub use outcome::{Limit, Outcome, TierTokens};
pub use run::simulate;
