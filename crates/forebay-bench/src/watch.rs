//! Time and CPU, as finely as the kernel counts them: nanoseconds. Microseconds are too coarse beside a ping-pong of five.

use std::collections::HashMap;

use rustix::time::{ClockId, clock_gettime};

use crate::report::Samples;

/// A stopwatch.
pub(crate) struct Watch(u64);

impl Watch {
    pub(crate) fn start() -> Watch {
        Watch(now_ns())
    }

    pub(crate) fn us(&self) -> f64 {
        (now_ns() - self.0) as f64 / 1e3
    }

    pub(crate) fn s(&self) -> f64 {
        (now_ns() - self.0) as f64 / 1e9
    }

    /// Waits until it shows that many seconds.
    #[expect(clippy::disallowed_methods, reason = "requests of a bench come at their times")]
    pub(crate) fn until_s(&self, seconds: f64) {
        let left = seconds - self.s();
        if left > 0.0 {
            std::thread::sleep(std::time::Duration::from_secs_f64(left));
        }
    }
}

/// Waits.
#[expect(clippy::disallowed_methods, reason = "phases of a bench, faults and polls are lengths of time")]
pub(crate) fn pause(ms: u64) {
    std::thread::sleep(std::time::Duration::from_millis(ms));
}

fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// CPU seconds of this process and some others, and the bytes moved meanwhile. It may be started and stopped many times: what counts is between.
#[derive(Default)]
pub(crate) struct CpuMeter {
    cpu_ns: u64,
    bytes: u64,
}

/// A piece of work that is being metered.
pub(crate) struct Metered {
    pids: Vec<u32>,
    before: HashMap<(u32, u32), u64>,
    watch: Watch,
}

impl Metered {
    /// Of this process and of `pid`.
    pub(crate) fn start(pid: u32) -> Metered {
        let pids = vec![std::process::id(), pid];
        let before = threads_ns(&pids);
        Metered { pids, before, watch: Watch::start() }
    }

    /// Adds the work to the meter; its speed in GB/s.
    pub(crate) fn stop(self, meter: &mut CpuMeter, bytes: u64) -> f64 {
        let seconds = self.watch.s();
        let after = threads_ns(&self.pids);
        // A thread that ended meanwhile is not seen any more: what it used in this stretch is lost, and that is little.
        meter.cpu_ns += after
            .iter()
            .map(|(thread, ns)| ns.saturating_sub(self.before.get(thread).copied().unwrap_or(0)))
            .sum::<u64>();
        meter.bytes += bytes;
        bytes as f64 / 1e9 / seconds
    }
}

impl CpuMeter {
    /// None when nothing was moved.
    pub(crate) fn s_per_gb(&self) -> Option<f64> {
        (self.bytes > 0).then(|| self.cpu_ns as f64 / self.bytes as f64)
    }
}

/// Nanoseconds on a CPU of each thread of the processes, the ring's own workers among them.
pub(crate) fn threads_ns(pids: &[u32]) -> HashMap<(u32, u32), u64> {
    let mut all = HashMap::new();
    for pid in pids {
        for entry in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let text = std::fs::read_to_string(entry.path().join("schedstat")).unwrap_or_default();
            let ns = text.split_whitespace().next().and_then(|x| x.parse().ok());
            if let (Some(tid), Some(ns)) = (entry.file_name().to_str().and_then(|x| x.parse().ok()), ns) {
                all.insert((*pid, tid), ns);
            }
        }
    }
    all
}

/// Latencies of one pair, taken in several bursts, and the same of all pairs.
#[derive(Default)]
pub(crate) struct Latencies {
    now_us: Vec<f64>,
    pub(crate) p50: Samples,
    pub(crate) p99: Samples,
    pub(crate) p999: Samples,
}

impl Latencies {
    pub(crate) fn add(&mut self, burst_us: Vec<f64>) {
        self.now_us.extend(burst_us);
    }

    /// p99 and p99.9, if anything was timed.
    pub(crate) fn tails(self) -> Option<(Samples, Samples)> {
        let timed = self.p99.0.iter().any(|us| us.is_finite());
        timed.then_some((self.p99, self.p999))
    }

    /// Ends a pair.
    pub(crate) fn close(&mut self) {
        self.p50.0.push(crate::report::percentile(&self.now_us, 0.5));
        self.p99.0.push(crate::report::percentile(&self.now_us, 0.99));
        self.p999.0.push(crate::report::percentile(&self.now_us, 0.999));
        self.now_us.clear();
    }
}

/// Latencies of things of which always so many are on their way: one's time begins when the one that made room for it has come.
pub(crate) struct Window {
    watch: Watch,
    depth: usize,
    came_us: Vec<f64>,
}

impl Window {
    pub(crate) fn start(depth: usize) -> Window {
        Window { watch: Watch::start(), depth, came_us: Vec::new() }
    }

    /// One has come.
    pub(crate) fn came(&mut self) {
        self.came_us.push(self.watch.us());
    }

    /// The microseconds of each.
    pub(crate) fn us(&self) -> Vec<f64> {
        let begun = |i: usize| i.checked_sub(self.depth).map_or(0.0, |before| self.came_us[before]);
        self.came_us.iter().enumerate().map(|(i, came)| came - begun(i)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_metered() {
        let mut meter = CpuMeter::default();
        assert_eq!(meter.s_per_gb(), None);
        let work = Metered::start(std::process::id());
        let mut sum = 0u64;
        while work.watch.us() < 30_000.0 {
            sum = std::hint::black_box(sum + 1);
        }
        let gb_s = work.stop(&mut meter, 1_000_000);
        assert!(gb_s > 0.0 && gb_s < 0.034, "{gb_s}");
        assert!(meter.s_per_gb().is_some_and(|s| s > 0.0));
    }

    #[test]
    fn in_a_window_of_two_each_is_timed_from_the_one_before_the_last() {
        let window = Window { watch: Watch::start(), depth: 2, came_us: vec![10.0, 11.0, 30.0, 31.0] };
        assert_eq!(window.us(), [10.0, 11.0, 20.0, 20.0]);
    }

    #[test]
    fn bursts_make_a_pair() {
        let mut all = Latencies::default();
        all.add(vec![1.0, 2.0]);
        all.add(vec![3.0]);
        all.close();
        all.add(vec![9.0]);
        all.close();
        assert_eq!((all.p50.0.clone(), all.p999.0.clone()), (vec![2.0, 9.0], vec![3.0, 9.0]));
    }
}
