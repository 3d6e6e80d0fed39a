//! Namespaces of a shard: short numbers for the index, bytes held, and the table on the drive.

use std::collections::BTreeMap;

use forebay_format::{ClockMark, NamespaceRow, NamespaceTable, WriteMark};
use forebay_io::Disk;
use forebay_tokenomics::{Reckoning, SpaceCost};
use forebay_types::limits::NAMESPACES_MAX;
use forebay_types::{Class, Namespace, NamespaceId};

use crate::face::Event;
use crate::money::Account;
use crate::mutant::Mutant;
use crate::store::Store;

/// One namespace.
pub(crate) struct Slot {
    pub(crate) row: NamespaceRow,
    /// Bytes on the drive with padding.
    pub(crate) bytes: u64,
    /// Blocks held, and their bytes of payload.
    pub(crate) blocks: u64,
    pub(crate) payload_bytes: u64,
    /// Removed; its blocks are being swept from the index, and its short number is not given again before they are gone.
    pub(crate) purging: bool,
    pub(crate) account: Account,
}

/// All namespaces of a shard.
#[derive(Default)]
pub(crate) struct Namespaces {
    /// The book that costs are reckoned by.
    reckoning: Reckoning,
    slots: Vec<Option<Slot>>,
    by_id: BTreeMap<NamespaceId, u16>,
    pub(crate) sequence: u64,
    /// Callers who wait for the table to be saved.
    pub(crate) unsaved: Vec<u64>,
    pub(crate) saving: bool,
    /// Callers whom the table being written will satisfy.
    in_table: Vec<u64>,
    /// Short number and next table of the index to sweep.
    pub(crate) purge: Option<(u16, usize)>,
}

impl Namespaces {
    pub(crate) fn load(table: NamespaceTable, reckoning: Reckoning) -> Self {
        let mut all = Namespaces { reckoning, sequence: table.sequence, ..Namespaces::default() };
        for row in table.rows {
            all.upsert(row);
        }
        all
    }

    pub(crate) fn table(&self, clock: ClockMark, write: WriteMark) -> NamespaceTable {
        NamespaceTable { sequence: self.sequence, clock, write, rows: self.rows().cloned().collect() }
    }

    /// What blocks of a namespace cost to compute, by its fingerprint.
    pub(crate) fn cost_of(&self, row: &NamespaceRow) -> SpaceCost {
        let tokens = row.fingerprint.get("block_tokens").parse().unwrap_or(0);
        SpaceCost::of(self.reckoning, row.fingerprint.get("model"), tokens)
    }

    pub(crate) fn rows(&self) -> impl Iterator<Item = &NamespaceRow> {
        self.slots().map(|slot| &slot.row)
    }

    /// False when there are too many.
    pub(crate) fn upsert(&mut self, row: NamespaceRow) -> bool {
        if let Some(slot) = self.by_id.get(&row.id).and_then(|at| self.slots[usize::from(*at)].as_mut()) {
            slot.row = row;
            return true;
        }
        let id = row.id;
        let account = Account::new(self.cost_of(&row));
        let slot = Some(Slot { row, bytes: 0, blocks: 0, payload_bytes: 0, purging: false, account });
        let at = match self.slots.iter().position(Option::is_none) {
            Some(at) => {
                self.slots[at] = slot;
                at
            }
            // Twice the catalogue's bound: as many may be on their way out.
            None if self.slots.len() >= 2 * NAMESPACES_MAX => return false,
            None => {
                self.slots.push(slot);
                self.slots.len() - 1
            }
        };
        self.by_id.insert(id, at as u16);
        true
    }

    pub(crate) fn begin_save(&mut self) {
        self.saving = true;
        self.in_table = std::mem::take(&mut self.unsaved);
    }

    /// The callers whom the table just written satisfies.
    pub(crate) fn unsaved_taken(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.in_table)
    }

    /// Takes a namespace out of sight. Its slot stays until [`Self::vacate`].
    pub(crate) fn remove(&mut self, id: NamespaceId) -> bool {
        let Some(at) = self.by_id.remove(&id) else { return false };
        if let Some(slot) = &mut self.slots[usize::from(at)] {
            slot.purging = true;
        }
        true
    }

    pub(crate) fn next_to_purge(&self) -> Option<u16> {
        self.slots.iter().position(|slot| slot.as_ref().is_some_and(|s| s.purging)).map(|at| at as u16)
    }

    pub(crate) fn vacate(&mut self, at: u16) {
        self.slots[usize::from(at)] = None;
    }

    pub(crate) fn find(&self, id: NamespaceId) -> Option<u16> {
        self.by_id.get(&id).copied()
    }

    pub(crate) fn get(&self, at: u16) -> Option<&Slot> {
        self.slots.get(usize::from(at))?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, at: u16) -> Option<&mut Slot> {
        self.slots.get_mut(usize::from(at))?.as_mut()
    }

    /// Those that are not on their way out.
    pub(crate) fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter().flatten().filter(|slot| !slot.purging)
    }

    pub(crate) fn is_durable(&self, at: u16) -> bool {
        self.get(at).is_some_and(|slot| slot.row.class == Class::Durable)
    }

    /// A block is held from now on that takes so many bytes with padding, and has so many of payload.
    pub(crate) fn add_block(&mut self, at: u16, bytes: u64, payload_bytes: u64) {
        if let Some(Some(slot)) = self.slots.get_mut(usize::from(at)) {
            slot.bytes += bytes;
            slot.payload_bytes += payload_bytes;
            slot.blocks += 1;
        }
    }

    /// The reverse.
    pub(crate) fn remove_block(&mut self, at: u16, bytes: u64, payload_bytes: u64) {
        if let Some(Some(slot)) = self.slots.get_mut(usize::from(at)) {
            slot.bytes -= bytes;
            slot.payload_bytes -= payload_bytes;
            slot.blocks -= 1;
        }
    }

    /// Bytes of all and of the durable ones.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        self.slots.iter().flatten().fold((0, 0), |(all, durable), slot| {
            let d = if slot.row.class == Class::Durable { slot.bytes } else { 0 };
            (all + slot.bytes, durable + d)
        })
    }
}

impl<D: Disk> Store<D> {
    /// Adds a namespace or changes its quota. [`Event::NamespaceSaved`] follows; it can be used at once.
    pub fn upsert_namespace(&mut self, token: u64, ns: &Namespace) {
        let row = NamespaceRow::from(ns);
        if self.namespaces.find(ns.id).and_then(|at| self.namespaces.get(at)).is_some_and(|slot| slot.row == row)
            && !self.namespaces.saving
        {
            self.events.push(Event::NamespaceSaved { token, ok: true });
            return;
        }
        let is_new = self.namespaces.find(ns.id).is_none();
        if self.write_failed || !self.namespaces.upsert(row) {
            self.events.push(Event::NamespaceSaved { token, ok: false });
            return;
        }
        if is_new && let Some(at) = self.namespaces.find(ns.id) {
            self.policy.space(at, self.namespaces.cost_of(&NamespaceRow::from(ns)));
        }
        self.namespaces.unsaved.push(token);
    }

    /// Drops a namespace and all its blocks. [`Event::NamespaceSaved`] follows; its blocks are gone at once.
    pub fn remove_namespace(&mut self, token: u64, id: NamespaceId) {
        self.namespaces.remove(id);
        if self.mutant(Mutant::RemovalNotWritten) {
            self.events.push(Event::NamespaceSaved { token, ok: true });
        } else if self.write_failed {
            self.events.push(Event::NamespaceSaved { token, ok: false });
        } else {
            self.namespaces.unsaved.push(token);
        }
    }

    /// The drive's table of namespaces. Secrets are not in it.
    pub fn namespaces(&self) -> impl Iterator<Item = &NamespaceRow> {
        self.namespaces.rows()
    }

    /// Bytes on the drive, with padding, that a namespace holds here.
    pub fn namespace_bytes(&self, id: NamespaceId) -> u64 {
        self.namespaces.find(id).and_then(|at| self.namespaces.get(at)).map_or(0, |slot| slot.bytes)
    }
}
