//! When a block will be used again, as far as the caller knows.

/// When the caller thinks a block will be used again. A hint: it changes what is kept, never what is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reuse {
    /// Nothing was said.
    #[default]
    Unknown,
    /// The session waits for a tool and will come back within seconds.
    Tool,
    /// The session waits for a person and will come back within minutes, or not.
    Turn,
    /// The session is over.
    Done,
    /// In about that many seconds.
    Seconds(u32),
}
