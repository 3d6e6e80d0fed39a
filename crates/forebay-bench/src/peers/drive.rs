//! The drive itself: fio's direct writes and reads of the same size at the same depth. Not a peer but the limit beside them.

use std::path::PathBuf;

use super::verdict::DRIVE;
use super::{Figure, LOADS, Load, Op, Peer};
use crate::raw::Tools;
use crate::raw::drive::{self, Job};
use crate::{Outcome, Scratch};

pub(super) struct Drive {
    tools: Tools,
    file: PathBuf,
}

impl Drive {
    pub(super) fn start(tools: &Tools, dir: &Scratch) -> Outcome<Drive> {
        let file = dir.join("raw");
        let mib = LOADS.iter().map(|load| load.total() >> 20).max().unwrap_or(0);
        drive::written_file(&file, mib)?;
        Ok(Drive { tools: tools.clone(), file })
    }
}

impl Peer for Drive {
    fn name(&self) -> &'static str {
        DRIVE
    }

    fn round(&mut self, load: &Load, _: u32) -> Outcome<Vec<Figure>> {
        let mut figures = Vec::new();
        for (op, write) in [(Op::Put, true), (Op::GetCold, false)] {
            let job = Job {
                file: &self.file,
                from_mib: 0,
                size_mib: load.total() >> 20,
                write,
                random: false,
                block_kib: (load.bytes >> 10) as u64,
                depth: load.in_flight as u32,
                seconds: None,
                sync_every: 0,
            };
            figures.push(Figure { column: DRIVE, op, gb_s: drive::run(&self.tools, &job)?.gb_s });
        }
        Ok(figures)
    }
}
