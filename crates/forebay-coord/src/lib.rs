//! The coordinator: the little that is mutable and must be agreed on. The catalogue of namespaces, and who is a member.
//!
//! A [`Coordinator`] is asked when a client attaches, a namespace is made or a node starts, never on the path of a block; when it is out, only such
//! changes stop. [`Embedded`] keeps everything in one file for one machine. The room knows no drive, no network and no clock.

mod embedded;
mod error;
mod rows;

use forebay_types::{Class, Epoch, Fingerprint, Namespace, NamespaceId, ShardId, Tenant};

pub use embedded::Embedded;
pub use error::{CoordError, OpenError};

/// Most members of one mesh: a table that every client holds and walks.
pub const MEMBERS_MAX: usize = 4096;

/// Bytes that all rows of a catalogue may have together: each drive carries them in a table of 1 MiB.
pub const CATALOGUE_BYTES_MAX: usize = (1 << 20) - 4096;

/// Name of the namespace that every tenant has.
pub const DEFAULT_NAMESPACE: &str = "default";

/// A shard of the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MemberRow {
    /// Its uuid.
    pub shard: ShardId,
    /// Its drive space in MiB: what placement weighs it by.
    pub weight_mib: u32,
}

/// Who is a member, under one epoch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MemberTable {
    /// Rises by one whenever the rows change.
    pub epoch: Epoch,
    /// Rows in the order of their uuids.
    pub members: Vec<MemberRow>,
}

/// Catalogue and membership. Every answer that changes something is durable when it returns. Every backend passes the same suite,
/// `tests/conformance`.
pub trait Coordinator: Send + Sync {
    /// Makes a namespace, drawing its number and its secret. The same again answers the one that is there; with another class, quota, time to live or fingerprint it
    /// is an error that says which differs. A number is never given twice, whatever is deleted.
    fn create(
        &self,
        tenant: Tenant,
        name: &str,
        class: Class,
        quota_bytes: Option<u64>,
        ttl_s: Option<u32>,
        fingerprint: &Fingerprint,
    ) -> Result<Namespace, CoordError>;

    /// A tenant's namespace by name.
    fn get(&self, tenant: Tenant, name: &str) -> Result<Option<Namespace>, CoordError>;

    /// A namespace by number.
    fn by_id(&self, id: NamespaceId) -> Result<Option<Namespace>, CoordError>;

    /// A tenant's namespaces, by name.
    fn list(&self, tenant: Tenant) -> Result<Vec<Namespace>, CoordError>;

    /// Every namespace, by number.
    fn all(&self) -> Result<Vec<Namespace>, CoordError>;

    /// Deletes a namespace and answers what it was. Drives drop its blocks when they hear of it; its number is never given again.
    fn delete(&self, tenant: Tenant, name: &str) -> Result<Namespace, CoordError>;

    /// Numbers up to this one were seen on a drive and are never given. For a catalogue that was lost or does not fit its drives.
    fn reserve_ids(&self, through: NamespaceId) -> Result<(), CoordError>;

    /// Who is a member.
    fn members(&self) -> Result<MemberTable, CoordError>;

    /// Replaces the rows, in any order. The epoch rises only if they differ from what was there. Answers the epoch.
    fn set_members(&self, members: &[MemberRow]) -> Result<Epoch, CoordError>;

    /// How often this catalogue has been opened, this time included: tells one life of a node from the one before.
    fn incarnation(&self) -> u64;

    /// The namespace that every tenant has, made when it is first asked for.
    fn default_namespace(&self, tenant: Tenant) -> Result<Namespace, CoordError> {
        match self.get(tenant, DEFAULT_NAMESPACE)? {
            Some(found) => Ok(found),
            None => self.create(tenant, DEFAULT_NAMESPACE, Class::Cache, None, None, &Fingerprint::default()),
        }
    }

    /// A tenant's namespace by name, or an error when it is not there or has another fingerprint than `expected`. An empty one expects nothing.
    fn expect(&self, tenant: Tenant, name: &str, expected: &Fingerprint) -> Result<Namespace, CoordError> {
        let found = self.get(tenant, name)?.ok_or_else(|| CoordError::unknown(name))?;
        if !expected.is_empty() {
            error::check_fingerprint(&found, expected)?;
        }
        Ok(found)
    }
}
