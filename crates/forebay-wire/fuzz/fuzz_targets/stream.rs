//! `cargo +nightly fuzz run stream` in `crates/forebay-wire`.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| forebay_wire::fuzz::stream(bytes));
