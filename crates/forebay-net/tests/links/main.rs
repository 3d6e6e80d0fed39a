//! Links through their public face: bytes both ways, descriptors, who is there, and what an operator is told.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod bytes;
mod descriptors;
mod listening;
mod scratch;
mod simulated;
