//! Opens a recorded trace, plain or gzip.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;
use forebay_tokenomics::trace::{Trace, parse_trace};

const READ_BYTES: usize = 1 << 20;
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// Reads a trace of either format. What is wrong with it is told in one sentence, with the file and, where there is one, the line.
pub(crate) fn read_trace(path: &Path) -> Result<Trace, String> {
    let unreadable = |e: std::io::Error| format!("the trace {} cannot be read: {e}; check its path", path.display());
    let file = File::open(path).map_err(unreadable)?;
    if file.metadata().map_err(unreadable)?.is_dir() {
        return Err(format!("the trace {} is a directory; give one file of it", path.display()));
    }
    let mut reader = BufReader::with_capacity(READ_BYTES, file);
    let gzip = reader.fill_buf().map_err(unreadable)?.starts_with(&GZIP_MAGIC);
    let plain: Box<dyn Read> = if gzip { Box::new(MultiGzDecoder::new(reader)) } else { Box::new(reader) };
    parse_trace(BufReader::with_capacity(READ_BYTES, plain)).map_err(|e| format!("{}: {e}", path.display()))
}
