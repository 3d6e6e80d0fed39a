//! Reads books of one's own.

use std::path::Path;

/// Largest book, in bytes: the one that comes along has eight thousand.
const BYTES_MAX: u64 = 1 << 20;

/// Its name and text. What is wrong is told in one sentence.
pub(crate) fn read_book(path: &Path) -> Result<(String, String), String> {
    let failed = |why: String| format!("the book {} cannot be read: {why}", path.display());
    let bytes = std::fs::metadata(path).map_err(|e| failed(e.to_string()))?.len();
    if bytes > BYTES_MAX {
        return Err(failed(format!("it has {bytes} bytes, and a book has {BYTES_MAX} at most")));
    }
    Ok((path.display().to_string(), std::fs::read_to_string(path).map_err(|e| failed(e.to_string()))?))
}
