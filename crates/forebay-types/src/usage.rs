//! What a namespace used: counts in tokens, bytes and time that only grow, so that those of any span are a difference.

use crate::{NamespaceId, Tenant};

macro_rules! usage {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// Counts of one namespace. `offered = served_dram + served_nvme + missed`, exactly.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct Usage {
            $($(#[doc = $doc])+ pub $name: u64,)+
        }

        /// Names of the counts, in the order of [`Usage::counts`].
        pub const USAGE_COUNTS: [&str; [$(stringify!($name)),+].len()] = [$(stringify!($name)),+];

        impl Usage {
            /// All of them, in the order of [`USAGE_COUNTS`].
            pub fn counts(&self) -> [u64; USAGE_COUNTS.len()] {
                [$(self.$name),+]
            }

            /// The reverse.
            pub fn of_counts(counts: [u64; USAGE_COUNTS.len()]) -> Self {
                let [$($name),+] = counts;
                Usage { $($name),+ }
            }
        }
    };
}

usage! {
    /// Tokens of blocks that gets asked for.
    offered_tokens,
    /// Of these, served from DRAM.
    served_dram_tokens,
    /// Of these, served from the drive.
    served_nvme_tokens,
    /// Of these, not served, whatever the reason.
    missed_tokens,
    /// Tokens of blocks that were put and kept.
    written_tokens,
    /// Blocks that were put and kept.
    written_blocks,
    /// Bytes of payload of blocks that were put and kept and whose tokens are known.
    written_payload_bytes,
    /// Tokens of blocks that admission refused.
    refused_tokens,
    /// Bytes written to drives, padding and cleaning's share with them.
    drive_bytes,
    /// Tokens held times seconds: 3,600 are a token-hour.
    held_token_s,
    /// GPU time that computing what was served would have taken, in microseconds.
    saved_gpu_us,
    /// Requests that adapters reported.
    reported_requests,
    /// Tokens of their prompts.
    reported_prompt_tokens,
    /// Of these, found in the engine's own memory: they were never asked of a node.
    reported_engine_tokens,
    /// Of these, taken from what a node served. What was served and is not in here was thrown away.
    used_tokens,
}

/// What an adapter says became of requests' prompts, in tokens. What is neither the engine's own nor used was computed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reported {
    /// Requests.
    pub requests: u64,
    /// Tokens of their prompts.
    pub prompt_tokens: u64,
    /// Of these, found in the engine's own memory.
    pub engine_tokens: u64,
    /// Of these, taken from what a node served.
    pub used_tokens: u64,
}

impl Reported {
    /// The parts are no more than the prompts.
    pub fn adds_up(&self) -> bool {
        self.engine_tokens.checked_add(self.used_tokens).is_some_and(|found| found <= self.prompt_tokens)
    }
}

impl Usage {
    /// Counts what an adapter reported.
    pub fn report(&mut self, reported: &Reported) {
        self.add(&Usage {
            reported_requests: reported.requests,
            reported_prompt_tokens: reported.prompt_tokens,
            reported_engine_tokens: reported.engine_tokens,
            used_tokens: reported.used_tokens,
            ..Usage::default()
        });
    }

    fn zip(&self, other: &Usage, of: impl Fn(u64, u64) -> u64) -> Usage {
        let (mine, theirs) = (self.counts(), other.counts());
        Usage::of_counts(std::array::from_fn(|at| of(mine[at], theirs[at])))
    }

    /// Each count by its name.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
        USAGE_COUNTS.into_iter().zip(self.counts())
    }

    /// Adds another's counts.
    pub fn add(&mut self, other: &Usage) {
        *self = self.zip(other, u64::saturating_add);
    }

    /// What came since an earlier state of the same counts.
    pub fn since(&self, earlier: &Usage) -> Usage {
        self.zip(earlier, u64::saturating_sub)
    }

    /// Nothing was counted.
    pub fn is_zero(&self) -> bool {
        *self == Usage::default()
    }

    /// Nothing happened: if anything was counted, it is the time in which blocks were held.
    pub fn is_only_held(&self) -> bool {
        Usage { held_token_s: 0, ..*self }.is_zero()
    }
}

/// What a namespace used in a span of time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageRow {
    /// Where the span begins, in UTC seconds.
    pub from_utc_s: u64,
    /// Where it ends.
    pub until_utc_s: u64,
    /// Whose namespace it is.
    pub tenant: Tenant,
    /// Its number; 0 for what is left of a tenant's namespaces that nobody has used for long.
    pub namespace: NamespaceId,
    /// Its name, at most [`crate::limits::NAMESPACE_NAME_BYTES_MAX`] bytes.
    pub name: String,
    /// What it used.
    pub usage: Usage,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_come_back_and_spans_are_differences() {
        let early = Usage::of_counts(std::array::from_fn(|at| at as u64));
        let mut late = early;
        late.add(&Usage { used_tokens: 5, held_token_s: 2, ..Usage::default() });
        assert_eq!(late.since(&early), Usage { used_tokens: 5, held_token_s: 2, ..Usage::default() });
        assert_eq!(USAGE_COUNTS[0], "offered_tokens");
        assert_eq!(early.counts()[14], 14);
        assert!(Usage { held_token_s: 1, ..Usage::default() }.is_only_held() && !late.is_only_held());
    }
}
