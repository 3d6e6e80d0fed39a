//! The store over the disk that forgets, judged from outside.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests, which clippy does not know as such")]

mod admission;
mod budget;
mod crash;
mod expiry;
mod fairness;
mod faults;
mod flips;
mod grouping;
mod hints;
mod kept;
mod left_out;
mod model;
mod money;
mod mutants;
mod pays;
mod policy;
mod promises;
mod rig;
mod room;
mod scrub;
mod story;
mod tombs;
mod traces;
mod under_worth;
mod worth;
