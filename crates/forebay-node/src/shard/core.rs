//! What every request of a shard works with.

use std::sync::Arc;

use forebay_io::Engine;
use forebay_store::Store;
use forebay_types::{Clock, Millis, NamespaceId, Tenant, Tier, Usage};

use super::output::Output;
use super::readers::Readers;
use crate::Landings;
use crate::counters::{Counters, Timed};
use crate::lanes::Lanes;
use crate::shares::Shares;
use crate::spaces::{SpaceCounts, Spaces};

/// The store and the numbers of one shard.
pub(crate) struct Core {
    pub(crate) store: Store<Engine>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) clock: Arc<dyn Clock>,
    /// The shard's clock, read once a turn.
    pub(crate) now_us: u64,
    pub(crate) now_ms: Millis,
    pub(crate) align: usize,
    /// Namespaces and their owners, by number.
    pub(crate) tenants: Vec<(NamespaceId, Tenant)>,
    /// What became of each namespace's keys.
    pub(crate) spaces: Spaces,
    /// Whether reads may land in the regions that clients lend.
    pub(crate) landings: Landings,
    /// Reads of gets at the store.
    pub(crate) readers: Readers,
    /// Reads were dropped, of which the store tells in its next turn.
    pub(crate) has_dropped: bool,
    /// Requests that have something to do now.
    pub(crate) lanes: Lanes,
    /// Keys without outcome. Over the shard's share of them, requests are answered `busy`.
    pub(crate) items: usize,
    pub(crate) shares: Shares,
    /// Frames of the step at hand; kept for its memory.
    pub(crate) staged: Output,
}

impl Core {
    /// Counts how long something took that began then.
    pub(crate) fn took(&self, what: Timed, begun_us: u64) {
        self.counters.took(what, self.clock.now_us().saturating_sub(begun_us));
    }

    /// Whether a tenant may use a namespace.
    pub(crate) fn allows(&self, tenant: Tenant, namespace: NamespaceId) -> bool {
        let place = self.tenants.binary_search_by_key(&namespace, |row| row.0);
        place.is_ok_and(|at| self.tenants[at].1 == tenant)
    }

    /// Learns who owns what.
    pub(crate) fn learn_tenants(&mut self) {
        self.tenants = self.store.namespaces().map(|row| (row.id, row.tenant)).collect();
        self.tenants.sort_unstable_by_key(|row| row.0);
        let known: Vec<NamespaceId> = self.tenants.iter().map(|row| row.0).collect();
        self.spaces.retain(|id, _| known.binary_search(id).is_ok());
    }

    /// Brings what spaces tell up to now.
    pub(crate) fn meter(&mut self) {
        for account in self.store.accounts() {
            self.spaces.entry(account.row.id).or_default().meter(self.now_us, &account);
        }
    }

    /// Learns how many tokens blocks hold from what was put in earlier lives.
    pub(crate) fn remember(&mut self, sizes: &[(NamespaceId, Usage)]) {
        for (id, usage) in sizes {
            self.store.remember_sizes(*id, usage.written_blocks, usage.written_tokens, usage.written_payload_bytes);
        }
    }

    /// Counts bytes of a block that a get was served with.
    pub(crate) fn served(&mut self, id: NamespaceId, tier: Tier, bytes: u64) {
        let tokens = self.store.block_tokens(id, bytes);
        let space = self.space(id);
        space.get_hits += 1;
        match tier {
            Tier::Dram => space.usage.served_dram_tokens += tokens,
            Tier::Nvme => space.usage.served_nvme_tokens += tokens,
        }
    }

    /// A namespace's counts; of one that is not there, counts that are looked at by nobody.
    pub(crate) fn space(&mut self, id: NamespaceId) -> &mut SpaceCounts {
        self.spaces.entry(id).or_default()
    }
}
