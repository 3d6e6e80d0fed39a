//! The enumerations of `forebay._words`, whose members stand for outcomes: each is looked up once and shared by all answers.

use forebay_types::{LandingKind, MissReason, PutOutcome, RefusedReason, Tier};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

type Members = Vec<Py<PyAny>>;

/// All members, by the index of their Rust twins.
pub(crate) struct Words {
    tiers: Members,
    misses: Members,
    refusals: Members,
    landings: Members,
    cached: Py<PyAny>,
    durable: Py<PyAny>,
    exists: Py<PyAny>,
}

static WORDS: PyOnceLock<Words> = PyOnceLock::new();

/// They, looked up.
pub(crate) fn words(py: Python<'_>) -> PyResult<&'static Words> {
    WORDS.get_or_try_init(py, || {
        let module = py.import("forebay._words")?;
        let member = |class: &str, word: &str| Ok::<_, PyErr>(module.getattr(class)?.call1((word,))?.unbind());
        Ok(Words {
            tiers: Tier::ALL.iter().map(|tier| member("Tier", tier.word())).collect::<PyResult<_>>()?,
            misses: MissReason::ALL.iter().map(|reason| member("Miss", reason.word())).collect::<PyResult<_>>()?,
            refusals: RefusedReason::ALL.iter().map(|r| member("Refused", r.word())).collect::<PyResult<_>>()?,
            landings: LandingKind::ALL.iter().map(|kind| member("Landing", kind.word())).collect::<PyResult<_>>()?,
            cached: member("Stored", "cached")?,
            durable: member("Stored", "durable")?,
            exists: member("Stored", "exists")?,
        })
    })
}

impl Words {
    pub(crate) fn tier(&self, py: Python<'_>, tier: Tier) -> Py<PyAny> {
        self.tiers[tier.index()].clone_ref(py)
    }

    pub(crate) fn miss(&self, py: Python<'_>, reason: MissReason) -> Py<PyAny> {
        self.misses[reason.index()].clone_ref(py)
    }

    pub(crate) fn landing(&self, py: Python<'_>, kind: LandingKind) -> Py<PyAny> {
        self.landings[kind.index()].clone_ref(py)
    }

    pub(crate) fn seen(&self, py: Python<'_>, seen: Result<Tier, MissReason>) -> Py<PyAny> {
        match seen {
            Ok(tier) => self.tier(py, tier),
            Err(reason) => self.miss(py, reason),
        }
    }

    pub(crate) fn put(&self, py: Python<'_>, outcome: PutOutcome) -> Py<PyAny> {
        match outcome {
            PutOutcome::Cached => self.cached.clone_ref(py),
            PutOutcome::Durable => self.durable.clone_ref(py),
            PutOutcome::Exists => self.exists.clone_ref(py),
            PutOutcome::Refused(reason) => self.refusals[reason.index()].clone_ref(py),
        }
    }
}
