//! What can go wrong, in sentences for whoever typed the command.

use std::path::PathBuf;

use forebay_types::{Class, Fingerprint, Namespace, NamespaceError, format_size};

/// Why a catalogue cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("the catalogue {} is in use by another forebay; stop that one, or give another --data", .0.display())]
    InUse(PathBuf),
    /// Another kind of file.
    #[error("{} is not a catalogue of Forebay ({why}); move it away, or give another --data", path.display())]
    NotCatalogue {
        /// Which file.
        path: PathBuf,
        /// How that was seen.
        why: String,
    },
    /// Written by a newer build.
    #[error("the catalogue {} has format version {found} and this build reads up to {known}; start the newer build that wrote it", path.display())]
    NewerVersion {
        /// Which file.
        path: PathBuf,
        /// Version found.
        found: u64,
        /// Newest version known.
        known: u64,
    },
    /// Ours, but broken.
    #[error("the catalogue {} is damaged ({why}); put back a copy of it. Without one the blocks cannot be found any more: remove it and the files of its drives, and begin anew", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What was seen.
        why: String,
    },
    /// The file system said no.
    #[error("the catalogue {} cannot be opened: {source}; check that its directory exists and can be written", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What it said.
        source: std::io::Error,
    },
}

/// Why a coordinator did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum CoordError {
    /// The namespace is there with another fingerprint.
    #[error(
        "the namespace {name:?} has another fingerprint: its field {field} is {}, and {} is asked for; blocks of the two are not interchangeable: choose another name, or ask with the same fingerprint",
        value(has),
        value(asked)
    )]
    Fingerprint {
        /// Which namespace.
        name: String,
        /// First field that differs.
        field: &'static str,
        /// What it is.
        has: String,
        /// What was asked for.
        asked: String,
    },
    /// The namespace is there with another class.
    #[error("the namespace {name:?} exists with class {}, and {} is asked for; choose another name, or delete it first", has.word(), asked.word())]
    Class {
        /// Which namespace.
        name: String,
        /// What it is.
        has: Class,
        /// What was asked for.
        asked: Class,
    },
    /// The namespace is there with another quota.
    #[error("the namespace {name:?} exists with {}, and {} is asked for; choose another name, or delete it first", quota(*has), quota(*asked))]
    Quota {
        /// Which namespace.
        name: String,
        /// What it is.
        has: Option<u64>,
        /// What was asked for.
        asked: Option<u64>,
    },
    /// No such namespace.
    #[error("there is no namespace {name:?}; `forebay namespace create` makes one")]
    Unknown {
        /// What was asked for.
        name: String,
    },
    /// The namespace is there with another time to live.
    #[error("the namespace {name:?} exists with {}, and {} is asked for; choose another name, or delete it first", ttl(*has), ttl(*asked))]
    Ttl {
        /// Which namespace.
        name: String,
        /// What it is, in seconds.
        has: Option<u32>,
        /// What was asked for.
        asked: Option<u32>,
    },
    /// A time to live of nothing.
    #[error("blocks that live for 0 seconds are never there; leave the time to live out for no end")]
    TtlZero,
    /// A quota that holds nothing.
    #[error("a quota of 0 bytes holds nothing; leave it out for no bound")]
    QuotaZero,
    /// A name or field that is not valid.
    #[error(transparent)]
    Invalid(#[from] NamespaceError),
    /// No room for another.
    #[error("the catalogue is full: {0}; delete a namespace that is not needed any more")]
    Full(&'static str),
    /// A table of members that cannot be.
    #[error("these members cannot be a mesh: {0}")]
    Members(&'static str),
    /// The catalogue itself failed.
    #[error("the catalogue could not be {doing}: {why}; nothing was changed. Check the drive it is on")]
    Storage {
        /// "read" or "written".
        doing: &'static str,
        /// What was said.
        why: String,
    },
}

impl CoordError {
    pub(crate) fn unknown(name: &str) -> Self {
        CoordError::Unknown { name: name.chars().take(80).collect() }
    }
}

/// An error when the namespace has not this fingerprint. It names the first field that differs.
pub(crate) fn check_fingerprint(found: &Namespace, asked: &Fingerprint) -> Result<(), CoordError> {
    match found.fingerprint.first_difference(asked) {
        None => Ok(()),
        Some(field) => Err(CoordError::Fingerprint {
            name: found.name.clone(),
            field,
            has: found.fingerprint.get(field).to_owned(),
            asked: asked.get(field).to_owned(),
        }),
    }
}

/// A field's value; an empty one is one that is not set.
fn value(text: &str) -> String {
    if text.is_empty() { "not set".into() } else { format!("{text:?}") }
}

fn ttl(seconds: Option<u32>) -> String {
    seconds.map_or_else(|| "no time to live".into(), |seconds| format!("a time to live of {seconds} s"))
}

fn quota(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "no quota".into(), |bytes| format!("a quota of {} ({bytes} bytes)", format_size(bytes)))
}
