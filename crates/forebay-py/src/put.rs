//! `Namespace.put` and `Namespace.put_group`.

use forebay_client::{ClientError, NamespaceHandle, PutBlock};
use forebay_types::{Key, PutOutcome, RefusedReason};
use pyo3::prelude::*;
use pyo3::types::{PyList, PyMapping};

use crate::buffers::{Memory, Shares};
use crate::call::blocking;
use crate::errors::{invalid, raised};
use crate::keys::{asked, key};
use crate::namespace::{Namespace, Terms};
use crate::queue::{Answer, CallQueue};
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
    /// Puts blocks of 1 byte to 64 MiB, one buffer for each key. The first complete put of a key wins; a later one is told ``exists`` before
    /// its bytes move. The buffers must not change until the call returns.
    ///
    /// tokens: how many each block holds.
    /// chain: 64 bits that name the sequence the blocks belong to.
    /// position: blocks before the first of these in their sequence; says that the keys follow one another.
    /// parent: the key before the first of these.
    /// ttl_s: seconds that the blocks live.
    /// reuse: when they will be used again.
    /// deadline_ms: as for ``get``. What is not stored by then is refused.
    /// caller_keeps: the caller has the blocks in memory of its own too, so they leave the node's DRAM as soon as they are written, until
    ///     somebody else asks for them.
    ///
    /// Raises InvalidArgument, BufferError (a buffer that is not contiguous), ForkedClient.
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

    /// Puts 1 to 64 named parts as one block under one version: all or none. Names have 1 to 16 bytes, parts 64 MiB together at most.
    /// ``Block.part`` reads them. The buffers must not change until the call returns.
    ///
    /// ttl_s: seconds that the block lives.
    /// reuse: when it will be used again.
    /// deadline_ms: as for ``get``.
    ///
    /// Raises InvalidArgument, BufferError (a part that is not contiguous), ForkedClient.
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
        let group = Group::new(py, key, parts)?;
        let handle = self.under(py, &Terms { deadline_ms, reuse, ttl_s, ..Terms::default() })?;
        let outcome = blocking(py, || group.put(&handle))?;
        Ok(words(py)?.put(py, outcome.map_err(|error| raised(py, &error))?))
    }
}

#[pymethods]
impl CallQueue {
    /// ``Namespace.put_group``.
    #[pyo3(signature = (namespace, key, parts, /, *, ttl_s=None, reuse=None, deadline_ms=None))]
    #[expect(clippy::too_many_arguments, reason = "keywords of a Python method")]
    fn submit_put_group(
        &self,
        py: Python<'_>,
        namespace: &Bound<'_, Namespace>,
        key: &Bound<'_, PyAny>,
        parts: &Bound<'_, PyMapping>,
        ttl_s: Option<f64>,
        reuse: Option<&Bound<'_, PyAny>>,
        deadline_ms: Option<f64>,
    ) -> PyResult<u64> {
        let Group { key, names, memory } = Group::new(py, key, parts)?;
        let handle = namespace.get().under(py, &Terms { deadline_ms, reuse, ttl_s, ..Terms::default() })?;
        let busy = || Answer::Group(Ok(PutOutcome::Refused(RefusedReason::Busy)));
        self.submit(py, &handle, Some(memory), busy, move |handle, memory| {
            let outcome = memory.map(|memory| put_parts(handle, key, &names, memory));
            Answer::Group(outcome.unwrap_or(Ok(PutOutcome::Refused(RefusedReason::Unavailable))))
        })
    }
}

/// One block of parts that have names.
struct Group {
    key: Key,
    /// As many as `memory` has buffers.
    names: Vec<String>,
    memory: Memory,
}

impl Group {
    fn new(py: Python<'_>, key: &Bound<'_, PyAny>, parts: &Bound<'_, PyMapping>) -> PyResult<Group> {
        let key = self::key(key)?;
        let names: Vec<String> = parts.keys()?.iter().map(|name| name.extract::<String>()).collect::<PyResult<_>>()?;
        let memory = Memory::many(parts.values()?.as_any())?;
        if names.len() != memory.count() {
            return Err(invalid(py, "the parts changed while they were read"));
        }
        Ok(Group { key, names, memory })
    }

    fn put(&self, handle: &NamespaceHandle) -> Result<PutOutcome, ClientError> {
        put_parts(handle, self.key, &self.names, &self.memory)
    }
}

fn put_parts(handle: &NamespaceHandle, key: Key, names: &[String], memory: &Memory) -> Result<PutOutcome, ClientError> {
    let parts: Vec<_> = names.iter().map(String::as_str).zip(memory.slices()).collect();
    handle.put_group(key, &parts)
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
