//! What happens to a node under a soak, one at a time.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use forebay_types::{Entropy, SeededEntropy};
use rustix::process::Signal;

use super::worker::Habit;
use super::{Soak, len, vandal};
use crate::report::say;
use crate::watch::pause;
use crate::{Outcome, why};

/// One kind of trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// SIGKILL, and a new start at once.
    Kill,
    /// An orderly end, some bits of the drives flipped, a new start.
    Flip,
    /// SIGSTOP for up to two seconds.
    Stop,
    /// A client is killed, and another takes its place.
    Client,
    /// Noise on both sockets.
    Garbage,
    /// Connections that say nothing.
    Crowd,
    /// Memory that shrinks while blocks land in it.
    Region,
}

/// Bytes of a drive before its first segment, and of a segment with this size of drive. Where they lie is drawn in docs/disk-format.md.
const SEGMENTS_AT: u64 = 4 << 20;
const SEGMENT: u64 = 4 << 20;
const HEADER: u64 = 4096;

impl Fault {
    pub(crate) const ALL: [Fault; 7] =
        [Fault::Kill, Fault::Flip, Fault::Stop, Fault::Client, Fault::Garbage, Fault::Crowd, Fault::Region];

    pub(crate) fn words(self) -> &'static str {
        match self {
            Fault::Kill => "node killed and started",
            Fault::Flip => "node ended, bits of its drives flipped, started",
            Fault::Stop => "node stopped for a while",
            Fault::Client => "client killed",
            Fault::Garbage => "garbage sent",
            Fault::Crowd => "300 idle connections",
            Fault::Region => "region cut short under load",
        }
    }

    /// Any, or any that the node lives through.
    pub(crate) fn pick(chance: &SeededEntropy, restarts: bool) -> Fault {
        let from = if restarts { 0 } else { 2 };
        Fault::ALL[from + chance.word() as usize % (Fault::ALL.len() - from)]
    }

    pub(crate) fn commit(self, soak: &mut Soak) -> Outcome<()> {
        match self {
            Fault::Kill => {
                soak.node.kill();
                soak.start_again()
            }
            Fault::Flip => {
                soak.node.end()?;
                soak.flip()?;
                soak.start_again()
            }
            Fault::Stop => {
                soak.node.signal(Signal::STOP)?;
                pause(100 + soak.chance.word() % 1900);
                soak.node.signal(Signal::CONT)
            }
            Fault::Client => soak.kill_client(),
            Fault::Garbage => {
                vandal::garbage(&soak.socket(), soak.node.tcp_port(), &soak.chance);
                Ok(())
            }
            Fault::Crowd => {
                vandal::crowd(&soak.socket());
                Ok(())
            }
            Fault::Region => soak.shrink_region(),
        }
    }
}

impl Soak {
    fn start_again(&mut self) -> Outcome<()> {
        self.node.restart()?;
        self.longest_start_s = self.longest_start_s.max(self.node.ready_s);
        Ok(())
    }

    /// Flips a few bits of both drives, anywhere but in headers of segments: each then costs one block at most, so that what may be lost can be
    /// counted. What a flip costs elsewhere is the business of the store's own tests.
    fn flip(&mut self) -> Outcome<()> {
        for path in self.drives() {
            let bytes = len(&path)?;
            let file = OpenOptions::new().read(true).write(true).open(&path).map_err(why("opening a drive"))?;
            for _ in 0..1 + self.chance.word() % 4 {
                let at = SEGMENTS_AT + self.chance.word() % (bytes - SEGMENTS_AT);
                if (at - SEGMENTS_AT) % SEGMENT < HEADER {
                    continue;
                }
                let mut byte = [0];
                file.read_exact_at(&mut byte, at).map_err(why("reading a drive"))?;
                byte[0] ^= 1 << (self.chance.word() % 8);
                file.write_all_at(&byte, at).map_err(why("flipping a bit"))?;
                self.flips += 1;
            }
            file.sync_all().map_err(why("flipping a bit"))?;
        }
        Ok(())
    }

    /// SIGKILL in the middle of whatever the second worker does; what it had counted stays counted.
    fn kill_client(&mut self) -> Outcome<()> {
        let mut worker = self.workers.remove(1);
        let _ = worker.child.kill();
        let _ = worker.child.wait();
        self.gone.add(&worker.tally());
        // Over the other link than the one before.
        self.start_worker(Habit::Warm, worker.number.is_multiple_of(2))?;
        if let Some(last) = self.workers.pop() {
            self.workers.insert(1, last);
        }
        Ok(())
    }

    fn shrink_region(&mut self) -> Outcome<()> {
        let client = self.node.unix()?;
        let space = client.namespace(Habit::Warm.namespace()).map_err(why("opening a namespace"))?;
        let shards = vandal::shards(&self.socket())?;
        let last = self.workers[0].tally().last_item.max(1);
        let items = last.saturating_sub(500)..last;
        // A node that is busy elsewhere may turn one hand away; that is told and no more.
        if let Err(error) = vandal::shrinking_region(&self.socket(), &shards, &space, items, &self.chance) {
            say(&format!("a shrinking region: {}", error.0));
        }
        Ok(())
    }
}
