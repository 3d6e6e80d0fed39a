//! The coordinator of one machine: a redb file. Tables: `meta` (numbers), `namespaces` by number, `names` by tenant and name, `members` by uuid.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{
    Builder, Database, DatabaseError, ReadableDatabase, ReadableTable, ReadableTableMetadata, StorageError,
    TableDefinition, TableError, WriteTransaction, backends::FileBackend,
};

use forebay_types::limits::NAMESPACES_MAX;
use forebay_types::{
    Class, Entropy, Epoch, Fingerprint, Namespace, NamespaceId, Secret, ShardId, Tenant, check_namespace_name,
};

use crate::error::check_fingerprint;
use crate::rows;
use crate::{CATALOGUE_BYTES_MAX, CoordError, Coordinator, MEMBERS_MAX, MemberRow, MemberTable, OpenError};

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const NAMESPACES: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("namespaces");
const NAMES: TableDefinition<'_, (u32, &str), u32> = TableDefinition::new("names");
const MEMBERS: TableDefinition<'_, [u8; 16], u32> = TableDefinition::new("members");

/// Version of this file's layout. The key says whose it is.
const VERSION_KEY: &str = "forebay_catalogue_version";
const VERSION: u64 = 1;
const NEXT_ID_KEY: &str = "next_namespace_id";
const EPOCH_KEY: &str = "epoch";
const INCARNATION_KEY: &str = "incarnation";

/// Memory that redb may keep pages in: a whole catalogue fits, and it is not taken from the blocks by much.
const CACHE_BYTES: usize = 4 << 20;

/// Catalogue and membership in one file, held by one process at a time.
pub struct Embedded {
    database: Database,
    entropy: Arc<dyn Entropy>,
    incarnation: u64,
}

impl fmt::Debug for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embedded").field("incarnation", &self.incarnation).finish_non_exhaustive()
    }
}

impl Embedded {
    /// Opens the catalogue at `path`, or makes an empty one, readable by its owner alone. Its pages are checked before they are trusted.
    pub fn open(path: &Path, entropy: Arc<dyn Entropy>) -> Result<Self, OpenError> {
        let io = |source| OpenError::Io { path: path.to_owned(), source };
        match std::fs::symlink_metadata(path) {
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => create(path, entropy.as_ref())?,
            Err(e) => return Err(io(e)),
        }
        if !std::fs::metadata(path).map_err(io)?.is_file() {
            return Err(not_catalogue(path, "it is not a file"));
        }
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(io)?;
        let database = database_in(file, path)?;
        let incarnation = begin_life(&database, path)?;
        Ok(Embedded { database, entropy, incarnation })
    }

    /// Runs `change` in a transaction that is durable when this returns, or that never was.
    fn change<T>(&self, change: impl FnOnce(&WriteTransaction) -> Result<T, CoordError>) -> Result<T, CoordError> {
        let transaction = self.database.begin_write().map_err(written)?;
        let value = change(&transaction)?;
        transaction.commit().map_err(written)?;
        Ok(value)
    }

    fn namespaces_where(&self, keep: impl Fn(&Namespace) -> bool) -> Result<Vec<Namespace>, CoordError> {
        let transaction = self.database.begin_read().map_err(read)?;
        let table = transaction.open_table(NAMESPACES).map_err(read)?;
        let mut found = Vec::new();
        for row in table.iter().map_err(read)? {
            let (id, bytes) = row.map_err(read)?;
            let ns = decode(id.value(), bytes.value())?;
            if keep(&ns) {
                found.push(ns);
            }
        }
        Ok(found)
    }
}

impl Coordinator for Embedded {
    fn create(
        &self,
        tenant: Tenant,
        name: &str,
        class: Class,
        quota_bytes: Option<u64>,
        ttl_s: Option<u32>,
        fingerprint: &Fingerprint,
    ) -> Result<Namespace, CoordError> {
        check_namespace_name(name)?;
        if quota_bytes == Some(0) {
            return Err(CoordError::QuotaZero);
        }
        if ttl_s == Some(0) {
            return Err(CoordError::TtlZero);
        }
        self.change(|transaction| {
            let mut names = transaction.open_table(NAMES).map_err(written)?;
            let mut namespaces = transaction.open_table(NAMESPACES).map_err(written)?;
            if let Some(id) = names.get((tenant.0, name)).map_err(read)?.map(|id| id.value()) {
                let found = namespaces.get(id).map_err(read)?.map(|row| decode(id, row.value()));
                let found = found.unwrap_or_else(|| Err(damaged("a name without its namespace")))?;
                return same(found, class, quota_bytes, ttl_s, fingerprint);
            }
            if namespaces.len().map_err(read)? >= NAMESPACES_MAX as u64 {
                return Err(CoordError::Full("it holds 4096 namespaces"));
            }
            let mut bytes = rows::drive_row_bytes(name, fingerprint);
            for row in namespaces.iter().map_err(read)? {
                let (id, row) = row.map_err(read)?;
                let other = decode(id.value(), row.value())?;
                bytes += rows::drive_row_bytes(&other.name, &other.fingerprint);
            }
            if bytes > CATALOGUE_BYTES_MAX {
                return Err(CoordError::Full("names and fingerprints together have 1 MiB"));
            }
            let mut meta = transaction.open_table(META).map_err(written)?;
            let id = number(&meta, NEXT_ID_KEY)?;
            let id = u32::try_from(id).map_err(|_| CoordError::Full("every number has been given once"))?;
            meta.insert(NEXT_ID_KEY, u64::from(id) + 1).map_err(written)?;
            let mut secret = Secret([0; 32]);
            self.entropy.fill(&mut secret.0);
            let (name, fingerprint) = (name.to_owned(), fingerprint.clone());
            let ns = Namespace { id: NamespaceId(id), name, tenant, class, quota_bytes, ttl_s, fingerprint, secret };
            namespaces.insert(id, rows::encode(&ns).as_slice()).map_err(written)?;
            names.insert((tenant.0, ns.name.as_str()), id).map_err(written)?;
            Ok(ns)
        })
    }

    fn get(&self, tenant: Tenant, name: &str) -> Result<Option<Namespace>, CoordError> {
        let transaction = self.database.begin_read().map_err(read)?;
        let names = transaction.open_table(NAMES).map_err(read)?;
        let namespaces = transaction.open_table(NAMESPACES).map_err(read)?;
        let Some(id) = names.get((tenant.0, name)).map_err(read)?.map(|id| id.value()) else {
            return Ok(None);
        };
        let row = namespaces.get(id).map_err(read)?.ok_or_else(|| damaged("a name without its namespace"))?;
        decode(id, row.value()).map(Some)
    }

    fn by_id(&self, id: NamespaceId) -> Result<Option<Namespace>, CoordError> {
        let transaction = self.database.begin_read().map_err(read)?;
        let namespaces = transaction.open_table(NAMESPACES).map_err(read)?;
        namespaces.get(id.0).map_err(read)?.map(|row| decode(id.0, row.value())).transpose()
    }

    fn list(&self, tenant: Tenant) -> Result<Vec<Namespace>, CoordError> {
        let mut found = self.namespaces_where(|ns| ns.tenant == tenant)?;
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    fn all(&self) -> Result<Vec<Namespace>, CoordError> {
        self.namespaces_where(|_| true)
    }

    fn delete(&self, tenant: Tenant, name: &str) -> Result<Namespace, CoordError> {
        self.change(|transaction| {
            let mut names = transaction.open_table(NAMES).map_err(written)?;
            let mut namespaces = transaction.open_table(NAMESPACES).map_err(written)?;
            let id = names.remove((tenant.0, name)).map_err(written)?.map(|id| id.value());
            let id = id.ok_or_else(|| CoordError::unknown(name))?;
            let row = namespaces.remove(id).map_err(written)?;
            decode(id, row.ok_or_else(|| damaged("a name without its namespace"))?.value())
        })
    }

    fn reserve_ids(&self, through: NamespaceId) -> Result<(), CoordError> {
        self.change(|transaction| {
            let mut meta = transaction.open_table(META).map_err(written)?;
            let next = number(&meta, NEXT_ID_KEY)?.max(u64::from(through.0) + 1);
            meta.insert(NEXT_ID_KEY, next).map_err(written)?;
            Ok(())
        })
    }

    fn members(&self) -> Result<MemberTable, CoordError> {
        let transaction = self.database.begin_read().map_err(read)?;
        let epoch = Epoch(number(&transaction.open_table(META).map_err(read)?, EPOCH_KEY)?);
        let members = members_in(&transaction.open_table(MEMBERS).map_err(read)?)?;
        Ok(MemberTable { epoch, members })
    }

    fn set_members(&self, members: &[MemberRow]) -> Result<Epoch, CoordError> {
        let mut wanted = members.to_vec();
        wanted.sort();
        if wanted.len() > MEMBERS_MAX {
            return Err(CoordError::Members("there are more than 4096"));
        }
        if wanted.windows(2).any(|pair| pair[0].shard == pair[1].shard) {
            return Err(CoordError::Members("one shard stands there twice; was a drive copied?"));
        }
        self.change(|transaction| {
            let mut meta = transaction.open_table(META).map_err(written)?;
            let mut table = transaction.open_table(MEMBERS).map_err(written)?;
            let epoch = number(&meta, EPOCH_KEY)?;
            if members_in(&table)? == wanted {
                return Ok(Epoch(epoch));
            }
            table.retain(|_, _| false).map_err(written)?;
            for row in &wanted {
                table.insert(row.shard.0, row.weight_mib).map_err(written)?;
            }
            meta.insert(EPOCH_KEY, epoch + 1).map_err(written)?;
            Ok(Epoch(epoch + 1))
        })
    }

    fn incarnation(&self) -> u64 {
        self.incarnation
    }
}

/// The namespace that is there, if it is what was asked for.
fn same(
    found: Namespace,
    class: Class,
    quota_bytes: Option<u64>,
    ttl_s: Option<u32>,
    fingerprint: &Fingerprint,
) -> Result<Namespace, CoordError> {
    check_fingerprint(&found, fingerprint)?;
    if found.class != class {
        return Err(CoordError::Class { name: found.name, has: found.class, asked: class });
    }
    if found.quota_bytes != quota_bytes {
        return Err(CoordError::Quota { name: found.name, has: found.quota_bytes, asked: quota_bytes });
    }
    if found.ttl_s != ttl_s {
        return Err(CoordError::Ttl { name: found.name, has: found.ttl_s, asked: ttl_s });
    }
    Ok(found)
}

fn members_in(table: &impl ReadableTable<[u8; 16], u32>) -> Result<Vec<MemberRow>, CoordError> {
    let rows = table.iter().map_err(read)?.map(|row| {
        let (shard, weight) = row.map_err(read)?;
        Ok(MemberRow { shard: ShardId(shard.value()), weight_mib: weight.value() })
    });
    rows.collect()
}

fn number(meta: &impl ReadableTable<&'static str, u64>, key: &str) -> Result<u64, CoordError> {
    let found = meta.get(key).map_err(read)?.map(|value| value.value());
    found.ok_or_else(|| damaged("a number is missing"))
}

fn decode(id: u32, row: &[u8]) -> Result<Namespace, CoordError> {
    rows::decode(id, row).ok_or_else(|| damaged("a row that is not a namespace"))
}

fn read(source: impl Into<redb::Error>) -> CoordError {
    CoordError::Storage { doing: "read", why: source.into().to_string() }
}

fn written(source: impl Into<redb::Error>) -> CoordError {
    CoordError::Storage { doing: "written", why: source.into().to_string() }
}

fn damaged(why: &str) -> CoordError {
    CoordError::Storage { doing: "read", why: format!("it is damaged: {why}") }
}

fn not_catalogue(path: &Path, why: impl Into<String>) -> OpenError {
    OpenError::NotCatalogue { path: path.to_owned(), why: why.into() }
}

/// Opens or initialises the database in a file. An empty file becomes an empty database.
fn database_in(file: File, path: &Path) -> Result<Database, OpenError> {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
    let opened = FileBackend::new(file).and_then(|backend| builder.create_with_backend(backend));
    opened.map_err(|e| {
        let path = path.to_owned();
        match e {
            DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => OpenError::InUse(path),
            DatabaseError::UpgradeRequired(version) => {
                not_catalogue(&path, format!("it is a database of the old layout {version}"))
            }
            DatabaseError::Storage(StorageError::Io(source)) if source.kind() == std::io::ErrorKind::InvalidData => {
                not_catalogue(&path, "it is another kind of file")
            }
            DatabaseError::Storage(StorageError::Io(source)) => OpenError::Io { path, source },
            other => OpenError::Damaged { path, why: other.to_string() },
        }
    })
}

/// Makes an empty catalogue under another name and links it to `path` when it is whole: a crash in between leaves no half of one. Two that race make
/// one, and the other opens it.
fn create(path: &Path, entropy: &dyn Entropy) -> Result<(), OpenError> {
    let io = |source| OpenError::Io { path: path.to_owned(), source };
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".new-{:016x}", entropy.word()));
    let unfinished = Unfinished(PathBuf::from(name));
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create_new(true).mode(0o600).open(&unfinished.0).map_err(io)?;
    let kept = file.try_clone().map_err(io)?;
    let database = database_in(file, path)?;
    // A catalogue begins at a random number, so that one made anew after a loss does not give the numbers of the lost one again.
    let first_id = 1 + (entropy.word() >> 33);
    let fill = || -> Result<(), redb::Error> {
        let transaction = database.begin_write()?;
        {
            let mut meta = transaction.open_table(META)?;
            for (key, value) in [(VERSION_KEY, VERSION), (NEXT_ID_KEY, first_id), (EPOCH_KEY, 0), (INCARNATION_KEY, 0)]
            {
                meta.insert(key, value)?;
            }
            transaction.open_table(NAMESPACES)?;
            transaction.open_table(NAMES)?;
            transaction.open_table(MEMBERS)?;
        }
        transaction.commit()?;
        Ok(())
    };
    fill().map_err(|e| OpenError::Damaged { path: path.to_owned(), why: e.to_string() })?;
    database.close().map_err(|e| OpenError::Damaged { path: path.to_owned(), why: e.to_string() })?;
    kept.sync_all().map_err(io)?;
    match std::fs::hard_link(&unfinished.0, path) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => return Ok(()),
        // A file system without links.
        Err(_) => std::fs::rename(&unfinished.0, path).map_err(io)?,
        Ok(()) => {}
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent).and_then(|directory| directory.sync_all()).map_err(io)
}

/// Removed when it goes out of scope, whether it was linked or not.
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        // Renamed away is as good as removed.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Checks whose database it is and counts this opening.
fn begin_life(database: &Database, path: &Path) -> Result<u64, OpenError> {
    let broken = |e: redb::Error| OpenError::Damaged { path: path.to_owned(), why: e.to_string() };
    let version = match database.begin_read().map_err(|e| broken(e.into()))?.open_table(META) {
        Ok(meta) => meta.get(VERSION_KEY).map_err(|e| broken(e.into()))?.map(|version| version.value()),
        Err(TableError::TableDoesNotExist(_) | TableError::TableTypeMismatch { .. }) => None,
        Err(e) => return Err(broken(e.into())),
    };
    match version {
        None => return Err(not_catalogue(path, "it is a database of something else")),
        Some(found) if found > VERSION => {
            return Err(OpenError::NewerVersion { path: path.to_owned(), found, known: VERSION });
        }
        Some(_) => {}
    }
    let count = || -> Result<u64, redb::Error> {
        let transaction = database.begin_write()?;
        let incarnation = {
            let mut meta = transaction.open_table(META)?;
            let incarnation = meta.get(INCARNATION_KEY)?.map_or(0, |value| value.value()) + 1;
            meta.insert(INCARNATION_KEY, incarnation)?;
            incarnation
        };
        transaction.commit()?;
        Ok(incarnation)
    };
    count().map_err(broken)
}
