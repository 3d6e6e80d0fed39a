//! `CallQueue.submit_get` and `submit_put`: the calls of a queue that move blocks, one at a time or several of one.

use std::sync::Arc;

use forebay_client::{GetResult, IntoError, NamespaceHandle};
use forebay_types::{MissReason, PutOutcome, RefusedReason};
use pyo3::prelude::*;

use crate::buffers::{Memory, Shares};
use crate::errors::invalid;
use crate::keys::{Asked, asked, key};
use crate::namespace::{Namespace, Terms};
use crate::put::{About, blocks};
use crate::queue::{Answer, CallQueue};

/// Blocks of a put: the keys from number `first` on; the one before is that of the block before them.
struct Put {
    keys: Asked,
    first: usize,
    memory: Memory,
    about: About,
    packed: bool,
}

fn at_least_one(py: Python<'_>, each: usize) -> PyResult<usize> {
    if each == 0 { Err(invalid(py, "a call has at least 1 key")) } else { Ok(each) }
}

impl CallQueue {
    /// Hands over a get into memory.
    fn submit_one_get(
        &self,
        py: Python<'_>,
        handle: &NamespaceHandle,
        keys: Asked,
        memory: Memory,
        packed: bool,
    ) -> PyResult<u64> {
        let count = keys.len();
        let busy = move || match packed {
            true => Answer::Packed(vec![0; count]),
            false => Answer::Filled(vec![Err(IntoError::Miss(MissReason::Busy)); count]),
        };
        self.submit(py, handle, Some(memory), busy, move |handle, memory| {
            let results = memory.map(|memory| (memory.fill(handle, &keys.of(handle)), memory.lengths()));
            let (results, lengths) = results.unwrap_or_default();
            if packed { Answer::Packed(whole(&results, &lengths)) } else { Answer::Filled(results) }
        })
    }

    /// Hands over a put.
    fn submit_one_put(
        &self,
        py: Python<'_>,
        handle: &NamespaceHandle,
        shares: &Arc<Shares>,
        put: Put,
    ) -> PyResult<u64> {
        let Put { keys, first, memory, mut about, packed } = put;
        let shares = shares.clone();
        let shape = move |outcomes: Vec<PutOutcome>| match packed {
            true => Answer::Packed(outcomes.into_iter().map(kept).collect()),
            false => Answer::Put(outcomes),
        };
        let count = keys.len() - first;
        let busy = move || shape(vec![PutOutcome::Refused(RefusedReason::Busy); count]);
        self.submit(py, handle, Some(memory), busy, move |handle, memory| {
            let keys = keys.of(handle);
            let (before, keys) = keys.split_at(first);
            about.parent = before.last().copied().or(about.parent);
            let blocks = memory.map(|memory| blocks(keys, memory, &shares, about)).unwrap_or_default();
            shape(handle.put_blocks(blocks))
        })
    }
}

#[pymethods]
impl CallQueue {
    /// ``Namespace.get``. packed: with ``into``, the answer is ``bytes``, one for each key: 1 where the buffer was filled to its end, else 0.
    #[pyo3(signature = (namespace, keys, /, *, into=None, deadline_ms=None, reuse=None, packed=false))]
    #[expect(clippy::too_many_arguments, reason = "keywords of a Python method")]
    fn submit_get(
        &self,
        py: Python<'_>,
        namespace: &Bound<'_, Namespace>,
        keys: &Bound<'_, PyAny>,
        into: Option<&Bound<'_, PyAny>>,
        deadline_ms: Option<f64>,
        reuse: Option<&Bound<'_, PyAny>>,
        packed: bool,
    ) -> PyResult<u64> {
        let keys = asked(keys)?;
        let handle = namespace.get().under(py, &Terms { deadline_ms, reuse, ..Terms::default() })?;
        let count = keys.len();
        let Some(into) = into else {
            if packed {
                return Err(invalid(py, "an answer with blocks in it cannot be packed: say where they go with `into`"));
            }
            let busy = move || Answer::Kept((0..count).map(|_| GetResult::Miss(MissReason::Busy)).collect());
            return self.submit(py, &handle, None, busy, move |handle, _| Answer::Kept(handle.get(&keys.of(handle))));
        };
        let memory = Memory::many(into)?.for_keys(py, count)?.writable(py)?;
        self.submit_one_get(py, &handle, keys, memory, packed)
    }

    /// ``Namespace.put``. packed: the answer is ``bytes``, one for each key: 0 refused, 1 cached, 2 durable, 3 exists.
    #[pyo3(signature = (namespace, keys, buffers, /, *, tokens=0, chain=0, parent=None, position=None, ttl_s=None, reuse=None, deadline_ms=None, caller_keeps=false, packed=false))]
    #[expect(clippy::too_many_arguments, reason = "keywords of a Python method")]
    fn submit_put(
        &self,
        py: Python<'_>,
        namespace: &Bound<'_, Namespace>,
        keys: &Bound<'_, PyAny>,
        buffers: &Bound<'_, PyAny>,
        tokens: u32,
        chain: u64,
        parent: Option<&Bound<'_, PyAny>>,
        position: Option<u32>,
        ttl_s: Option<f64>,
        reuse: Option<&Bound<'_, PyAny>>,
        deadline_ms: Option<f64>,
        caller_keeps: bool,
        packed: bool,
    ) -> PyResult<u64> {
        let keys = asked(keys)?;
        let memory = Memory::many(buffers)?.for_keys(py, keys.len())?;
        let about = About { tokens, chain, parent: parent.map(key).transpose()?, position };
        let handle = namespace.get().under(py, &Terms { deadline_ms, reuse, ttl_s, caller_keeps })?;
        let put = Put { keys, first: 0, memory, about, packed };
        self.submit_one_put(py, &handle, namespace.get().shares(), put)
    }

    /// Several ``submit_get(..., packed=True)``, each of so many keys and the last of what is left; their tickets, in order. They are made side by
    /// side, and no buffer may overlap any other. Raises InvalidArgument.
    #[pyo3(signature = (namespace, keys, each, /, *, into, deadline_ms=None, reuse=None))]
    #[expect(clippy::too_many_arguments, reason = "keywords of a Python method")]
    fn submit_gets(
        &self,
        py: Python<'_>,
        namespace: &Bound<'_, Namespace>,
        keys: &Bound<'_, PyAny>,
        each: usize,
        into: &Bound<'_, PyAny>,
        deadline_ms: Option<f64>,
        reuse: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Vec<u64>> {
        let keys = asked(keys)?;
        let handle = namespace.get().under(py, &Terms { deadline_ms, reuse, ..Terms::default() })?;
        let memory = Memory::many(into)?.for_keys(py, keys.len())?.writable(py)?;
        let parts = memory.split(at_least_one(py, each)?).into_iter();
        let parts = parts.scan(0, |first, memory| {
            let some = *first..*first + memory.count();
            *first = some.end;
            Some((keys.some(some), memory))
        });
        parts.map(|(keys, memory)| self.submit_one_get(py, &handle, keys, memory, true)).collect()
    }

    /// The same of ``submit_put(..., packed=True)``. Blocks of a chain are behind one another across calls, too.
    #[pyo3(signature = (namespace, keys, each, buffers, /, *, tokens=0, chain=0, parent=None, position=None, reuse=None, deadline_ms=None, caller_keeps=false))]
    #[expect(clippy::too_many_arguments, reason = "keywords of a Python method")]
    fn submit_puts(
        &self,
        py: Python<'_>,
        namespace: &Bound<'_, Namespace>,
        keys: &Bound<'_, PyAny>,
        each: usize,
        buffers: &Bound<'_, PyAny>,
        tokens: u32,
        chain: u64,
        parent: Option<&Bound<'_, PyAny>>,
        position: Option<u32>,
        reuse: Option<&Bound<'_, PyAny>>,
        deadline_ms: Option<f64>,
        caller_keeps: bool,
    ) -> PyResult<Vec<u64>> {
        let keys = asked(keys)?;
        let parent = parent.map(key).transpose()?;
        let handle = namespace.get().under(py, &Terms { deadline_ms, reuse, ttl_s: None, caller_keeps })?;
        let memory = Memory::many(buffers)?.for_keys(py, keys.len())?;
        let mut tickets = Vec::new();
        let mut begin = 0;
        for memory in memory.split(at_least_one(py, each)?) {
            let end = begin + memory.count();
            // The block before a call's first is the last of the call before it, whose key is made with its own.
            let first = usize::from(begin > 0);
            let position = position.map(|position| position.saturating_add(begin as u32));
            let about = About { tokens, chain, parent: parent.filter(|_| begin == 0), position };
            let put = Put { keys: keys.some(begin - first..end), first, memory, about, packed: true };
            tickets.push(self.submit_one_put(py, &handle, namespace.get().shares(), put)?);
            begin = end;
        }
        Ok(tickets)
    }
}

/// 1 for each buffer that is full.
fn whole(results: &[Result<usize, IntoError>], lengths: &[usize]) -> Vec<u8> {
    results.iter().zip(lengths).map(|(result, length)| u8::from(result == &Ok(*length))).collect()
}

fn kept(outcome: PutOutcome) -> u8 {
    match outcome {
        PutOutcome::Refused(_) => 0,
        PutOutcome::Cached => 1,
        PutOutcome::Durable => 2,
        PutOutcome::Exists => 3,
    }
}
