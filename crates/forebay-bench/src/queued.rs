//! How long threads were ready to run and had no core, as the kernel counts it. A machine whose cores are shared is late by itself; this tells how much of
//! a wait was that.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

/// Some threads, each as its file of the scheduler's figures. Empty where the kernel does not tell.
pub(crate) struct Queued(Vec<File>);

impl Queued {
    pub(crate) fn of_this_thread() -> Queued {
        Queued(File::open("/proc/thread-self/schedstat").into_iter().collect())
    }

    /// The shards' threads of a node.
    pub(crate) fn of_shards(pid: u32) -> Queued {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let is_shard = |task: &fs::DirEntry| {
            fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.starts_with("shard-"))
        };
        Queued(tasks.filter(is_shard).filter_map(|task| File::open(task.path().join("schedstat")).ok()).collect())
    }

    /// Milliseconds since the threads began, of all of them together.
    pub(crate) fn ms(&self) -> f64 {
        self.0.iter().map(waited_ns).sum::<f64>() / 1e6
    }
}

/// The second of: nanoseconds on a core, nanoseconds ready and without one, times it got one.
fn waited_ns(file: &File) -> f64 {
    let mut text = [0; 96];
    let n = file.read_at(&mut text, 0).unwrap_or(0);
    let second = std::str::from_utf8(&text[..n]).ok().and_then(|text| text.split_whitespace().nth(1));
    second.and_then(|ns| ns.parse().ok()).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_shares_its_core_waits_for_it() {
        let queued = Queued::of_this_thread();
        if queued.0.is_empty() {
            return eprintln!("skipped: this kernel does not count it");
        }
        let one = {
            let mut set = rustix::thread::CpuSet::new();
            let all = rustix::thread::sched_getaffinity(None).unwrap();
            set.set((0..rustix::thread::CpuSet::MAX_CPU).find(|cpu| all.is_set(*cpu)).unwrap());
            set
        };
        // This thread and another on one core, each with a piece of work: whichever is second waits for the first.
        let before = queued.ms();
        rustix::thread::sched_setaffinity(None, &one).unwrap();
        let over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                rustix::thread::sched_setaffinity(None, &one).unwrap();
                while !over.load(std::sync::atomic::Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
            while queued.ms() - before < 1.0 {
                std::hint::spin_loop();
            }
            over.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    }

    #[test]
    fn a_process_without_shards_has_none() {
        assert!(Queued::of_shards(std::process::id()).0.is_empty());
    }
}
