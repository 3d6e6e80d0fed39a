//! `Namespace.touch` and `Namespace.prefetch`: hints that nobody answers.

use forebay_client::Reuse;
use pyo3::prelude::*;

use crate::call::{blocking, deadline};
use crate::keys::asked;
use crate::namespace::Namespace;

#[pymethods]
impl Namespace {
    #[pyo3(signature = (keys, /, *, reuse=None))]
    #[pyo3(name = "touch")]
    fn touch_verb(&self, py: Python<'_>, keys: &Bound<'_, PyAny>, reuse: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        let (keys, handle) = (asked(keys)?, self.handle(py)?);
        let hint = reuse.map_or(Ok(Reuse::Unknown), crate::namespace::reuse)?;
        blocking(py, || handle.touch(&keys.of(handle), hint))
    }

    #[pyo3(signature = (keys, /, *, within_ms=5000.0))]
    #[pyo3(name = "prefetch")]
    fn prefetch_verb(&self, py: Python<'_>, keys: &Bound<'_, PyAny>, within_ms: f64) -> PyResult<()> {
        let (keys, handle) = (asked(keys)?, self.handle(py)?);
        let within = deadline(py, within_ms)?;
        blocking(py, || handle.prefetch(&keys.of(handle), within))
    }
}
