//! `cargo +nightly fuzz run body` in `crates/forebay-wire`.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| forebay_wire::fuzz::body(bytes));
