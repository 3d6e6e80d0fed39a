//! The store over the disk that forgets, judged from outside.

mod crash;
mod mutants;
mod rig;
mod room;
mod story;
