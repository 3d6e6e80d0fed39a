//! The store over the disk that forgets, judged from outside.

mod rig;
mod story;
