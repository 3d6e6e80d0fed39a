//! `Namespace.plan_fetch` and its kin: what a get would take now.

use std::time::Duration;

use forebay_types::Tier;
use pyo3::prelude::*;

use crate::call::blocking;
use crate::errors::invalid;
use crate::keys::asked;
use crate::namespace::{Namespace, Terms};

/// What ``plan_fetch`` expects.
#[pyclass(frozen, module = "forebay")]
pub(crate) struct Plan {
    plan: forebay_client::Plan,
}

impl From<forebay_client::Plan> for Plan {
    fn from(plan: forebay_client::Plan) -> Self {
        Plan { plan }
    }
}

#[pymethods]
impl Plan {
    /// That a get would take, missing keys left out.
    #[getter]
    fn seconds(&self) -> f64 {
        self.plan.seconds
    }

    /// Bytes that would come from DRAM.
    #[getter]
    fn dram_bytes(&self) -> u64 {
        self.plan.tier_bytes[Tier::Dram.index()]
    }

    /// Bytes that would come from NVMe.
    #[getter]
    fn nvme_bytes(&self) -> u64 {
        self.plan.tier_bytes[Tier::Nvme.index()]
    }

    /// Keys that it would not bring.
    #[getter]
    fn missing(&self) -> usize {
        self.plan.missing
    }

    /// How far to believe it: 0 (nothing like it was ever fetched) to 1.
    #[getter]
    fn confidence(&self) -> f64 {
        self.plan.confidence
    }

    fn __repr__(&self) -> String {
        let plan = &self.plan;
        format!(
            "<forebay.Plan {:.6} s for {} bytes of DRAM and {} of NVMe, {} keys missing, confidence {:.2}>",
            plan.seconds,
            plan.tier_bytes[Tier::Dram.index()],
            plan.tier_bytes[Tier::Nvme.index()],
            plan.missing,
            plan.confidence
        )
    }
}

/// Bytes by tier.
fn by_tier(dram_bytes: u64, nvme_bytes: u64) -> [u64; Tier::ALL.len()] {
    let mut all = [0; Tier::ALL.len()];
    all[Tier::Dram.index()] = dram_bytes;
    all[Tier::Nvme.index()] = nvme_bytes;
    all
}

#[pymethods]
impl Namespace {
    /// The same of so many bytes, without asking the node: for whoever knows from ``match_prefix`` what lies where, and weighs several lengths.
    /// What that question queued for counts for a second.
    ///
    /// Raises ForkedClient.
    #[pyo3(signature = (*, dram_bytes=0, nvme_bytes=0))]
    fn expect_fetch(&self, py: Python<'_>, dram_bytes: u64, nvme_bytes: u64) -> PyResult<Plan> {
        let handle = self.under(py, &Terms::default())?;
        Ok(Plan { plan: handle.expect_fetch(by_tier(dram_bytes, nvme_bytes)) })
    }

    /// The same of several at once: for each (bytes of DRAM, bytes of NVMe) the ``seconds`` and the ``confidence`` of its plan.
    ///
    /// Raises ForkedClient.
    #[pyo3(signature = (nbytes, /))]
    fn expect_fetches(&self, py: Python<'_>, nbytes: Vec<(u64, u64)>) -> PyResult<Vec<(f64, f64)>> {
        let handle = self.handle(py)?;
        let plans = nbytes.into_iter().map(|(dram, nvme)| handle.expect_fetch(by_tier(dram, nvme)));
        Ok(plans.map(|plan| (plan.seconds, plan.confidence)).collect())
    }

    /// Tells what a get took that another client made, for this one's plans: engines plan in one process and fetch in others.
    ///
    /// seconds: how long it took, 0 or more.
    ///
    /// Raises InvalidArgument, ForkedClient.
    #[pyo3(signature = (seconds, /, *, dram_bytes=0, nvme_bytes=0))]
    fn learn_fetch(&self, py: Python<'_>, seconds: f64, dram_bytes: u64, nvme_bytes: u64) -> PyResult<()> {
        let handle = self.under(py, &Terms::default())?;
        let took = Duration::try_from_secs_f64(seconds)
            .map_err(|_| invalid(py, format!("a fetch takes 0 seconds or more, this is {seconds}")))?;
        handle.learn_fetch(by_tier(dram_bytes, nvme_bytes), took);
        Ok(())
    }

    /// What a get of these keys would take now, as far as this client's own gets tell.
    ///
    /// deadline_ms: as for ``get``, of the question. Keys that nothing is known of by then are missing in the plan.
    ///
    /// Raises InvalidArgument, ForkedClient.
    #[pyo3(signature = (keys, /, *, deadline_ms=None))]
    #[pyo3(name = "plan_fetch")]
    fn plan_verb(&self, py: Python<'_>, keys: &Bound<'_, PyAny>, deadline_ms: Option<f64>) -> PyResult<Plan> {
        let keys = asked(keys)?;
        let handle = self.under(py, &Terms { deadline_ms, ..Terms::default() })?;
        Ok(Plan { plan: blocking(py, || handle.plan_fetch(&keys.of(&handle)))? })
    }
}
