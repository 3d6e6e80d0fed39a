//! The wire through its public face: golden bytes, the way there and back, damage, hostile bytes.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod damage;
mod golden;
mod hostile;
mod round_trip;
mod samples;
mod views;
