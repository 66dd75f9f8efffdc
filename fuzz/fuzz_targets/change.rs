//! Fuzz target of [`standpipe_fuzz::change`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| standpipe_fuzz::change(data));
