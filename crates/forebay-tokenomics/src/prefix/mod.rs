//! Replay over a prefix tree: policies that evict only leaves of what is resident, and what can at best be reached.
//!
//! A prompt's KV is used from its head on, so a block without the blocks before it is worth nothing. Policies here rank the ends of chains and never a
//! block by itself. Prompts are kept as extents (see [`tree`]): 17 million references of blocks are a few hundred thousand of extents.

mod bound;
mod chains;
mod curve;
mod drive;
mod future;
mod gdsf;
mod instant;
mod leaves;
mod lru;
mod order;
mod policy;
mod s3_fifo;
mod segments;
mod sieve;
pub mod tree;
mod worth;

pub use bound::upper_bound_s;
pub use curve::LruCurve;
pub use drive::{DriveParams, DriveTooSmall, Found, SegmentsCount};
pub use future::{Clairvoyant, Future, Min};
pub use gdsf::Gdsf;
pub use instant::{InstantCount, replay_instant, replay_on};
pub use lru::PrefixLru;
pub use policy::{Part, PrefixPolicy, Use, Valued, Victim};
pub use s3_fifo::PrefixS3Fifo;
pub use segments::{SEGMENTS_DEFAULT, replay_drive, replay_segments};
pub use sieve::Sieve;
pub use worth::{Worth, WorthCurve};
