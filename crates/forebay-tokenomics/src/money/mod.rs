//! What a fleet costs with Forebay and without: the smallest fleets that keep the same promise, what tokens cost there by class, what moves the
//! answer most, and how far to believe it.

mod advice;
mod backtest;
mod classes;
mod knobs;
mod scenario;

pub use advice::{
    Advice, AdviceError, Interval, SERVERS_MAX, Side, Spread, advise, interval, run_side, smallest, spread,
};
pub use backtest::{BackTest, BackTestError, back_test};
pub use classes::{ClassCost, Classes};
pub use knobs::{Again, KNOBS, Knob, Move, moves};
pub use scenario::{Choice, Scenario, StorageCost, Targets};
