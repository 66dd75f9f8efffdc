//! Fuzz target of [`standpipe_fuzz::sse`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| standpipe_fuzz::sse(data));
