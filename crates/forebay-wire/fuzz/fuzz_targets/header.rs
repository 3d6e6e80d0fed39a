//! `cargo +nightly fuzz run header` in `crates/forebay-wire`.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| forebay_wire::fuzz::header(bytes));
