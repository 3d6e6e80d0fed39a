//! Keys as Python has them: a sequence of 16 bytes or 32 hexadecimal digits each, or one buffer of rows of 16 bytes.

use forebay_types::Key;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyString, PyTuple};

use crate::buffers::Source;
use crate::errors::invalid;

const KEY_BYTES: usize = 16;

/// The keys of a call.
pub(crate) fn keys(given: &Bound<'_, PyAny>) -> PyResult<Vec<Key>> {
    if let Ok(rows) = given.cast::<PyBytes>() {
        return of_rows(given.py(), rows.as_bytes());
    }
    if let Ok(list) = given.cast::<PyList>() {
        return list.iter().map(|item| key(&item)).collect();
    }
    if let Ok(tuple) = given.cast::<PyTuple>() {
        return tuple.iter().map(|item| key(&item)).collect();
    }
    if given.is_instance_of::<PyString>() {
        return Err(invalid(given.py(), "keys are a sequence, also when there is only one: write [key]"));
    }
    match Source::new(given) {
        Ok(rows) => of_rows(given.py(), &rows.copied()),
        Err(_) => given.try_iter()?.map(|item| key(&item?)).collect(),
    }
}

/// One key.
pub(crate) fn key(given: &Bound<'_, PyAny>) -> PyResult<Key> {
    if let Ok(bytes) = given.cast::<PyBytes>() {
        return of_bytes(given.py(), bytes.as_bytes());
    }
    if let Ok(text) = given.cast::<PyString>() {
        let text = text.to_str()?;
        return text.parse().map_err(|e| invalid(given.py(), format!("{e}")));
    }
    match Source::new(given) {
        Ok(bytes) => of_bytes(given.py(), &bytes.copied()),
        Err(_) => {
            let kind = given.get_type();
            Err(PyTypeError::new_err(format!("a key is 16 bytes or 32 hexadecimal digits, this is of type {kind}")))
        }
    }
}

fn of_bytes(py: Python<'_>, bytes: &[u8]) -> PyResult<Key> {
    bytes.try_into().map(Key).map_err(|_| {
        let len = bytes.len();
        invalid(py, format!("a key has 16 bytes and this has {len}; Namespace.key makes one of an engine's own hash"))
    })
}

fn of_rows(py: Python<'_>, bytes: &[u8]) -> PyResult<Vec<Key>> {
    let (rows, rest) = bytes.as_chunks::<KEY_BYTES>();
    if rest.is_empty() {
        return Ok(rows.iter().map(|row| Key(*row)).collect());
    }
    let len = bytes.len();
    Err(invalid(
        py,
        format!("keys in one buffer are rows of 16 bytes, and its {len} bytes are no whole number of them"),
    ))
}
