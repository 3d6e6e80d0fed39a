//! What a client can be told about how to behave.

use std::time::Duration;

use forebay_types::limits::{DEADLINE_US_DEFAULT, DEADLINE_US_MAX, KEYS_PER_MESSAGE_MAX};

use crate::Interrupt;

/// How a [`crate::Client`] behaves. `Options::default()` suits most.
#[derive(Clone)]
pub struct Options {
    /// Credential for TCP: the content of the token file, without the newline. Not used on Unix sockets.
    pub token: Option<Vec<u8>>,
    /// How long a call may take, at most 60 s. What is not done by then is a miss or a refusal by `deadline`. A handle can have its own.
    pub deadline: Duration,
    /// Most memory for blocks in flight and held, in bytes. Taken in steps as it is needed, in huge pages where the machine has them. Past it,
    /// blocks come through sockets into ordinary memory, which is slower.
    pub region_bytes: usize,
    /// Most items unanswered on one connection, at least 1.
    pub in_flight: usize,
    /// Most payload bytes unanswered on one connection; two blocks may always be in flight, however large.
    pub in_flight_bytes: usize,
    /// Most connections to one shard. A call that finds all in use waits for one inside its deadline.
    pub connections: usize,
    /// Longest spin before a wait, in microseconds. It gives its core away between two looks, and stops by itself while it does not help; 0 never
    /// spins.
    pub spin_us: u32,
    /// Length that blocks are expected to have before the first one was seen, in bytes. A wrong hint costs one more round trip.
    pub block_bytes_hint: usize,
    /// How long a call goes on trying to reach a node that is down before it answers `unavailable`. It tries once at least.
    pub patience: Duration,
    /// Asked by calls that wait whether to stop before their deadline. What is unanswered then is a miss or a refusal by `deadline`.
    pub interrupt: Option<Interrupt>,
    /// The guard that is left out.
    #[cfg(feature = "mutants")]
    pub mutant: Option<Mutant>,
}

/// A guard that tests leave out, to show that it matters. Never in a build that applications link.
#[cfg_attr(not(feature = "mutants"), expect(unreachable_pub, reason = "built for tests only"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// A slice whose landing broke off is used again at once.
    ReuseBroken,
    /// A slice whose landing is overdue is used again at once, without the node's word.
    ReuseOverdue,
    /// Payload is handed over whatever its sums say.
    SkipCheck,
    /// Lent memory is free as soon as a node has let go of it, whether it lived afterwards or not.
    LetGoIsEnough,
    /// Lent memory is free as soon as a node greets, whether it has let go of it or not.
    GreetingIsEnough,
    /// A key whose connection broke is counted when it is asked for again, and once more with its outcome.
    RetryCounted,
}

/// Blocks that may be in flight whatever their size: one is on its way while another is verified, copied or thought about. The largest take half of
/// the client's memory so, and what finds none there waits.
pub(crate) const ALWAYS_IN_FLIGHT: usize = 2;

impl Default for Options {
    fn default() -> Self {
        Options {
            token: None,
            deadline: Duration::from_micros(DEADLINE_US_DEFAULT),
            region_bytes: 256 << 20,
            in_flight: 1024,
            in_flight_bytes: 16 << 20,
            connections: 16,
            spin_us: 150,
            block_bytes_hint: 64 << 10,
            patience: Duration::from_millis(250),
            interrupt: None,
            #[cfg(feature = "mutants")]
            mutant: None,
        }
    }
}

impl Options {
    /// Brought into bounds.
    pub(crate) fn bounded(mut self) -> Self {
        self.deadline = bounded_deadline(self.deadline);
        self.in_flight = self.in_flight.clamp(1, KEYS_PER_MESSAGE_MAX);
        self.in_flight_bytes = self.in_flight_bytes.max(1);
        self.connections = self.connections.max(1);
        self.block_bytes_hint = self.block_bytes_hint.clamp(1, forebay_types::limits::BLOCK_BYTES_MAX as usize);
        let alone = std::thread::available_parallelism().is_ok_and(|cores| cores.get() == 1);
        // Spinning on the only core keeps the node from answering.
        self.spin_us = if alone { 0 } else { self.spin_us.min(1000) };
        self
    }
}

impl Options {
    /// Whether this guard is left out.
    #[cfg(feature = "mutants")]
    pub(crate) fn mutant(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    /// Whether this guard is left out: never.
    #[cfg(not(feature = "mutants"))]
    pub(crate) fn mutant(&self, _mutant: Mutant) -> bool {
        false
    }
}

/// A deadline the wire can carry.
pub(crate) fn bounded_deadline(deadline: Duration) -> Duration {
    deadline.clamp(Duration::from_micros(1), Duration::from_micros(DEADLINE_US_MAX))
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("token", &self.token.as_ref().map(|_| ".."))
            .field("deadline", &self.deadline)
            .field("region_bytes", &self.region_bytes)
            .field("in_flight", &self.in_flight)
            .field("in_flight_bytes", &self.in_flight_bytes)
            .field("connections", &self.connections)
            .field("spin_us", &self.spin_us)
            .field("block_bytes_hint", &self.block_bytes_hint)
            .field("patience", &self.patience)
            .field("interrupt", &self.interrupt)
            .finish()
    }
}
