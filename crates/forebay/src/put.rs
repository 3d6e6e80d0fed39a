//! `forebay put`: files to blocks, the key from the content. Prints `key<TAB>file` for each that is kept; the others each get a sentence.

use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use forebay_client::NamespaceHandle;
use forebay_types::limits::BLOCK_BYTES_MAX;
use forebay_types::{Key, PutOutcome, RefusedReason, format_size};
use serde_json::json;

use crate::cli::PutArgs;
use crate::progress::Progress;
use crate::settings::Settings;
use crate::stop::Stop;
use crate::{connect, say};

/// Bytes read before they are put: with one more block of at most 64 MiB, all that is held at once.
const BATCH_BYTES: usize = 64 << 20;
/// Files in one call, so that many small ones still show progress.
const BATCH_FILES: usize = 256;
/// A batch on a slow drive; the longest the protocol knows.
const DEADLINE: Duration = Duration::from_secs(60);

/// Runs it.
pub(crate) fn run(args: &PutArgs, settings: &Settings) -> Result<(), Stop> {
    let client = connect::client(settings, DEADLINE)?;
    let space = connect::namespace(&client, settings)?;
    let space = args.ttl.map(|ttl_s| space.with_ttl(Duration::from_secs(u64::from(ttl_s)))).unwrap_or(space);
    let total = args.files.iter().filter_map(|file| std::fs::metadata(file).ok()).map(|meta| meta.len()).sum();
    let mut putting = Putting {
        space,
        json: args.on.client.json,
        progress: Progress::new("putting", total),
        batch: Vec::new(),
        batch_bytes: 0,
        done_bytes: 0,
        refused: false,
    };
    for file in &args.files {
        match read(file) {
            Ok(bytes) => putting.take(file, bytes)?,
            Err(why) => putting.refuse(file, None, "file", &why)?,
        }
    }
    putting.flush()?;
    if putting.refused { Err(Stop::Told) } else { Ok(()) }
}

/// A file's bytes, never more than one block and a byte.
fn read(path: &Path) -> Result<Vec<u8>, String> {
    let shown = path.display();
    let failed = |e: std::io::Error| format!("{shown} cannot be read: {e}; check its path and its permissions");
    let meta = std::fs::metadata(path).map_err(failed)?;
    if meta.is_dir() {
        return Err(format!("{shown} is a folder; put its files, as in {shown}/*"));
    }
    let too_large = |bytes: u64| {
        format!("{shown} has {} and a block has at most {}; split it", format_size(bytes), format_size(BLOCK_BYTES_MAX))
    };
    if meta.len() > BLOCK_BYTES_MAX {
        return Err(too_large(meta.len()));
    }
    let mut bytes = Vec::with_capacity(meta.len() as usize);
    // A pipe has no length before it ends.
    let read =
        File::open(path).and_then(|file| file.take(BLOCK_BYTES_MAX + 1).read_to_end(&mut bytes)).map_err(failed)?;
    match read as u64 {
        0 => Err(format!("{shown} is empty and a block has at least 1 byte")),
        bytes if bytes > BLOCK_BYTES_MAX => Err(too_large(bytes)),
        _ => Ok(bytes),
    }
}

struct Putting {
    space: NamespaceHandle,
    json: bool,
    progress: Progress,
    batch: Vec<(Key, PathBuf, Vec<u8>)>,
    batch_bytes: usize,
    done_bytes: u64,
    refused: bool,
}

impl Putting {
    fn take(&mut self, file: &Path, bytes: Vec<u8>) -> Result<(), Stop> {
        self.batch_bytes += bytes.len();
        self.batch.push((self.space.content_key(&bytes), file.to_owned(), bytes));
        if self.batch_bytes >= BATCH_BYTES || self.batch.len() >= BATCH_FILES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), Stop> {
        let batch = std::mem::take(&mut self.batch);
        let blocks: Vec<(Key, &[u8])> = batch.iter().map(|(key, _, bytes)| (*key, bytes.as_slice())).collect();
        let outcomes = if blocks.is_empty() { Vec::new() } else { self.space.put(&blocks) };
        self.done_bytes += std::mem::take(&mut self.batch_bytes) as u64;
        self.progress.at(self.done_bytes);
        for ((key, file, bytes), outcome) in batch.iter().zip(outcomes) {
            match outcome {
                PutOutcome::Refused(reason) => {
                    let why = format!("{} was not kept: refused: {reason} ({})", file.display(), advice(reason));
                    self.refuse(file, Some(key), reason.word(), &why)?;
                }
                kept => self.kept(key, file, bytes.len(), kept)?,
            }
        }
        Ok(())
    }

    fn kept(&self, key: &Key, file: &Path, bytes: usize, outcome: PutOutcome) -> Result<(), Stop> {
        if self.json {
            let file = file.to_string_lossy();
            let outcome = outcome.to_string();
            return say::line(
                &json!({ "key": key.to_string(), "file": file, "bytes": bytes, "outcome": outcome }).to_string(),
            );
        }
        // A file's name is bytes; it goes out as it came in.
        say::bytes(&[key.to_string().as_bytes(), b"\t", file.as_os_str().as_bytes(), b"\n"].concat())
    }

    fn refuse(&mut self, file: &Path, key: Option<&Key>, reason: &str, why: &str) -> Result<(), Stop> {
        self.refused = true;
        say::error(why);
        if !self.json {
            return Ok(());
        }
        let key = key.map(Key::to_string);
        let file = file.to_string_lossy();
        say::line(&json!({ "key": key, "file": file, "outcome": "refused", "reason": reason }).to_string())
    }
}

/// What to do about a refusal.
fn advice(reason: RefusedReason) -> &'static str {
    match reason {
        RefusedReason::Admission => "the policy judged it not worth its write, or its time is over already",
        RefusedReason::Quota => "the namespace is at its quota; forget blocks of it, or make one with a larger --quota",
        RefusedReason::Full => {
            "the drive holds nothing that may be evicted; serve with another --data, or delete a durable namespace"
        }
        RefusedReason::TooLarge => {
            "the largest block is a quarter of the node's segment; split the file, or serve a new drive with a larger --segment"
        }
        RefusedReason::Namespace => {
            "the namespace does not exist any more, or is not yours; see `forebay namespace list`"
        }
        RefusedReason::Busy => "the node's queues are full; try again",
        RefusedReason::Deadline => "it took too long; it may still be kept, try again",
        RefusedReason::Unavailable => "the node cannot be reached or its drive failed; see `forebay stat`",
    }
}
