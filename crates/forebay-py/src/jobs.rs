//! `Jobs`: gets and puts of many blocks, handed over a few at a time, for callers that may not take long.
//!
//! The caller's thread reads names and numbers of rows and hands them over as one. All else is done by the threads that make the calls
//! (`moving.rs`): they make the keys, split what came into calls, and tell of a job once, when nothing of it is left.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};

use forebay_client::AsyncNamespace;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use crate::buffers::{Keep, Memory, Shares, Source};
use crate::call::Rooted;
use crate::errors::invalid;
use crate::moving::{Batch, BatchPut, Moving, Part, Place};
use crate::names::Names;
use crate::namespace::{Namespace, Terms};
use crate::put::About;
use crate::queue::CallQueue;
use crate::region::{Region, numbers};

/// Gets and puts of many blocks each, between a namespace and the rows of a region, handed over a few blocks at a time: for callers with a loop of
/// their own that may not take long.
///
/// A job has a ticket of the queue, drained once, when nothing of it is left: ``bytes``, one for each block, as ``submit_get(..., packed=True)`` and
/// ``submit_put(..., packed=True)`` answer. The rows are the job's until then. Its hashes and rows are kept as they are, and must not change; what
/// cannot be read any more when its turn comes is missed or refused.
///
/// What is handed over at once becomes at most ``calls_max`` calls, side by side, of at least ``call_blocks`` blocks. Raises InvalidArgument.
#[pyclass(frozen, module = "forebay")]
pub(crate) struct Jobs {
    queue: Py<CallQueue>,
    region: Py<Region>,
    row_bytes: usize,
    /// Blocks of a call, at least, and calls of what is handed over at once, at most.
    call_blocks: usize,
    calls_max: usize,
    line: Rooted<Mutex<VecDeque<Job>>>,
}

/// What is not handed over whole.
struct Job {
    moving: Arc<Moving>,
    space: AsyncNamespace,
    names: Py<PyAny>,
    width: usize,
    suffix: Arc<[u8]>,
    rows: (Source, usize),
    count: usize,
    given: usize,
    /// Nothing for a get.
    put: Option<Put>,
}

/// Which blocks, and where.
struct Named<'a, 'py> {
    hashes: &'a Bound<'py, PyAny>,
    rows: &'a Bound<'py, PyAny>,
    suffix: Option<&'a [u8]>,
}

/// Of a put.
struct Put {
    tokens: u32,
    chain: u64,
    /// The hash of the block before the first.
    parent: Option<Py<PyBytes>>,
    /// Where in the sequence each block ends, in tokens.
    ends: Option<Py<PyDict>>,
    shares: Arc<Shares>,
}

#[pymethods]
impl Jobs {
    #[new]
    #[pyo3(signature = (queue, region, row_nbytes, /, *, call_blocks=1, calls_max=3))]
    fn new(
        py: Python<'_>,
        queue: Py<CallQueue>,
        region: Py<Region>,
        row_nbytes: usize,
        call_blocks: usize,
        calls_max: usize,
    ) -> PyResult<Jobs> {
        if call_blocks == 0 || calls_max == 0 {
            return Err(invalid(py, "a call has at least 1 block, and what is handed over is at least 1 call"));
        }
        let line = Rooted::new(Mutex::default());
        Ok(Jobs { queue, region, row_bytes: row_nbytes, call_blocks, calls_max, line })
    }

    /// Blocks that are not handed over.
    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(self.line(py)?.iter().map(|job| job.count - job.given).sum())
    }

    /// A job: blocks, one for each hash, into the rows of these numbers (32-bit or 64-bit integers); its ticket. suffix: stands behind every hash. The
    /// deadline is that of each call, and begins when it is handed over. Raises InvalidArgument, ForkedClient.
    #[pyo3(signature = (namespace, hashes, rows, /, *, suffix=None, deadline_ms=None, reuse=None))]
    #[expect(clippy::too_many_arguments, reason = "keywords of a Python method")]
    fn get(
        &self,
        py: Python<'_>,
        namespace: &Bound<'_, Namespace>,
        hashes: &Bound<'_, PyAny>,
        rows: &Bound<'_, PyAny>,
        suffix: Option<&[u8]>,
        deadline_ms: Option<f64>,
        reuse: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<u64> {
        if self.region.get().is_readonly() {
            return Err(invalid(py, "this memory is read-only, and blocks are to be written there"));
        }
        let terms = Terms { deadline_ms, reuse, ..Terms::default() };
        self.add(py, namespace, &terms, Named { hashes, rows, suffix }, None)
    }

    /// The same, out of them. ends: where each hash's block ends in the sequence, in tokens, by which those of a chain that follow one another are
    /// told from others; parent: the hash of the block before the first. Raises InvalidArgument, ForkedClient.
    #[pyo3(signature = (namespace, hashes, rows, /, *, suffix=None, tokens=0, chain=0, parent=None, ends=None, reuse=None, deadline_ms=None, caller_keeps=false))]
    #[expect(clippy::too_many_arguments, reason = "keywords of a Python method")]
    fn put(
        &self,
        py: Python<'_>,
        namespace: &Bound<'_, Namespace>,
        hashes: &Bound<'_, PyAny>,
        rows: &Bound<'_, PyAny>,
        suffix: Option<&[u8]>,
        tokens: u32,
        chain: u64,
        parent: Option<Py<PyBytes>>,
        ends: Option<Py<PyDict>>,
        reuse: Option<&Bound<'_, PyAny>>,
        deadline_ms: Option<f64>,
        caller_keeps: bool,
    ) -> PyResult<u64> {
        let terms = Terms { deadline_ms, reuse, ttl_s: None, caller_keeps };
        let put = Put { tokens, chain, parent, ends, shares: namespace.get().shares().clone() };
        self.add(py, namespace, &terms, Named { hashes, rows, suffix }, Some(put))
    }

    /// At most so many blocks, of the jobs that came first; how many. What the queue has no room for is missed or refused.
    #[pyo3(signature = (blocks, /))]
    fn hand_over(&self, py: Python<'_>, blocks: usize) -> PyResult<usize> {
        // Taken out, since nothing of Python's is touched under a lock.
        let mut line = std::mem::take(&mut *self.line(py)?);
        let mut room = blocks;
        while room > 0
            && let Some(job) = line.front_mut()
        {
            let count = room.min(job.count - job.given);
            job.give(py, self, count);
            room -= count;
            if job.given == job.count {
                line.pop_front();
            }
        }
        let mut came = self.line(py)?;
        line.append(&mut came);
        *came = line;
        Ok(blocks - room)
    }

    /// All that is not handed over is missed or refused; how many blocks.
    fn drop_rest(&self, py: Python<'_>) -> PyResult<usize> {
        let line = std::mem::take(&mut *self.line(py)?);
        Ok(line.into_iter().map(|mut job| job.part(usize::MAX).some.len()).sum())
    }
}

impl Jobs {
    fn line(&self, py: Python<'_>) -> PyResult<MutexGuard<'_, VecDeque<Job>>> {
        Ok(self.line.get(py)?.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }

    fn add(
        &self,
        py: Python<'_>,
        namespace: &Bound<'_, Namespace>,
        terms: &Terms<'_, '_>,
        Named { hashes, rows, suffix }: Named<'_, '_>,
        put: Option<Put>,
    ) -> PyResult<u64> {
        let suffix: Arc<[u8]> = suffix.unwrap_or_default().into();
        let Some(names) = Names::of(hashes) else {
            return Err(invalid(py, "hashes of a job are a list or a tuple of bytes"));
        };
        let count = names.len();
        let width = if count > 0 { names.get(0)?.len()? } else { 0 };
        let rows = Source::with_items(rows)?;
        let numbers = numbers(&rows.0, rows.1, 0..0).map(|_| rows.0.bytes().len() / rows.1);
        if numbers != Some(count) {
            return Err(invalid(py, format!("there are {count} hashes, and not as many 32-bit or 64-bit rows")));
        }
        let queue = self.queue.get();
        let space = queue.of(py, &namespace.get().under(py, terms)?)?;
        let keep = Arc::new(vec![Keep::Region(self.region.clone_ref(py))]);
        let (ticket, moving) = queue.take_in(py, |token| Moving::new(count, token, keep))?;
        let names = hashes.clone().unbind();
        let job = Job { moving, space, names, width, suffix, rows, count, given: 0, put };
        if count > 0 {
            self.line(py)?.push_back(job);
        }
        Ok(ticket)
    }
}

impl Job {
    /// The next ones, which are given with it.
    fn part(&mut self, at_most: usize) -> Part {
        let some = self.given..self.count.min(self.given.saturating_add(at_most));
        self.given = some.end;
        Part { moving: self.moving.clone(), some }
    }

    fn give(&mut self, py: Python<'_>, jobs: &Jobs, count: usize) {
        let is_cancelled = self.moving.cancelled().load(Ordering::Relaxed);
        let part = self.part(if is_cancelled { usize::MAX } else { count });
        // Whatever goes wrong, the part goes, and that is the answer.
        if is_cancelled {
            return;
        }
        let Some(batch) = self.batch(py, jobs, &part.some) else { return };
        let space = self.space.clone();
        self.space.unanswered(move |handle| batch.make(part, handle, &space));
    }

    fn batch(&self, py: Python<'_>, jobs: &Jobs, some: &Range<usize>) -> Option<Batch> {
        let names = self.names.bind(py);
        let names = Names::of(names)?;
        let hashes = Arc::new(names.read(some.clone(), self.width).ok()?);
        let rows = numbers(&self.rows.0, self.rows.1, some.clone())?;
        let memory = Memory::rows(jobs.region.get(), &self.moving.keep, &rows, jobs.row_bytes)?;
        let call_blocks = jobs.call_blocks.max(some.len().div_ceil(jobs.calls_max));
        let put = self.put.as_ref().map(|put| put.of(py, &names, some, call_blocks));
        Some(Batch { hashes, width: self.width, suffix: self.suffix.clone(), memory, call_blocks, put })
    }
}

impl Put {
    fn of(&self, py: Python<'_>, names: &Names<'_, '_>, some: &Range<usize>, call_blocks: usize) -> BatchPut {
        let about = About { tokens: self.tokens, chain: self.chain, parent: None, position: None };
        let ends = self.ends.as_ref().map(|ends| ends.bind(py)).filter(|_| self.chain != 0 && self.tokens > 0);
        let places = ends.map_or_else(Vec::new, |ends| {
            let place = |some: Range<usize>| self.place(py, names, ends, some).unwrap_or_default();
            let all = place(some.clone());
            if all.position.is_some() || some.len() <= call_blocks {
                return vec![all];
            }
            // They do not all follow one another; those of one call still may.
            some.clone().step_by(call_blocks).map(|first| place(first..some.end.min(first + call_blocks))).collect()
        });
        BatchPut { about, places, shares: self.shares.clone() }
    }

    /// Where these are, if they follow one another.
    fn place(
        &self,
        py: Python<'_>,
        names: &Names<'_, '_>,
        ends: &Bound<'_, PyDict>,
        some: Range<usize>,
    ) -> Option<Place> {
        let end_of = |name: &Bound<'_, PyAny>| ends.get_item(name).ok()??.extract::<u64>().ok();
        let tokens = u64::from(self.tokens);
        let begin = end_of(&names.get(some.start).ok()?)?;
        let end = end_of(&names.get(some.end - 1).ok()?)?;
        if begin < tokens || end.checked_sub(begin)? != (some.len() as u64 - 1) * tokens {
            return None;
        }
        let before = match some.start.checked_sub(1) {
            Some(before) => names.get(before).ok(),
            None => self.parent.as_ref().map(|parent| parent.bind(py).clone().into_any()),
        };
        let parent = before.filter(|before| end_of(before) == Some(begin - tokens));
        let parent = parent.and_then(|parent| Some(parent.cast::<PyBytes>().ok()?.as_bytes().to_vec()));
        Some(Place { position: u32::try_from(begin / tokens - 1).ok(), parent })
    }
}
