//! What a machine offers to a node, and what stands in its way: each finding with its cure.
//!
//! Nothing is changed, and nothing stays: the drive's speed is measured in a file that has no name any more while it is written. A machine that is
//! merely slower than it could be is worth a warning; only what keeps a node from serving, or from keeping its promises, is a failure.

mod clocks;
mod kernel;
mod place;
mod raw;
mod speed;

use std::path::PathBuf;

use forebay_types::Clock;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// As it should be.
    Ok,
    /// A node serves, and could do better.
    Warn,
    /// A node does not serve, or not as promised.
    Fail,
}

impl Level {
    /// As it is printed.
    pub fn word(self) -> &'static str {
        match self {
            Level::Ok => "ok",
            Level::Warn => "warn",
            Level::Fail => "fail",
        }
    }
}

/// One thing looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at, in a word or two.
    pub check: &'static str,
    /// How bad it is.
    pub level: Level,
    /// What was found.
    pub found: String,
    /// What to do about it; absent when it is as it should be.
    pub cure: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Finding { check, level: Level::Ok, found: found.into(), cure: None }
    }

    fn warn(check: &'static str, found: impl Into<String>, cure: impl Into<String>) -> Self {
        Finding { check, level: Level::Warn, found: found.into(), cure: Some(cure.into()) }
    }

    fn fail(check: &'static str, found: impl Into<String>, cure: impl Into<String>) -> Self {
        Finding { check, level: Level::Fail, found: found.into(), cure: Some(cure.into()) }
    }
}

/// The node that is meant to run here.
#[derive(Debug, Clone)]
pub struct Patient {
    /// Its drives: files that are there or are to be made, or folders for them, or raw block devices.
    pub data: Vec<PathBuf>,
    /// Its catalogue, if that is not to lie beside the first file.
    pub catalogue: Option<PathBuf>,
    /// Its socket.
    pub socket: PathBuf,
    /// The drive's folder is made at its start: it is the user's own, and nobody chose it by hand.
    pub makes_data_folder: bool,
    /// The same of the socket's.
    pub makes_socket_folder: bool,
    /// Its memory, in bytes.
    pub memory_bytes: u64,
}

/// Looks at everything. `progress` hears how much of the time it takes has passed, in thousandths.
pub fn examine(patient: &Patient, clock: &dyn Clock, progress: &mut dyn FnMut(u64)) -> Vec<Finding> {
    let watch = clocks::Watch::start(clock);
    let mut findings = kernel::findings(patient);
    let drives = patient.data.len().max(1) as u64;
    for (at, path) in patient.data.iter().enumerate() {
        let mut hear = |thousandths: u64| progress((at as u64 * 1000 + thousandths) / drives);
        if forebay_io::is_block_device(path) {
            findings.extend(raw::findings(path, clock, &mut hear));
        } else {
            findings.extend(place::findings(path, patient.makes_data_folder, clock, &mut hear));
        }
    }
    findings.extend(raw::catalogue(&patient.data, patient.catalogue.as_deref()));
    findings.push(place::socket(&patient.socket, patient.makes_socket_folder));
    findings.extend(watch.findings(clock));
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use forebay_types::SystemClock;

    #[test]
    fn whatever_is_amiss_has_a_cure_and_nothing_is_left_behind() {
        let folder = std::env::temp_dir().join(format!("fb-doctor-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let patient = Patient {
            data: vec![folder.join("drive"), folder.join("nowhere/drive"), "/dev/null".into()],
            catalogue: None,
            socket: folder.join("x".repeat(120)),
            makes_data_folder: false,
            makes_socket_folder: false,
            memory_bytes: 64 << 20,
        };
        let mut heard = 0;
        let findings = examine(&patient, &SystemClock::new(), &mut |at| heard = at);
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
        std::fs::remove_dir(&folder).unwrap();
        for finding in &findings {
            assert_eq!(finding.level == Level::Ok, finding.cure.is_none(), "{finding:?}");
        }
        let places = findings.iter().filter(|f| ["place", "socket"].contains(&f.check));
        let levels: Vec<Level> = places.map(|f| f.level).collect();
        assert_eq!(levels, [Level::Ok, Level::Fail, Level::Fail, Level::Fail], "{findings:#?}");
        for check in [
            "io_uring",
            "locked memory",
            "open files",
            "direct I/O",
            "free space",
            "write",
            "flush",
            "read",
            "steady clock",
        ] {
            assert!(findings.iter().any(|f| f.check == check), "nobody looked at {check}: {findings:#?}");
        }
        assert_eq!(heard, 1000);
    }
}
