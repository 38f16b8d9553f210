//! Hands libFuzzer's bytes to the target of this name.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| brig_fuzz::load(bytes));
