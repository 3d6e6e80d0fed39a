//! What kinds of engine there are, what each found in the kernel, and why something is off.

use std::time::Duration;

use super::uring;

/// Which engine to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EngineKind {
    /// The ring when the kernel lets us, else threads.
    #[default]
    Auto,
    /// io_uring or nothing.
    Uring,
    /// Threads.
    Threads,
}

/// Kernel features to do without, so that each fallback can be tested.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Deny {
    /// io_uring itself.
    pub ring: bool,
    /// `IORING_SETUP_SINGLE_ISSUER`, and `DEFER_TASKRUN`, which needs it.
    pub single_issuer: bool,
    /// `IORING_SETUP_DEFER_TASKRUN`.
    pub defer_taskrun: bool,
    /// `IORING_SETUP_COOP_TASKRUN`.
    pub coop_taskrun: bool,
    /// Registered buffers: the arena's.
    pub registered_buffers: bool,
    /// The registered file.
    pub registered_file: bool,
}

/// How to make an engine.
#[derive(Debug, Clone, Copy)]
pub struct EngineOptions {
    /// Which.
    pub kind: EngineKind,
    /// Drive operations in flight at once; cut to `1..=`[`super::DEPTH_MAX`].
    pub depth: usize,
    /// What to do without.
    pub deny: Deny,
}

/// A kernel feature and, when it is off, why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feature {
    /// Its name.
    pub name: &'static str,
    /// Why it is off; absent when it is on.
    pub off: Option<String>,
}

impl Feature {
    pub(super) fn on(name: &'static str) -> Self {
        Feature { name, off: None }
    }

    pub(super) fn off(name: &'static str, why: impl std::fmt::Display) -> Self {
        Feature { name, off: Some(why.to_string()) }
    }
}

/// What an engine found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineFeatures {
    /// `uring` or `threads`.
    pub name: &'static str,
    /// Each feature probed: `direct_io`, `io_uring`, `single_issuer`, `defer_taskrun`, `coop_taskrun` (where `defer_taskrun` is not to be had), `registered_file`, `registered_buffers`.
    pub features: Vec<Feature>,
}

impl EngineFeatures {
    /// Whether the feature of this name is on.
    pub fn has(&self, name: &str) -> bool {
        self.features.iter().any(|f| f.name == name && f.off.is_none())
    }
}

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The ring was asked for by name and cannot be had.
    #[error("io_uring cannot be used here ({0}); use the thread engine, or allow io_uring to this process")]
    NoRing(String),
    /// The slice is not inside the drive.
    #[error("bytes {base}+{len} do not lie in a drive of {drive} bytes at its alignment")]
    Outside {
        /// First byte.
        base: u64,
        /// Bytes.
        len: u64,
        /// The drive's.
        drive: u64,
    },
    /// The kernel said no.
    #[error("{doing} failed: {source}")]
    Os {
        /// What was being done.
        doing: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
}

/// What this machine offers to engines, without a drive.
#[derive(Debug, Clone)]
pub struct Probe {
    /// What a ring would have.
    pub ring: EngineFeatures,
    /// What may be locked in memory, in bytes; absent when there is no limit. Registered buffers count against it.
    pub memlock_bytes: Option<u64>,
    /// Why clients' regions have no huge pages; absent when they have.
    pub huge_pages_off: Option<&'static str>,
}

/// Looks at what this machine offers to engines.
pub fn probe() -> Probe {
    let mut features = Vec::new();
    let name = match uring::probe(&mut features) {
        Ok(()) => {
            features.push(Feature::on("io_uring"));
            "uring"
        }
        Err(why) => {
            features.push(Feature { name: "io_uring", off: Some(why) });
            "threads"
        }
    };
    let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock);
    Probe {
        ring: EngineFeatures { name, features },
        memlock_bytes: limit.current,
        huge_pages_off: crate::huge_pages_off(),
    }
}

/// A wait as the kernel takes it: seconds and nanoseconds, no longer than a day, so that no sum overflows.
pub(super) fn clamp_wait(wait: Duration) -> Duration {
    wait.min(Duration::from_secs(86_400))
}
