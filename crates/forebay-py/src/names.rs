//! Hashes that are a Python object each: thousands of them lie all over memory, and reading each is a wait for it.
#![expect(unsafe_code, reason = "fetching what is read next")]

use std::ops::Range;

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyTuple};

use crate::errors::invalid;

/// A list or tuple of them.
pub(crate) enum Names<'a, 'py> {
    List(&'a Bound<'py, PyList>),
    Tuple(&'a Bound<'py, PyTuple>),
}

impl<'a, 'py> Names<'a, 'py> {
    /// What is neither of both is none.
    pub(crate) fn of(given: &'a Bound<'py, PyAny>) -> Option<Self> {
        let list = given.cast::<PyList>().ok().map(Names::List);
        list.or_else(|| given.cast::<PyTuple>().ok().map(Names::Tuple))
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Names::List(list) => list.len(),
            Names::Tuple(tuple) => tuple.len(),
        }
    }

    /// One of them.
    pub(crate) fn get(&self, at: usize) -> PyResult<Bound<'py, PyAny>> {
        match self {
            Names::List(list) => list.get_item(at),
            Names::Tuple(tuple) => tuple.get_item(at),
        }
    }

    /// Some of them, of `width` bytes each, behind one another.
    pub(crate) fn read(&self, some: Range<usize>, width: usize) -> PyResult<Vec<u8>> {
        let mut bytes = Vec::with_capacity(some.len() * width);
        for at in some.clone() {
            fetch(self.borrowed(at));
        }
        for at in some {
            let name = self.get(at)?;
            let hash = name.cast::<PyBytes>()?.as_bytes();
            if hash.len() != width || width == 0 {
                let text = format!("a hash has {} bytes, and should have {width}", hash.len());
                return Err(invalid(name.py(), text));
            }
            bytes.extend_from_slice(hash);
        }
        Ok(bytes)
    }

    /// Where one lies; null where there is none. Only to be fetched.
    fn borrowed(&self, at: usize) -> *const u8 {
        if at >= self.len() {
            return std::ptr::null();
        }
        // SAFETY: the object is a list, or a tuple, that is alive, and the GIL is held as long as it is bound; the place is inside it. What is
        // returned is not owned and never read.
        let object = unsafe {
            match self {
                Names::List(list) => pyo3::ffi::PyList_GetItem(list.as_ptr(), at as isize),
                Names::Tuple(tuple) => pyo3::ffi::PyTuple_GetItem(tuple.as_ptr(), at as isize),
            }
        };
        object.cast_const().cast()
    }
}

/// Has the processor bring an object of `bytes` of some tens of bytes into its cache, and goes on meanwhile.
fn fetch(object: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a hint that reads nothing and never faults, whatever the address.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(object.cast());
            _mm_prefetch::<_MM_HINT_T0>(object.wrapping_add(64).cast());
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = object;
}
