//! See `forebay_format::fuzz::footer`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| forebay_format::fuzz::footer(bytes));
