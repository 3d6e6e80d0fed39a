//! What a fleet costs with Forebay and without: the smallest fleets that keep the same promise, what tokens cost there by class, what moves the
//! answer most, and how far to believe it.

mod advice;
mod backtest;
mod classes;
mod crew;
mod draws;
mod knobs;
mod scenario;

pub use advice::{Advice, AdviceError, SERVERS_MAX, Side, advise, run_side, smallest};
pub use backtest::{BackTest, BackTestError, back_test};
pub use classes::{ClassCost, Classes};
pub use crew::{Crew, alone};
pub use draws::{Ends, Interval, Spread, each_draw, interval, spread};
pub use knobs::{Again, KNOBS, Knob, Move, moves};
pub use scenario::{Choice, Scenario, StorageCost, Targets};
