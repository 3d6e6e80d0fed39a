//! `CallQueue`: calls that are submitted and drained, for callers with a loop of their own.

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use forebay_client::{
    AsyncClient, AsyncNamespace, Call, ClientError, Completions, GetResult, IntoError, NamespaceHandle, Reported, Reuse,
};
use forebay_types::{MissReason, PutOutcome, Tier};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::buffers::Memory;
use crate::call::{Rooted, cancellable, deadline};
use crate::errors::{invalid, raised};
use crate::keys::asked;
use crate::matching::{Matched, hold};
use crate::moving::{Moving, Token};
use crate::namespace::{Namespace, Terms};
use crate::plan::Plan;
use crate::words::words;

/// Calls for a loop of one's own: ``submit_*`` gives a ticket at once, ``fileno()`` is readable while there are answers, ``drain()`` takes them.
///
/// A call's buffers are the call's until ``drain`` has given its ticket, also when it was cancelled. At most 16 calls are made side by side;
/// the others wait in line, and their deadlines with them. ``submit_*`` raises what its verb says of arguments (InvalidArgument, BufferError) at once,
/// and nothing else but ForkedClient; what the call itself raises comes out of ``drain``.
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

enum Pending {
    Call { call: Call<Done>, cancelled: Arc<AtomicBool> },
    Job(Arc<Moving>),
}

/// An answer, and the memory that was the call's until now.
struct Done {
    answer: Answer,
    #[expect(dead_code, reason = "held until the answer is taken, and given back where the GIL is held")]
    memory: Option<Memory>,
}

pub(crate) enum Answer {
    Kept(Vec<GetResult>),
    Filled(Vec<Result<usize, IntoError>>),
    Put(Vec<PutOutcome>),
    /// Of one block in parts.
    Group(Result<PutOutcome, ClientError>),
    Seen(Vec<Result<Tier, MissReason>>),
    /// Any of these as one byte for each key, 0 where there is nothing.
    Packed(Vec<u8>),
    Matched(Matched),
    Planned(forebay_client::Plan),
    Forgotten(Result<Vec<bool>, ClientError>),
    /// Of hints, which nobody answers.
    Said,
    /// Whether a report was said.
    Reported(bool),
}

impl CallQueue {
    pub(crate) fn new(
        py: Python<'_>,
        client: &forebay_client::Client,
        calls_max: usize,
        is_patient: bool,
    ) -> PyResult<CallQueue> {
        if calls_max == 0 {
            return Err(invalid(py, "a queue holds at least 1 call"));
        }
        let inner = Inner {
            client: match is_patient {
                true => client.asynchronous_patient(calls_max),
                false => client.asynchronous(calls_max),
            },
            completions: Completions::new()?,
            tickets: Mutex::default(),
        };
        Ok(CallQueue { inner: Rooted::new(inner) })
    }

    pub(crate) fn submit(
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
        tickets.pending.insert(ticket, Pending::Call { call, cancelled });
        Ok(ticket)
    }

    /// Takes in a job, which tells its ticket when nothing of it is left.
    pub(crate) fn take_in(
        &self,
        py: Python<'_>,
        begin: impl FnOnce(Token) -> Arc<Moving>,
    ) -> PyResult<(u64, Arc<Moving>)> {
        let inner = self.inner.get(py)?;
        let mut tickets = inner.tickets();
        tickets.last += 1;
        let ticket = tickets.last;
        let job = begin(Token::new(inner.completions.clone(), ticket));
        tickets.pending.insert(ticket, Pending::Job(job.clone()));
        Ok((ticket, job))
    }

    /// The namespace, for calls that nobody waits for.
    pub(crate) fn of(&self, py: Python<'_>, handle: &NamespaceHandle) -> PyResult<AsyncNamespace> {
        Ok(self.inner.get(py)?.client.of(handle))
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
    /// The descriptor that is readable while there are answers. It is the queue's: do not close it. Raises ForkedClient.
    fn fileno(&self, py: Python<'_>) -> PyResult<i32> {
        Ok(self.inner.get(py)?.completions.as_fd().as_raw_fd())
    }

    /// Tickets that were not drained yet.
    #[getter]
    fn pending(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(self.inner.get(py)?.tickets().pending.len())
    }

    /// Finished tickets, each with what the blocking verb would have returned, or the exception it would have raised. Never blocks.
    fn drain<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let inner = self.inner.get(py)?;
        let list = PyList::empty(py);
        for ticket in inner.completions.drain() {
            let pending = inner.tickets().pending.remove(&ticket);
            match pending {
                Some(Pending::Call { mut call, .. }) => {
                    if let Some(done) = call.try_take() {
                        list.append((ticket, answered(py, done.answer)?))?;
                    }
                }
                Some(Pending::Job(job)) => list.append((ticket, PyBytes::new(py, &job.done())))?,
                None => {}
            }
        }
        Ok(list)
    }

    /// Waits until there is something to drain, at most ``timeout_ms`` (60,000 at most); true when so.
    ///
    /// Raises InvalidArgument, ForkedClient.
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

    /// Ends a call soon (within 50 ms), with ``deadline`` for what is unanswered; its ticket is drained as any other. False if there is no
    /// such ticket.
    #[pyo3(signature = (ticket, /))]
    fn cancel(&self, py: Python<'_>, ticket: u64) -> PyResult<bool> {
        let tickets = self.inner.get(py)?.tickets();
        let pending = tickets.pending.get(&ticket);
        let cancelled = pending.map(|pending| match pending {
            Pending::Call { cancelled, .. } => cancelled,
            Pending::Job(job) => job.cancelled(),
        });
        cancelled.inspect(|cancelled| cancelled.store(true, Ordering::Relaxed));
        Ok(cancelled.is_some())
    }

    /// ``Namespace.contains``. packed: the answer is ``bytes``, one for each key: 0 where it is missed, 1 in DRAM, 2 on NVMe.
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

    /// ``Namespace.match_prefix``.
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
        let busy =
            move || Answer::Matched(forebay_client::Matched { gap, ..forebay_client::Matched::default() }.into());
        self.submit(py, &handle, None, busy, move |handle, _| {
            Answer::Matched(handle.match_prefix(&keys.of(handle), hold).into())
        })
    }

    /// ``Namespace.plan_fetch``.
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

    /// ``Namespace.touch``; its answer is None. Dropped when the queue is full.
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

    /// The same without a ticket, for whoever has no use for the end of it. False when it was dropped.
    #[pyo3(signature = (namespace, keys, /, *, reuse=None))]
    fn touch(
        &self,
        py: Python<'_>,
        namespace: &Bound<'_, Namespace>,
        keys: &Bound<'_, PyAny>,
        reuse: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<bool> {
        let keys = asked(keys)?;
        let hint = reuse.map_or(Ok(Reuse::Unknown), crate::namespace::reuse)?;
        let space = self.of(py, namespace.get().handle(py)?)?;
        Ok(space.unanswered(move |handle| handle.touch(&keys.of(handle), hint)))
    }

    /// ``Namespace.prefetch``; its answer is None. Dropped when the queue is full.
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

    /// ``Namespace.report``; false also when the queue is full.
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

    /// ``Namespace.forget``.
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

/// As the blocking verb answers; its exception, not raised, where it raises one.
fn answered(py: Python<'_>, answer: Answer) -> PyResult<Py<PyAny>> {
    Ok(match answer {
        Answer::Kept(results) => crate::get::kept(py, results)?.into_any().unbind(),
        Answer::Filled(results) => crate::get::filled(py, results)?.into_any().unbind(),
        Answer::Put(outcomes) => crate::put::answered(py, &outcomes)?.into_any().unbind(),
        Answer::Seen(seen) => crate::matching::seen(py, &seen)?.into_any().unbind(),
        Answer::Packed(seen) => PyBytes::new(py, &seen).into_any().unbind(),
        Answer::Planned(plan) => Plan::from(plan).into_pyobject(py)?.into_any().unbind(),
        Answer::Matched(matched) => matched.into_pyobject(py)?.into_any().unbind(),
        Answer::Forgotten(Ok(forgotten)) => PyList::new(py, forgotten)?.into_any().unbind(),
        Answer::Said => py.None(),
        Answer::Reported(said) => said.into_pyobject(py)?.to_owned().into_any().unbind(),
        Answer::Group(Ok(outcome)) => words(py)?.put(py, outcome),
        Answer::Group(Err(error)) | Answer::Forgotten(Err(error)) => raised(py, &error).into_value(py).into_any(),
    })
}
