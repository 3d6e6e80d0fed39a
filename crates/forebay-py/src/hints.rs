//! `Namespace.touch`, `Namespace.prefetch` and `Namespace.report`: what is said and nobody answers.

use forebay_client::{Reported, Reuse};
use pyo3::prelude::*;

use crate::call::{blocking, deadline};
use crate::keys::asked;
use crate::namespace::Namespace;

#[pymethods]
impl Namespace {
    /// Says that blocks were used without being fetched, heads of chains first. Nobody answers; 20 ms at most.
    ///
    /// reuse: when they will be used again.
    ///
    /// Raises InvalidArgument, ForkedClient.
    #[pyo3(signature = (keys, /, *, reuse=None))]
    #[pyo3(name = "touch")]
    fn touch_verb(&self, py: Python<'_>, keys: &Bound<'_, PyAny>, reuse: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        let (keys, handle) = (asked(keys)?, self.handle(py)?);
        let hint = reuse.map_or(Ok(Reuse::Unknown), crate::namespace::reuse)?;
        blocking(py, || handle.touch(&keys.of(handle), hint))
    }

    /// Asks for blocks to be brought from NVMe to DRAM within ``within_ms`` (60,000 at most). Nobody answers; 20 ms at most.
    ///
    /// Raises InvalidArgument, ForkedClient.
    #[pyo3(signature = (keys, /, *, within_ms=5000.0))]
    #[pyo3(name = "prefetch")]
    fn prefetch_verb(&self, py: Python<'_>, keys: &Bound<'_, PyAny>, within_ms: f64) -> PyResult<()> {
        let (keys, handle) = (asked(keys)?, self.handle(py)?);
        let within = deadline(py, within_ms)?;
        blocking(py, || handle.prefetch(&keys.of(handle), within))
    }

    /// Says what became of requests' prompts, for the node's usage log: of their tokens, so many were found in the engine's own memory, so many
    /// taken from what the node served, the rest computed. Nobody answers; 20 ms at most.
    ///
    /// Returns: true when it is on its way, and is not to be said again; false when it was not said and can be said together with the next.
    ///
    /// Raises InvalidArgument (where it does not add up), ForkedClient.
    #[pyo3(signature = (*, prompt_tokens, engine_tokens=0, used_tokens=0, requests=1))]
    #[pyo3(name = "report")]
    fn report_verb(
        &self,
        py: Python<'_>,
        prompt_tokens: u64,
        engine_tokens: u64,
        used_tokens: u64,
        requests: u64,
    ) -> PyResult<bool> {
        let reported = reported(py, Reported { requests, prompt_tokens, engine_tokens, used_tokens })?;
        let handle = self.handle(py)?;
        blocking(py, || handle.report(&reported))
    }
}

/// A report that adds up.
pub(crate) fn reported(py: Python<'_>, reported: Reported) -> PyResult<Reported> {
    if reported.adds_up() {
        return Ok(reported);
    }
    let Reported { prompt_tokens, engine_tokens, used_tokens, .. } = reported;
    let text =
        format!("of {prompt_tokens} prompt tokens, {engine_tokens} in the engine and {used_tokens} used are too many");
    Err(crate::errors::invalid(py, text))
}
