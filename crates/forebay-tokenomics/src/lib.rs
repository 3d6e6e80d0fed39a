//! What a token costs: books of models, hardware and prices, policies, trace records, cost curves and the arithmetic of a replay.
//!
//! Everything here is a pure function of its arguments: traces come as readers or bytes, chance as a seed, time not at all. It knows no disk,
//! no network and no clock, so that the store and a forecast can share one policy.

pub mod bill;
pub mod book;
pub mod chain;
pub mod cleaning;
pub mod cost;
pub mod money;
pub mod policy;
pub mod prefix;
mod replay;
mod returns;
mod seeded;
mod space;
pub mod trace;
mod usage;

pub use policy::{
    Expected, Lru, POLICY_NAMES, Policy, Put, Rank, Reuse, S3Fifo, Turn, Worth, policy_by_name, policy_bytes_max,
};
pub use replay::{ReplayCount, replay, replay_lru};
pub use space::{Reckoning, SpaceCost};
pub use usage::{Reconciled, coarsen, reconcile};
