//! Keys as Python has them: a sequence of 16 bytes or 32 hexadecimal digits each, one buffer of rows of 16 bytes, or an engine's own hashes, of which
//! keys are made where the call is made.

use std::ops::Range;
use std::sync::Arc;

use forebay_client::NamespaceHandle;
use forebay_types::Key;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyList, PyString, PyTuple};

use crate::buffers::{Source, range_of};
use crate::errors::invalid;
use crate::names::Names;

const KEY_BYTES: usize = 16;

/// An engine's own hashes, for whoever must not take long: making keys of thousands takes milliseconds, and is left to the thread that makes the
/// call. Goes wherever keys go.
///
/// rows: hashes of ``width`` bytes each, one behind the other, or as an object each. ``bytes`` are kept as they are, anything else is copied.
/// suffixes: each hash is a key with each of these behind it, hash by hash; one empty suffix unless said otherwise.
/// first, count: only so many of the rows, from this one on; all of them unless said otherwise.
///
/// Raises InvalidArgument.
#[pyclass(frozen, module = "forebay")]
pub(crate) struct Hashes {
    rows: Arc<Rows>,
}

/// Hashes of one width, each with every suffix. They lie in several runs, none of which is copied.
#[derive(Debug)]
pub(crate) struct Rows {
    runs: Vec<Run>,
    width: usize,
    suffixes: Vec<Vec<u8>>,
}

/// Whole hashes, one behind the other.
#[derive(Debug, Clone)]
struct Run {
    bytes: Bytes,
    range: Range<usize>,
}

#[derive(Debug, Clone)]
enum Bytes {
    /// Of an object that nobody can change, and that may go without the GIL: what drops it late leaves it to whoever has the GIL next.
    Python(Arc<PyBackedBytes>),
    Own(Arc<Vec<u8>>),
}

#[pymethods]
impl Hashes {
    #[new]
    #[pyo3(signature = (rows, width, /, *, suffixes=None, first=0, count=None))]
    fn new(
        rows: &Bound<'_, PyAny>,
        width: usize,
        suffixes: Option<Vec<Vec<u8>>>,
        first: usize,
        count: Option<usize>,
    ) -> PyResult<Hashes> {
        let py = rows.py();
        let suffixes = suffixes.unwrap_or_else(|| vec![Vec::new()]);
        if suffixes.is_empty() {
            return Err(invalid(py, "each hash is a key with each suffix: without one there are no keys"));
        }
        let some = |all: usize| {
            range_of(all, first, count).ok_or_else(|| {
                invalid(py, format!("there are {all} hashes, and not {} from {first} on", count.unwrap_or(0)))
            })
        };
        let run = if let Some(names) = Names::of(rows) {
            let bytes = names.read(some(names.len())?, width)?;
            let range = 0..bytes.len();
            Run { bytes: Bytes::Own(Arc::new(bytes)), range }
        } else {
            let bytes = match rows.cast_exact::<PyBytes>() {
                Ok(bytes) => Bytes::Python(Arc::new(bytes.clone().into())),
                Err(_) => Bytes::Own(Arc::new(Source::new(rows)?.copied())),
            };
            let len = bytes.as_slice().len();
            if width == 0 || !len.is_multiple_of(width) {
                return Err(invalid(py, format!("{len} bytes are no whole number of hashes of {width} bytes")));
            }
            let some = some(len / width)?;
            Run { bytes, range: some.start * width..some.end * width }
        };
        Ok(Hashes { rows: Arc::new(Rows { runs: vec![run], width, suffixes }) })
    }

    /// One behind the other; nothing is copied. They have one width and the same suffixes. Raises InvalidArgument.
    #[staticmethod]
    #[pyo3(signature = (*hashes))]
    fn joined(py: Python<'_>, hashes: Vec<PyRef<'_, Hashes>>) -> PyResult<Hashes> {
        let shape = |one: &Rows| (one.width, one.suffixes.clone());
        let Some((width, suffixes)) = hashes.first().map(|one| shape(&one.rows)) else {
            return Err(invalid(py, "nothing was given to be joined"));
        };
        if hashes.iter().any(|one| one.rows.width != width || one.rows.suffixes != suffixes) {
            return Err(invalid(py, "hashes that are joined have one width and the same suffixes"));
        }
        let runs = hashes.iter().flat_map(|one| one.rows.runs.iter().cloned()).collect();
        Ok(Hashes { rows: Arc::new(Rows { runs, width, suffixes }) })
    }

    /// Bytes of a hash.
    #[getter]
    fn width(&self) -> usize {
        self.rows.width
    }

    fn __len__(&self) -> usize {
        self.rows.len()
    }
}

impl Hashes {
    /// Hashes that the package has gathered itself.
    pub(crate) fn own(bytes: Arc<Vec<u8>>, width: usize) -> Hashes {
        let range = 0..bytes.len();
        let runs = vec![Run { bytes: Bytes::Own(bytes), range }];
        Hashes { rows: Arc::new(Rows { runs, width, suffixes: vec![Vec::new()] }) }
    }
}

impl Bytes {
    fn as_slice(&self) -> &[u8] {
        match self {
            Bytes::Python(bytes) => bytes,
            Bytes::Own(bytes) => bytes,
        }
    }
}

impl Rows {
    fn len(&self) -> usize {
        self.runs.iter().map(|run| run.range.len()).sum::<usize>() / self.width * self.suffixes.len()
    }

    fn keys(&self, handle: &NamespaceHandle) -> Vec<Key> {
        let mut hash = Vec::new();
        let rows = self.runs.iter().flat_map(|run| run.bytes.as_slice()[run.range.clone()].chunks_exact(self.width));
        let parts = rows.flat_map(|row| self.suffixes.iter().map(move |suffix| (row, suffix)));
        let key = |(row, suffix): (&[u8], &Vec<u8>)| {
            hash.clear();
            hash.extend_from_slice(row);
            hash.extend_from_slice(suffix);
            handle.derive_key(&hash)
        };
        parts.map(key).collect()
    }
}

/// The keys of a call, which may still have to be made.
#[derive(Debug)]
pub(crate) enum Asked {
    Keys(Vec<Key>),
    /// All that these make.
    Hashes(Arc<Rows>),
}

impl Asked {
    /// How many.
    pub(crate) fn len(&self) -> usize {
        match self {
            Asked::Keys(keys) => keys.len(),
            Asked::Hashes(rows) => rows.len(),
        }
    }

    /// They, made.
    pub(crate) fn of(self, handle: &NamespaceHandle) -> Vec<Key> {
        match self {
            Asked::Keys(keys) => keys,
            Asked::Hashes(rows) => rows.keys(handle),
        }
    }
}

/// The keys of a call.
pub(crate) fn asked(given: &Bound<'_, PyAny>) -> PyResult<Asked> {
    match given.cast::<Hashes>() {
        Ok(hashes) => Ok(Asked::Hashes(hashes.get().rows.clone())),
        Err(_) => keys(given).map(Asked::Keys),
    }
}

fn keys(given: &Bound<'_, PyAny>) -> PyResult<Vec<Key>> {
    if let Ok(rows) = given.cast::<PyBytes>() {
        return of_rows(given.py(), rows.as_bytes());
    }
    if let Ok(list) = given.cast::<PyList>() {
        return list.iter().map(|item| key(&item)).collect();
    }
    if let Ok(tuple) = given.cast::<PyTuple>() {
        return tuple.iter().map(|item| key(&item)).collect();
    }
    if given.is_instance_of::<PyString>() {
        return Err(invalid(given.py(), "keys are a sequence, also when there is only one: write [key]"));
    }
    match Source::new(given) {
        Ok(rows) => of_rows(given.py(), &rows.copied()),
        Err(_) => given.try_iter()?.map(|item| key(&item?)).collect(),
    }
}

/// One key.
pub(crate) fn key(given: &Bound<'_, PyAny>) -> PyResult<Key> {
    if let Ok(bytes) = given.cast::<PyBytes>() {
        return of_bytes(given.py(), bytes.as_bytes());
    }
    if let Ok(text) = given.cast::<PyString>() {
        let text = text.to_str()?;
        return text.parse().map_err(|e| invalid(given.py(), format!("{e}")));
    }
    match Source::new(given) {
        Ok(bytes) => of_bytes(given.py(), &bytes.copied()),
        Err(_) => {
            let kind = given.get_type();
            Err(PyTypeError::new_err(format!("a key is 16 bytes or 32 hexadecimal digits, this is of type {kind}")))
        }
    }
}

fn of_bytes(py: Python<'_>, bytes: &[u8]) -> PyResult<Key> {
    bytes.try_into().map(Key).map_err(|_| {
        let len = bytes.len();
        invalid(py, format!("a key has 16 bytes and this has {len}; Namespace.key makes one of an engine's own hash"))
    })
}

fn of_rows(py: Python<'_>, bytes: &[u8]) -> PyResult<Vec<Key>> {
    let (rows, rest) = bytes.as_chunks::<KEY_BYTES>();
    if rest.is_empty() {
        return Ok(rows.iter().map(|row| Key(*row)).collect());
    }
    let len = bytes.len();
    Err(invalid(
        py,
        format!("keys in one buffer are rows of 16 bytes, and its {len} bytes are no whole number of them"),
    ))
}
