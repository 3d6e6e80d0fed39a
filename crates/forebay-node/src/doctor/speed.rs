//! How fast a drive is, through the very engine a shard uses: some seconds, so a first impression, and every byte read is compared with what was
//! written.

use forebay_io::{Arena, Disk, DiskDone, DiskOp, DriveFile, Engine, EngineKind, ReadInto};
use forebay_types::{Clock, Entropy, SeededEntropy};

use super::Finding;

/// Each of the four phases ends after this long, whatever it has done, in microseconds.
const PHASE_US: u64 = 1_000_000;

const LARGE: usize = 1 << 20;
const SMALL: usize = 64 << 10;
const PAGE: usize = 4096;
const DEPTH: usize = 16;
/// Flushes timed, at most.
const FLUSHES: usize = 100;

/// Slower than this, and the drive is the first thing to mend: no NVMe is.
const WRITE_GB_S_MIN: f64 = 0.2;
const READ_GB_S_MIN: f64 = 0.5;
const FLUSH_US_MAX: u64 = 10_000;
const SMALL_READ_US_MAX: u64 = 1_000;

const CURE: &str = "is it an NVMe of this machine, not worn out, not shared, not throttled? See `iostat -x 1`, `smartctl -a`, and a cloud disk's limits";

/// How it may be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// A file that nobody needs.
    WriteAndRead,
    /// A device with whatever is on it.
    ReadOnly,
}

pub(super) fn findings(drive: DriveFile, look: Look, clock: &dyn Clock, progress: &mut dyn FnMut(u64)) -> Vec<Finding> {
    let len = drive.len();
    let made = Arena::new(2 * DEPTH * LARGE).map_err(|e| e.to_string()).and_then(|arena| {
        Ok((Engine::new(EngineKind::Auto, drive, 0, len, &arena, DEPTH).map_err(|e| e.to_string())?, arena))
    });
    let (disk, arena) = match made {
        Ok(made) => made,
        Err(why) => {
            return vec![Finding::fail(
                "drive speed",
                format!("it cannot be measured: {why}"),
                "free some memory, and look again",
            )];
        }
    };
    let mut probe = Probe { disk, arena, clock, written: 0, entropy: SeededEntropy::new(1), wrong: 0, look };
    let measured = match look {
        Look::WriteAndRead => probe.run(progress),
        Look::ReadOnly => probe.reads(len, progress),
    };
    match measured {
        Ok(all) => all,
        Err(why) => vec![Finding::fail(
            "drive speed",
            why,
            "look at `dmesg` and the drive's health record (`smartctl -a`); do not use it before",
        )],
    }
}

struct Probe<'a> {
    disk: Engine,
    arena: Arena,
    clock: &'a dyn Clock,
    /// Bytes from the start that hold what was written.
    written: u64,
    entropy: SeededEntropy,
    /// Pages that came back otherwise than they were written.
    wrong: u64,
    look: Look,
}

impl Probe<'_> {
    fn run(&mut self, progress: &mut dyn FnMut(u64)) -> Result<Vec<Finding>, String> {
        let total = self.disk.info().len;
        let (bytes, us) = self.phase(DEPTH, |this, n| {
            let at = n * LARGE as u64;
            (at < total).then(|| this.write(at, LARGE)).transpose()
        })?;
        self.written = bytes;
        let write = gb_s(bytes, us);
        progress(250);
        let flush_us = self.flushes()?;
        let written = self.written;
        let reads = self.reads(written, progress)?;
        if self.wrong > 0 {
            return Err(format!("{} pages came back with other bytes than were written", self.wrong));
        }
        let writes = [
            at_least(
                "write",
                format!("{write:.2} GB/s in 1 MiB writes, {DEPTH} in flight"),
                write >= WRITE_GB_S_MIN,
                "durable puts wait for it",
            ),
            at_least(
                "flush",
                format!("{} for a page and a flush, half of them", ms(middle(&flush_us))),
                middle(&flush_us) <= FLUSH_US_MAX,
                "each durable put waits for one",
            ),
        ];
        Ok(writes.into_iter().chain(reads).collect())
    }

    /// Reads somewhere in the first `bytes`, one by one and many at once.
    fn reads(&mut self, bytes: u64, progress: &mut dyn FnMut(u64)) -> Result<Vec<Finding>, String> {
        self.written = bytes;
        progress(500);
        let small_us = self.small_reads()?;
        progress(750);
        let (bytes, us) = self.phase(DEPTH, |this, _| this.read(LARGE).map(Some))?;
        let read = gb_s(bytes, us);
        Ok(vec![
            at_least(
                "read, one by one",
                format!(
                    "{} for 64 KiB, half of them; 1 in 100 over {}",
                    ms(middle(&small_us)),
                    ms(share(&small_us, 99))
                ),
                middle(&small_us) <= SMALL_READ_US_MAX,
                "small gets wait for it",
            ),
            at_least(
                "read",
                format!("{read:.2} GB/s in 1 MiB reads, {DEPTH} in flight"),
                read >= READ_GB_S_MIN,
                "gets that miss DRAM wait for it",
            ),
        ])
    }

    /// Keeps `depth` operations in flight until `next` has no more or the time is over. Bytes moved, and the time it took.
    fn phase(
        &mut self,
        depth: usize,
        mut next: impl FnMut(&mut Self, u64) -> Result<Option<DiskOp>, String>,
    ) -> Result<(u64, u64), String> {
        let start_us = self.clock.now_us();
        let (mut begun, mut bytes, mut over) = (0, 0, false);
        let mut done = Vec::new();
        loop {
            while !over && self.disk.in_flight() < depth {
                over = self.clock.now_us() - start_us > PHASE_US;
                let Some(op) = (if over { None } else { next(self, begun)? }) else {
                    over = true;
                    break;
                };
                begun += 1;
                self.disk.submit(op).map_err(|_| "the engine takes no operation".to_owned())?;
            }
            if self.disk.in_flight() == 0 {
                return Ok((bytes, (self.clock.now_us() - start_us).max(1)));
            }
            Disk::wait(&mut self.disk, &mut done);
            for one in done.drain(..) {
                bytes += self.settle(one)?;
            }
        }
    }

    /// One operation from beginning to end, in microseconds.
    fn alone(&mut self, op: DiskOp) -> Result<u64, String> {
        let start_us = self.clock.now_us();
        let mut op = Some(op);
        self.phase(1, |_, _| Ok(op.take()))?;
        Ok(self.clock.now_us() - start_us)
    }

    fn flushes(&mut self) -> Result<Vec<u64>, String> {
        let start_us = self.clock.now_us();
        let mut times = Vec::with_capacity(FLUSHES);
        while times.len() < FLUSHES && (times.is_empty() || self.clock.now_us() - start_us < PHASE_US) {
            let write = self.write(times.len() as u64 * PAGE as u64, PAGE)?;
            times.push(self.alone(write)? + self.alone(DiskOp::Flush { token: 0 })?);
        }
        times.sort_unstable();
        Ok(times)
    }

    fn small_reads(&mut self) -> Result<Vec<u64>, String> {
        let start_us = self.clock.now_us();
        let mut times = Vec::new();
        while times.is_empty() || self.clock.now_us() - start_us < PHASE_US {
            let read = self.read(SMALL)?;
            times.push(self.alone(read)?);
        }
        times.sort_unstable();
        Ok(times)
    }

    /// Each page begins with its own offset: a page from elsewhere, or one never written, is told from the right one.
    fn write(&mut self, offset: u64, len: usize) -> Result<DiskOp, String> {
        let mut buf = self.arena.alloc(len).ok_or("no memory to write from")?;
        for (at, page) in buf.chunks_exact_mut(PAGE).enumerate() {
            page[..8].copy_from_slice(&(offset + (at * PAGE) as u64).to_le_bytes());
        }
        Ok(DiskOp::write(0, offset, buf.freeze()))
    }

    fn read(&mut self, len: usize) -> Result<DiskOp, String> {
        let buf = self.arena.alloc(len).ok_or("no memory to read into")?;
        let offset = self.entropy.word() % (self.written / len as u64).max(1) * len as u64;
        Ok(DiskOp::Read { token: offset, offset, into: ReadInto::Buf(buf) })
    }

    fn settle(&mut self, done: DiskDone) -> Result<u64, String> {
        done.result.map_err(|e| format!("an operation failed: {e}"))?;
        let Some(ReadInto::Buf(buf)) = done.read else { return Ok(LARGE as u64) };
        if self.look == Look::ReadOnly {
            return Ok(buf.len() as u64);
        }
        let right = |(at, page): (usize, &[u8])| page[..8] == (done.token + (at * PAGE) as u64).to_le_bytes();
        self.wrong += buf.chunks_exact(PAGE).enumerate().filter(|one| !right(*one)).count() as u64;
        Ok(buf.len() as u64)
    }
}

fn at_least(check: &'static str, found: String, fine: bool, why: &str) -> Finding {
    if fine { Finding::ok(check, found) } else { Finding::warn(check, format!("{found}: {why}"), CURE) }
}

fn gb_s(bytes: u64, us: u64) -> f64 {
    bytes as f64 / us as f64 / 1000.0
}

fn ms(us: u64) -> String {
    if us < 1000 { format!("{us} us") } else { format!("{:.1} ms", us as f64 / 1000.0) }
}

fn middle(sorted: &[u64]) -> u64 {
    share(sorted, 50)
}

fn share(sorted: &[u64], percent: usize) -> u64 {
    sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1))).copied().unwrap_or(0)
}
