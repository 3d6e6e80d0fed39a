//! See `forebay_format::fuzz::tombstones`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| forebay_format::fuzz::tombstones(bytes));
