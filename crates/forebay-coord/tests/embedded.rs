//! The embedded coordinator: the suite of all, and what only a file can do wrong.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod conformance;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use forebay_coord::{CoordError, Coordinator, Embedded, OpenError};
use forebay_types::{Class, Fingerprint, SystemEntropy, Tenant};

/// A directory that is gone when the test is.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("forebay-coord-{}-{count}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Scratch(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("drive.catalog")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

fn open(path: &Path) -> Result<Embedded, OpenError> {
    Embedded::open(path, Arc::new(SystemEntropy))
}

#[test]
fn it_conforms() {
    conformance::suite(|| {
        let scratch = Scratch::new();
        move || Arc::new(open(&scratch.file()).unwrap()) as Arc<dyn Coordinator>
    });
}

#[test]
fn the_file_is_its_owners_alone_and_nothing_lies_beside_it() {
    let scratch = Scratch::new();
    let coord = open(&scratch.file()).unwrap();
    assert_eq!(std::fs::metadata(scratch.file()).unwrap().permissions().mode() & 0o777, 0o600);
    drop(coord);
    assert_eq!(std::fs::read_dir(&scratch.0).unwrap().count(), 1);
}

#[test]
fn a_catalogue_in_use_is_refused() {
    let scratch = Scratch::new();
    let coord = open(&scratch.file()).unwrap();
    let error = open(&scratch.file()).unwrap_err();
    assert!(matches!(error, OpenError::InUse(_)));
    assert!(error.to_string().contains("in use by another forebay"), "{error}");
    drop(coord);
    open(&scratch.file()).unwrap();
}

#[test]
fn another_file_is_refused_and_not_touched() {
    let scratch = Scratch::new();
    let path = scratch.file();
    for foreign in [&b"not a catalogue"[..], &[0; 100_000], &[b'x'; 100_000]] {
        std::fs::write(&path, foreign).unwrap();
        let error = open(&path).unwrap_err();
        assert!(matches!(error, OpenError::NotCatalogue { .. }), "{error:?}");
        assert!(error.to_string().contains("is not a catalogue of Forebay"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), foreign);
    }
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert!(matches!(open(&path).unwrap_err(), OpenError::NotCatalogue { .. }));
    let nowhere = scratch.0.join("no/such/directory");
    assert!(open(&nowhere).unwrap_err().to_string().contains("check that its directory exists"));
}

#[test]
fn a_database_of_something_else_or_of_a_newer_build_is_refused() {
    let meta: redb::TableDefinition<'_, &str, u64> = redb::TableDefinition::new("meta");
    let scratch = Scratch::new();
    let write = |key, value| {
        let database = redb::Database::create(scratch.file()).unwrap();
        let transaction = database.begin_write().unwrap();
        transaction.open_table(meta).unwrap().insert(key, value).unwrap();
        transaction.commit().unwrap();
    };
    write("their_version", 1u64);
    assert!(open(&scratch.file()).unwrap_err().to_string().contains("a database of something else"));
    write("forebay_catalogue_version", 2);
    let error = open(&scratch.file()).unwrap_err().to_string();
    assert!(error.contains("format version 2 and this build reads up to 1"), "{error}");
}

#[test]
fn flipped_bytes_are_an_error_and_never_a_panic() {
    let scratch = Scratch::new();
    let path = scratch.file();
    let coord = open(&path).unwrap();
    for i in 0..20 {
        coord.create(Tenant(1), &format!("ns{i}"), Class::Cache, None, None, &Fingerprint::default()).unwrap();
    }
    let all = coord.all().unwrap();
    drop(coord);
    let good = std::fs::read(&path).unwrap();
    let used: Vec<usize> = (0..good.len()).filter(|at| good[*at] != 0).collect();
    let mut refused = 0;
    for at in used.iter().step_by((used.len() / 150).max(1)) {
        let mut bad = good.clone();
        bad[*at] ^= 0x10;
        std::fs::write(&path, &bad).unwrap();
        match open(&path) {
            Ok(coord) => {
                let found = coord.all();
                assert!(found.is_err() || found.is_ok_and(|found| found == all), "byte {at} changed what is answered");
            }
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 0, "the flips must be able to hit something");
}

#[test]
fn a_full_catalogue_says_so_before_a_drives_table_overflows() {
    let scratch = Scratch::new();
    let coord = open(&scratch.file()).unwrap();
    let long = "x".repeat(256);
    let print = conformance::fingerprint(&forebay_types::FINGERPRINT_FIELDS.map(|field| (field, long.as_str())));
    let mut count = 0;
    let error = loop {
        match coord.create(Tenant(1), &format!("ns{count}"), Class::Cache, None, None, &print) {
            Ok(_) => count += 1,
            Err(e) => break e,
        }
    };
    assert!(matches!(error, CoordError::Full(_)));
    let rows = coord.all().unwrap();
    assert_eq!(rows.len(), count);
    let rows = rows.iter().map(forebay_format::NamespaceRow::from).collect();
    forebay_format::NamespaceTable { sequence: 1, clock: Default::default(), write: Default::default(), rows }
        .encode()
        .unwrap();
}
