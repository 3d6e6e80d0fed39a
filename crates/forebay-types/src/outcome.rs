//! What a call answers, per key. A miss is an outcome, not an error.

use std::fmt;

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $code:literal $word:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum $name { $($(#[$vdoc])* $variant = $code),* }

        impl $name {
            /// Every value, in the order of its code.
            pub const ALL: &'static [$name] = &[$($name::$variant),*];
            /// The one word used in metrics, JSON and messages.
            pub const fn word(self) -> &'static str { match self { $($name::$variant => $word),* } }
            /// The code on the wire.
            pub const fn code(self) -> u8 { self as u8 }
            /// From the code on the wire.
            pub const fn from_code(code: u8) -> Option<Self> { match code { $($code => Some($name::$variant),)* _ => None } }
            /// Position in [`Self::ALL`].
            pub fn index(self) -> usize { Self::ALL.iter().position(|x| *x == self).unwrap_or(0) }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(self.word()) }
        }
    };
}

words!(
    /// Where a hit came from.
    Tier {
        /// The shard's DRAM.
        Dram = 1 "dram",
        /// The shard's drive.
        Nvme = 2 "nvme",
    }
);

words!(
    /// Why a key was not served.
    MissReason {
        /// Never seen, or forgotten, or evicted too long ago to be remembered.
        Absent = 1 "absent",
        /// Evicted; the shard still remembers that it was here.
        Evicted = 2 "evicted",
        /// Past its expiry.
        Expired = 3 "expired",
        /// Not finished before the call's deadline.
        Deadline = 4 "deadline",
        /// The bytes did not match their sums. They were dropped, never handed over.
        Corrupt = 5 "corrupt",
        /// The namespace does not exist any more, or is not the caller's.
        Namespace = 6 "namespace",
        /// The shard does not own this key under the current membership.
        NotMine = 7 "not_mine",
        /// Over a rate or size that the namespace is entitled to.
        Quota = 8 "quota",
        /// The shard's queues are full.
        Busy = 9 "busy",
        /// The node could not be reached, or its drive failed.
        Unavailable = 10 "unavailable",
    }
);

words!(
    /// Why a put was refused.
    RefusedReason {
        /// The policy judged the block not worth its write.
        Admission = 1 "admission",
        /// The namespace is at its quota and its class may not lose blocks.
        Quota = 2 "quota",
        /// The drive holds nothing that may be evicted.
        Full = 3 "full",
        /// 0 bytes, or larger than the shard's largest block.
        TooLarge = 4 "too_large",
        /// The namespace does not exist any more, or is not the caller's.
        Namespace = 5 "namespace",
        /// The shard's queues are full.
        Busy = 6 "busy",
        /// Not finished before the call's deadline. It may still be kept; what is served later is right.
        Deadline = 7 "deadline",
        /// The node could not be reached, its drive failed, or the bytes it received did not match their sums.
        Unavailable = 8 "unavailable",
    }
);

words!(
    /// How a hit's bytes reached the caller's memory.
    LandingKind {
        /// The drive wrote them there.
        Direct = 1 "direct",
        /// Through the shard's arena.
        Bounce = 2 "bounce",
        /// Through a socket, in DATA frames.
        Stream = 3 "stream",
    }
);

/// What a put answers for one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PutOutcome {
    /// Kept, and may vanish at any time. If served, it is right.
    Cached,
    /// The bytes and the record that finds them are on stable storage.
    Durable,
    /// A complete put of this key is held already; the bytes did not move.
    Exists,
    /// Not kept.
    Refused(RefusedReason),
}

impl PutOutcome {
    /// True unless refused: the key can be asked for.
    pub fn is_kept(self) -> bool {
        !matches!(self, PutOutcome::Refused(_))
    }

    /// The code on the wire: outcome, then the reason or 0.
    pub fn codes(self) -> (u8, u8) {
        match self {
            PutOutcome::Cached => (1, 0),
            PutOutcome::Durable => (2, 0),
            PutOutcome::Exists => (3, 0),
            PutOutcome::Refused(reason) => (4, reason.code()),
        }
    }

    /// From the codes on the wire.
    pub fn from_codes(outcome: u8, reason: u8) -> Option<Self> {
        Some(match (outcome, reason) {
            (1, 0) => PutOutcome::Cached,
            (2, 0) => PutOutcome::Durable,
            (3, 0) => PutOutcome::Exists,
            (4, reason) => PutOutcome::Refused(RefusedReason::from_code(reason)?),
            _ => return None,
        })
    }
}

impl fmt::Display for PutOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PutOutcome::Cached => f.write_str("cached"),
            PutOutcome::Durable => f.write_str("durable"),
            PutOutcome::Exists => f.write_str("exists"),
            PutOutcome::Refused(reason) => write!(f, "refused: {reason}"),
        }
    }
}
