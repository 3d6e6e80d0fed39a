//! `CallQueue.submit_get` and `submit_put`: the calls of a queue that move blocks.

use forebay_client::{GetResult, IntoError};
use forebay_types::{MissReason, PutOutcome, RefusedReason};
use pyo3::prelude::*;

use crate::buffers::Memory;
use crate::errors::invalid;
use crate::keys::{asked, key};
use crate::namespace::{Namespace, Terms};
use crate::put::{About, blocks};
use crate::queue::{Answer, CallQueue};

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
        let busy = move || match packed {
            true => Answer::Packed(vec![0; count]),
            false => Answer::Filled(vec![Err(IntoError::Miss(MissReason::Busy)); count]),
        };
        self.submit(py, &handle, Some(memory), busy, move |handle, memory| {
            let results = memory.map(|memory| (memory.fill(handle, &keys.of(handle)), memory.lengths()));
            let (results, lengths) = results.unwrap_or_default();
            if packed { Answer::Packed(whole(&results, &lengths)) } else { Answer::Filled(results) }
        })
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
        let shares = namespace.get().shares().clone();
        let shape = move |outcomes: Vec<PutOutcome>| match packed {
            true => Answer::Packed(outcomes.into_iter().map(kept).collect()),
            false => Answer::Put(outcomes),
        };
        let count = keys.len();
        let busy = move || shape(vec![PutOutcome::Refused(RefusedReason::Busy); count]);
        self.submit(py, &handle, Some(memory), busy, move |handle, memory| {
            let keys = keys.of(handle);
            let blocks = memory.map(|memory| blocks(&keys, memory, &shares, about)).unwrap_or_default();
            shape(handle.put_blocks(blocks))
        })
    }
}

/// 1 for each buffer that is full.
pub(crate) fn whole(results: &[Result<usize, IntoError>], lengths: &[usize]) -> Vec<u8> {
    results.iter().zip(lengths).map(|(result, length)| u8::from(result == &Ok(*length))).collect()
}

pub(crate) fn kept(outcome: PutOutcome) -> u8 {
    match outcome {
        PutOutcome::Refused(_) => 0,
        PutOutcome::Cached => 1,
        PutOutcome::Durable => 2,
        PutOutcome::Exists => 3,
    }
}
