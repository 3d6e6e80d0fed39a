//! What a claim was measured on: machine, commit, and how quiet it was. Nothing here names a path or a host.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::report::round;
use crate::watch::Watch;

/// Machine and file system under `dir`.
pub(crate) fn machine(dir: &Path) -> Value {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        let value = line.and_then(|line| line.split_once([':', '='])).map(|(_, value)| value.trim().trim_matches('"'));
        value.unwrap_or("unknown").to_owned()
    };
    let memory_kib: f64 =
        field(&read("/proc/meminfo"), "MemTotal").split_whitespace().next().and_then(|x| x.parse().ok()).unwrap_or(0.0);
    let (file_system, drive) = file_system(dir);
    json!({
        "cpu": field(&read("/proc/cpuinfo"), "model name"),
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "memory_gib": (memory_kib / 1_048_576.0).round(),
        "kernel": rustix::system::uname().release().to_string_lossy(),
        "distribution": field(&read("/etc/os-release"), "PRETTY_NAME"),
        "file_system": file_system,
        "drive": drive,
    })
}

/// Kind of the file system that `dir` lies on, and what is known of the device under it.
fn file_system(dir: &Path) -> (String, String) {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let mut best: Option<(usize, &str, &str)> = None;
    for line in mounts.lines() {
        let Some((before, after)) = line.split_once(" - ") else { continue };
        let fields: Vec<&str> = before.split(' ').collect();
        let (Some(device), Some(at), Some(kind)) = (fields.get(2), fields.get(4), after.split(' ').next()) else {
            continue;
        };
        if dir.starts_with(at) && best.is_none_or(|(length, ..)| at.len() >= length) {
            best = Some((at.len(), kind, device));
        }
    }
    best.map_or(("unknown".into(), "unknown".into()), |(_, kind, device)| (kind.to_owned(), device_of(device)))
}

fn device_of(number: &str) -> String {
    let base = format!("/sys/dev/block/{number}");
    let read = |name: &str| std::fs::read_to_string(format!("{base}/{name}")).unwrap_or_default().trim().to_owned();
    let sectors: f64 = read("size").parse().unwrap_or(0.0);
    if sectors == 0.0 {
        return "unknown".into();
    }
    let model = [read("device/model"), read("../device/model")].into_iter().find(|model| !model.is_empty());
    let driver = std::fs::read_link(format!("{base}/device/driver")).ok();
    let driver = driver.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    format!("{}, {:.0} GB", model.or(driver).unwrap_or_else(|| "block device".into()), sectors * 512.0 / 1e9)
}

/// The commit in the current folder, and whether anything but documents differs from it.
pub(crate) fn commit() -> (String, bool) {
    let git = |args: &[&str]| {
        let output = Command::new("git").args(args).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let id = git(&["rev-parse", "HEAD"]).unwrap_or_else(|| "unknown".into());
    // A card written a minute ago, and the page made from it, change nothing that is measured.
    let dirty = git(&["status", "--porcelain", "--", ":!docs"]).is_none_or(|changes| !changes.is_empty());
    (id, dirty)
}

/// How quiet the machine is, from `start` on.
pub(crate) struct Quiet {
    watch: Watch,
    load: f64,
    stolen_s: f64,
}

impl Quiet {
    pub(crate) fn start() -> Quiet {
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load = load.split_whitespace().next().and_then(|x| x.parse().ok()).unwrap_or(f64::NAN);
        Quiet { watch: Watch::start(), load, stolen_s: stolen_s() }
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "load_before": self.load,
            "seconds": round(self.watch.s()),
            "stolen_s": round(stolen_s() - self.stolen_s),
        })
    }
}

/// How much of the machine the host takes, from `start` on.
pub(crate) struct Stolen {
    watch: Watch,
    stolen_s: f64,
}

impl Stolen {
    pub(crate) fn start() -> Stolen {
        Stolen { watch: Watch::start(), stolen_s: stolen_s() }
    }

    /// The share of all cores' time, from 0 to 1.
    pub(crate) fn share(&self) -> f64 {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        (stolen_s() - self.stolen_s) / self.watch.s() / cores as f64
    }
}

/// CPU seconds that the host took from this machine since it started, over all cores; 0 where nothing is told.
fn stolen_s() -> f64 {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let total = text.lines().next().and_then(|line| line.split_whitespace().nth(8));
    let ticks: f64 = total.and_then(|x| x.parse().ok()).unwrap_or(0.0);
    ticks / rustix::param::clock_ticks_per_second() as f64
}

/// A time as `2026-11-25T22:33:40Z`.
pub(crate) fn utc(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Days since 1970 to a date, by eras of 400 years that begin on a first of March.
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_dates() {
        assert_eq!(utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(utc(1_795_646_020), "2026-11-25T22:33:40Z");
    }

    #[test]
    fn this_machine_is_described_without_a_path() {
        let text = machine(Path::new(".")).to_string();
        assert!(text.contains("cores") && !text.contains("unknown\",\"memory"), "{text}");
        assert!(!text.contains("\"/") && !text.contains(" /"), "{text}");
    }
}
