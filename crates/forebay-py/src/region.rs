//! `Region`: memory for many blocks, the library's own or the engine's, seen by Python as one writable buffer.
#![expect(unsafe_code, reason = "the buffer protocol hands out pointers")]

use std::ffi::c_int;
use std::ops::Range;
use std::sync::Arc;

use forebay_client::Slice;
use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::PyBufferError;
use pyo3::prelude::*;
use pyo3::types::{PyCapsule, PyMemoryView};

use crate::buffers::{Source, range_of};
use crate::call::Rooted;
use crate::dlpack;
use crate::errors::invalid;

/// Memory for many blocks, seen as one buffer of unsigned bytes, shape (nbytes,), by NumPy and torch too.
///
/// *Owned* regions come from ``Client.region``; *borrowed* ones are memory of the engine's.
#[pyclass(frozen, module = "forebay")]
pub(crate) struct Region {
    #[expect(dead_code, reason = "held so that the memory stays")]
    memory: Held,
    base: *mut u8,
    len: usize,
    readonly: bool,
    owned: bool,
}

#[expect(dead_code, reason = "held so that the memory stays")]
enum Held {
    Owned(Rooted<Arc<Slice>>),
    Borrowed(PyUntypedBuffer),
}

// SAFETY: `base` points to memory that `memory` keeps in place for as long as this lives; it is given out only through the buffer protocol and as
// spans whose users hold this object.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// A slice of the client's, for as long as Python holds it.
    pub(crate) fn owned(mut slice: Slice) -> (Region, Arc<Slice>) {
        let (base, len) = (slice.as_mut_ptr(), slice.len());
        let slice = Arc::new(slice);
        let memory = Held::Owned(Rooted::new(slice.clone()));
        (Region { memory, base, len, readonly: false, owned: true }, slice)
    }

    pub(crate) fn is_readonly(&self) -> bool {
        self.readonly
    }

    /// A range inside of it.
    pub(crate) fn span(&self, range: &Range<usize>) -> (*mut u8, usize) {
        let start = range.start.min(self.len);
        (self.base.wrapping_add(start), range.end.min(self.len).saturating_sub(start))
    }

    /// The row of that number, where rows are of so many bytes; nothing where it is not all inside.
    pub(crate) fn row(&self, number: u64, nbytes: usize) -> Option<(*mut u8, usize)> {
        let start = usize::try_from(number).ok()?.checked_mul(nbytes)?;
        let is_inside = start.checked_add(nbytes).is_some_and(|end| end <= self.len);
        is_inside.then(|| (self.base.wrapping_add(start), nbytes))
    }

    fn inside(&self, py: Python<'_>, offset: usize, nbytes: usize) -> PyResult<Range<usize>> {
        match offset.checked_add(nbytes) {
            Some(end) if end <= self.len => Ok(offset..end),
            _ => {
                let len = self.len;
                Err(invalid(py, format!("{nbytes} bytes from {offset} on are not inside the region's {len}")))
            }
        }
    }
}

#[pymethods]
impl Region {
    /// The engine's memory: any contiguous buffer of any shape and type. It stays exported while the region lives.
    ///
    /// Raises BufferError (not contiguous).
    #[staticmethod]
    #[pyo3(signature = (buffer, /))]
    fn borrow(buffer: &Bound<'_, PyAny>) -> PyResult<Region> {
        let buffer = PyUntypedBuffer::get(buffer)?;
        if !buffer.is_c_contiguous() {
            return Err(PyBufferError::new_err("a region is one contiguous run of bytes, and this memory is not"));
        }
        let (base, len, readonly) = (buffer.buf_ptr().cast(), buffer.len_bytes(), buffer.readonly());
        Ok(Region { memory: Held::Borrowed(buffer), base, len, readonly, owned: false })
    }

    /// Its bytes. Also ``len(region)``.
    #[getter]
    fn nbytes(&self) -> usize {
        self.len
    }

    /// Whether the memory may only be read: then blocks are put from there and not got into it.
    #[getter]
    fn readonly(&self) -> bool {
        self.readonly
    }

    /// Whether it is the library's own memory.
    #[getter]
    fn is_owned(&self) -> bool {
        self.owned
    }

    fn __len__(&self) -> usize {
        self.len
    }

    fn __repr__(&self) -> String {
        format!("<forebay.Region {} of {} bytes>", if self.owned { "owned" } else { "borrowed" }, self.len)
    }

    /// Some of its bytes. Raises InvalidArgument when they are not inside.
    #[pyo3(signature = (offset, nbytes))]
    fn view<'py>(slf: &Bound<'py, Self>, offset: usize, nbytes: usize) -> PyResult<Bound<'py, PyAny>> {
        let range = slf.get().inside(slf.py(), offset, nbytes)?;
        let all = PyMemoryView::from(slf.as_any())?;
        all.get_item(pyo3::types::PySlice::new(slf.py(), range.start as isize, range.end as isize, 1))
    }

    /// ``nbytes`` bytes at each of these offsets, for ``put`` and ``get(into=...)``: cheaper than as many views.
    ///
    /// Raises InvalidArgument when they are not inside.
    #[pyo3(signature = (offsets, nbytes))]
    fn spans(slf: &Bound<'_, Self>, offsets: Vec<usize>, nbytes: usize) -> PyResult<Spans> {
        let py = slf.py();
        let ranges = offsets.iter().map(|offset| slf.get().inside(py, *offset, nbytes)).collect::<PyResult<_>>()?;
        Ok(Spans(vec![(slf.clone().unbind(), ranges)]))
    }

    /// The same for a region that is rows of ``nbytes``: numbers of rows, as a contiguous buffer of 32-bit or 64-bit integers.
    ///
    /// first, count: only so many of the numbers, from this one on; all of them unless said otherwise.
    ///
    /// Raises InvalidArgument when they are not inside, or no such integers.
    #[pyo3(signature = (numbers, nbytes, *, first=0, count=None))]
    fn rows(
        slf: &Bound<'_, Self>,
        numbers: &Bound<'_, PyAny>,
        nbytes: usize,
        first: usize,
        count: Option<usize>,
    ) -> PyResult<Spans> {
        let py = slf.py();
        let (given, item_bytes) = Source::with_items(numbers)?;
        let all = given.bytes().len() / item_bytes.max(1);
        let Some(some) = range_of(all, first, count) else {
            let count = count.unwrap_or(0);
            return Err(invalid(py, format!("there are {all} numbers of rows, and not {count} from {first} on")));
        };
        let Some(numbers) = self::numbers(&given, item_bytes, some) else {
            return Err(invalid(py, "numbers of rows are a contiguous buffer of 32-bit or 64-bit integers"));
        };
        // If the largest is inside, all are.
        let largest = numbers.iter().max().copied().unwrap_or(0);
        let at = usize::try_from(largest).ok().and_then(|largest| largest.checked_mul(nbytes));
        if !numbers.is_empty() {
            slf.get().inside(py, at.unwrap_or(usize::MAX), nbytes)?;
        }
        let range = |number: &u64| {
            let at = *number as usize * nbytes;
            at..at + nbytes
        };
        let ranges = numbers.iter().map(range).collect();
        Ok(Spans(vec![(slf.clone().unbind(), ranges)]))
    }

    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut pyo3::ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let region = slf.get();
        // SAFETY: Python gives a view to fill; it holds a reference to this object until it is released, and so the memory stays.
        unsafe { dlpack::export_buffer(slf.as_ptr(), view, flags, region.base, region.len, region.readonly) }
    }

    #[pyo3(signature = (*, stream=None, max_version=None, dl_device=None, copy=None))]
    fn __dlpack__<'py>(
        slf: &Bound<'py, Self>,
        stream: Option<Bound<'py, PyAny>>,
        max_version: Option<(u32, u32)>,
        dl_device: Option<(i32, i32)>,
        copy: Option<bool>,
    ) -> PyResult<Bound<'py, PyCapsule>> {
        let region = slf.get();
        let asked = dlpack::Asked { stream: stream.is_some(), max_version, dl_device, copy };
        dlpack::export(slf.as_any(), region.base, region.len, region.readonly, &asked)
    }

    fn __dlpack_device__(&self) -> (i32, i32) {
        dlpack::CPU
    }
}

/// Some of the numbers of rows in a buffer of 32-bit or 64-bit integers; nothing where it is no such buffer, or has fewer. As unsigned numbers
/// negative ones are the largest: they are outside of every region.
pub(crate) fn numbers(given: &Source, item_bytes: usize, some: Range<usize>) -> Option<Vec<u64>> {
    let some = given.bytes().get(some.start * item_bytes..some.end * item_bytes)?;
    match item_bytes {
        4 => Some(some.as_chunks().0.iter().map(|number| u64::from(u32::from_ne_bytes(*number))).collect()),
        8 => Some(some.as_chunks().0.iter().map(|number| u64::from_ne_bytes(*number)).collect()),
        _ => None,
    }
}

/// Places for blocks in one region, or, joined, in several: a block may lie in as many places as an engine's page has tensors.
#[pyclass(frozen, module = "forebay")]
// Places in regions, as many in each: a block is the bytes of all places of its number, one behind the other. Never empty.
pub(crate) struct Spans(Vec<(Py<Region>, Vec<Range<usize>>)>);

impl Spans {
    pub(crate) fn places(&self) -> &[(Py<Region>, Vec<Range<usize>>)] {
        &self.0
    }
}

#[pymethods]
impl Spans {
    fn __len__(&self) -> usize {
        self.0.first().map_or(0, |(_, ranges)| ranges.len())
    }

    /// The regions that the places are in.
    #[getter]
    fn regions(&self, py: Python<'_>) -> Vec<Py<Region>> {
        self.0.iter().map(|(region, _)| region.clone_ref(py)).collect()
    }

    /// The first block is the bytes of the first place of each, one behind the other, and so on: one block in the store, put by one copy and
    /// got by one verifying copy, whole or not at all. Raises InvalidArgument when they do not have as many places each.
    #[staticmethod]
    #[pyo3(signature = (*spans))]
    fn joined(py: Python<'_>, spans: Vec<Bound<'_, Spans>>) -> PyResult<Spans> {
        let blocks = spans.first().map_or(0, |one| one.get().__len__());
        if spans.is_empty() || spans.iter().any(|one| one.get().__len__() != blocks) {
            let counts: Vec<_> = spans.iter().map(|one| one.get().__len__()).collect();
            return Err(invalid(py, format!("spans are joined place by place, and these have {counts:?} places")));
        }
        let all = spans.iter().flat_map(|one| one.get().0.iter());
        Ok(Spans(all.map(|(region, ranges)| (region.clone_ref(py), ranges.clone())).collect()))
    }
}
