//! A node: shards, connections, control, metrics, shutdown.
//!
//! The room where the two towers meet: it joins store and engine with wire and links, one thread a shard, one for control, one for metrics. It
//! holds no policy of its own: what is kept is the store's to decide, where a block lives the client's. A shard's thread takes a request from its
//! first byte to its last; the control thread accepts, says who is who, and keeps the catalogue of namespaces.

mod assemble;
mod board;
mod check;
mod config;
mod control;
mod counters;
mod curve;
mod device;
pub mod doctor;
mod drives;
mod events;
mod http;
pub mod inspect;
mod json;
mod lanes;
mod latency;
mod metrics;
mod money;
#[cfg(test)]
mod mutant;
mod node;
mod quota;
mod reconcile;
mod shard;
mod shares;
mod slab;
mod spaces;
mod usage;
mod wake;

// For the binary, which knows the node and nothing below it.
pub use forebay_io::{EndSignals, EngineKind, is_block_device};

pub use config::{DataConfig, Landings, NodeConfig, NodeError, Progress, ProgressFn};
pub use events::{Event, EventFn, Severity};
pub use node::{Node, NodeHandle, ShardReport};
pub use usage::{UsageError, read_usage_log};
