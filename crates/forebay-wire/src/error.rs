//! What can be wrong with bytes or messages, sorted by blame.

/// Whose fault an error is, which decides what to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// Bytes changed on the way. Close and connect again; count it, for a link that does this is ill.
    Path,
    /// The peer does not speak this protocol, or speaks it wrongly. Close; trying again will not help.
    Peer,
}

/// Why received bytes are not a message. A peer's bytes can never be a bug here: they are one of these. After any of them the connection
/// cannot be used: where the next frame begins is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The first two bytes of a header are not the protocol's.
    #[error("the peer does not speak Forebay's protocol (a frame starts with {0:#06x}); is the address right?")]
    Magic(u16),
    /// A header does not match its checksum.
    #[error("a frame's header was damaged on the way; connect again")]
    HeaderChecksum,
    /// A body does not match its checksum.
    #[error("a message's body was damaged on the way; connect again")]
    BodyChecksum,
    /// A kind of message that no version up to this one has.
    #[error(
        "the peer sent a message of kind {0}, which this build does not know; are both ends of neighbouring versions?"
    )]
    UnknownKind(u8),
    /// A number over its ceiling.
    #[error("the peer sent {have} {what}, and the most is {max}")]
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// How much it said.
        have: u64,
        /// The ceiling.
        max: u64,
    },
    /// A body ends before its fields do.
    #[error("the peer sent a message that ends before its fields do")]
    Short,
    /// Bytes behind the last field.
    #[error("the peer sent a message with {0} bytes behind its last field")]
    Trailing(usize),
    /// A field with a value that it cannot have.
    #[error("the peer sent a malformed message: {0}")]
    Malformed(&'static str),
}

impl WireError {
    /// Whose fault it is.
    pub fn blame(&self) -> Blame {
        match self {
            WireError::HeaderChecksum | WireError::BodyChecksum => Blame::Path,
            _ => Blame::Peer,
        }
    }
}

/// Why a message cannot be sent: it is over a ceiling. The sender must split it or say less; nothing was appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a message would have {have} {what}, and the most is {max}")]
pub struct EncodeError {
    /// What there is too much of.
    pub what: &'static str,
    /// How much there is.
    pub have: usize,
    /// The ceiling.
    pub max: usize,
}
