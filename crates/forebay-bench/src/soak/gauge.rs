//! Memory and descriptors of a process over time, and whether they are flat.

/// What a process holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Gauge {
    /// Its own memory in KiB: what is shared with others, such as regions that clients lend, is not counted.
    pub(crate) kib: u64,
    pub(crate) files: u64,
}

/// Of a process that runs; zeros when it does not.
pub(crate) fn of(pid: u32) -> Gauge {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kib = |name: &str| -> u64 {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or(0)
    };
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, |entries| entries.count() as u64);
    Gauge { kib: kib("RssAnon:") + kib("RssFile:"), files }
}

/// Samples of one process.
#[derive(Debug, Default)]
pub(crate) struct Course {
    /// Seconds and what was held then.
    samples: Vec<(f64, Gauge)>,
}

impl Course {
    pub(crate) fn add(&mut self, at_s: f64, now: Gauge) {
        if now != Gauge::default() {
            self.samples.push((at_s, now));
        }
    }

    pub(crate) fn highest_kib(&self) -> u64 {
        self.samples.iter().map(|(_, gauge)| gauge.kib).max().unwrap_or(0)
    }

    /// KiB by which memory grew from `from_s` on: the slope of a straight line through the samples, times its length. Peaks that go away do not
    /// count, a leak does.
    pub(crate) fn growth_kib(&self, from_s: f64) -> f64 {
        let late: Vec<(f64, f64)> =
            self.samples.iter().filter(|(at, _)| *at >= from_s).map(|(at, gauge)| (*at, gauge.kib as f64)).collect();
        let (Some(first), Some(last)) = (late.first(), late.last()) else { return 0.0 };
        let n = late.len() as f64;
        let (mean_t, mean_kib) = (late.iter().map(|s| s.0).sum::<f64>() / n, late.iter().map(|s| s.1).sum::<f64>() / n);
        let over: f64 = late.iter().map(|(t, kib)| (t - mean_t) * (kib - mean_kib)).sum();
        let under: f64 = late.iter().map(|(t, _)| (t - mean_t).powi(2)).sum();
        if under == 0.0 { 0.0 } else { over / under * (last.0 - first.0) }
    }

    /// Descriptors more at the end than at `from_s`: the fewest of the last fifth of the samples against the fewest of the first.
    pub(crate) fn more_files(&self, from_s: f64) -> i64 {
        let files: Vec<u64> =
            self.samples.iter().filter(|(at, _)| *at >= from_s).map(|(_, gauge)| gauge.files).collect();
        let fifth = files.len().div_ceil(5);
        let fewest = |some: &[u64]| some.iter().min().map_or(0, |files| *files as i64);
        fewest(&files[files.len() - fifth..]) - fewest(&files[..fifth])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn course(kib: impl Fn(u64) -> u64, files: impl Fn(u64) -> u64) -> Course {
        let mut course = Course::default();
        (0..100).for_each(|s| course.add(s as f64, Gauge { kib: kib(s), files: files(s) }));
        course
    }

    #[test]
    fn a_leak_is_told_from_a_peak() {
        let flat = course(|s| 1000 + s % 7, |s| 20 + s % 3);
        assert!(flat.growth_kib(50.0).abs() < 3.0, "{}", flat.growth_kib(50.0));
        assert_eq!(flat.more_files(50.0), 0);
        let leak = course(|s| 1000 + 10 * s + s % 7, |s| 20 + s);
        assert!((leak.growth_kib(50.0) - 490.0).abs() < 10.0, "{}", leak.growth_kib(50.0));
        assert!(leak.more_files(50.0) >= 39);
        // What happened before does not count.
        let settled = course(|s| 1000 + 50 * s.min(40), |s| 20 + s.min(40));
        assert_eq!((settled.growth_kib(50.0), settled.more_files(50.0)), (0.0, 0));
    }

    #[test]
    fn this_process_holds_something() {
        let own = of(std::process::id());
        assert!(own.kib > 100 && own.files > 2, "{own:?}");
        assert_eq!(of(u32::MAX), Gauge::default());
    }
}
