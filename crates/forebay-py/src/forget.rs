//! `Namespace.forget`.

use pyo3::prelude::*;

use crate::call::blocking;
use crate::errors::raised;
use crate::keys::asked;
use crate::namespace::{Namespace, Terms};

#[pymethods]
impl Namespace {
    /// Forgets keys, durably: true for each that was there.
    ///
    /// deadline_ms: as for ``get``.
    ///
    /// Raises ForgetFailed (asking again is safe), InvalidArgument, ForkedClient.
    #[pyo3(signature = (keys, /, *, deadline_ms=None))]
    #[pyo3(name = "forget")]
    fn forget_verb(&self, py: Python<'_>, keys: &Bound<'_, PyAny>, deadline_ms: Option<f64>) -> PyResult<Vec<bool>> {
        let keys = asked(keys)?;
        let handle = self.under(py, &Terms { deadline_ms, ..Terms::default() })?;
        blocking(py, || handle.forget(&keys.of(&handle)))?.map_err(|error| raised(py, &error))
    }
}
