//! Links: Unix sockets that carry descriptors, and TCP.
//!
//! This room moves bytes and descriptors between two ends and says who the other end is. It parses no message, keeps no buffer, starts no
//! thread, and waits only where it is told to and as long as it is told to. Every socket is nonblocking from its first moment.

mod error;
mod link;
mod listener;
pub mod sim;
mod socket;

pub use error::ListenError;
pub use link::Link;
pub use listener::Listener;
pub use socket::{FDS_MAX, Peer, Readiness, Socket};
