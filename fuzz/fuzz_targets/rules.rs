//! Fuzz target of [`standpipe_fuzz::rules`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| standpipe_fuzz::rules(data));
