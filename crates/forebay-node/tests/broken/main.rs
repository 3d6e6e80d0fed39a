//! A node under clients that are hostile or broken: nothing they do costs anybody else a byte, and every kind of it is counted.
//!
//! Clients that are killed, thousands of them, and nodes whose memory is measured are processes of their own: this program again, in another role.

#[path = "../hand/mod.rs"]
mod hand;

mod counted;
mod crowd;
mod other;
mod regions;
mod roles;
mod steady;
