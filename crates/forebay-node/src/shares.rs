//! What the shards of a node have between them and no arena holds: descriptors, and memory for what is half received or not sent yet.
//!
//! Each is a ceiling of the node, not of a connection: what one peer may do, ten thousand may do at once, and the node must hold them all.

use forebay_types::limits::MESSAGE_BYTES_MAX;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Connections a node has at most. An idle one costs a descriptor and under 2 KiB.
pub(crate) const CONNECTIONS_MAX: usize = 16_384;

/// Regions of all connections. Each costs a descriptor and a mapping, of which a process has some 65,000 unless its administrator says otherwise.
const REGIONS_MAX: usize = 16_384;

/// More descriptors than this are of no use to a node.
const DESCRIPTORS_MAX: usize = 1 << 20;

/// Descriptors of the node itself: listeners, catalogue, metrics, what a process is born with, and of regions that are gone and wait to be unmapped.
const OWN_DESCRIPTORS: usize = 96 + 32;
/// A shard's: drive, ring, wake-ups.
const SHARD_DESCRIPTORS: usize = 8;

/// Bytes of half-received messages, over all shards: four of the largest.
const INPUT_BYTES: usize = 4 * INPUT_BYTES_MIN;
/// The largest message must fit a shard's part, with its header.
const INPUT_BYTES_MIN: usize = MESSAGE_BYTES_MAX + (4 << 10);

/// Bytes of answers that peers have not taken yet, over all shards. Payload is not among them: it is sent from where it lies.
const OUTPUT_BYTES: usize = 16 << 20;
/// One answer to each of a few connections.
const OUTPUT_BYTES_MIN: usize = 2 << 20;

/// Keys without an answer, over all shards.
const ITEMS: usize = 131_072;
/// What one of them takes, in bytes, about.
const ITEM_BYTES: usize = 100;
/// Two of the largest messages.
const ITEMS_MIN: usize = 8192;

/// One shard's part, and the node's where shards cannot know how many a neighbour has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shares {
    /// Connections of the node. All may be one shard's.
    pub(crate) connections: usize,
    /// Regions of this shard's connections.
    pub(crate) regions: usize,
    /// Descriptors that came and wait for their message.
    pub(crate) waiting_fds: usize,
    pub(crate) input_bytes: usize,
    pub(crate) output_bytes: usize,
    pub(crate) items: usize,
}

impl Shares {
    /// Raises this process's limit of open descriptors as far as it may, and shares out what there is. With a sentence, when that is less than
    /// a node could use.
    pub(crate) fn of_process(shards: usize) -> (Self, Option<String>) {
        let descriptors = raise_descriptors();
        let shares = Shares::of(descriptors, shards);
        let note = (shares.connections < CONNECTIONS_MAX).then(|| {
            format!(
                "this process may have {descriptors} descriptors open, so at most {} connections are served at once, not {CONNECTIONS_MAX}, and {} \
                 regions; raise the limit with `ulimit -n {}`, or LimitNOFILE= in its systemd unit",
                shares.connections,
                shares.regions * shards,
                needed_descriptors(shards)
            )
        });
        (shares, note)
    }

    fn of(descriptors: usize, shards: usize) -> Self {
        let (descriptors, shards) = (descriptors.min(DESCRIPTORS_MAX), shards.max(1));
        // A process with next to none serves a few all the same: who finds none free is told.
        let free = descriptors.saturating_sub(OWN_DESCRIPTORS + SHARD_DESCRIPTORS * shards).max(16);
        // An application holds a handful of connections and lends a region or two on those it works with; idle ones lend none.
        let connections = CONNECTIONS_MAX.min(free - free / 4);
        let regions = REGIONS_MAX.min((free - connections) * 3 / 4) / shards;
        let waiting_fds = ((free - connections) / 4 / shards).clamp(1, 1024);
        Shares {
            connections,
            regions: regions.max(1),
            waiting_fds,
            input_bytes: (INPUT_BYTES / shards).max(INPUT_BYTES_MIN),
            output_bytes: (OUTPUT_BYTES / shards).max(OUTPUT_BYTES_MIN),
            items: (ITEMS / shards).max(ITEMS_MIN),
        }
    }
}

/// What a shard's least shares take beyond its even part of the node's, in bytes. A node of a few shards has none. With more, the leasts
/// would add up past the 64 MiB that a node takes beside its memory, so each shard pays for its own out of its memory.
pub(crate) fn beyond_bytes(shards: usize) -> u64 {
    let beyond = |all: usize, least: usize| least.saturating_sub(all / shards.max(1));
    let bytes = beyond(INPUT_BYTES, INPUT_BYTES_MIN)
        + beyond(OUTPUT_BYTES, OUTPUT_BYTES_MIN)
        + beyond(ITEMS, ITEMS_MIN) * ITEM_BYTES;
    bytes as u64
}

/// Descriptors with which nothing is cut short.
pub(crate) fn needed_descriptors(shards: usize) -> usize {
    (OWN_DESCRIPTORS + SHARD_DESCRIPTORS * shards + CONNECTIONS_MAX + REGIONS_MAX * 4 / 3).next_multiple_of(1024)
}

/// How many descriptors this process may have, after asking for as many as it may ask for.
fn raise_descriptors() -> usize {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    }
    getrlimit(Resource::Nofile).current.map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_fit_what_there_is() {
        for descriptors in [64, 256, 1024, 20_000, 65_536, DESCRIPTORS_MAX] {
            for shards in [1, 2, 8, 256] {
                let shares = Shares::of(descriptors, shards);
                let own = OWN_DESCRIPTORS + SHARD_DESCRIPTORS * shards;
                let used = own + shares.connections + (shares.regions + shares.waiting_fds) * shards;
                assert!(used <= descriptors.max(own + 16) + 2 * shards, "{descriptors} for {shards}: {shares:?}");
                assert!(shares.connections >= 12 && shares.connections <= CONNECTIONS_MAX);
            }
        }
        assert_eq!(Shares::of(usize::MAX, 3), Shares::of(DESCRIPTORS_MAX, 3));
        let all = Shares::of(needed_descriptors(1), 1);
        assert_eq!((all.connections, all.regions), (CONNECTIONS_MAX, REGIONS_MAX), "what is named as enough is enough");
        assert!(Shares::of(20_000, 1).connections > 10_000);
    }

    #[test]
    fn however_many_shards_there_are_their_shares_take_no_more_than_one_shards_would() {
        let bytes = |shares: &Shares| shares.input_bytes + shares.output_bytes + shares.items * ITEM_BYTES;
        let one = bytes(&Shares::of(DESCRIPTORS_MAX, 1)) as u64;
        for shards in 1..=256u64 {
            let shares = Shares::of(DESCRIPTORS_MAX, shards as usize);
            assert!(shares.input_bytes > MESSAGE_BYTES_MAX, "{shards}: the largest message fits");
            let paid = beyond_bytes(shards as usize) * shards;
            assert!(bytes(&shares) as u64 * shards <= one + paid, "{shards}: {shares:?}, {paid} paid");
        }
        assert_eq!(beyond_bytes(3), 0);
        assert!(beyond_bytes(256) > 6 << 20);
    }
}
