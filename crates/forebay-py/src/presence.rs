//! `Presence`: what is known of many hashes, for callers that are asked of one at a time and must answer within a microsecond.

use std::hash::{BuildHasher, Hasher};
use std::sync::{Arc, Mutex, MutexGuard};

use hashbrown::{DefaultHashBuilder, HashTable};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::errors::invalid;
use crate::keys::Hashes;

/// Nothing is known yet: it is part of a question.
const ASKED: u8 = 3;
const MISSING: u8 = 0;

/// What is known of many hashes of one length, for whoever is asked of one at a time and must not take long: 0 it is missing, 3 it is being
/// asked for, anything else is an answer of ``CallQueue.submit_contains(..., packed=True)``.
///
/// width: bytes of a hash. Raises InvalidArgument.
#[pyclass(frozen, module = "forebay")]
pub(crate) struct Presence {
    inner: Mutex<Inner>,
}

struct Inner {
    width: usize,
    /// Hashes in the order in which they came: those of each question, which share them, and those that are part of none yet.
    questions: Vec<Arc<Vec<u8>>>,
    open: Vec<u8>,
    /// A byte for each.
    states: Vec<u8>,
    index: HashTable<Place>,
    hasher: DefaultHashBuilder,
}

/// Where a hash lies, and its number.
#[derive(Clone, Copy)]
struct Place {
    question: u32,
    row: u32,
    number: u32,
}

impl Inner {
    fn name(&self, hash: &[u8]) -> u64 {
        let mut state = self.hasher.build_hasher();
        state.write(hash);
        state.finish()
    }

    fn row(&self, place: Place) -> &[u8] {
        let rows = self.questions.get(place.question as usize).map_or(&self.open, |rows| rows);
        &rows[place.row as usize * self.width..][..self.width]
    }

    fn find(&self, hash: &[u8]) -> Option<usize> {
        let found = self.index.find(self.name(hash), |place| self.row(*place) == hash);
        found.map(|place| place.number as usize)
    }

    fn add(&mut self, hash: &[u8]) {
        let row = (self.open.len() / self.width) as u32;
        let place = Place { question: self.questions.len() as u32, row, number: self.states.len() as u32 };
        self.open.extend_from_slice(hash);
        self.states.push(ASKED);
        let name = self.name(hash);
        let mut index = std::mem::take(&mut self.index);
        index.insert_unique(name, place, |place| self.name(self.row(*place)));
        self.index = index;
    }
}

impl Presence {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[pymethods]
impl Presence {
    #[new]
    #[pyo3(signature = (width, /))]
    fn new(py: Python<'_>, width: usize) -> PyResult<Presence> {
        if width == 0 {
            return Err(invalid(py, "a hash has at least 1 byte"));
        }
        let (questions, open, states) = (Vec::new(), Vec::new(), Vec::new());
        let (index, hasher) = (HashTable::new(), DefaultHashBuilder::default());
        let inner = Inner { width, questions, open, states, index, hasher };
        Ok(Presence { inner: Mutex::new(inner) })
    }

    fn __len__(&self) -> usize {
        self.lock().states.len()
    }

    /// What is known of it. One that was never seen becomes part of the next question; one of another length is missing.
    #[pyo3(signature = (hash, /))]
    fn state(&self, hash: &Bound<'_, PyBytes>) -> u8 {
        let mut inner = self.lock();
        let hash = hash.as_bytes();
        if let Some(at) = inner.find(hash) {
            return inner.states[at];
        }
        if hash.len() != inner.width || inner.states.len() == u32::MAX as usize {
            return MISSING;
        }
        inner.add(hash);
        ASKED
    }

    /// The one that was seen first.
    #[getter]
    fn first<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyBytes>> {
        let inner = self.lock();
        let rows = inner.questions.first().map_or(&inner.open, |rows| rows);
        rows.get(..inner.width).map(|hash| PyBytes::new(py, hash))
    }

    /// Those that became part of a question since the last one was taken; None if there are none.
    fn question(&self) -> Option<Hashes> {
        let mut inner = self.lock();
        if inner.open.is_empty() {
            return None;
        }
        let rows = Arc::new(std::mem::take(&mut inner.open));
        inner.questions.push(rows.clone());
        Some(Hashes::own(rows, inner.width))
    }

    /// What is known now of the hashes from number ``first`` on, in the order in which they were seen; how many are there. Raises InvalidArgument.
    #[pyo3(signature = (first, states, /))]
    fn answer(&self, py: Python<'_>, first: usize, states: &Bound<'_, PyBytes>) -> PyResult<usize> {
        let mut inner = self.lock();
        let states = states.as_bytes();
        let Some(to) = inner.states.get_mut(first..).and_then(|rest| rest.get_mut(..states.len())) else {
            let text = format!("{} answers from hash {first} on are more than were asked for", states.len());
            return Err(invalid(py, text));
        };
        to.copy_from_slice(states);
        Ok(states.iter().filter(|state| **state != MISSING).count())
    }

    /// It is missing after all, unless it is being asked for.
    #[pyo3(signature = (hash, /))]
    fn lost(&self, hash: &Bound<'_, PyBytes>) {
        let mut inner = self.lock();
        if let Some(at) = inner.find(hash.as_bytes()).filter(|at| inner.states[*at] != ASKED) {
            inner.states[at] = MISSING;
        }
    }
}
