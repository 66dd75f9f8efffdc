//! Fuzz target of [`standpipe_fuzz::json`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| standpipe_fuzz::json(data));
