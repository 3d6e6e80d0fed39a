//! Recorded load, replayed by key through the store itself. Skips aloud where the traces are not there.

use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;

use flate2::bufread::MultiGzDecoder;
use forebay_tokenomics::trace::{Plan, PlanParams, PlannedRequest, Trace, parse_trace};
use forebay_types::Key;

use crate::rig::key;

/// Replays all of both traces and not the first requests only; some minutes in a release build.
const WHOLE: &str = "FOREBAY_TEST_WHOLE_TRACES";

/// A trace, and how it is replayed.
pub(crate) struct Load {
    pub(crate) plan: Plan,
    pub(crate) requests: usize,
    /// Blocks of the trace that are one block here; an incomplete tail is left out.
    pub(crate) chunk: usize,
    /// Bytes of a block; its record takes a page more.
    pub(crate) length: usize,
}

impl Load {
    pub(crate) fn new(name: &str, chunk: usize, length: usize, some: usize) -> Option<Load> {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/traces").join(name);
        let Ok(file) = File::open(&path) else {
            println!("skipped: replay of recorded load: {} is not there", path.display());
            return None;
        };
        let unpacked = MultiGzDecoder::new(BufReader::new(file));
        let trace: Trace = parse_trace(BufReader::with_capacity(1 << 20, unpacked)).unwrap();
        let plan = Plan::new(&trace, PlanParams::default()).unwrap();
        let requests = if std::env::var_os(WHOLE).is_some() { plan.requests.len() } else { some };
        Some(Load { plan, requests, chunk, length })
    }

    pub(crate) fn requests(&self) -> &[PlannedRequest] {
        &self.plan.requests[..self.requests]
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.requests == self.plan.requests.len()
    }

    pub(crate) fn keys(&self, request: &PlannedRequest) -> Vec<Key> {
        // Named by its last block, whose id stands for all before it.
        request.numbers().skip(self.chunk - 1).step_by(self.chunk).map(|n| key(u64::from(n))).collect()
    }

    pub(crate) fn record_bytes(&self) -> u64 {
        (self.length as u64).next_multiple_of(512) + 512
    }
}
