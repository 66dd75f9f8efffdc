//! Fuzz target of [`standpipe_fuzz::pipeline`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| standpipe_fuzz::pipeline(data));
