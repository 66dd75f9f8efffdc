//! Fuzz target of [`standpipe_fuzz::path`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| standpipe_fuzz::path(data));
