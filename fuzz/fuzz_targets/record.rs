//! Fuzz target of [`standpipe_fuzz::record`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| standpipe_fuzz::record(data));
