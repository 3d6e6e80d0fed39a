//! `CallQueue`: calls that are submitted and drained, for callers with a loop of their own.

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use forebay_client::{
    AsyncClient, Call, ClientError, Completions, GetResult, IntoError, NamespaceHandle, Reported, Reuse,
};
use forebay_types::{MissReason, PutOutcome, RefusedReason, Tier};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::buffers::{Memory, Shares};
use crate::call::{Rooted, cancellable, deadline};
use crate::errors::{invalid, raised};
use crate::keys::{Asked, asked, key};
use crate::matching::{Matched, hold};
use crate::namespace::{Namespace, Terms};
use crate::plan::Plan;
use crate::put::{About, blocks};

/// See `_forebay.pyi`.
#[pyclass(frozen, module = "forebay")]
pub(crate) struct CallQueue {
    inner: Rooted<Inner>,
}

struct Inner {
    client: AsyncClient,
    completions: Completions,
    tickets: Mutex<Tickets>,
}

#[derive(Default)]
struct Tickets {
    last: u64,
    pending: HashMap<u64, Pending>,
}

struct Pending {
    call: Call<Done>,
    cancelled: Arc<AtomicBool>,
}

/// An answer, and the memory that was the call's until now.
struct Done {
    answer: Answer,
    #[expect(dead_code, reason = "held until the answer is taken, and given back where the GIL is held")]
    memory: Option<Memory>,
}

enum Answer {
    Kept(Vec<GetResult>),
    Filled(Vec<Result<usize, IntoError>>),
    Put(Vec<PutOutcome>),
    Seen(Vec<Result<Tier, MissReason>>),
    /// Any of these as one byte for each key, 0 where there is nothing.
    Packed(Vec<u8>),
    Matched(forebay_client::Matched),
    Planned(forebay_client::Plan),
    Forgotten(Result<Vec<bool>, ClientError>),
    /// Of hints, which nobody answers.
    Said,
    /// Whether a report was said.
    Reported(bool),
}

/// Blocks of a put: the keys from number `first` on; the one before is that of the block before them.
struct PutPart {
    keys: Asked,
    first: usize,
    memory: Memory,
    about: About,
    packed: bool,
}

fn at_least_one(py: Python<'_>, each: usize) -> PyResult<usize> {
    if each == 0 { Err(invalid(py, "a part has at least 1 key")) } else { Ok(each) }
}

impl CallQueue {
    pub(crate) fn new(py: Python<'_>, client: &forebay_client::Client, calls_max: usize) -> PyResult<CallQueue> {
        if calls_max == 0 {
            return Err(crate::errors::invalid(py, "a queue holds at least 1 call"));
        }
        let inner = Inner {
            client: client.asynchronous(calls_max),
            completions: Completions::new()?,
            tickets: Mutex::default(),
        };
        Ok(CallQueue { inner: Rooted::new(inner) })
    }

    fn submit(
        &self,
        py: Python<'_>,
        handle: &NamespaceHandle,
        mut memory: Option<Memory>,
        busy: impl FnOnce() -> Answer,
        run: impl FnOnce(&NamespaceHandle, Option<&mut Memory>) -> Answer + Send + 'static,
    ) -> PyResult<u64> {
        let inner = self.inner.get(py)?;
        let cancelled = Arc::new(AtomicBool::new(false));
        let asked = cancelled.clone();
        let call = inner.client.of(handle).call(
            move |handle| {
                let answer = cancellable(asked, || run(handle, memory.as_mut()));
                Done { answer, memory }
            },
            || Done { answer: busy(), memory: None },
        );
        let mut tickets = inner.tickets();
        tickets.last += 1;
        let ticket = tickets.last;
        // Under the lock: whoever drains finds the call that belongs to the token.
        inner.completions.watch(ticket, &call);
        tickets.pending.insert(ticket, Pending { call, cancelled });
        Ok(ticket)
    }

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
        part: PutPart,
    ) -> PyResult<u64> {
        let PutPart { keys, first, memory, mut about, packed } = part;
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

    /// Hands over what is only said, and has no answer of its own.
    fn submit_saying(
        &self,
        py: Python<'_>,
        handle: &NamespaceHandle,
        say: impl FnOnce(&NamespaceHandle) + Send + 'static,
    ) -> PyResult<u64> {
        let run = move |handle: &NamespaceHandle, _: Option<&mut Memory>| {
            say(handle);
            Answer::Said
        };
        self.submit(py, handle, None, || Answer::Said, run)
    }
}

impl Inner {
    fn tickets(&self) -> MutexGuard<'_, Tickets> {
        self.tickets.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[pymethods]
impl CallQueue {
    fn fileno(&self, py: Python<'_>) -> PyResult<i32> {
        Ok(self.inner.get(py)?.completions.as_fd().as_raw_fd())
    }

    #[getter]
    fn pending(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(self.inner.get(py)?.tickets().pending.len())
    }

    fn drain<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let inner = self.inner.get(py)?;
        let list = PyList::empty(py);
        for ticket in inner.completions.drain() {
            let pending = inner.tickets().pending.remove(&ticket);
            if let Some(done) = pending.and_then(|mut pending| pending.call.try_take()) {
                list.append((ticket, answered(py, done.answer)?))?;
            }
        }
        Ok(list)
    }

    #[pyo3(signature = (timeout_ms=5000.0))]
    fn wait(&self, py: Python<'_>, timeout_ms: f64) -> PyResult<bool> {
        const STEP_MS: f64 = 50.0;
        let inner = self.inner.get(py)?;
        deadline(py, timeout_ms)?;
        let mut left_ms = timeout_ms;
        loop {
            let timeout = Timespec { tv_sec: 0, tv_nsec: (left_ms.clamp(0.0, STEP_MS) * 1e6) as i64 };
            let ready = py.detach(|| {
                let mut fds = [PollFd::new(&inner.completions, PollFlags::IN)];
                rustix::event::poll(&mut fds, Some(&timeout)).is_ok_and(|ready| ready > 0)
            });
            py.check_signals()?;
            left_ms -= STEP_MS;
            if ready || left_ms <= 0.0 {
                return Ok(ready);
            }
        }
    }

    #[pyo3(signature = (ticket, /))]
    fn cancel(&self, py: Python<'_>, ticket: u64) -> PyResult<bool> {
        let tickets = self.inner.get(py)?.tickets();
        let pending = tickets.pending.get(&ticket);
        pending.inspect(|pending| pending.cancelled.store(true, Ordering::Relaxed));
        Ok(pending.is_some())
    }

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
        let part = PutPart { keys, first: 0, memory, about, packed };
        self.submit_one_put(py, &handle, namespace.get().shares(), part)
    }

    #[pyo3(signature = (namespace, keys, each, /, *, into, deadline_ms=None, reuse=None))]
    #[expect(clippy::too_many_arguments, reason = "keywords of a Python method")]
    fn submit_get_parts(
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
        let parts = memory.in_parts(at_least_one(py, each)?).into_iter();
        let parts = parts.scan(0, |first, memory| {
            let some = *first..*first + memory.count();
            *first = some.end;
            Some((keys.some(some), memory))
        });
        parts.map(|(keys, memory)| self.submit_one_get(py, &handle, keys, memory, true)).collect()
    }

    #[pyo3(signature = (namespace, keys, each, buffers, /, *, tokens=0, chain=0, parent=None, position=None, reuse=None, deadline_ms=None, caller_keeps=false))]
    #[expect(clippy::too_many_arguments, reason = "keywords of a Python method")]
    fn submit_put_parts(
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
        for memory in memory.in_parts(at_least_one(py, each)?) {
            let end = begin + memory.count();
            // The block before a part is the last of the one before it, whose key is made with the part's own.
            let first = usize::from(begin > 0);
            let position = position.map(|position| position.saturating_add(begin as u32));
            let about = About { tokens, chain, parent: parent.filter(|_| begin == 0), position };
            let part = PutPart { keys: keys.some(begin - first..end), first, memory, about, packed: true };
            tickets.push(self.submit_one_put(py, &handle, namespace.get().shares(), part)?);
            begin = end;
        }
        Ok(tickets)
    }

    #[pyo3(signature = (namespace, keys, /, *, deadline_ms=None, packed=false))]
    fn submit_contains(
        &self,
        py: Python<'_>,
        namespace: &Bound<'_, Namespace>,
        keys: &Bound<'_, PyAny>,
        deadline_ms: Option<f64>,
        packed: bool,
    ) -> PyResult<u64> {
        let keys = asked(keys)?;
        let handle = namespace.get().under(py, &Terms { deadline_ms, ..Terms::default() })?;
        let shape = move |seen: Vec<Result<Tier, MissReason>>| match packed {
            true => {
                Answer::Packed(seen.into_iter().map(|seen| seen.map_or(0, |tier| 1 + tier.index() as u8)).collect())
            }
            false => Answer::Seen(seen),
        };
        let count = keys.len();
        let busy = move || shape(vec![Err(MissReason::Busy); count]);
        self.submit(py, &handle, None, busy, move |handle, _| shape(handle.contains(&keys.of(handle))))
    }

    #[pyo3(signature = (namespace, keys, /, *, hold_ms=None, deadline_ms=None))]
    fn submit_match(
        &self,
        py: Python<'_>,
        namespace: &Bound<'_, Namespace>,
        keys: &Bound<'_, PyAny>,
        hold_ms: Option<f64>,
        deadline_ms: Option<f64>,
    ) -> PyResult<u64> {
        let keys = asked(keys)?;
        let hold = hold(py, hold_ms)?;
        let handle = namespace.get().under(py, &Terms { deadline_ms, ..Terms::default() })?;
        let gap = (keys.len() > 0).then_some(MissReason::Busy);
        let busy = move || Answer::Matched(forebay_client::Matched { gap, ..forebay_client::Matched::default() });
        self.submit(py, &handle, None, busy, move |handle, _| {
            Answer::Matched(handle.match_prefix(&keys.of(handle), hold))
        })
    }

    #[pyo3(signature = (namespace, keys, /, *, deadline_ms=None))]
    fn submit_plan(
        &self,
        py: Python<'_>,
        namespace: &Bound<'_, Namespace>,
        keys: &Bound<'_, PyAny>,
        deadline_ms: Option<f64>,
    ) -> PyResult<u64> {
        let keys = asked(keys)?;
        let handle = namespace.get().under(py, &Terms { deadline_ms, ..Terms::default() })?;
        let missing = keys.len();
        let busy = move || Answer::Planned(forebay_client::Plan { missing, ..forebay_client::Plan::default() });
        self.submit(py, &handle, None, busy, move |handle, _| Answer::Planned(handle.plan_fetch(&keys.of(handle))))
    }

    #[pyo3(signature = (namespace, keys, /, *, reuse=None))]
    fn submit_touch(
        &self,
        py: Python<'_>,
        namespace: &Bound<'_, Namespace>,
        keys: &Bound<'_, PyAny>,
        reuse: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<u64> {
        let keys = asked(keys)?;
        let hint = reuse.map_or(Ok(Reuse::Unknown), crate::namespace::reuse)?;
        let handle = namespace.get().handle(py)?;
        self.submit_saying(py, handle, move |handle| handle.touch(&keys.of(handle), hint))
    }

    #[pyo3(signature = (namespace, keys, /, *, within_ms=5000.0))]
    fn submit_prefetch(
        &self,
        py: Python<'_>,
        namespace: &Bound<'_, Namespace>,
        keys: &Bound<'_, PyAny>,
        within_ms: f64,
    ) -> PyResult<u64> {
        let keys = asked(keys)?;
        let within = deadline(py, within_ms)?;
        let handle = namespace.get().handle(py)?;
        self.submit_saying(py, handle, move |handle| handle.prefetch(&keys.of(handle), within))
    }

    #[pyo3(signature = (namespace, /, *, prompt_tokens, engine_tokens=0, used_tokens=0, requests=1))]
    fn submit_report(
        &self,
        py: Python<'_>,
        namespace: &Bound<'_, Namespace>,
        prompt_tokens: u64,
        engine_tokens: u64,
        used_tokens: u64,
        requests: u64,
    ) -> PyResult<u64> {
        let reported = crate::hints::reported(py, Reported { requests, prompt_tokens, engine_tokens, used_tokens })?;
        let handle = namespace.get().handle(py)?;
        let busy = || Answer::Reported(false);
        self.submit(py, handle, None, busy, move |handle, _| Answer::Reported(handle.report(&reported)))
    }

    #[pyo3(signature = (namespace, keys, /, *, deadline_ms=None))]
    fn submit_forget(
        &self,
        py: Python<'_>,
        namespace: &Bound<'_, Namespace>,
        keys: &Bound<'_, PyAny>,
        deadline_ms: Option<f64>,
    ) -> PyResult<u64> {
        let keys = asked(keys)?;
        let handle = namespace.get().under(py, &Terms { deadline_ms, ..Terms::default() })?;
        let text = "too many calls are unfinished; drain the queue, or allow more with `Client.queue(calls_max=...)`";
        let busy = move || Answer::Forgotten(Err(ClientError::Invalid(text.into())));
        self.submit(py, &handle, None, busy, move |handle, _| Answer::Forgotten(handle.forget(&keys.of(handle))))
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

/// As the blocking verb answers; its exception, not raised, where it raises one.
fn answered(py: Python<'_>, answer: Answer) -> PyResult<Py<PyAny>> {
    Ok(match answer {
        Answer::Kept(results) => crate::get::kept(py, results)?.into_any().unbind(),
        Answer::Filled(results) => crate::get::filled(py, results)?.into_any().unbind(),
        Answer::Put(outcomes) => crate::put::answered(py, &outcomes)?.into_any().unbind(),
        Answer::Seen(seen) => crate::matching::seen(py, &seen)?.into_any().unbind(),
        Answer::Packed(seen) => PyBytes::new(py, &seen).into_any().unbind(),
        Answer::Planned(plan) => Plan::from(plan).into_pyobject(py)?.into_any().unbind(),
        Answer::Matched(matched) => Matched::from(matched).into_pyobject(py)?.into_any().unbind(),
        Answer::Forgotten(Ok(forgotten)) => PyList::new(py, forgotten)?.into_any().unbind(),
        Answer::Said => py.None(),
        Answer::Reported(said) => said.into_pyobject(py)?.to_owned().into_any().unbind(),
        Answer::Forgotten(Err(error)) => raised(py, &error).into_value(py).into_any(),
    })
}
