//! The folder of one run, which goes when the bench ends, however it ends.
//!
//! Who is killed, by a limit or Ctrl-C, clears nothing up. So a child of the bench's holds the other end of a pipe, in a process group of its own that
//! no Ctrl-C meets: when the pipe closes it ends what still runs in the folder and removes it. What even that leaves behind, after a power cut, the next
//! bench finds: each folder has a lock that is held while its bench lives.

use std::fs::File;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use clap::Args;
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};

use crate::report::say;
use crate::watch::{Watch, pause};
use crate::{Outcome, why};

/// In the folder of a run: locked while the run lasts.
const LOCK: &str = "lock";

/// How long what runs in a folder may take to end after SIGKILL, in seconds: it may be waiting for a drive.
const END_S_MAX: f64 = 30.0;

#[derive(Args)]
pub(crate) struct JanitorArgs {
    /// What is removed when stdin ends.
    folder: PathBuf,
}

/// A folder that goes when the bench ends, however it ends.
pub(crate) struct Scratch {
    dir: PathBuf,
    _lock: File,
    janitor: Option<Child>,
}

impl Scratch {
    /// A folder of this run's own under `base`, from which what dead benches left is cleared first.
    pub(crate) fn new(base: &Path, name: &str) -> Outcome<Scratch> {
        clear_leftovers(base);
        let dir = base.join(format!("{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).map_err(why("making the bench folder"))?;
        let lock = File::create(dir.join(LOCK)).map_err(why("making the bench folder"))?;
        // Of somebody who shares the folder over a network there may be no lock to be had; then nothing is cleared for it either.
        let _ = flock(&lock, FlockOperation::NonBlockingLockExclusive);
        let own = std::env::current_exe().map_err(why("finding this program"))?;
        let mut command = Command::new(own);
        command.arg("janitor").arg(&dir).process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let janitor = command.spawn().map_err(why("starting who clears up"))?;
        Ok(Scratch { dir, _lock: lock, janitor: Some(janitor) })
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
        if let Some(mut janitor) = self.janitor.take() {
            drop(janitor.stdin.take());
            let _ = janitor.wait();
        }
    }
}

/// Waits until the bench has ended, and clears up behind it.
pub(crate) fn clear_when_it_ends(args: &JanitorArgs) -> Outcome<()> {
    let _ = std::io::stdin().read(&mut [0]);
    clear(&args.folder);
    Ok(())
}

/// Clears what benches left that are not there any more.
fn clear_leftovers(base: &Path) {
    for entry in std::fs::read_dir(base).into_iter().flatten().flatten() {
        let dir = entry.path();
        // Held: somebody measures there. Not there: it is no folder of a bench's.
        let Ok(lock) = File::open(dir.join(LOCK)) else { continue };
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            say(&format!("{}: left by a bench that was ended; removed", dir.display()));
            clear(&dir);
        }
    }
}

/// Ends what runs in a folder, and removes it.
fn clear(dir: &Path) {
    if !dir.exists() {
        return;
    }
    let watch = Watch::start();
    loop {
        let running = who_runs_in(dir);
        for pid in &running {
            let _ = kill_process(*pid, Signal::KILL);
        }
        if running.is_empty() || watch.s() > END_S_MAX {
            break;
        }
        pause(10);
    }
    let _ = std::fs::remove_dir_all(dir);
}

/// Processes, this one not among them, that were started with a path in the folder.
fn who_runs_in(dir: &Path) -> Vec<Pid> {
    let own = std::process::id();
    let pids = std::fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let words = std::fs::read(entry.path().join("cmdline")).ok()?;
        let is_janitor = words.split(|b| *b == 0).nth(1) == Some(b"janitor");
        let runs =
            words.split(|b| *b == 0).any(|word| std::str::from_utf8(word).is_ok_and(|w| Path::new(w).starts_with(dir)));
        (pid != own && runs && !is_janitor).then(|| Pid::from_raw(pid as i32)).flatten()
    });
    pids.collect()
}
