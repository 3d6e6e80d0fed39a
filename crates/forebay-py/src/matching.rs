//! `Namespace.match_prefix` and `Namespace.contains`: looking without fetching.

use std::time::Duration;

use forebay_types::{MissReason, Tier};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

use crate::call::blocking;
use crate::errors::invalid;
use crate::keys::asked;
use crate::namespace::{Namespace, Terms};
use crate::words::words;

/// Longest lease, in milliseconds.
const HOLD_MS_MAX: f64 = 30_000.0;

/// What ``match_prefix`` found.
#[pyclass(frozen, module = "forebay")]
pub(crate) struct Matched {
    matched: forebay_client::Matched,
    /// A byte for each, and how many are on NVMe: made where the call was made, for callers whose step waits.
    packed: Vec<u8>,
    nvme: usize,
}

impl From<forebay_client::Matched> for Matched {
    fn from(matched: forebay_client::Matched) -> Self {
        let packed: Vec<u8> = matched.tiers.iter().map(|tier| tier.index() as u8).collect();
        let nvme = matched.tiers.iter().filter(|tier| **tier == Tier::Nvme).count();
        Matched { matched, packed, nvme }
    }
}

#[pymethods]
impl Matched {
    /// The first ``n`` keys were all there when their shards looked. Also ``len(matched)``.
    #[getter]
    fn n(&self) -> usize {
        self.matched.n
    }

    /// Where each of them was.
    #[getter]
    fn tiers<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let words = words(py)?;
        PyList::new(py, self.matched.tiers.iter().map(|tier| words.tier(py, *tier)))
    }

    /// The same, one byte for each key: 0 DRAM, 1 NVMe.
    #[getter]
    fn packed_tiers<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.packed)
    }

    /// How many of them were on NVMe.
    #[getter]
    fn nvme(&self) -> usize {
        self.nvme
    }

    /// How many of them are held. Fewer than ``n`` when a shard has no room for more leases.
    #[getter]
    fn leased(&self) -> usize {
        self.matched.leased
    }

    /// Why the key behind them was missed; None if all were there.
    #[getter]
    fn gap(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        let words = words(py)?;
        Ok(self.matched.gap.map(|reason| words.miss(py, reason)))
    }

    fn __len__(&self) -> usize {
        self.matched.n
    }

    fn __repr__(&self) -> String {
        let (n, leased) = (self.matched.n, self.matched.leased);
        let gap = self.matched.gap.map_or(String::new(), |reason| format!(", then {reason}"));
        format!("<forebay.Matched {n} keys{gap}, {leased} leased>")
    }
}

#[pymethods]
impl Namespace {
    /// How many of the first keys are all there, and a lease on them.
    ///
    /// hold_ms: how long they are held for a get: 2,000 by default, 30,000 at most, 0 not at all.
    /// deadline_ms: as for ``get``.
    ///
    /// Raises InvalidArgument, ForkedClient.
    #[pyo3(signature = (keys, /, *, hold_ms=None, deadline_ms=None))]
    #[pyo3(name = "match_prefix")]
    fn match_verb<'py>(
        &self,
        py: Python<'py>,
        keys: &Bound<'py, PyAny>,
        hold_ms: Option<f64>,
        deadline_ms: Option<f64>,
    ) -> PyResult<Matched> {
        let keys = asked(keys)?;
        let hold = hold(py, hold_ms)?;
        let handle = self.under(py, &Terms { deadline_ms, ..Terms::default() })?;
        Ok(blocking(py, || handle.match_prefix(&keys.of(&handle), hold))?.into())
    }

    /// What a get of each key would answer now, without bytes and without a lease: the tier, or why it would miss.
    ///
    /// deadline_ms: as for ``get``.
    ///
    /// Raises InvalidArgument, ForkedClient.
    #[pyo3(signature = (keys, /, *, deadline_ms=None))]
    #[pyo3(name = "contains")]
    fn contains_verb<'py>(
        &self,
        py: Python<'py>,
        keys: &Bound<'py, PyAny>,
        deadline_ms: Option<f64>,
    ) -> PyResult<Bound<'py, PyList>> {
        let keys = asked(keys)?;
        let handle = self.under(py, &Terms { deadline_ms, ..Terms::default() })?;
        seen(py, &blocking(py, || handle.contains(&keys.of(&handle)))?)
    }
}

/// How long a match is held.
pub(crate) fn hold(py: Python<'_>, ms: Option<f64>) -> PyResult<Option<Duration>> {
    match ms {
        None => Ok(None),
        Some(ms) if (0.0..=HOLD_MS_MAX).contains(&ms) => Ok(Some(Duration::from_secs_f64(ms / 1000.0))),
        Some(ms) => Err(invalid(py, format!("a lease lasts 0 to 30,000 ms, this is {ms}"))),
    }
}

/// A tier or a miss for each key, in order.
pub(crate) fn seen<'py>(py: Python<'py>, seen: &[Result<Tier, MissReason>]) -> PyResult<Bound<'py, PyList>> {
    let words = words(py)?;
    PyList::new(py, seen.iter().map(|seen| words.seen(py, *seen)))
}
