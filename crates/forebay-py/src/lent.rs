//! `Client.lend`, places in what is lent, and `Namespace.get_lent`.
//!
//! A place is taken out of its Python object while a call has it and put back at the call's end, by whatever way the call ends; what is withheld stays
//! away. So nobody in Python can look at memory that a drive may be writing.
#![expect(unsafe_code, reason = "the buffer protocol hands out pointers")]

use std::ffi::c_int;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard};

use forebay_client::{IntoError, Lending, LentResult};
use forebay_types::Key;
use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyList;

use crate::call::{Rooted, blocking};
use crate::client::Client;
use crate::dlpack;
use crate::errors::{invalid, raised};
use crate::get::filled;
use crate::keys::asked;
use crate::namespace::{Namespace, Terms};

/// Memory of the engine's that blocks come into. See ``Client.lend``.
#[pyclass(frozen, module = "forebay")]
pub(crate) struct LentMemory(Rooted<forebay_client::LentMemory>);

/// A range of lent memory, a writable buffer of unsigned bytes, shape (nbytes,). It is free again when the object and all views of it are gone.
///
/// While a call has it, or when it is withheld, asking for a view raises BufferError.
#[pyclass(frozen, module = "forebay")]
pub(crate) struct Place {
    state: Rooted<Arc<Mutex<State>>>,
    offset: usize,
    nbytes: usize,
}

struct State {
    /// Absent while a call has it, and for good when it was withheld.
    place: Option<forebay_client::Place>,
    in_call: bool,
    /// Views that Python has of it.
    views: usize,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[pymethods]
impl Client {
    /// Lends the first ``nbytes`` of a file in memory that the engine keeps its blocks in, so that gets bring blocks to places in it.
    ///
    /// fd: a memfd, or a file on tmpfs, sealed against shrinking (``F_SEAL_SHRINK``). It is duplicated; closing it later is the caller's affair.
    /// how: ``copied``: blocks come through memory of the client's own, with one verifying copy. ``direct``: the drive writes to the places where it
    ///     can; then a place whose landing has not ended when its call does is withheld. At most 16 memories are lent ``direct`` at a time.
    ///
    /// Dropping it and its places ends the lending. If something is withheld then, it may still be written to.
    ///
    /// Raises InvalidArgument, ForkedClient.
    #[pyo3(signature = (fd, nbytes, /, *, how="copied"))]
    fn lend(&self, py: Python<'_>, fd: i32, nbytes: usize, how: &str) -> PyResult<LentMemory> {
        let how = match how {
            "copied" => Lending::Copied,
            "direct" => Lending::Direct,
            _ => return Err(invalid(py, format!("memory is lent \"copied\" or \"direct\", not {how:?}"))),
        };
        let own = if fd < 0 { None } else { duplicate(fd) };
        let own = own.ok_or_else(|| invalid(py, format!("{fd} is no open file descriptor")))?;
        let lent = self.rust(py)?.lend(own, nbytes, how).map_err(|error| raised(py, &error))?;
        Ok(LentMemory(Rooted::new(lent)))
    }
}

/// A descriptor of our own for the file behind `fd`.
fn duplicate(fd: i32) -> Option<OwnedFd> {
    // SAFETY: `fd` is not -1, and it is only asked to be duplicated: if it is not open, or is closed meanwhile, the kernel says so.
    unsafe { BorrowedFd::borrow_raw(fd) }.try_clone_to_owned().ok()
}

#[pymethods]
impl LentMemory {
    /// Takes a range of it, from a multiple of 4 KiB on, for one owner. The engine touches its bytes through the place only, until the place is gone.
    ///
    /// Raises InvalidArgument when some of it lies outside, is in another place, or is withheld.
    #[pyo3(signature = (offset, nbytes))]
    fn place(&self, py: Python<'_>, offset: usize, nbytes: usize) -> PyResult<Place> {
        let place = self.0.get(py)?.place(offset, nbytes).map_err(|error| raised(py, &error))?;
        let (offset, nbytes) = (place.offset(), place.len());
        let state = State { place: Some(place), in_call: false, views: 0 };
        Ok(Place { state: Rooted::new(Arc::new(Mutex::new(state))), offset, nbytes })
    }

    /// Bytes of a place in which a block of so many bytes can land directly: there is padding and a trailer behind it.
    ///
    /// Raises InvalidArgument.
    #[staticmethod]
    #[pyo3(signature = (block_nbytes, /))]
    fn room_for(py: Python<'_>, block_nbytes: usize) -> PyResult<usize> {
        if block_nbytes > isize::MAX as usize {
            return Err(invalid(py, format!("no block has {block_nbytes} bytes")));
        }
        Ok(forebay_client::LentMemory::room_for(block_nbytes))
    }

    /// Bytes that were in places and may still be written to, those of calls under way among them.
    #[getter]
    fn withheld_nbytes(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(self.0.get(py)?.withheld_bytes())
    }

    /// Bytes that were lent.
    #[getter]
    fn nbytes(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(self.0.get(py)?.len())
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        Ok(format!("<forebay.LentMemory of {} bytes>", self.0.get(py)?.len()))
    }
}

#[pymethods]
impl Place {
    /// First byte in the lent memory.
    #[getter]
    fn offset(&self) -> usize {
        self.offset
    }

    /// Its bytes. Also ``len(place)``.
    #[getter]
    fn nbytes(&self) -> usize {
        self.nbytes
    }

    /// A node may still write there. The object is of no use any more; its range can be had again when that has ended.
    #[getter]
    fn is_withheld(&self, py: Python<'_>) -> PyResult<bool> {
        let state = lock(self.state.get(py)?);
        Ok(state.place.is_none() && !state.in_call)
    }

    fn __len__(&self) -> usize {
        self.nbytes
    }

    fn __repr__(&self) -> String {
        format!("<forebay.Place of {} bytes at {}>", self.nbytes, self.offset)
    }

    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let mut state = lock(slf.get().state.get(slf.py())?);
        let Some(place) = &mut state.place else {
            return Err(PyBufferError::new_err("this place may still be written to: it is in a call, or withheld"));
        };
        let (base, len) = (place.as_mut_ptr(), place.len());
        // SAFETY: Python gives a view to fill; it holds a reference to this object until it is released. The place stays in the object while there are
        // views, since no call takes it then, and so do its bytes.
        unsafe { dlpack::export_buffer(slf.as_ptr(), view, flags, base, len, false) }?;
        state.views += 1;
        Ok(())
    }

    unsafe fn __releasebuffer__(&self, py: Python<'_>, _view: *mut ffi::Py_buffer) {
        if let Ok(state) = self.state.get(py) {
            lock(state).views -= 1;
        }
    }
}

#[pymethods]
impl Namespace {
    /// Gets blocks into places of memory that was lent, one for each key: for each the bytes that lie there, verified, or why there are none. Without a
    /// hit a place's content is unspecified, and so is what lies behind a block.
    ///
    /// A place is the call's while it lasts, and its object's again afterwards, also when the call ended by an exception, unless it is withheld:
    /// then look at ``Place.is_withheld``, let go of the object, and take the range anew when the node has been reached again. In no place that is
    /// not withheld does anything write after the call.
    ///
    /// Raises InvalidArgument (a place that is looked at, in another call, or withheld), ForkedClient.
    #[pyo3(signature = (keys, places, /, *, deadline_ms=None, reuse=None))]
    fn get_lent<'py>(
        &self,
        py: Python<'py>,
        keys: &Bound<'py, PyAny>,
        places: Vec<Bound<'py, Place>>,
        deadline_ms: Option<f64>,
        reuse: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyList>> {
        let keys = asked(keys)?;
        if places.len() != keys.len() {
            return Err(invalid(py, format!("there are {} keys and {} places", keys.len(), places.len())));
        }
        let handle = self.under(py, &Terms { deadline_ms, reuse, ..Terms::default() })?;
        let states = places.iter().map(|place| place.get().state.get(py).cloned()).collect::<PyResult<Vec<_>>>()?;
        let taken = Taken::all(py, &states)?;
        let results = blocking(py, || {
            let keys: Vec<Key> = keys.of(&handle);
            let taken = taken.into_places();
            let results = handle.get_lent(keys.into_iter().zip(taken).collect());
            results.into_iter().zip(&states).map(|(result, state)| settle(result, state)).collect::<Vec<_>>()
        })?;
        filled(py, results)
    }
}

/// Places out of their objects, which go back there unless a call has them.
struct Taken<'a>(Vec<(&'a Mutex<State>, forebay_client::Place)>);

impl<'a> Taken<'a> {
    fn all(py: Python<'_>, states: &'a [Arc<Mutex<State>>]) -> PyResult<Taken<'a>> {
        let mut all = Taken(Vec::with_capacity(states.len()));
        for (n, state) in states.iter().enumerate() {
            let mut inner = lock(state);
            if inner.views > 0 {
                return Err(invalid(
                    py,
                    format!("place {n} is looked at: release the views of it before a block lands there"),
                ));
            }
            let Some(place) = inner.place.take() else {
                let why = if inner.in_call { "is in a call already" } else { "is withheld: take its range anew" };
                return Err(invalid(py, format!("place {n} {why}")));
            };
            inner.in_call = true;
            all.0.push((state, place));
        }
        Ok(all)
    }

    /// They are the call's now, and come back by [`settle`].
    fn into_places(mut self) -> Vec<forebay_client::Place> {
        std::mem::take(&mut self.0).into_iter().map(|(_, place)| place).collect()
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        for (state, place) in self.0.drain(..) {
            give(state, Some(place));
        }
    }
}

fn give(state: &Mutex<State>, place: Option<forebay_client::Place>) {
    let mut state = lock(state);
    (state.place, state.in_call) = (place, false);
}

/// Puts a place back where it was taken from, and says what the call answered for it.
fn settle(result: LentResult, state: &Mutex<State>) -> Result<usize, IntoError> {
    let (answer, place) = match result {
        LentResult::Hit(block) => (Ok(block.len()), Some(block.into_place())),
        LentResult::TooSmall { need, place } => (Err(IntoError::TooSmall { need }), Some(place)),
        LentResult::Miss { reason, place } => (Err(IntoError::Miss(reason)), place),
    };
    give(state, place);
    answer
}
