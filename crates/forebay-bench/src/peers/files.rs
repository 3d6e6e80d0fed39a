//! Plain files, one a block, eight threads: with O_DIRECT, and through the page cache with fsync.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, OFlags};

use super::{Figure, Load, Op, Peer};
use crate::watch::Watch;
use crate::work::pattern;
use crate::{Failed, Outcome, Scratch, why};

/// More would only wait for two cores and one drive.
const THREADS: usize = 8;
const DIRECT: &str = "files, O_DIRECT";
const BUFFERED: &str = "files, fsync";
const CACHED: &str = "files, page cache";

pub(super) struct Files {
    dir: PathBuf,
}

impl Files {
    pub(super) fn start(dir: &Scratch) -> Outcome<Files> {
        let dir = dir.join("files");
        std::fs::create_dir_all(&dir).map_err(why("making the folder of files"))?;
        Ok(Files { dir })
    }
}

impl Peer for Files {
    fn name(&self) -> &'static str {
        "files"
    }

    fn round(&mut self, load: &Load, set: u32) -> Outcome<Vec<Figure>> {
        let mut figures = Vec::new();
        for (column, flags) in [(DIRECT, OFlags::DIRECT), (BUFFERED, OFlags::empty())] {
            let flags = flags.bits() as i32;
            let mut add = |op, gb_s| figures.push(Figure { column, op, gb_s });
            let names: Vec<PathBuf> = (0..load.count).map(|i| self.dir.join(format!("{set}-{i}"))).collect();
            add(Op::Put, in_threads(load, &names, |path, i, buffer| put(path, flags, i, buffer))?);
            for path in &names {
                drop_cache(path)?;
            }
            add(Op::GetCold, in_threads(load, &names, |path, i, buffer| get(path, flags, i, buffer))?);
            if flags == 0 {
                let gb_s = in_threads(load, &names, |path, i, buffer| get(path, flags, i, buffer))?;
                figures.push(Figure { column: CACHED, op: Op::GetWarm, gb_s });
            }
            for path in &names {
                std::fs::remove_file(path).map_err(why("removing a file"))?;
            }
        }
        Ok(figures)
    }
}

/// Does `work` with every file, eight at a time; GB/s. Each thread has one buffer that begins on a page, filled before the clock starts.
fn in_threads(
    load: &Load,
    names: &[PathBuf],
    work: impl Fn(&Path, usize, &mut [u8]) -> std::io::Result<bool> + Sync,
) -> Outcome<f64> {
    let mut memory: Vec<Vec<u8>> = (0..THREADS).map(|_| pattern(load.bytes + 4096)).collect();
    let watch = Watch::start();
    let done: Vec<std::io::Result<bool>> = std::thread::scope(|scope| {
        let workers: Vec<_> = memory
            .iter_mut()
            .enumerate()
            .map(|(worker, memory)| {
                let work = &work;
                scope.spawn(move || {
                    let skip = memory.as_ptr().align_offset(4096);
                    let buffer = &mut memory[skip..skip + load.bytes];
                    let mut right = true;
                    for (i, path) in names.iter().enumerate().skip(worker).step_by(THREADS) {
                        right &= work(path, i, buffer)?;
                    }
                    Ok(right)
                })
            })
            .collect();
        workers
            .into_iter()
            .map(|w| w.join().unwrap_or_else(|_| Err(std::io::Error::other("a worker panicked"))))
            .collect()
    });
    let gb_s = load.total() as f64 / 1e9 / watch.s();
    for right in done {
        if !right.map_err(why("files"))? {
            return Err(Failed("a file came back wrong".into()));
        }
    }
    Ok(gb_s)
}

fn put(path: &Path, flags: i32, i: usize, buffer: &mut [u8]) -> std::io::Result<bool> {
    let n = buffer.len();
    buffer[..8].copy_from_slice(&(i as u64).to_le_bytes());
    buffer[n - 8..].copy_from_slice(&(i as u64).to_le_bytes());
    let mut file = OpenOptions::new().write(true).create_new(true).custom_flags(flags).open(path)?;
    file.write_all(buffer)?;
    file.sync_data()?;
    Ok(true)
}

fn get(path: &Path, flags: i32, i: usize, buffer: &mut [u8]) -> std::io::Result<bool> {
    let n = buffer.len();
    let mut file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    file.read_exact(buffer)?;
    let mark = (i as u64).to_le_bytes();
    Ok(buffer[..8] == mark && buffer[n - 8..] == mark)
}

fn drop_cache(path: &Path) -> Outcome<()> {
    let file = File::open(path).map_err(why("opening a file"))?;
    rustix::fs::fadvise(&file, 0, None, Advice::DontNeed).map_err(why("dropping a file from the page cache"))
}
