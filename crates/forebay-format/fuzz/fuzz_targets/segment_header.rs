//! See `forebay_format::fuzz::segment_header`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| forebay_format::fuzz::segment_header(bytes));
