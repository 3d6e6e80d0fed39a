//! `Namespace`: what all verbs share. The verbs themselves have a file each.

use std::sync::Arc;
use std::time::Duration;

use forebay_client::{NamespaceHandle, Reuse};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use crate::buffers::{Shares, Source};
use crate::call::{Rooted, deadline};
use crate::errors::invalid;

/// The scope of keys, opened. Its verbs take many keys at once: one call of many keys is faster than many calls.
///
/// A key is 16 bytes, or 32 hexadecimal digits. Keys are any sequence of them, one contiguous buffer of rows of 16 bytes (``bytes``, or a NumPy array
/// of shape (n, 16) and dtype uint8), or ``Hashes``. What a verb says of a key is an outcome, never an exception: ``Miss`` and ``Refused`` say why.
#[pyclass(frozen, module = "forebay")]
pub(crate) struct Namespace {
    handle: Rooted<NamespaceHandle>,
    shares: Arc<Shares>,
}

/// What each call may say for itself.
#[derive(Default)]
pub(crate) struct Terms<'a, 'py> {
    pub(crate) deadline_ms: Option<f64>,
    pub(crate) reuse: Option<&'a Bound<'py, PyAny>>,
    pub(crate) ttl_s: Option<f64>,
    pub(crate) caller_keeps: bool,
}

impl Namespace {
    pub(crate) fn new(handle: NamespaceHandle, shares: Arc<Shares>) -> Self {
        Namespace { handle: Rooted::new(handle), shares }
    }

    pub(crate) fn shares(&self) -> &Arc<Shares> {
        &self.shares
    }

    pub(crate) fn handle(&self, py: Python<'_>) -> PyResult<&NamespaceHandle> {
        self.handle.get(py)
    }

    /// The handle for a call under these terms.
    pub(crate) fn under(&self, py: Python<'_>, terms: &Terms<'_, '_>) -> PyResult<NamespaceHandle> {
        let mut handle = self.handle.get(py)?.clone();
        if let Some(ms) = terms.deadline_ms {
            handle = handle.with_deadline(deadline(py, ms)?);
        }
        if let Some(hint) = terms.reuse {
            handle = handle.with_reuse(reuse(hint)?);
        }
        if let Some(seconds) = terms.ttl_s {
            if !(seconds > 0.0 && seconds <= f64::from(u32::MAX)) {
                return Err(invalid(py, format!("a time to live is more than 0 seconds, this is {seconds}")));
            }
            handle = handle.with_ttl(Duration::from_secs_f64(seconds));
        }
        if terms.caller_keeps {
            handle = handle.with_caller_keeps(true);
        }
        Ok(handle)
    }
}

/// `"tool"`, `"turn"`, `"done"`, or seconds.
pub(crate) fn reuse(given: &Bound<'_, PyAny>) -> PyResult<Reuse> {
    if let Ok(word) = given.extract::<&str>() {
        match word {
            "tool" => return Ok(Reuse::Tool),
            "turn" => return Ok(Reuse::Turn),
            "done" => return Ok(Reuse::Done),
            _ => {}
        }
    } else if let Ok(seconds) = given.extract::<f64>()
        && seconds >= 0.0
    {
        return Ok(Reuse::Seconds(seconds as u32));
    }
    let text = "a reuse hint is \"tool\", \"turn\", \"done\", or the seconds until the block is used again";
    Err(invalid(given.py(), text))
}

/// What the catalogue says, without the secret.
pub(crate) fn described<'py>(py: Python<'py>, namespace: &forebay_types::Namespace) -> PyResult<Bound<'py, PyDict>> {
    let about = PyDict::new(py);
    about.set_item("name", &namespace.name)?;
    about.set_item("cls", namespace.class.word())?;
    about.set_item("quota", namespace.quota_bytes)?;
    about.set_item("ttl_s", namespace.ttl_s)?;
    let fingerprint = PyDict::new(py);
    for (field, value) in namespace.fingerprint.iter() {
        fingerprint.set_item(field, value)?;
    }
    about.set_item("fingerprint", fingerprint)?;
    Ok(about)
}

#[pymethods]
impl Namespace {
    /// What it is called.
    #[getter]
    fn name(&self, py: Python<'_>) -> PyResult<String> {
        Ok(self.handle(py)?.namespace().name.clone())
    }

    /// ``name``, ``cls``, ``quota`` (bytes), ``ttl_s`` and ``fingerprint``. Raises ForkedClient.
    fn describe<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        described(py, self.handle(py)?.namespace())
    }

    /// The key (16 bytes) for an engine's own hash of a block: nobody outside the namespace can compute it.
    ///
    /// Raises BufferError (not contiguous), ForkedClient.
    #[pyo3(signature = (engine_hash, /))]
    fn key<'py>(&self, py: Python<'py>, engine_hash: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
        let hash = Source::new(engine_hash)?;
        Ok(PyBytes::new(py, &self.handle(py)?.derive_key(hash.bytes()).0))
    }

    /// Keys for many hashes, as one run of rows of 16 bytes. Every verb takes it as it is.
    ///
    /// Raises BufferError (not contiguous), ForkedClient.
    #[pyo3(signature = (engine_hashes, /))]
    fn keys<'py>(&self, py: Python<'py>, engine_hashes: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
        let handle = self.handle(py)?;
        let mut rows = Vec::new();
        for hash in engine_hashes.try_iter()? {
            rows.extend_from_slice(&handle.derive_key(Source::new(&hash?)?.bytes()).0);
        }
        Ok(PyBytes::new(py, &rows))
    }

    /// The key (16 bytes) for content itself, as ``forebay put`` makes it.
    ///
    /// Raises BufferError (not contiguous), ForkedClient.
    #[pyo3(signature = (content, /))]
    fn content_key<'py>(&self, py: Python<'py>, content: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
        let (handle, content) = (self.handle(py)?, Source::new(content)?);
        let key = py.detach(|| handle.content_key(content.bytes()));
        Ok(PyBytes::new(py, &key.0))
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        Ok(format!("<forebay.Namespace {:?}>", self.handle(py)?.namespace().name))
    }
}
