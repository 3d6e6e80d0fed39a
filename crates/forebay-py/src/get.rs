//! `Namespace.get` and `Namespace.get_ranges`: blocks kept in memory of the client, or copied, verified, into the caller's.

use forebay_client::{GetResult, IntoError, NamespaceHandle};
use forebay_types::MissReason;
use pyo3::prelude::*;
use pyo3::types::PyList;

use crate::block::Block;
use crate::buffers::Memory;
use crate::call::blocking;
use crate::errors::invalid;
use crate::keys::{Asked, asked};
use crate::namespace::{Namespace, Terms};
use crate::queue::{Answer, CallQueue};
use crate::words::words;

#[pymethods]
impl Namespace {
    /// Gets blocks, in the order of the keys: for each a verified ``Block``, or why there is none.
    ///
    /// into: one writable buffer for each key. Blocks are copied there, once, and verified there; the answer is the bytes written, or ``TooSmall``.
    ///     Without a hit a buffer's content is unspecified. After the call nothing writes there any more.
    /// deadline_ms: how long it may take, more than 0 and at most 60,000; the client's unless said otherwise. What is not there by then is a miss.
    /// reuse: when the blocks will be used again.
    ///
    /// Raises InvalidArgument, BufferError (a buffer that is not contiguous), ForkedClient.
    #[pyo3(signature = (keys, /, *, into=None, deadline_ms=None, reuse=None))]
    #[pyo3(name = "get")]
    fn get_verb<'py>(
        &self,
        py: Python<'py>,
        keys: &Bound<'py, PyAny>,
        into: Option<&Bound<'py, PyAny>>,
        deadline_ms: Option<f64>,
        reuse: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyList>> {
        let keys = asked(keys)?;
        let handle = self.under(py, &Terms { deadline_ms, reuse, ..Terms::default() })?;
        let Some(into) = into else {
            return kept(py, blocking(py, || handle.get(&keys.of(&handle)))?);
        };
        let mut memory = Memory::many(into)?.for_keys(py, keys.len())?.writable(py)?;
        let results = blocking(py, || memory.fill(&handle, &keys.of(&handle)))?;
        filled(py, results)
    }

    /// Gets bytes ``start`` to ``stop`` of each block, in the order of the keys: for each a verified ``Block`` of these bytes, or why there is none. What
    /// lies behind a block's end is left out.
    ///
    /// ranges: one (start, stop) for each key, in bytes, with start <= stop.
    /// deadline_ms, reuse: as for ``get``.
    ///
    /// Raises InvalidArgument, ForkedClient.
    #[pyo3(signature = (keys, ranges, /, *, deadline_ms=None, reuse=None))]
    fn get_ranges<'py>(
        &self,
        py: Python<'py>,
        keys: &Bound<'py, PyAny>,
        ranges: Vec<(u64, u64)>,
        deadline_ms: Option<f64>,
        reuse: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyList>> {
        let keys = asked(keys)?;
        check_ranges(py, keys.len(), &ranges)?;
        let handle = self.under(py, &Terms { deadline_ms, reuse, ..Terms::default() })?;
        kept(py, blocking(py, || ranged(&handle, keys, ranges))?)
    }
}

#[pymethods]
impl CallQueue {
    /// ``Namespace.get_ranges``.
    #[pyo3(signature = (namespace, keys, ranges, /, *, deadline_ms=None, reuse=None))]
    fn submit_get_ranges(
        &self,
        py: Python<'_>,
        namespace: &Bound<'_, Namespace>,
        keys: &Bound<'_, PyAny>,
        ranges: Vec<(u64, u64)>,
        deadline_ms: Option<f64>,
        reuse: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<u64> {
        let keys = asked(keys)?;
        check_ranges(py, keys.len(), &ranges)?;
        let handle = namespace.get().under(py, &Terms { deadline_ms, reuse, ..Terms::default() })?;
        let count = ranges.len();
        let busy = move || Answer::Kept((0..count).map(|_| GetResult::Miss(MissReason::Busy)).collect());
        self.submit(py, &handle, None, busy, move |handle, _| Answer::Kept(ranged(handle, keys, ranges)))
    }
}

/// One for each key, none of which ends before it starts.
fn check_ranges(py: Python<'_>, keys: usize, ranges: &[(u64, u64)]) -> PyResult<()> {
    if ranges.len() != keys {
        return Err(invalid(py, format!("there are {keys} keys and {} ranges", ranges.len())));
    }
    if ranges.iter().any(|(start, stop)| start > stop) {
        return Err(invalid(py, "a range (start, stop) does not end before it starts"));
    }
    Ok(())
}

fn ranged(handle: &NamespaceHandle, keys: Asked, ranges: Vec<(u64, u64)>) -> Vec<GetResult> {
    let ranges = ranges.into_iter().map(|(start, stop)| start..stop);
    let ranged: Vec<_> = keys.of(handle).into_iter().zip(ranges).collect();
    handle.get_ranges(&ranged)
}

/// Blocks and misses, in order.
pub(crate) fn kept<'py>(py: Python<'py>, results: Vec<GetResult>) -> PyResult<Bound<'py, PyList>> {
    let words = words(py)?;
    let list = PyList::empty(py);
    for result in results {
        match result {
            GetResult::Hit(block) => list.append(Block::new(block).into_pyobject(py)?)?,
            GetResult::Miss(reason) => list.append(words.miss(py, reason))?,
        }
    }
    Ok(list)
}

/// Bytes written, misses, and buffers that are too small, in order.
pub(crate) fn filled(py: Python<'_>, results: Vec<Result<usize, IntoError>>) -> PyResult<Bound<'_, PyList>> {
    let words = words(py)?;
    let list = PyList::empty(py);
    for result in results {
        match result {
            Ok(bytes) => list.append(bytes)?,
            Err(IntoError::Miss(reason)) => list.append(words.miss(py, reason))?,
            Err(IntoError::TooSmall { need }) => {
                list.append(py.import("forebay._words")?.getattr("TooSmall")?.call1((need,))?)?;
            }
        }
    }
    Ok(list)
}
