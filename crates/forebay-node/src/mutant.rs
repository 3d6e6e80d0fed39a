//! Guards that unit tests leave out, one at a time, to show that each matters. What serves is built without.

/// A guard that can be left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// Each connection is taken for a peer of its own.
    TurnsByConnection,
    /// Requests take turns, whoever they are from.
    TurnsByRequest,
    /// A peer may have as much at the store as it asks for.
    ReadsUnbounded,
    /// A listener never rests.
    GateNeverRests,
}
