//! Who owns a key: placement by weighted rendezvous. Drawn with its golden vectors in `docs/placement.md`.
//!
//! The room decides and does nothing: no I/O, no clock, no thread. Every number is an integer, so that a client and a node on different machines
//! never disagree by a rounding.

mod log2;
mod placement;

pub use placement::{Member, Placement};
