//! `Block`: a hit, whose bytes Python sees where they were verified.
#![expect(unsafe_code, reason = "the buffer protocol hands out pointers")]

use std::ffi::c_int;

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyCapsule, PyDict, PyMemoryView, PySlice};

use crate::call::Rooted;
use crate::dlpack;
use crate::errors::invalid;
use crate::words::words;

/// A hit: verified bytes, in memory of the client's that is this object's alone until it and all views of it are gone.
///
/// It is a writable buffer of unsigned bytes, shape (nbytes,): ``memoryview(block)``, ``numpy.frombuffer(block, dtype)``,
/// ``torch.frombuffer(block, dtype=dtype)``, ``from_dlpack(block)`` see it without a copy; ``bytes(block)`` copies. True.
#[pyclass(frozen, module = "forebay")]
pub(crate) struct Block {
    block: Rooted<forebay_client::Block>,
    base: *mut u8,
    len: usize,
}

// SAFETY: `base` points to the bytes of `block`, which stay in place as long as it lives and are given out only through the buffer protocol.
unsafe impl Send for Block {}
// SAFETY: as above.
unsafe impl Sync for Block {}

impl Block {
    pub(crate) fn new(mut block: forebay_client::Block) -> Block {
        let bytes = block.bytes_mut();
        let (base, len) = (bytes.as_mut_ptr(), bytes.len());
        // Its bytes lie in a region or on the heap, not in the value that moves here.
        Block { block: Rooted::new(block), base, len }
    }
}

#[pymethods]
impl Block {
    /// Its key, 16 bytes.
    #[getter]
    fn key<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        Ok(PyBytes::new(py, &self.block.get(py)?.meta().key.0))
    }

    /// Bytes here: the block's, or those of the range that was asked for.
    #[getter]
    fn nbytes(&self) -> usize {
        self.len
    }

    /// Bytes of the whole block.
    #[getter]
    fn block_nbytes(&self, py: Python<'_>) -> PyResult<u64> {
        Ok(self.block.get(py)?.meta().length)
    }

    /// First byte of these bytes in the block: 0 unless a range was asked for.
    #[getter]
    fn offset(&self, py: Python<'_>) -> PyResult<u64> {
        Ok(self.block.get(py)?.offset())
    }

    /// Where it was found.
    #[getter]
    fn tier(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(words(py)?.tier(py, self.block.get(py)?.tier()))
    }

    /// How its bytes came.
    #[getter]
    fn landing(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(words(py)?.landing(py, self.block.get(py)?.landing()))
    }

    /// Tokens that it holds, as its put said; 0 if it did not.
    #[getter]
    fn tokens(&self, py: Python<'_>) -> PyResult<u32> {
        Ok(self.block.get(py)?.meta().tokens)
    }

    /// 64 bits that tell which put of the key this is. Parts of two versions are never to be combined.
    #[getter]
    fn version(&self, py: Python<'_>) -> PyResult<u64> {
        Ok(self.block.get(py)?.meta().version.0)
    }

    /// Named parts: first byte in the block, and bytes.
    #[getter]
    fn parts<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let parts = PyDict::new(py);
        for part in &self.block.get(py)?.meta().parts {
            parts.set_item(part.name.as_str(), (part.offset, part.length))?;
        }
        Ok(parts)
    }

    /// The bytes of a part. Raises InvalidArgument when they are not here.
    #[pyo3(signature = (name, /))]
    fn part<'py>(slf: &Bound<'py, Self>, name: &str) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let block = slf.get().block.get(py)?;
        let Some(part) = block.part(name) else {
            let names: Vec<_> = block.meta().parts.iter().map(|part| part.name.as_str()).collect();
            return Err(invalid(py, format!("no part {name:?} is in these bytes; the block's parts are {names:?}")));
        };
        let start = part.as_ptr().addr() - slf.get().base.addr();
        let all = PyMemoryView::from(slf.as_any())?;
        all.get_item(PySlice::new(py, start as isize, (start + part.len()) as isize, 1))
    }

    fn __len__(&self) -> usize {
        self.len
    }

    fn __bool__(&self) -> bool {
        true
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let block = self.block.get(py)?;
        Ok(format!("<forebay.Block {} of {} bytes from {}>", block.meta().key, self.len, block.tier()))
    }

    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut pyo3::ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let block = slf.get();
        // SAFETY: Python gives a view to fill; it holds a reference to this object until it is released, and so the memory stays.
        unsafe { dlpack::export_buffer(slf.as_ptr(), view, flags, block.base, block.len, false) }
    }

    #[pyo3(signature = (*, stream=None, max_version=None, dl_device=None, copy=None))]
    fn __dlpack__<'py>(
        slf: &Bound<'py, Self>,
        stream: Option<Bound<'py, PyAny>>,
        max_version: Option<(u32, u32)>,
        dl_device: Option<(i32, i32)>,
        copy: Option<bool>,
    ) -> PyResult<Bound<'py, PyCapsule>> {
        let block = slf.get();
        let asked = dlpack::Asked { stream: stream.is_some(), max_version, dl_device, copy };
        dlpack::export(slf.as_any(), block.base, block.len, false, &asked)
    }

    fn __dlpack_device__(&self) -> (i32, i32) {
        dlpack::CPU
    }
}
