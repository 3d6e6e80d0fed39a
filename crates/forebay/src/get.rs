//! `forebay get`: blocks to files `DIR/KEY`. A file is there whole or not at all; every key that is missing gets a sentence.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use forebay_client::BlockRef;
use forebay_types::{Key, MissReason};
use serde_json::json;

use crate::cli::GetArgs;
use crate::progress::Progress;
use crate::settings::Settings;
use crate::stop::Stop;
use crate::{connect, say};

/// Keys in one call: blocks are written as they come, and the deadline covers them all.
const BATCH_KEYS: usize = 64;
/// A batch of large blocks onto a slow disk; the longest the protocol knows.
const DEADLINE: Duration = Duration::from_secs(60);

/// Runs it.
pub(crate) fn run(args: &GetArgs, settings: &Settings) -> Result<(), Stop> {
    let keys = keys(&args.keys).map_err(Stop::Misused)?;
    let client = connect::client(settings, DEADLINE)?;
    let space = connect::namespace(&client, settings)?;
    std::fs::create_dir_all(&args.out).map_err(|e| {
        Stop::Failed(format!("the folder {} cannot be made: {e}; name another with --out", args.out.display()))
    })?;
    let mut getting = Getting {
        out: &args.out,
        json: args.on.client.json,
        progress: Progress::new("getting", 0),
        bytes: 0,
        missing: false,
    };
    for batch in keys.chunks(BATCH_KEYS) {
        let mut stopped = None;
        space.get_each(batch, |at, found| {
            // What stdout or the disk refuses once it refuses again: the rest of the call only runs out.
            if stopped.is_none() {
                stopped = getting.one(&batch[at], found).err();
            }
        });
        if let Some(stop) = stopped {
            return Err(stop);
        }
    }
    if getting.missing { Err(Stop::Told) } else { Ok(()) }
}

/// The keys, each once, in their order.
fn keys(texts: &[String]) -> Result<Vec<Key>, String> {
    let mut seen = BTreeSet::new();
    let mut keys = Vec::with_capacity(texts.len());
    for text in texts {
        let key = text.parse::<Key>().map_err(|e| format!("{e}; `forebay put` prints keys as they are wanted"))?;
        if seen.insert(key) {
            keys.push(key);
        }
    }
    Ok(keys)
}

struct Getting<'a> {
    out: &'a Path,
    json: bool,
    progress: Progress,
    bytes: u64,
    missing: bool,
}

impl Getting<'_> {
    fn one(&mut self, key: &Key, found: Result<BlockRef<'_>, MissReason>) -> Result<(), Stop> {
        match found {
            Ok(block) => {
                let file = self.out.join(key.to_string());
                write(&file, block.bytes()).map_err(|e| {
                    Stop::Failed(format!("{} cannot be written: {e}; name another folder with --out", file.display()))
                })?;
                self.bytes += block.bytes().len() as u64;
                self.progress.at(self.bytes);
                if self.json {
                    let (tier, bytes, file) = (block.tier().word(), block.bytes().len(), file.to_string_lossy());
                    let told =
                        json!({ "key": key.to_string(), "outcome": "hit", "tier": tier, "bytes": bytes, "file": file });
                    say::line(&told.to_string())?;
                }
            }
            Err(reason) => {
                self.missing = true;
                say::error(&format!("{key} is missing: {reason} ({})", meaning(reason)));
                if self.json {
                    say::line(
                        &json!({ "key": key.to_string(), "outcome": "miss", "reason": reason.word() }).to_string(),
                    )?;
                }
            }
        }
        Ok(())
    }
}

/// Writes beside the place and moves it there: whoever reads `DIR/KEY` reads all of it.
fn write(file: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let beside: PathBuf = file.with_file_name(format!(".{name}.{}.part", std::process::id()));
    let written =
        File::create(&beside).and_then(|mut to| to.write_all(bytes)).and_then(|()| std::fs::rename(&beside, file));
    if written.is_err() {
        // Half a file is of no use to anybody; that it cannot be removed is the lesser trouble.
        let _ = std::fs::remove_file(&beside);
    }
    written
}

/// What a reason means to whoever asked.
fn meaning(reason: MissReason) -> &'static str {
    match reason {
        MissReason::Absent => "it was never put in this namespace, was forgotten, or was evicted long ago",
        MissReason::Evicted => "it had to make room for others; put it again",
        MissReason::Expired => "its time had come; put it again",
        MissReason::Deadline => "it took too long; try again",
        MissReason::Corrupt => "its bytes did not match their sums and were dropped; put it again, and check the drive",
        MissReason::Namespace => "the namespace does not exist any more, or is not yours; see `forebay namespace list`",
        MissReason::NotMine => "the membership is changing; try again",
        MissReason::Quota => "the namespace is over its rate; try again later",
        MissReason::Busy => "the node's queues are full; try again",
        MissReason::Unavailable => "the node cannot be reached or its drive failed; see `forebay stat`",
    }
}
