//! BLAKE3 of a file, for digests of weights. Which files, in which order, and what is remembered is decided in `forebay/fingerprint.py`.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::PathBuf;

use pyo3::prelude::*;

use crate::buffers::Source;

/// Read at once: large enough that the hash and not the calls to the kernel is what takes the time.
const STEP_BYTES: usize = 1 << 20;
/// Steps between two looks for Ctrl-C, some tens of milliseconds.
const STEPS_A_LOOK: usize = 64;

/// The BLAKE3 hash of a file's content, 64 hexadecimal digits. Raises OSError.
#[pyfunction]
#[pyo3(signature = (path, /))]
pub(crate) fn hash_file(py: Python<'_>, path: PathBuf) -> PyResult<String> {
    let mut file = File::open(&path)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; STEP_BYTES];
    loop {
        let more = py.detach(|| steps(&mut file, &mut hasher, &mut buffer))?;
        py.check_signals()?;
        if !more {
            return Ok(hasher.finalize().to_hex().to_string());
        }
    }
}

/// A few steps; false at the end of the file.
fn steps(file: &mut File, hasher: &mut blake3::Hasher, buffer: &mut [u8]) -> std::io::Result<bool> {
    for _ in 0..STEPS_A_LOOK {
        match file.read(buffer) {
            Ok(0) => return Ok(false),
            Ok(read) => hasher.update(&buffer[..read]),
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(true),
            Err(error) => return Err(error),
        };
    }
    Ok(true)
}

/// The BLAKE3 hash of bytes, 64 hexadecimal digits. Raises BufferError.
#[pyfunction]
#[pyo3(signature = (data, /))]
pub(crate) fn hash_bytes(py: Python<'_>, data: &Bound<'_, PyAny>) -> PyResult<String> {
    let data = Source::new(data)?;
    Ok(py.detach(|| blake3::hash(data.bytes()).to_hex().to_string()))
}
