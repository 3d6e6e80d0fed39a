//! Bytes from a drive: the first one chooses the decoder, the rest is what it gets.
#![no_main]

use forebay_format::fuzz;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let decoders =
        [fuzz::superblock, fuzz::namespaces, fuzz::segment_header, fuzz::trailer, fuzz::tombstones, fuzz::footer];
    if let Some((choice, bytes)) = bytes.split_first() {
        decoders[usize::from(*choice) % decoders.len()](bytes);
    }
});
