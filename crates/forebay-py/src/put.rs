//! `Namespace.put` and `Namespace.put_group`.

use forebay_client::PutBlock;
use forebay_types::{Key, PutOutcome};
use pyo3::prelude::*;
use pyo3::types::{PyList, PyMapping};

use crate::buffers::{Memory, Shares};
use crate::call::blocking;
use crate::errors::{invalid, raised};
use crate::keys::{asked, key};
use crate::namespace::{Namespace, Terms};
use crate::words::words;

/// What is known of blocks beside their bytes.
#[derive(Clone, Copy, Default)]
pub(crate) struct About {
    pub(crate) tokens: u32,
    pub(crate) chain: u64,
    pub(crate) parent: Option<Key>,
    /// Blocks before the first in their chain; `None`: the blocks are no chain.
    pub(crate) position: Option<u32>,
}

#[pymethods]
impl Namespace {
    #[pyo3(signature = (keys, buffers, /, *, tokens=0, chain=0, parent=None, position=None, ttl_s=None, reuse=None, deadline_ms=None, caller_keeps=false))]
    #[pyo3(name = "put")]
    #[expect(clippy::too_many_arguments, reason = "keywords of a Python method")]
    fn put_verb<'py>(
        &self,
        py: Python<'py>,
        keys: &Bound<'py, PyAny>,
        buffers: &Bound<'py, PyAny>,
        tokens: u32,
        chain: u64,
        parent: Option<&Bound<'py, PyAny>>,
        position: Option<u32>,
        ttl_s: Option<f64>,
        reuse: Option<&Bound<'py, PyAny>>,
        deadline_ms: Option<f64>,
        caller_keeps: bool,
    ) -> PyResult<Bound<'py, PyList>> {
        let keys = asked(keys)?;
        let memory = Memory::many(buffers)?.for_keys(py, keys.len())?;
        let about = About { tokens, chain, parent: parent.map(key).transpose()?, position };
        let handle = self.under(py, &Terms { deadline_ms, reuse, ttl_s, caller_keeps })?;
        let shares = self.shares();
        let outcomes = blocking(py, || handle.put_blocks(blocks(&keys.of(&handle), &memory, shares, about)))?;
        answered(py, &outcomes)
    }

    #[pyo3(signature = (key, parts, /, *, ttl_s=None, reuse=None, deadline_ms=None))]
    fn put_group<'py>(
        &self,
        py: Python<'py>,
        key: &Bound<'py, PyAny>,
        parts: &Bound<'py, PyMapping>,
        ttl_s: Option<f64>,
        reuse: Option<&Bound<'py, PyAny>>,
        deadline_ms: Option<f64>,
    ) -> PyResult<Py<PyAny>> {
        let key = self::key(key)?;
        let names: Vec<String> = parts.keys()?.iter().map(|name| name.extract::<String>()).collect::<PyResult<_>>()?;
        let memory = Memory::many(parts.values()?.as_any())?;
        if names.len() != memory.count() {
            return Err(invalid(py, "the parts changed while they were read"));
        }
        let handle = self.under(py, &Terms { deadline_ms, reuse, ttl_s, ..Terms::default() })?;
        let outcome = blocking(py, || {
            let parts: Vec<_> = names.iter().map(String::as_str).zip(memory.slices()).collect();
            handle.put_group(key, &parts)
        })?;
        Ok(words(py)?.put(py, outcome.map_err(|error| raised(py, &error))?))
    }
}

/// The blocks of a call.
pub(crate) fn blocks<'m>(keys: &[Key], memory: &'m Memory, shares: &Shares, about: About) -> Vec<PutBlock<'m>> {
    let pairs = keys.iter().zip(memory.put_bytes(shares)).enumerate();
    pairs
        .map(|(at, (key, bytes))| {
            let block = PutBlock::new(*key, bytes).tokens(about.tokens).chain(about.chain);
            let before = if at == 0 { about.parent } else { keys.get(at - 1).copied() };
            match (about.position, before) {
                (Some(first), Some(before)) => block.behind(&before, first.saturating_add(at as u32)),
                _ => block,
            }
        })
        .collect()
}

/// Outcomes, in order.
pub(crate) fn answered<'py>(py: Python<'py>, outcomes: &[PutOutcome]) -> PyResult<Bound<'py, PyList>> {
    let words = words(py)?;
    PyList::new(py, outcomes.iter().map(|outcome| words.put(py, *outcome)))
}
