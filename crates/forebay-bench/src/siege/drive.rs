//! What the drive does to reads beside writes when no node stands between: fio reads as the steady client does, beside fio writing as fast as
//! the putters did.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{BLOCK, CALL};
use crate::Outcome;
use crate::raw::Tools;
use crate::raw::drive::{Fio, Job, written_file};
use crate::report::{Samples, round};

/// What it reads from, and as much again that it writes to, in MiB.
const PART_MIB: u64 = 1024;
/// Writes in flight: as many as the putters are.
const WRITES: u32 = 4;

pub(super) struct Drive {
    file: PathBuf,
    seconds: u32,
    /// p99 of its reads in microseconds, and the rate of its writes in GB/s.
    alone: Samples,
    beside: Samples,
    written: Samples,
}

impl Drive {
    /// `None` without fio.
    pub(super) fn new(tools: &Tools, file: &Path, seconds: u16) -> Outcome<Option<Drive>> {
        if tools.fio.is_none() {
            return Ok(None);
        }
        written_file(file, 2 * PART_MIB)?;
        let (alone, beside, written) = Default::default();
        Ok(Some(Drive { file: file.to_owned(), seconds: u32::from(seconds), alone, beside, written }))
    }

    /// Reads alone, then beside writes of `gb_s`.
    pub(super) fn round(&mut self, gb_s: f64) -> Outcome<()> {
        let reads = Job {
            file: &self.file,
            from_mib: 0,
            size_mib: PART_MIB,
            write: false,
            random: true,
            block_kib: BLOCK as u64 >> 10,
            depth: CALL as u32,
            seconds: Some(self.seconds),
            sync_every: 0,
        };
        let (from_mib, depth) = (PART_MIB, WRITES);
        let writes = Job { from_mib, write: true, random: false, block_kib: 1024, depth, ..reads.clone() };
        // A call's blocks are asked for together, and the next call when all have come.
        let call = [format!("--iodepth_batch_submit={CALL}"), format!("--iodepth_batch_complete_min={CALL}")];
        self.alone.0.push(Fio::start_with(&reads, &call)?.finish()?.p99_us);
        let writer = Fio::start_with(&writes, &[format!("--rate={}", (gb_s * 1e9) as u64)])?;
        self.beside.0.push(Fio::start_with(&reads, &call)?.finish()?.p99_us);
        self.written.0.push(writer.finish()?.gb_s);
        Ok(())
    }

    /// For the row.
    pub(super) fn json(&self) -> Value {
        let (alone, beside) = (self.alone.median(), self.beside.median());
        json!({
            "is": "p99 of fio's own reads of as many bytes at once, direct, alone and beside its own direct writes of 1 MiB at the putters' rate",
            "alone": round(alone), "beside": round(beside), "ratio": round(beside / alone), "written_gb_s": round(self.written.median()),
            "alone_samples": self.alone.json(), "beside_samples": self.beside.json(),
        })
    }
}
