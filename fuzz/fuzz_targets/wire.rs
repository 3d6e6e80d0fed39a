//! Bytes from a peer: the first one chooses the decoder, the rest is what it gets.
#![no_main]

use forebay_wire::fuzz;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let decoders = [fuzz::header, fuzz::body, fuzz::stream];
    if let Some((choice, bytes)) = bytes.split_first() {
        decoders[usize::from(*choice) % decoders.len()](bytes);
    }
});
